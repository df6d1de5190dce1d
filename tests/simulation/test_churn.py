"""A swarm under a plan of faults in the simulator, and how goodput is counted."""

import random
from dataclasses import replace

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.churn import LONGEST, NETWORK, WINDOWS, churn
from simulator.goodput import Ended, kept, measure
from simulator.invariants import Invariants
from simulator.network import AT_ONCE, ELSEWHERE, Trouble
from simulator.plan import Cast, Fault, Kind
from simulator.toy import minimal
from simulator.world import World
from verification.effects import Slashed, StandingChanged
from verification.units import MILLION, Address


def test_a_swarm_goes_on_under_faults_of_all_kinds() -> None:
    came = churn(7, Cast(3, 2), 120_000, 10)
    assert sum(came.faults.values()) == 10
    assert set(came.faults) == set(Kind)
    assert came.slashed == came.lost_statements == 0
    assert came.states == 1
    assert came.longest_stall <= came.deadline
    assert came.goodput_kept > 0.8


def world_of(*names: str, rounds: int = 12) -> tuple[World, list[Actor]]:
    """Return a world of honest workers and a verifier."""
    actors: list[Actor] = [*(Worker(name) for name in names), Verifier("v0")]
    manifest = minimal(rounds=rounds, audit_rate=MILLION, miss_limit=LONGEST, **WINDOWS)
    return World(manifest, actors, random.Random(1), NETWORK, Invariants(actors)), actors


def test_a_ledger_that_nobody_serves_stands_still_and_goes_on() -> None:
    world, _ = world_of("w0", "w1")
    world.kill_host(5_000, 25_000)
    world.run(lambda world: world.now >= 20_000)
    at, length = world.clock.now, len(world.ledger.log)
    assert at == 5_000
    world.run(limit=400_000)
    assert len(world.ledger.log) > length
    assert world.now - world.clock.now == 20_000
    assert len(world.state.rounds) == 12
    assert not world.seen(StandingChanged)
    logged = {entry.data for entry in world.ledger.log}
    assert set(world.acknowledged) <= logged


def test_a_stopped_peer_goes_on_with_what_it_had() -> None:
    world, actors = world_of("w0", "w1", "w2")
    before = actors[0].results
    world.stop(actors[0], 4_000, 7_000)
    world.run(lambda world: world.now >= 6_000)
    assert not actors[0].is_up
    world.run(limit=400_000)
    assert actors[0].results is before
    assert not world.seen(Slashed)
    assert actors[0].address in world.state.rounds[-1].included


@pytest.mark.parametrize(
    ("trouble", "delay"),
    [
        (Trouble(), 0),
        (Trouble(slow={Address(b"a"): 240}), 1_000),
        (Trouble(slow={Address(b"b"): 120}), 2_000),
        (Trouble(parted={frozenset((Address(b"a"), Address(b"b")))}), ELSEWHERE),
        (Trouble(alone={Address(b"b")}), ELSEWHERE),
        (Trouble(parted={frozenset((Address(b"a"), Address(b"c")))}), 0),
    ],
)
def test_trouble_on_a_link_delays_what_comes_over_it(trouble: Trouble, delay: int) -> None:
    assert trouble.delay(Address(b"a"), Address(b"b")) == delay


def test_who_does_not_answer_is_waited_for_once() -> None:
    trouble = Trouble(alone={Address(b"b")})
    delays = [trouble.delay(Address(b"a"), Address(b"b")) for _ in range(2)]
    assert delays == [ELSEWHERE, AT_ONCE]
    trouble.alone.clear()
    assert trouble.delay(Address(b"a"), Address(b"b")) == 0
    trouble.alone.add(Address(b"b"))
    assert trouble.delay(Address(b"a"), Address(b"b")) == ELSEWHERE


def test_goodput_counts_whole_rounds_and_those_who_are_there() -> None:
    ended = [Ended(1_000 * at, 2) for at in range(11)]
    quiet = measure(ended, range(2), [], 500, 5_500)
    assert (quiet.begin, quiet.end, quiet.rounds, quiet.counted, quiet.worker_ms) == (
        1_000,
        6_000,
        5,
        10,
        10_000,
    )
    away = Fault(7_000, 9_000, Kind.KILL, (0,))
    ended[8:10] = [replace(each, counted=1) for each in ended[8:10]]
    busy = measure(ended, range(2), [away], 6_000, 10_000)
    assert (busy.counted, busy.worker_ms) == (6, 6_000)
    assert kept([busy], [quiet]) == 1.0
    slower = measure([*ended[:9], Ended(12_000, 2)], range(2), [away], 6_000, 10_000)
    assert (slower.end, slower.longest) == (12_000, 4_000)
    with pytest.raises(ValueError, match="no two rounds ended that bound 6 to 20 s"):
        measure(ended, range(2), [], 6_000, 20_000)
