"""Crashes, silence and delay: what comes back in time loses nothing, what never comes back pays and locks nothing."""

import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import START, minimal, reference
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import Mute
from verification.audits import must_open
from verification.causes import Cause
from verification.effects import AuditEnded, DisputeEnded, Slashed, StageChanged, StandingChanged
from verification.errors import Refused
from verification.law import head_of
from verification.signed import make_statement, sign_statement
from verification.state import Audit, Phase, Ruling, Stage, Standing, Turn
from verification.statements import Commit, Opening
from verification.tensors import digest_of
from verification.units import MILLION, Count, Digest, Round


def cast(workers: int = 3, verifiers: int = 2) -> list[Actor]:
    """Return honest actors."""
    return [*(Worker(f"w{i}") for i in range(workers)), *(Verifier(f"v{i}") for i in range(verifiers))]


def standings(world: World, actor: Actor) -> list[str]:
    """Return what became of a member, in order."""
    return [change.standing for change in world.seen(StandingChanged) if change.address == actor.address]


def owes_opening(world: World, actor: Actor) -> bool:
    """Return whether the law waits for a worker's leaves."""
    return any(must_open(world.state, worked.number, actor.address) for worked in world.state.rounds)


def test_worker_that_never_opens_is_suspended_then_convicted() -> None:
    silent = Worker("silent", Mute(Opening))
    world = World(minimal(audit_rate=MILLION), [silent, *cast()], random.Random(1))
    world.run()
    assert silent.faults > 0
    assert standings(world, silent) == ["suspended", "excluded"]
    first, *_ = world.seen(Slashed)
    escrow = sum(
        7 + 7 * r.assignments[silent.address].steps
        for r in world.state.rounds
        if silent.address in r.included
    )
    assert (first.address, first.stake, first.rewarded, first.burned) == (
        silent.address,
        1000,
        0,
        1000 + escrow,
    )
    times = {type(e).__name__: line.at for line in reversed(world.ledger.log) for e in line.effects}
    suspended = next(
        line.at for line in world.ledger.log for e in line.effects if isinstance(e, StandingChanged)
    )
    assert times["Slashed"] >= suspended + world.state.manifest.windows.silence
    assert {a.outcome for a in world.seen(AuditEnded) if a.worker == silent.address} == {
        Audit.WAITING,
        Audit.VOID,
    }
    others = [actor for actor in world.actors if actor is not silent]
    assert all(world.gain(actor) == world.member(actor).rewards for actor in others)


@pytest.mark.parametrize("seed", range(3))
def test_worker_that_opens_late_is_restored_and_loses_nothing(seed: int) -> None:
    actors = cast()
    world = World(minimal(audit_rate=MILLION), actors, random.Random(seed))
    world.crash_when(actors[0], lambda world: owes_opening(world, actors[0]), 1_500)
    world.run()
    assert actors[0].crashes == 1
    assert "suspended" in standings(world, actors[0])
    assert standings(world, actors[0])[-1] == "active"
    assert not world.seen(Slashed)
    assert all(world.gain(actor) == world.member(actor).rewards for actor in actors)
    assert {a.outcome for a in world.seen(AuditEnded)} <= {Audit.WAITING, Audit.PASSED}


def challenges(world: World, actor: Actor) -> bool:
    """Return whether a dispute waits for this challenger."""
    return any(d.challenger == actor.address and d.turn is not Turn.LIST for d in world.state.open_disputes())


@pytest.mark.parametrize("name", ["noise", "skip-steps"])
def test_silent_challenger_decides_nothing_and_another_verifier_is_drawn(name: str) -> None:
    cheat = Worker("cheat", conduct=conduct_named(name, 4))
    verifiers = [Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=0), [cheat, Worker("w0"), *verifiers], random.Random(3))
    for verifier in verifiers:
        world.crash_when(
            verifier,
            lambda world, me=verifier: challenges(world, me) and not any(v.crashes for v in verifiers),
            None,
        )
    world.run()
    (dead,) = [v for v in verifiers if v.crashes]
    (other,) = [v for v in verifiers if not v.crashes]
    ended = world.seen(DisputeEnded)
    assert [(e.challenger, e.ruling) for e in ended] == [
        (dead.address, Ruling.VOID),
        (other.address, Ruling.GUILTY),
    ]
    void, guilty = world.seen(Slashed)
    assert (void.address, void.stake, void.rewarded, void.burned) == (dead.address, 1000, 500, 500)
    assert (guilty.address, guilty.stake) == (cheat.address, 1000)
    assert world.state.stage is Stage.ENDED


@pytest.mark.parametrize("seed", range(3))
def test_lost_audit_is_drawn_again_and_the_loser_is_restored(seed: int) -> None:
    verifiers = [Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=0), [Worker("w0"), Worker("w1"), *verifiers], random.Random(seed))

    def is_drawn(world: World) -> bool:
        session = world.state.sessions.get(Round(4))
        return session is not None and any(d.verifier == verifiers[0].address for d in session.public)

    world.crash_when(verifiers[0], is_drawn, 3_000)
    world.run()
    audits = world.seen(AuditEnded)
    lost = {(a.work, a.worker) for a in audits if a.outcome is Audit.LOST}
    passed = {(a.work, a.worker): a.verifier for a in audits if a.outcome is Audit.PASSED}
    assert bool(lost) == bool(verifiers[0].crashes)
    assert all(passed[key] == verifiers[1].address for key in lost)
    assert not world.seen(Slashed)
    assert all(world.gain(actor) == world.member(actor).rewards for actor in world.actors)


@pytest.mark.parametrize("seed", range(4))
def test_crashes_for_some_rounds_cost_time_and_no_stake(seed: int) -> None:
    actors = cast(3, 3)
    rng = random.Random(seed)
    world = World(minimal(rounds=8, audit_rate=700_000), actors, rng)
    for actor in (actors[0], actors[3]):
        world.crash(actor, start := rng.randint(100, 900), start + rng.randint(500, 3_000))
    world.run()
    assert [actor.crashes for actor in actors] == [1, 0, 0, 1, 0, 0]
    assert len(world.state.rounds) == 8
    assert not world.seen(Slashed)
    assert all(world.gain(actor) == world.member(actor).rewards for actor in actors)


def test_dead_majority_drains_the_run_and_everything_unlocks() -> None:
    actors = cast(3, 2)
    world = World(minimal(), actors, random.Random(5))
    for actor in actors[:3]:
        world.crash_when(actor, lambda world: len(world.state.rounds) == 2, 40_000)
    world.run()
    assert [actor.crashes for actor in actors] == [1, 1, 1, 0, 0]
    assert [(change.stage, change.cause) for change in world.seen(StageChanged)][1:] == [
        (Stage.DRAINING, Cause.STALLED),
        (Stage.ENDED, Cause.SETTLED),
    ]
    world.run(until=lambda world: not any(member.stake for member in world.state.members.values()))
    assert world.state.deposit == 0
    assert not any(member.escrow for member in world.state.members.values())
    taken = {
        actor.address: sum(s.stake for s in world.seen(Slashed) if s.address == actor.address)
        for actor in actors
    }
    assert all(world.gain(actor) == world.member(actor).rewards - taken[actor.address] for actor in actors)
    assert [taken[actor.address] for actor in actors[3:]] == [0, 0]


def test_run_that_never_gathers_ends_and_pays_back() -> None:
    world = World(minimal(min_workers=2), cast(1, 1), random.Random(0))
    world.run()
    assert not world.state.rounds
    assert all(world.gain(actor) == 0 for actor in world.actors)


def test_member_that_went_away_comes_back_with_an_announcement() -> None:
    actors = cast(4, 2)
    world = World(minimal(rounds=40, audit_rate=0), actors, random.Random(2))
    world.crash_when(actors[0], lambda world: len(world.state.rounds) == 3, 3_000)
    world.run()
    assert actors[0].crashes == 1
    assert standings(world, actors[0])[:2] == ["away", "active"]
    assert not world.seen(Slashed)
    assert world.member(actors[0]).standing is Standing.ACTIVE


def commit_of(world: World, actor: Actor, number: int, start: Digest) -> bytes:
    """Return a signed commitment to nothing in particular."""
    body = Commit(Round(number), start, start, reference(START), Count(0), start)
    head = head_of(world.state, Round(number))
    return sign_statement(actor.secret, make_statement(world.state.chain, world.state.run, head, body))


def test_stale_and_late_commitments_are_refused() -> None:
    actors = cast(2, 1)
    world = World(minimal(), actors, random.Random(0))
    world.run(until=lambda world: len(world.state.rounds) == 2)
    with pytest.raises(Refused, match="another start state"):
        world.ledger.submit(commit_of(world, actors[0], 1, digest_of(START)))
    with pytest.raises(Refused, match="closed"):
        world.ledger.submit(commit_of(world, Worker("x"), 0, digest_of(START)))
    with pytest.raises(Refused, match="no assignment"):
        world.ledger.submit(commit_of(world, Worker("x"), 1, digest_of(START)))
    assert world.state.current.phase is Phase.COMMIT
