"""Newcomers whose links are slow: a state takes them longer than a round takes the others. (SPEC.md 9.7)"""

import random
from typing import Any

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.effects import Slashed, StandingChanged
from verification.honest.actions import Computed, FetchState, RunOuter
from verification.state import Standing, state_before
from verification.units import Digest, Millis

BEGINS = 1_500
"""When newcomers come, in milliseconds; rounds last some 200."""


class Far(Worker):
    """A worker that waits for each state that it has not made itself, and starts again when it asks for another."""

    def __init__(self, name: str, takes: int) -> None:
        """A state takes `takes` milliseconds to come."""
        super().__init__(name, speed=10)
        self.fetched = 0
        self._takes = takes
        self._here: set[Digest] = set()
        self._coming: tuple[Digest, Millis] | None = None

    def compute(self, action: Computed, state: Any, blobs: Any, now: Millis) -> Any:
        """Have a state when its time has come."""
        if isinstance(action, FetchState) and not self._has(state_before(state, action.number).digest, now):
            return None
        result = super().compute(action, state, blobs, now)
        if isinstance(action, RunOuter) and result is not None:
            self._here.add(result.digest)
        return result

    def forget(self) -> None:
        """Lose every state."""
        self._here.clear()

    def _has(self, digest: Digest, now: Millis) -> bool:
        if digest in self._here:
            return True
        if self._coming is None or self._coming[0] != digest:
            self._coming = digest, now
        if now < self._coming[1] + self._takes:
            return False
        self._here.add(digest)
        self.fetched += 1
        return True


def world_with(far: Far, seed: int = 7, begins: int = BEGINS, audit_rate: int = 100_000) -> World:
    """Return a world in which three workers and two verifiers train, and `far` comes later."""
    honest: list[Actor] = [*(Worker(f"w{n}", speed=10) for n in range(3)), Verifier("v0"), Verifier("v1")]
    manifest = minimal(rounds=40, min_workers=3, slots=4, audit_rate=audit_rate)
    world = World(manifest, [*honest, far], random.Random(seed), check=Invariants([*honest, far]))
    far.is_up = False
    world.at(begins, lambda: (setattr(far, "is_up", True), world._wake(far))[-1])
    return world


def is_included(world: World, far: Far) -> list[bool]:
    """Return for each round whether the newcomer's contribution counted."""
    return [far.address in worked.included for worked in world.state.rounds]


@pytest.mark.parametrize("takes", [0, 300, 700])
@pytest.mark.parametrize("begins", range(BEGINS, BEGINS + 800, 200))
def test_who_needs_three_rounds_for_a_state_trains_in_every_round_once_it_has_one(
    takes: int, begins: int
) -> None:
    """Before, from 300 on, it asked for another state in each round, and was late in all of them."""
    far = Far("far", takes)
    world = world_with(far, begins=begins)
    world.run(limit=400_000)
    included = is_included(world, far)
    came = sum(worked.opened_at < begins for worked in world.state.rounds)
    assert included.index(True) <= came + 8
    assert all(included[included.index(True) :]), "it is never late again"
    assert far.fetched == 1
    assert not world.seen(Slashed)


@pytest.mark.parametrize("seed", range(2))
def test_who_lost_all_comes_back_when_it_has_the_newest_state(seed: int) -> None:
    far = Far("far", 300)
    world = world_with(far, seed, audit_rate=0)  # who is asked to open while it is away is suspended

    def lose() -> None:
        far.forget()
        world.crash(far, world.now, world.now + 900)

    world.at(4_000, lose)
    world.run(limit=400_000)
    changes = [c.standing for c in world.seen(StandingChanged) if c.address == far.address]
    assert changes == [Standing.AWAY, Standing.ACTIVE], "it came back once, and was in time"
    assert all(is_included(world, far)[-5:])
    assert far.crashes == 1 and far.fetched == 2
    assert not world.seen(Slashed)
