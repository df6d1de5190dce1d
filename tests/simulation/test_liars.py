"""Verifiers and sealers that lie: each pays what the law says, and what they decided wrongly is decided again."""

import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import CopyVerdict, FalseAccuser, Invent, Mute, WrongSeal
from verification.causes import Cause
from verification.debts import MoveDebt
from verification.effects import AuditEnded, DisputeEnded, DisputeOpened, Paid, Slashed, StandingChanged
from verification.manifest import Place
from verification.state import Audit, Ruling, Stage, Standing
from verification.statements import ChallengeSeal, Link, Reveal
from verification.units import MILLION


def played(liar: Actor, seed: int, **changes: int) -> World:
    """Return a finished run of two honest workers, one honest verifier and a liar."""
    actors = [Worker("w0"), Worker("w1", speed=60), Verifier("v0"), liar]
    manifest = minimal(audit_rate=MILLION, **changes)
    world = World(manifest, actors, random.Random(seed), check=Invariants(actors[:3]))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert liar.faults > 0
    for actor in actors[:3]:
        assert world.gain(actor) == world.member(actor).rewards + bonds(world, actor)
    assert {slashed.address for slashed in world.seen(Slashed)} == {liar.address}
    return world


def bonds(world: World, actor: Actor) -> int:
    """Return what an actor got out of wrong accusations against it."""
    return sum(
        paid.amount for paid in world.seen(Paid) if (paid.what, paid.address) == ("bond", actor.address)
    )


@pytest.mark.parametrize(("leaf", "place"), [(0, Place.PROLOGUE), (1, Place.STEP), (None, Place.EPILOGUE)])
def test_wrong_accuser_pays_its_bond_and_half_goes_to_the_accused(leaf: int | None, place: Place) -> None:
    liar = Verifier("liar", FalseAccuser(leaf))
    world = played(liar, 1)
    ended = world.seen(DisputeEnded)
    assert {(e.ruling, e.place, e.challenger) for e in ended} == {(Ruling.INNOCENT, place, liar.address)}
    slashed = world.seen(Slashed)
    assert [(s.stake, s.escrow, s.rewarded, s.burned) for s in slashed[:5]] == [(1000, 0, 500, 500)] * 5
    assert sum(bonds(world, actor) for actor in world.actors) == 2_500
    assert world.member(liar).stake == 0
    assert world.member(liar).standing is Standing.EXCLUDED
    passed = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.outcome is Audit.PASSED}
    assert {(e.round, e.accused) for e in ended} <= passed


def test_lazy_verifier_cannot_bring_the_inputs_of_what_it_invented() -> None:
    liar = Verifier("liar", Invent())
    world = played(liar, 2)
    assert {e.ruling for e in world.seen(DisputeEnded)} == {Ruling.VOID}
    lost = min(5_000, 1_000 * len(world.seen(DisputeOpened)))
    assert world.gain(liar) == -lost
    assert sum(count for said, count in world.refused.items() if said.startswith("liar")) > 0
    excluded = [change.reason for change in world.seen(StandingChanged) if change.standing == "excluded"]
    assert any(reason.cause is Cause.SILENT and isinstance(reason.debt, MoveDebt) for reason in excluded)


def test_copier_cannot_open_its_blind_with_what_it_copied() -> None:
    liar = Verifier("liar", CopyVerdict())
    world = played(liar, 3)
    assert any(said.startswith("liar: the reveal does not open") for said in world.refused)
    assert not world.seen(DisputeOpened)
    assert not any(a.verifier == liar.address and a.outcome is Audit.PASSED for a in world.seen(AuditEnded))
    assert world.member(liar).standing is Standing.EXCLUDED


@pytest.mark.parametrize("kind", [Reveal, Link])
def test_silence_about_a_verdict_costs_a_bond_and_decides_nothing(kind: type) -> None:
    liar = Verifier("liar", Mute(kind))
    world = played(liar, 4)
    changes = [c for c in world.seen(StandingChanged) if c.address == liar.address]
    assert [c.standing for c in changes] == ["suspended", "excluded"]
    assert all((s.stake, s.burned, s.rewarded) == (1000, 1000, 0) for s in world.seen(Slashed))
    audits = world.seen(AuditEnded)
    lost = {(a.work, a.worker) for a in audits if a.verifier == liar.address}
    assert lost
    assert {a.outcome for a in audits if a.verifier == liar.address} == {Audit.LOST}
    passed = {(a.work, a.worker) for a in audits if a.outcome is Audit.PASSED and a.verifier != liar.address}
    assert lost <= passed


def test_lost_audits_go_to_someone_who_has_not_had_them_yet() -> None:
    actors = [Worker("w0"), Worker("w1"), Verifier("v0"), Verifier("v1"), Verifier("liar", Mute(Reveal))]
    world = World(minimal(audit_rate=300_000, rounds=8), actors, random.Random(0))
    world.run()
    audits = world.seen(AuditEnded)
    lost = {(a.work, a.worker) for a in audits if a.outcome is Audit.LOST}
    assert lost
    for work, worker in lost:
        had = [a.verifier for a in audits if (a.work, a.worker) == (work, worker)]
        assert len(had) == len(set(had))
        assert any((a.work, a.worker, a.outcome) == (work, worker, Audit.PASSED) for a in audits)


def test_a_sealer_that_contests_the_right_state_pays_for_that_too() -> None:
    liar = Verifier("liar", WrongSeal())
    world = played(liar, 5)
    rulings = {(e.ruling, e.challenger == liar.address) for e in world.seen(DisputeEnded)}
    assert rulings == {(Ruling.GUILTY, False), (Ruling.INNOCENT, True)}
    assert sum(bonds(world, actor) for actor in world.actors) == 1_500


@pytest.mark.parametrize("seed", range(3))
def test_wrong_sealer_is_convicted_over_the_outer_step(seed: int) -> None:
    liar = Verifier("liar", WrongSeal(at=2), Mute(ChallengeSeal))
    world = played(liar, seed)
    (ended,) = {(e.ruling, e.place, e.round) for e in world.seen(DisputeEnded)}
    assert ended == (Ruling.GUILTY, Place.OUTER, 2)
    (slashed,) = world.seen(Slashed)
    challengers = len(world.seen(DisputeEnded))
    rewarded = 250 // challengers * challengers
    assert (slashed.stake, slashed.escrow, slashed.rewarded, slashed.burned) == (
        500,
        0,
        rewarded,
        500 - rewarded,
    )
    assert world.member(liar).standing is Standing.EXCLUDED
    assert len(world.state.rounds) == 5
