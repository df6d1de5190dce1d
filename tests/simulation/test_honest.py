"""Honest runs: everyone ends on one state, nobody is disputed, everything is paid back."""

import random

import pytest

from simulator.cast import Verifier, Worker
from simulator.toy import minimal
from simulator.world import SUBMITTER, World
from verification.effects import AuditEnded, DisputeOpened, RoundOpened, Slashed, StandingChanged
from verification.honest.actions import FetchState
from verification.state import Audit, Stage


@pytest.mark.parametrize("seed", range(5))
def test_honest_run_ends_on_one_state_and_pays_everything_back(seed: int) -> None:
    workers = [Worker(f"w{i}", speed=100 - 20 * i) for i in range(4)]
    verifiers = [Verifier(f"v{i}") for i in range(3)]
    world = World(minimal(), [*workers, *verifiers], random.Random(seed))
    world.run()
    state = world.state
    assert state.stage is Stage.ENDED
    assert len(state.rounds) == 5
    assert {ref for worked in state.rounds[-1:] for ref in worked.seals.values()} == {state.current.sealed}
    assert all(FetchState(5) in actor.results.done for actor in world.actors)
    assert not world.seen(DisputeOpened)
    assert not world.seen(Slashed)
    assert not world.seen(StandingChanged)
    audits = world.seen(AuditEnded)
    assert {audit.outcome for audit in audits} == {Audit.PASSED}
    assert {audit.worker for audit in audits if audit.work == 4} == {w.address for w in workers}
    steps = {
        w: sum(r.assignments[w.address].steps + 1 for r in state.rounds if w.address in r.included)
        for w in workers
    }
    assert all(world.gain(worker) == 7 * steps[worker] for worker in workers)
    paid = sum(world.gain(actor) for actor in world.actors)
    assert state.balances[SUBMITTER] == world.deposit - paid
    assert (state.burned, state.deposit) == (0, 0)


def test_the_same_seed_gives_the_same_history_and_the_log_gives_the_state() -> None:
    def history() -> World:
        actors = [Worker("w0"), Worker("w1"), Verifier("v0")]
        world = World(minimal(), actors, random.Random(7))
        world.run()
        return world

    first, second = history(), history()
    assert [line.head for line in first.ledger.log] == [line.head for line in second.ledger.log]
    assert first.ledger.replay() == first.state


def test_steps_follow_speed() -> None:
    actors = [Worker("fast", speed=100), Worker("slow", speed=30), Verifier("v0")]
    world = World(minimal(), actors, random.Random(0))
    world.run()
    steps = {address: work.steps for address, work in world.seen(RoundOpened)[2].assignments}
    assert steps == {actors[0].address: 12, actors[1].address: 4}


@pytest.mark.parametrize("workers", [2, 20])
def test_many_actors(workers: int) -> None:
    actors = [*(Worker(f"w{i}") for i in range(workers)), *(Verifier(f"v{i}") for i in range(4))]
    world = World(minimal(slots=workers, rounds=3), actors, random.Random(workers))
    world.run()
    assert len(world.state.rounds) == 3
    assert not world.seen(Slashed)
