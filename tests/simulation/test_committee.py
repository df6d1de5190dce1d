"""A committee attests and seals in place of everyone; when it falls silent, everyone does. (SPEC.md 4.14)"""

import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import Act, Behaviour, View, WrongSeal
from verification.causes import Cause
from verification.effects import DisputeEnded, EveryoneDecides, Slashed, StageChanged, StandingChanged
from verification.honest.actions import (
    FetchContribution,
    Say,
)
from verification.manifest import Place
from verification.state import Ruling, Stage
from verification.statements import Attest, Seal
from verification.units import MILLION, Round

SEATS = 5


class SilentOnCommittee(Behaviour):
    """Says nothing of these kinds as long as a committee decides."""

    def __init__(self, *kinds: type) -> None:
        """`kinds` are what it leaves unsaid."""
        super().__init__()
        self._kinds = kinds

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Leave out what a committee must say."""
        if not view.state.rounds or not view.state.current.is_committee:
            return wanted
        kept = [act for act in wanted if not (isinstance(act, Say) and isinstance(act.body, self._kinds))]
        self.faults += len(wanted) - len(kept)
        return kept


def crowd(behaviour: Behaviour | None = None) -> list[Actor]:
    """Return eight workers and four verifiers, all of whom behave so."""
    behaviours = [behaviour] if behaviour else []
    actors: list[Actor] = [Worker(f"w{i}", *behaviours) for i in range(8)]
    return [*actors, *(Verifier(f"v{i}", *behaviours) for i in range(4))]


def play(actors: list[Actor], seed: int, **changes: int) -> World:
    """Run to the end with every invariant checked."""
    everyone = {"min_workers": 8, "min_verifiers": 4}
    manifest = minimal(committee=SEATS, slots=8, rounds=6, audit_rate=MILLION // 2, **{**everyone, **changes})
    world = World(manifest, actors, random.Random(seed), check=Invariants(actors))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert world.ledger.replay() == world.state
    return world


@pytest.mark.parametrize("seed", range(3))
def test_only_who_holds_seats_attests_seals_and_fetches(seed: int) -> None:
    world = play(crowd(), seed)
    first, *drawn = world.state.rounds
    assert not first.is_committee
    assert len(first.attests) == len(first.seals) == 12
    assert len(drawn) == 5
    for worked in drawn:
        assert worked.is_committee
        assert worked.attests.keys() == worked.members.keys()
        assert worked.seals.keys() <= worked.members.keys()
        assert sum(worked.members.values()) == worked.weight == SEATS
        assert len(worked.included) == 8
        for actor in world.actors:
            fetched = any(FetchContribution(worked.number, w) in actor.results.done for w in worked.commits)
            assert fetched == (actor.address in worked.members)
    assert len({frozenset(worked.members) for worked in drawn}) > 1
    assert not world.seen(EveryoneDecides)
    assert not world.seen(StandingChanged)
    assert not world.seen(Slashed)


@pytest.mark.parametrize("kinds", [(Attest,), (Seal,), (Attest, Seal)])
def test_a_silent_committee_costs_one_window_and_nothing_else(kinds: tuple[type, ...]) -> None:
    silent = SilentOnCommittee(*kinds)
    world = play(crowd(silent), 1)
    assert silent.faults
    assert [replaced.number for replaced in world.seen(EveryoneDecides)] == [1, 2, 3, 4, 5]
    assert [worked.sealed is not None for worked in world.state.rounds] == [True] * 6
    assert all(len(worked.included) == 8 for worked in world.state.rounds)
    assert not world.seen(Slashed)
    assert not world.seen(StandingChanged)


def test_when_everyone_falls_silent_the_run_drains_and_every_stake_is_free() -> None:
    actors = crowd()
    world = World(
        minimal(committee=SEATS, slots=8, min_workers=8, min_verifiers=4, silence=60_000), actors, random.Random(2),
        check=Invariants(actors),
    )  # fmt: skip

    def is_third(world: World) -> bool:
        return len(world.state.rounds) == 3 and bool(world.state.current.commits)

    for actor in actors:
        world.crash_when(actor, is_third, 40_000)
    world.run()
    assert [replaced.number for replaced in world.seen(EveryoneDecides)][:1] == [2]
    assert Cause.STALLED in [stage.cause for stage in world.seen(StageChanged)]
    assert not any(member.stake or member.escrow for member in world.state.members.values())
    assert not world.seen(Slashed)


def test_one_honest_seat_convicts_a_committee_that_seals_a_wrong_state() -> None:
    """A dishonest majority of seats decides the next state; each of those who signed it pays for it."""
    liars: list[Actor] = [Worker(f"w{i}", WrongSeal()) for i in range(7)]
    honest: list[Actor] = [Worker("honest", stake=30_000), *(Verifier(f"v{i}") for i in range(4))]
    manifest = minimal(committee=SEATS, slots=8, rounds=6, audit_rate=0, min_workers=8, min_verifiers=4)
    world = World(manifest, [*liars, *honest], random.Random(3), check=Invariants(honest))
    world.run()
    fallen = next(worked for worked in world.state.rounds if worked.is_committee and len(worked.backing) > 1)
    guilty = {
        ended.accused for ended in world.seen(DisputeEnded)
        if (ended.round, ended.place, ended.ruling) == (fallen.number, Place.OUTER, Ruling.GUILTY)
    }  # fmt: skip
    wrong = {member for member, ref in fallen.seals.items() if member not in {a.address for a in honest}}
    assert guilty == wrong
    assert fallen.number >= Round(1)
