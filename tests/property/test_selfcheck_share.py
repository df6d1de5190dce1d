"""How often a machine checks itself: what it spends on that, and that it never stops."""

from hypothesis import given
from hypothesis import strategies as st

from verification.honest.selfcheck import RAREST, SHARE, checked_step

STEPS, COSTS = st.integers(1, 5000), st.integers(1000, 100_000)


@given(STEPS, COSTS)
def test_a_fiftieth_of_the_time_goes_into_it_and_one_round_of_sixteen_is_checked(
    steps: int, cost: int
) -> None:
    """Counted over all that can be drawn."""
    asked: list[int] = []
    checked_step(steps, cost, lambda below: asked.append(below) or 0)
    one_in = asked[0]
    assert 1 <= one_in <= RAREST
    share = cost / 1000 / (one_in * steps)
    assert share <= 1 / SHARE or one_in == RAREST, "no dearer than it must be"
    assert one_in == 1 or cost / 1000 / ((one_in - 1) * steps) > 1 / SHARE, "and no rarer"


@given(STEPS, COSTS, st.data())
def test_any_step_can_be_the_one(steps: int, cost: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, steps - 1))
    draws = iter([0, chosen])
    assert checked_step(steps, cost, lambda below: next(draws)) == chosen + 1


@given(STEPS)
def test_what_costs_nothing_is_always_done(steps: int) -> None:
    assert checked_step(steps, 0, lambda below: below - 1) == steps
