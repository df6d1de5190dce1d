"""Rings at the edge of what is accepted: none earns, and what was accepted before is refused. (SPEC.md 11)"""

import statistics

import pytest

from benchmarks.rings import ESCROWS, FORMERLY, GRADES, RATES, SABOTAGES, SWARMS, play_point, points
from simulator.rings import STRATEGIES, Outcome, Point, play, strategy_named
from verification.units import MILLION, PPM

TIGHT = Point(PPM(500_000), 2, 2, PPM(340_000), 1, 1_000, PPM(MILLION), True)
OPEN = Point(PPM(350_000), 2, 3, PPM(340_000), 4, 300, PPM(500_000), True)

WORTH = 1_091
"""What a wrong round gains a ring at either point, at most."""


def mean(point: Point, stake: int, strategy: str, runs: int = 2) -> float:
    """Return a ring's mean profit."""
    return statistics.mean(play(point, stake, strategy_named(strategy), seed).profit for seed in range(runs))


TRIALS = [(TIGHT, strategy.name) for strategy in STRATEGIES] + [
    (OPEN, strategy.name) for strategy in STRATEGIES[:3]
]


@pytest.mark.parametrize(("point", "strategy"), TRIALS)
def test_no_strategy_earns_at_the_edge(point: Point, strategy: str) -> None:
    stake = point.edge()
    assert stake is not None
    assert not point.is_accepted(stake - 1)
    assert mean(point, stake, strategy) <= WORTH / 2, "the noise of so few runs"


def test_below_the_edge_a_ring_earns() -> None:
    """The inequality is no wider than it must be: at half of the stake the same ring gains."""
    stake = TIGHT.edge()
    assert stake is not None
    assert mean(TIGHT, stake // 2, "hurry a partner's conviction", 6) > WORTH / 2


def test_what_was_accepted_before_is_refused() -> None:
    assert len(FORMERLY) == 6
    for point, stake in FORMERLY:
        assert not point.is_accepted(stake)
        assert point.edge() > stake


def test_fees_can_be_farmed_and_nothing_else_is_gained_by_it() -> None:
    stake = OPEN.edge()
    assert stake is not None
    outcome = play(OPEN, stake, strategy_named("farm fees"), 1)
    assert outcome.fees > 0
    assert (outcome.profit, outcome.wrong, outcome.convicted) == (0, 0, 0)


@pytest.mark.slow
def test_the_search_stands_at_the_edge_everywhere() -> None:
    found = points(220)
    assert len(set(found)) == 220
    assert {p.escrow for p in found} == set(ESCROWS)
    assert {p.rate for p in found} == set(RATES)
    assert {p.sabotage for p in found} == set(SABOTAGES)
    assert {p.grade for p in found} == set(GRADES)
    assert {(p.promised, p.places, p.colluding) for p in found} == set(SWARMS)
    assert points(220) == found


def test_a_run_is_the_same_every_time() -> None:
    one, two = (play(TIGHT, 6_366, STRATEGIES[0], 2) for _ in range(2))
    assert one == two
    assert isinstance(one, Outcome)


@pytest.mark.slow
def test_a_point_is_a_row() -> None:
    row = play_point(TIGHT, TIGHT.edge() or 0, 0, 2, 0.01)
    assert row["accepted"]
    assert row["low"] <= row["profit"] <= row["high"]
    assert len(row["trials"]) == 6
