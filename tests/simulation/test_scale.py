"""What `bench scale` measures: committees keep a round's entries constant, and walls lie where the lines meet."""

import itertools

import pytest

from benchmarks import following, scale
from benchmarks.following import Cost
from simulator.scale import STEADY, exponent, fold, grow, steady_round


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


def test_the_steady_round_is_what_folding_counts() -> None:
    world = grow(20, 4, seed=5)
    before, during = steady_round(world)
    assert before + during == world.ledger.log[: len(before) + len(during)]
    counted = fold(world, itertools.count().__next__)
    assert counted.entries * len(STEADY) == len(during)
    assert counted.size * len(STEADY) == sum(len(entry.data) for entry in during)


def test_a_round_costs_a_follower_its_own_and_a_host_everybodys() -> None:
    look, said, idle, hint = (
        Cost(6, 3, 100, 2000),
        Cost(0.2, 0.1, 30, 20),
        Cost(0.1, 0.05, 5, 10),
        Cost(0.03, 0.02, 7, 6),
    )
    row = following.row_of(10, 20, look, said, idle, hint)
    assert row["follower_seconds"] == pytest.approx(6 + 2 * 0.3)
    assert row["follower_bytes_in"] == pytest.approx(2000 + 2 * 30)
    assert row["host_seconds"] == pytest.approx(10 * 3 + 20 * 0.15)
    assert row["host_bytes_out"] == pytest.approx(10 * 2000 + 20 * 30)
    assert row["hint_seconds"] == pytest.approx(2 * 9 * 0.03 + 18 * 0.02)


def test_walls_of_served_ledgers_follow_a_power() -> None:
    flat = {key: 1.0 for key, _ in following.LIMITS.values()}
    rows = [{**flat, "peers": 100, "host_seconds": 0.6}, {**flat, "peers": 1_000, "host_seconds": 60.0}]
    assert following.walls(rows) == {"the host's processor": pytest.approx(1_000)}
    rows[1]["host_seconds"] = 240.0
    assert following.walls(rows)["the host's processor"] < 1_000


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
