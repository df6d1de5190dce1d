"""How long a round waits for who is gone, and for who is slow: half as long again as the others took. (SPEC.md 3.8)"""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.invariants import Invariants
from simulator.network import CALM, Network
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import Act, Mute
from verification.effects import RoundClosed, Slashed, StandingChanged
from verification.honest.actions import Computed, FetchContribution, RunOuter, RunRound, Say
from verification.ledger.log import Twice
from verification.state import Phase, State
from verification.statements import Attest, Join
from verification.units import Count, Millis

COMMIT, ATTEST = 20_000, 10_000
"""Much longer than rounds take, as where nobody knows the machines before."""
WINDOWS = {"commit": COMMIT, "attest": ATTEST, "seal": ATTEST, "verdict": 30_000, "stall": 200_000}
GRACES = COMMIT // 20 + ATTEST // 20
SLOW_STEPS = Network(step=100)
"""Machines take a hundred times as long as they claim, so that no claim makes anybody wait."""


def world_of(actors: list[Actor], network: Network = CALM) -> World:
    manifest = minimal(rounds=8, audit_rate=0, max_verifiers=2, miss_limit=3, **WINDOWS)
    return World(manifest, actors, random.Random(1), network, Invariants(actors))


def swarm() -> list[Actor]:
    return [*(Worker(f"w{number}") for number in range(3)), Verifier("v0"), Verifier("v1")]


def lengths(world: World) -> list[int]:
    """Return how long each round took until the next opened."""
    return [later.opened_at - early.opened_at for early, later in itertools.pairwise(world.state.rounds)]


def is_in(number: int, phase: Phase) -> Callable[[World], bool]:
    def holds(world: World) -> bool:
        return len(world.state.rounds) == number + 1 and world.state.current.phase is phase

    return holds


@pytest.mark.parametrize(("victim", "phase"), [(0, Phase.COMMIT), (3, Phase.ATTEST), (3, Phase.COMMIT)])
def test_who_dies_costs_the_others_half_a_round_and_no_window(victim: int, phase: Phase) -> None:
    actors = swarm()
    world = world_of(actors, SLOW_STEPS)
    world.crash_when(actors[victim], is_in(4, phase), 60_000)
    world.run(limit=400_000)
    assert actors[victim].crashes == 1
    assert len(world.state.rounds) == 8
    took = lengths(world)
    assert took[3] < took[4] <= 1.5 * took[3] + GRACES
    assert not world.seen(Slashed)


class Modest(Worker):
    """Claims a hundredth of its machine's speed, so that it is done long before others of that claim."""

    def decide(self, state: State, now: Millis, twice: Iterable[Twice] = ()) -> list[Act]:
        return [self._modestly(act) for act in super().decide(state, now, twice)]

    def _modestly(self, act: Act) -> Act:
        if not isinstance(act, Say) or not isinstance(act.body, Join):
            return act
        return Say(replace(act.body, speed=Count(act.body.speed // 100)))


def test_who_hurries_makes_nobody_late_that_is_as_fast_as_it_says() -> None:
    honest = Worker("slow", speed=1)
    world = world_of([honest, *(Modest(f"w{number}") for number in range(3)), Verifier("v0")])
    world.run(limit=400_000)
    there = [worked for worked in world.state.rounds if honest.address in worked.assignments]
    assert len(there) >= 7
    assert all(honest.address in worked.included for worked in there)
    assert max(lengths(world)) > 12 * 100, "the others waited for it"


class SeesLate(Verifier):
    """Has others' contributions only `after` milliseconds from a round's opening on."""

    after = 0

    def compute(self, action: Computed, state: State, blobs: Blobs, now: Millis) -> Any:
        if isinstance(action, FetchContribution) and now < state.rounds[action.number].opened_at + self.after:
            return None
        return super().compute(action, state, blobs, now)


def test_who_fetches_slowly_attests_with_what_it_has_and_is_not_away() -> None:
    slow = SeesLate("v0")
    slow.after = 4_000
    world = world_of([*(Worker(f"w{number}") for number in range(3)), slow, Verifier("v1")])
    world.run(limit=400_000)
    rounds = [worked for worked in world.state.rounds if slow.address in worked.members]
    assert len(rounds) >= 7
    assert all(not worked.attests[slow.address] for worked in rounds)
    assert all(len(worked.included) == 3 for worked in rounds)
    assert max(lengths(world)) < slow.after + ATTEST // 20
    assert not world.seen(StandingChanged)


class SeesOneLate(SeesLate):
    """The same of one worker's contribution."""

    late = b""

    def compute(self, action: Computed, state: State, blobs: Blobs, now: Millis) -> Any:
        if isinstance(action, FetchContribution) and action.worker != self.late:
            return super(SeesLate, self).compute(action, state, blobs, now)
        return super().compute(action, state, blobs, now)


def test_the_bytes_of_a_worker_that_did_not_attest_are_waited_for() -> None:
    """It missed a round, but its contribution counted; before, its next ones were lost as long as bytes took longer."""
    mute = Mute(Attest, when=lambda body: body.round == 3)
    worker = Worker("w0", mute)
    seers = [SeesOneLate(f"v{number}", stake=20_000) for number in range(2)]
    for seer in seers:
        seer.late, seer.after = worker.address, ATTEST // 4 + 1_500
    world = world_of([worker, Worker("w1"), Worker("w2"), *seers])
    world.run(limit=400_000)
    assert mute.faults > 0
    assert worker.address not in world.state.rounds[3].attests
    assert all(len(worked.included) == 3 for worked in world.state.rounds[1:])


class HoldsNothing(Worker):
    """Attests at once that it holds nothing."""

    def decide(self, state: State, now: Millis, twice: Iterable[Twice] = ()) -> list[Act]:
        wanted = super().decide(state, now, twice)
        if not state.rounds or state.current.phase is not Phase.ATTEST:
            return wanted
        kept = [act for act in wanted if not isinstance(act, Say) or not isinstance(act.body, Attest)]
        is_due = self.address not in state.current.attests
        return [*kept, Say(Attest(state.current.number, ()))] if is_due else kept


def test_nobody_in_a_hurry_leaves_out_what_others_still_fetch() -> None:
    """Of the stake a quarter says that it holds nothing and three eighths have all: the others decide, and are slow."""
    slow: list[Actor] = [SeesLate(f"v{number}") for number in range(3)]
    for each in slow:
        each.after = 6_000
    world = World(
        minimal(rounds=4, audit_rate=0, max_verifiers=4, **WINDOWS),
        [Worker("w0"), HoldsNothing("w1"), *slow, Verifier("v3")],
        random.Random(1),
    )
    world.run(limit=400_000)
    assert [len(closed.included) for closed in world.seen(RoundClosed)] == [2] * 4


def test_a_verifier_computes_the_next_state_before_it_begins_an_audit() -> None:
    """Which came first was chance; others had waited for its seal until the audit's end."""
    verifier = Verifier("v0", stake=50_000)
    begun: dict[Computed, bool] = {}

    class Watched(World):
        def _start_computing(self, actor: Actor, action: Computed, view: State) -> None:
            if actor is verifier and isinstance(action, RunRound):
                begun.setdefault(action, RunOuter(action.number) in actor.results.done)
            super()._start_computing(actor, action, view)

    manifest = minimal(rounds=6, audit_rate=1_000_000, max_verifiers=1, **WINDOWS)
    world = Watched(manifest, [Worker("w0"), Worker("w1"), verifier], random.Random(1))
    world.run(limit=400_000)
    assert len(begun) == 12
    assert all(begun.values())
    assert not world.seen(Slashed)
