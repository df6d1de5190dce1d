"""Every plan of faults keeps its rules, is the same for the same seed, and counts who is there to the millisecond."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.plan import OF_PROCESSES, RECOVERY, Cast, Fault, Kind, is_there, make_plan, problems, there

CASTS = st.builds(Cast, st.integers(2, 12), st.integers(2, 6))
KINDS = st.sampled_from([tuple(Kind), OF_PROCESSES])


@given(st.integers(0, 1 << 32), CASTS, st.integers(1, 40), KINDS)
def test_a_plan_keeps_its_rules(seed: int, cast: Cast, count: int, kinds: tuple[Kind, ...]) -> None:
    length = 30_000 * (count + 2)
    plan = make_plan(seed, cast, length, count, kinds)
    assert list(problems(cast, length, plan)) == []
    assert list(plan) == sorted(plan)
    assert plan == make_plan(seed, cast, length, count, kinds)
    often = [sum(fault.kind is kind for fault in plan) for kind in kinds]
    assert sum(often) == count
    assert max(often) - min(often) <= 1


def test_two_seeds_give_two_plans() -> None:
    cast = Cast(3, 2)
    assert make_plan(1, cast, 600_000, 21) != make_plan(2, cast, 600_000, 21)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="60 faults do not fit into 60 s with 5 peers"):
        make_plan(0, Cast(3, 2), 60_000, 60)


KILL = Fault(20_000, 30_000, Kind.KILL, (0,))
HOST = Fault(20_000, 22_000, Kind.HOST)


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ([replace(KILL, start=60_000, end=90_000)], "no time to recover"),
        ([replace(KILL, start=-1)], "no time to recover"),
        (
            [replace(KILL, kind=Kind.LOSS, start=30_000 + RECOVERY - 1, end=30_000 + RECOVERY)],
            "no time to recover",
        ),
        ([HOST, replace(HOST, start=30_000, end=31_000)], "no time to recover"),
        ([replace(KILL, peers=(1,), start=29_999, end=35_000)], "2 peers are away at"),
        ([replace(KILL, peers=(3,)), replace(KILL, peers=(4,), kind=Kind.CUT)], "a whole role is away at"),
    ],
)
def test_what_breaks_a_rule_is_named(others: list[Fault], complaint: str) -> None:
    found = list(problems(Cast(3, 2), 100_000, [KILL, *others]))
    assert any(each.startswith(complaint) for each in found)


def test_links_that_only_suffer_leave_peers_there() -> None:
    faults = [replace(KILL, kind=kind) for kind in (Kind.SLOW, Kind.LOSS)]
    faults.append(replace(KILL, kind=Kind.PART, peers=(0, 1)))
    assert is_there(faults, 0, 25_000)
    assert not is_there([replace(KILL, kind=Kind.STOP)], 0, 25_000)
    assert not is_there([HOST], 1, 21_000), "without its ledger's host nobody is connected"


@given(st.integers(0, 1 << 32), st.integers(0, 300), st.integers(0, 300))
def test_who_is_there_is_counted_exactly(seed: int, one: int, other: int) -> None:
    faults = [
        Fault(fault.start // 1000, fault.end // 1000, fault.kind, fault.peers)
        for fault in make_plan(seed, Cast(3, 2), 300_000, 9)
    ]
    begin, end = sorted((one, other))
    exact = sum(is_there(faults, number, moment) for number in range(3) for moment in range(begin, end))
    assert there(faults, range(3), begin, end) == exact
