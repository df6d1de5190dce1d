"""Who is paid what, and from what: reserves by round, fees for whoever was right, an end when the money ends."""

import random

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import SUBMITTER, World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import FalseAccuser, Late, Mute
from verification.causes import Cause, Reason
from verification.effects import (
    AuditEnded,
    DisputeEnded,
    Paid,
    RoundOpened,
    Slashed,
    StageChanged,
    StandingChanged,
)
from verification.manifest import cost_of_work, fee_of
from verification.state import Audit, Ruling, Stage, Standing
from verification.statements import Finished, Link, Opening, Verdict
from verification.units import MILLION


def fees(world: World, actor: Verifier) -> list[int]:
    """Return every fee that an actor was paid."""
    return [paid.amount for paid in world.seen(Paid) if (paid.what, paid.address) == ("fee", actor.address)]


@pytest.mark.parametrize("funded", [1, 2, 3])
def test_a_run_that_cannot_pay_another_round_drains_and_pays_everyone(funded: int) -> None:
    actors = [*(Worker(f"w{i}") for i in range(4)), Verifier("v0")]
    world = World(minimal(rounds=40, audit_rate=200_000), actors, random.Random(funded), funded=funded)
    world.run()
    opened = len(world.seen(RoundOpened))
    assert funded <= opened < 40
    causes = [change.cause for change in world.seen(StageChanged)]
    assert causes[1:] == [Cause.DEPOSIT_SPENT, Cause.SETTLED]
    assert world.state.deposit == 0
    assert not any(worked.reserve for worked in world.state.rounds)
    assert all(world.gain(actor) == world.member(actor).rewards for actor in actors)
    paid = sum(world.gain(actor) for actor in actors)
    assert 0 <= world.state.balances[SUBMITTER] == world.deposit - paid
    needed = sum(cost_of_work(world.state.manifest, 12) for _ in range(4))
    assert world.state.balances[SUBMITTER] < needed + 4 * opened * 4 * fee_of(world.state.manifest, 12)


def test_a_round_opens_only_if_the_deposit_covers_its_worst_case() -> None:
    actors = [*(Worker(f"w{i}") for i in range(4)), Verifier("v0")]
    world = World(minimal(rounds=40, audit_rate=MILLION), actors, random.Random(1), funded=2)
    seen = []

    def watch(world: World) -> bool:
        for worked in world.state.rounds[len(seen) :]:
            seen.append(worked.number)
            steps = [assignment.steps for assignment in worked.assignments.values()]
            assert worked.reserve == sum(cost_of_work(world.state.manifest, count) for count in steps)
        assert world.state.deposit >= 0
        return world.is_settled()

    world.run(until=watch)
    assert len(seen) >= 2


def test_a_drained_run_has_its_last_round_audited_for_everyone() -> None:
    actors = [*(Worker(f"w{i}") for i in range(3)), Verifier("v0"), Verifier("v1")]
    world = World(minimal(rounds=40, audit_rate=0), actors, random.Random(3), funded=2)
    world.run()
    last = len(world.state.rounds) - 1
    audited = [a.worker for a in world.seen(AuditEnded) if (a.work, a.outcome) == (last, Audit.PASSED)]
    assert sorted(audited) == sorted(actor.address for actor in actors[:3])


@pytest.mark.parametrize("name", ["skip-steps", "noise", "wrong-data"])
def test_every_finder_gets_its_fee_beside_its_share(name: str) -> None:
    cheat = Worker("cheat", conduct=conduct_named(name, 1))
    verifiers = [Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=MILLION), [cheat, Worker("w0"), *verifiers], random.Random(5))
    world.run()
    guilty = [e for e in world.seen(DisputeEnded) if e.ruling is Ruling.GUILTY]
    assert {e.challenger for e in guilty} == {verifier.address for verifier in verifiers}
    for verifier in verifiers:
        audits = [a for a in world.seen(AuditEnded) if a.verifier == verifier.address]
        done = [a for a in audits if a.outcome in (Audit.PASSED, Audit.MISMATCH)]
        assert len(fees(world, verifier)) == len(done)


def test_accusations_wait_until_the_stake_covers_them_and_end_with_it() -> None:
    liar = Verifier("liar", FalseAccuser())
    actors = [*(Worker(f"w{i}") for i in range(4)), Verifier("v0"), liar]
    manifest = minimal(audit_rate=MILLION, accuser_bond=5_000)
    world = World(manifest, actors, random.Random(2), check=Invariants(actors[:5]))
    world.run()
    mine = [e for e in world.seen(DisputeEnded) if e.challenger == liar.address]
    assert [e.ruling for e in mine] == [Ruling.INNOCENT]
    outcomes = [a.outcome for a in world.seen(AuditEnded) if a.verifier == liar.address]
    assert outcomes.count(Audit.MISMATCH) == 1
    assert outcomes.count(Audit.LOST) >= 3
    assert not world.state.queued


@pytest.mark.parametrize("name", ["noise", "skip-steps"])
def test_a_lone_verifier_with_one_bond_convicts_every_cheat_one_after_the_other(name: str) -> None:
    cheats = [Worker(f"cheat{i}", conduct=conduct_named(name, 3)) for i in range(3)]
    honest = [*(Worker(f"w{i}", stake=40_000) for i in range(2)), Verifier("v0")]
    manifest = minimal(audit_rate=MILLION, accuser_bond=5_000, slots=5, min_workers=5)
    world = World(manifest, [*cheats, *honest], random.Random(4), check=Invariants(honest))
    world.run()
    guilty = [e.accused for e in world.seen(DisputeEnded) if (e.round, e.ruling) == (3, Ruling.GUILTY)]
    assert sorted(guilty) == sorted(cheat.address for cheat in cheats)
    assert all(world.member(cheat).standing is Standing.EXCLUDED for cheat in cheats)


def test_a_verifier_that_leaves_duties_undone_in_silence_goes_away_and_pays_nothing() -> None:
    lazy = Verifier("lazy", Mute(Verdict, Finished))
    honest = [*(Worker(f"w{i}") for i in range(3)), Verifier("v0")]
    world = World(
        minimal(audit_rate=MILLION, rounds=8), [*honest, lazy], random.Random(3), check=Invariants(honest)
    )
    world.run()
    changes = [c for c in world.seen(StandingChanged) if c.address == lazy.address]
    assert changes[0].reason == Reason(Cause.IDLE, count=2)
    assert not world.seen(Slashed)
    assert not fees(world, lazy)
    passed = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.outcome is Audit.PASSED}
    assert {(a.work, a.worker) for a in world.seen(AuditEnded) if a.outcome is Audit.LOST} <= passed


def test_duties_hidden_behind_a_late_link_are_drawn_again() -> None:
    honest = [*(Worker(f"w{i}") for i in range(3)), Verifier("v0")]
    hidden = honest[0].address
    late = Verifier("late", Mute(Verdict, when=lambda body: body.worker == hidden), Late(Link, 1_500))
    world = World(
        minimal(audit_rate=600_000, rounds=8), [*honest, late], random.Random(8), check=Invariants(honest)
    )
    world.run()
    lost = {
        (a.work, a.worker)
        for a in world.seen(AuditEnded)
        if (a.verifier, a.outcome) == (late.address, Audit.LOST)
    }
    assert lost
    audited = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.verifier != late.address}
    assert lost <= audited


def test_auditors_of_a_worker_that_never_opened_are_paid_their_fee() -> None:
    silent = Worker("silent", Mute(Opening))
    verifiers = [Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=MILLION), [silent, Worker("w0"), *verifiers], random.Random(6))
    world.run()
    assert world.member(silent).standing is Standing.EXCLUDED
    void = [a for a in world.seen(AuditEnded) if (a.worker, a.outcome) == (silent.address, Audit.VOID)]
    assert {a.verifier for a in void} == {verifier.address for verifier in verifiers}
    for verifier in verifiers:
        audits = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.verifier == verifier.address}
        assert len(fees(world, verifier)) == len(audits)
    assert world.state.stage is Stage.ENDED


@pytest.mark.parametrize("option", ["continue", "subtract"])
def test_a_convict_s_contribution_stays_or_is_taken_out_at_the_next_round(option: str) -> None:
    cheat = Worker("cheat", conduct=conduct_named("skip-steps", 3))
    honest = [Worker("w0"), Worker("w1"), Verifier("v0")]
    manifest = minimal(audit_rate=MILLION, rounds=16, on_conviction=option, clip=3000)
    world = World(manifest, [cheat, *honest], random.Random(7), check=Invariants(honest))
    world.run()
    convicted = sorted(number for number, who in world.state.convicted if who == cheat.address)
    included = [number for number in convicted if cheat.address in world.state.rounds[number].included]
    assert included[0] == 3
    taken = [part for worked in world.state.rounds for part in worked.subtracts]
    assert taken == ([(number, cheat.address) for number in included] if option == "subtract" else [])
    assert len({worked.sealed for worked in world.state.rounds}) == 16
    assert all(len(set(worked.seals.values())) == 1 for worked in world.state.rounds)
