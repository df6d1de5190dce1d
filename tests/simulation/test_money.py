"""Who is paid what, and from what: reserves by round, fees for whoever was right, an end when the money ends."""

import random

import pytest

from simulator.cast import Verifier, Worker
from simulator.toy import minimal
from simulator.world import SUBMITTER, World
from trainer.cheats import conduct_named
from verification.adversaries import Mute
from verification.effects import AuditEnded, DisputeEnded, Paid, RoundOpened, StageChanged
from verification.manifest import cost_of_work, fee_of
from verification.state import Audit, Ruling, Stage, Standing
from verification.statements import Opening
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
    reasons = [change.reason for change in world.seen(StageChanged)]
    assert reasons[1:] == ["the deposit cannot pay another round", "everything is settled"]
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
