"""A round's work begins before the round before it is decided, and all that holds without that still holds."""

import random
from itertools import pairwise
from typing import Any

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import ToyLibrary, minimal
from simulator.world import World
from tests.simulation.test_cheats import CASES
from trainer.rounds.cheats import conduct_named
from verification.adversaries import Mute, WrongSeal
from verification.effects import DisputeEnded, RoundClosed, RoundOpened, RoundSealed, Slashed
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.manifest import Place
from verification.state import Audit, Phase, Ruling, Stage, state_before, work_begins
from verification.statements import ChallengeSeal
from verification.units import MILLION, Round

FIRST = 6
"""By then every worker's share has grown to whole rounds."""


def world_of(*others: Actor, seed: int = 1, funded: int | None = None, **changes: Any) -> World:
    """Return a world of two honest workers and two verifiers who audit everything, with some others."""
    honest = [Worker("w0"), Worker("w1", speed=70), Verifier("v0"), Verifier("v1")]
    manifest = minimal(**{"overlap": True, "audit_rate": MILLION, "rounds": 8, **changes})
    actors = [*others, *honest]
    return World(manifest, actors, random.Random(seed), check=Invariants(honest), funded=funded)


def order_of(world: World) -> list[tuple[str, int]]:
    """Return what happened to rounds, one after the other."""
    kinds = RoundOpened, RoundClosed, RoundSealed
    effects = [effect for effect in world.ledger.effects if isinstance(effect, kinds)]
    return [(type(effect).__name__, int(effect.number)) for effect in effects]


@pytest.mark.parametrize("seed", range(3))
def test_a_round_s_work_begins_before_the_round_before_is_decided(seed: int) -> None:
    world = world_of(seed=seed)
    world.run()
    state, order = world.state, order_of(world)
    assert state.stage is Stage.ENDED and not world.seen(Slashed)
    for number in range(1, 8):
        opened = order.index(("RoundOpened", number))
        assert opened < order.index(("RoundClosed", number - 1)), (
            "members still attest what it will not start from"
        )
        assert number < 2 or order.index(("RoundSealed", number - 2)) < opened, "its start is known"
    starts = [worked.start for worked in state.rounds]
    assert starts[:2] == [state.manifest.start] * 2
    assert starts[2:] == [worked.sealed for worked in state.rounds[:-2]]
    assert all(len(worked.included) == 2 for worked in state.rounds)
    beacons = {worked.beacon for worked in state.rounds}
    assert len(beacons) == 8, "no two rounds draw the same records"
    outcomes = {outcome for session in state.sessions.values() for outcome in session.audits.values()}
    assert outcomes == {Audit.PASSED}


def test_without_overlap_a_round_opens_when_the_last_has_sealed() -> None:
    world = world_of(overlap=False)
    world.run()
    order = order_of(world)
    assert all(order.index(("RoundSealed", n - 1)) < order.index(("RoundOpened", n)) for n in range(1, 8))


def test_rounds_take_less_time_where_deciding_them_takes_some() -> None:
    """Whoever works while others decide waits for neither bytes nor signatures."""
    took = []
    for overlap in (True, False):
        world = world_of(overlap=overlap, rounds=12)
        world.run()
        opened = [worked.opened_at for worked in world.state.rounds[FIRST:]]
        took.append(sum(late - early for early, late in pairwise(opened)))
    assert took[0] < 0.8 * took[1]


@pytest.mark.parametrize(("name", "place", "step"), CASES)
def test_every_cheat_is_convicted_where_it_cheated(name: str, place: Place, step: int | None) -> None:
    cheat = Worker("cheat", conduct=conduct_named(name, FIRST))
    world = world_of(cheat, rounds=10)
    world.run()
    ended = [e for e in world.seen(DisputeEnded) if e.round == FIRST]
    assert {(e.ruling, e.accused, e.place, e.step) for e in ended} == {
        (Ruling.GUILTY, cheat.address, place, step)
    }
    assert {slashed.address for slashed in world.seen(Slashed)} == {cheat.address}
    assert world.state.stage is Stage.ENDED


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_wrong_state_is_contested_from_the_one_that_it_adds_to(at: int) -> None:
    """An outer step starts from the newest state, not from the one that the contributions started from."""
    liar = Verifier("liar", WrongSeal(at), Mute(ChallengeSeal))
    world = world_of(liar, min_verifiers=3)
    world.run()
    guilty = [d for d in world.state.disputes if d.ruling is Ruling.GUILTY]
    assert {(d.accused, d.round, d.place) for d in guilty} == {(liar.address, at, Place.OUTER)}
    assert {d.opened.agreed for d in guilty} == {state_before(world.state, Round(at)).digest}
    log = world.ledger.log
    statements = [line.data for line in log if line.kind == "statement"]
    effects = [effect for line in log for effect in line.effects]
    files = convictions(world.state, statements, effects, ToyLibrary().program)
    assert {verify(pack(each)).accused for each in files.values()} == {liar.address}


def test_a_convict_s_contribution_is_taken_out_once() -> None:
    """Not again by a round that opens while it is not decided yet whether the last one took it out."""
    cheat = Worker("cheat", conduct=conduct_named("skip-steps", 1))
    world = world_of(cheat, rounds=24, on_conviction="subtract", escrow_rounds=2)
    world.run()
    rounds = world.state.rounds
    included = sorted(n for n, who in world.state.convicted if who in rounds[n].included)
    taken = [number for worked in rounds if worked.included for number, _ in worked.subtracts]
    assert len(included) > 1
    assert sorted(taken) == included


def test_a_run_that_cannot_pay_another_round_decides_those_that_it_has() -> None:
    world = world_of(rounds=40, funded=3)
    world.run()
    state = world.state
    assert state.stage is Stage.ENDED
    assert 3 <= len(state.rounds) < 40
    assert all(worked.phase is Phase.SEALED for worked in state.rounds)
    assert state.deposit == 0


@pytest.mark.parametrize("delay", range(0, 120, 10))
def test_who_joins_counts_from_no_beacon_that_is_known(delay: int) -> None:
    """A round's members and records come from one beacon: nobody joins for the sake of what it draws."""
    late = Worker("late")
    late.is_up = False
    world = world_of(late, rounds=12, seed=2)
    world.at(150 + delay, lambda: (setattr(late, "is_up", True), world._wake(late))[-1])
    world.run()
    member = world.member(late)
    log, beacons = world.ledger.log, [worked.beacon for worked in world.state.rounds]
    joined = next(at for at, line in enumerate(log) if late.address in _joined(line.effects))
    closed = [e.beacon for line in log[: joined + 1] for e in line.effects if isinstance(e, RoundClosed)]
    counts = next(n for n, worked in enumerate(world.state.rounds) if late.address in worked.members)
    assert beacons[counts] not in closed
    assert counts == member.joined + 1


def _joined(effects: Any) -> set[Any]:
    return {effect.address for effect in effects if type(effect).__name__ == "MemberJoined"}


@pytest.mark.parametrize("seed", range(4))
def test_crashes_cost_time_and_no_stake(seed: int) -> None:
    world = world_of(rounds=10, seed=seed)
    rng = random.Random(seed)
    for actor in world.actors:
        begin = rng.randrange(100, 300)
        world.crash(actor, begin, begin + rng.randrange(20, 200))
    world.run(limit=400_000)
    assert world.state.stage is Stage.ENDED
    assert not world.seen(Slashed)
    assert sum(actor.crashes for actor in world.actors) == 4


def test_the_first_two_rounds_start_from_the_first_state() -> None:
    state = world_of().state
    assert [work_begins(state, Round(number)) for number in range(4)] == [0, 0, 1, 2]
    assert state_before(state, Round(3)) == state.manifest.start
