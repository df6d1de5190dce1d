"""How often a machine checks itself: what it spends on that, that it never stops, and that others do so with it."""

from hypothesis import given
from hypothesis import strategies as st

from verification.digest import integer, tagged
from verification.honest.selfcheck import RAREST, SHARE, checked_step, one_in
from verification.units import Digest

STEPS, COSTS = st.integers(1, 5000), st.integers(1000, 100_000)
BEACONS = st.binary(min_size=32, max_size=32).map(Digest)


@given(STEPS, COSTS)
def test_a_fiftieth_of_the_time_goes_into_it_and_one_round_of_sixteen_is_checked(
    steps: int, cost: int
) -> None:
    rounds = one_in(steps, cost)
    assert 1 <= rounds <= RAREST
    assert cost / 1000 / (rounds * steps) <= 1 / SHARE or rounds == RAREST, "no dearer than it must be"
    assert rounds == 1 or cost / 1000 / ((rounds - 1) * steps) > 1 / SHARE, "and no rarer"


@given(BEACONS, STEPS, COSTS, COSTS)
def test_who_checks_more_rounds_checks_those_of_who_checks_fewer(
    beacon: Digest, steps: int, cost: int, other: int
) -> None:
    cheap, dear = (checked_step(beacon, steps, each, lambda below: 0) for each in sorted((cost, other)))
    assert cheap or not dear


@given(BEACONS, STEPS, st.data())
def test_what_costs_nothing_is_done_in_every_round_and_any_step_can_be_the_one(
    beacon: Digest, steps: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, steps - 1))
    assert checked_step(beacon, steps, 0, lambda below: min(chosen, below - 1)) == chosen + 1


def test_rounds_are_drawn_as_often_as_they_should_be() -> None:
    """8 steps a check, in rounds of 40: one in ten, within five standard deviations."""
    assert one_in(40, 8000) == 10
    drawn = sum(
        checked_step(tagged("beacon", integer(n)), 40, 8000, lambda below: 0) > 0 for n in range(2000)
    )
    assert 133 <= drawn <= 267
