"""What `bench scale` measures: committees keep a round's entries constant, and walls lie where the lines meet."""

import itertools

import pytest

from benchmarks import scale
from simulator.scale import STEADY, exponent, fold, grow


def test_a_committee_keeps_the_entries_of_a_round_constant() -> None:
    everyone, drawn = grow(30, 0, seed=4), grow(30, 6, seed=4)
    assert everyone.state.rounds[1].attests.keys() == everyone.state.members.keys()
    assert len(drawn.state.rounds[1].attests) <= 6
    ticks = itertools.count()
    full, small = fold(everyone, lambda: next(ticks)), fold(drawn, lambda: next(ticks))
    assert len(STEADY) == 1
    for kind in ("Attest", "Seal"):
        saved = sum(30 - len(worked.members) for worked in drawn.state.rounds[1:])
        assert full.kinds[kind] - small.kinds[kind] == saved
    assert sum(full.kinds.values()) == len(everyone.ledger.log) - 1  # a tick of the clock for every entry
    assert full.seconds == full.entries
    assert small.size < full.size


def test_the_same_seed_grows_the_same_log() -> None:
    assert grow(20, 4, seed=5).state.head == grow(20, 4, seed=5).state.head != grow(20, 4, seed=6).state.head


def test_exponents_and_walls_are_those_of_their_lines() -> None:
    assert exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert exponent([1, 10, 100], [2, 200, 20_000]) == pytest.approx(2)
    flat = {key: 1.0 for key, _ in scale.LIMITS.values()}
    rows = [{**flat, "peers": 1_000}, {**flat, "peers": 2_000, "seconds_per_round": 2.0}]
    assert scale.walls(rows) == {"time": pytest.approx(60_000)}


def test_sizes_count_everything_once() -> None:
    text = "x" * 1_000
    assert 1_000 < scale.size_of([text, text]) < 1_300
    assert scale.size_of({"a": (text,), "b": {text + "y"}}) > 2_000
