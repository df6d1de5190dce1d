"""Who is not there: verifiers that are gone, bytes that come late, members that stall, and places that stay empty."""

import itertools
import random
from typing import Any

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import Dawdle, Mute
from verification.causes import Cause
from verification.effects import NotPaid, Paid, Payment, RoundClosed, Slashed, StageChanged, StandingChanged
from verification.honest.actions import Computed, FetchContribution
from verification.manifest import reward_of
from verification.sampling import _draw_slots
from verification.state import Member, Stage, Standing, Watch
from verification.statements import Attest, Commit, Finished, Link, Opening, Reveal, Seal, Verdict
from verification.units import MILLION, Address, Amount, Digest, Round

ALL = {"audit_rate": MILLION, "max_verifiers": 1}


def opened(count: int) -> Any:
    """Return a condition: so many rounds have opened."""
    return lambda world: len(world.state.rounds) >= count


def is_quiet(verifier: Actor) -> Any:
    """Return a condition: no verdict of the verifier's waits for its reveal, or is on its way."""
    me = verifier.address

    def holds(world: World) -> bool:
        mine = [session for session in world.state.sessions.values() if me in session.verifiers]
        return len(mine) >= 2 and all(
            me in session.links
            or (me in session.finished and not any(me == key[0] for key in session.verdicts))
            for session in mine
        )

    return holds


def last_cause(world: World) -> Cause:
    """Return why the run drained."""
    return next(change.cause for change in world.seen(StageChanged) if change.stage is Stage.DRAINING)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_verifier_no_round_opens_and_work_that_nobody_saw_is_not_paid(seed: int) -> None:
    """F28: the only verifier is gone for good after round 0; before, the cheat earned twice the honest worker's pay."""
    cheat, honest = Worker("cheat", conduct=conduct_named("zero-update", 1)), Worker("w0", stake=40_000)
    verifier = Verifier("v0")
    world = World(minimal(rounds=30, **ALL), [cheat, honest, verifier], random.Random(seed))
    world.crash_when(verifier, opened(2), None)
    world.run(limit=400_000)
    assert last_cause(world) is Cause.STALLED
    assert len(world.state.rounds) <= 2 + world.state.manifest.work.miss_limit
    assert world.gain(cheat) <= world.gain(honest)
    assert {one.address for one in world.seen(NotPaid)} == {cheat.address, honest.address}
    paid = [p.amount for p in world.seen(Paid) if (p.what, p.address) == (Payment.REWARD, cheat.address)]
    assert sum(paid) <= reward_of(world.state.manifest, 4), "its honest round 0, of one leaf, at most"


@pytest.mark.parametrize("seed", range(3))
def test_a_verifier_that_is_cut_off_between_sessions_loses_nothing(seed: int) -> None:
    """It had no verdict to hide in the sessions that it missed; before, it paid a bond for each of them."""
    actors = [Worker("w0"), Worker("w1"), Verifier("v0"), Verifier("v1")]
    world = World(
        minimal(rounds=24, audit_rate=300_000, max_verifiers=2, min_verifiers=1), actors, random.Random(seed)
    )

    world.crash_when(actors[2], is_quiet(actors[2]), None)
    world.run(limit=400_000)
    assert actors[2].crashes == 1
    assert not [slashed for slashed in world.seen(Slashed) if slashed.address == actors[2].address]
    assert world.member(actors[2]).stake == 5_000


def test_who_vanishes_in_the_middle_of_a_session_pays_one_bond_at_most() -> None:
    """Before, it paid one for each verdict that it had not opened and for each link."""
    actors = [*(Worker(f"w{n}") for n in range(3)), Verifier("v0"), Verifier("v1")]
    manifest = minimal(rounds=6, audit_rate=MILLION, max_verifiers=2, min_verifiers=1, min_workers=3)
    world = World(manifest, actors, random.Random(1))
    me = actors[3].address

    def has_spoken(world: World) -> bool:
        return sum(key[0] == me for session in world.state.sessions.values() for key in session.verdicts) > 1

    world.crash_when(actors[3], has_spoken, None)
    world.run(limit=400_000)
    taken = [slashed.stake for slashed in world.seen(Slashed) if slashed.address == me]
    assert taken == [manifest.money.accuser_bond]


@pytest.mark.parametrize("waits", [1, 3])
def test_rounds_run_no_further_ahead_of_their_audits_than_rewards_wait(waits: int) -> None:
    """N5: some open and reveal at the last moment; before, rounds went on however far sessions lagged behind."""
    slow = [Worker("late", Dawdle(Opening)), Verifier("later", Dawdle(Reveal, Link, Finished))]
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
    manifest = minimal(rounds=12, min_workers=3, min_verifiers=2, audit_rate=MILLION, escrow_rounds=waits)
    furthest = 0

    def look(world: World) -> None:
        nonlocal furthest
        open_ones = [
            n for n, session in world.state.sessions.items() if session.watch is not Watch.DONE and n < 12
        ]
        furthest = max(furthest, max((len(world.state.rounds) - 1 - n for n in open_ones), default=0))

    World(manifest, [*slow, *honest], random.Random(1), check=look).run(limit=400_000)
    assert furthest == waits


def test_rounds_go_on_when_the_promised_verifier_is_back() -> None:
    cheat = Worker("cheat", conduct=conduct_named("noise", 2))
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
    manifest = minimal(rounds=12, min_workers=3, stall=60_000, **ALL)
    world = World(manifest, [cheat, *honest], random.Random(3), check=Invariants(honest))
    world.crash_when(honest[-1], opened(2), 4_000)
    world.run(limit=400_000)
    assert len(world.state.rounds) == 12
    assert world.member(cheat).standing is Standing.EXCLUDED
    gaps = [round_.opened_at for round_ in world.state.rounds]
    assert max(b - a for a, b in itertools.pairwise(gaps)) > 2_000, "it waited"


class SeesLate(Verifier):
    """An honest member to whom one worker's bytes come only after the round has closed."""

    def __init__(self, name: str, slow: Address) -> None:
        """`slow` is the worker."""
        super().__init__(name)
        self._slow = slow

    def compute(self, action: Computed, state: Any, blobs: Any, now: Any) -> Any:
        """Have nothing of the worker's while its round is attested."""
        if isinstance(action, FetchContribution) and action.worker == self._slow:
            worked = state.rounds[action.number]
            if worked.phase.value in ("commit", "attest"):
                return None
        return super().compute(action, state, blobs, now)


class HelperSeesLate(SeesLate, Worker):
    """The same for a worker."""

    role = "worker"


def test_bytes_that_come_after_the_window_are_a_missed_round() -> None:
    """F29: committed and served late, every round; before, it was never away and every round took its whole window."""
    late = Worker("late")
    honest: list[Actor] = [HelperSeesLate(f"w{n}", late.address) for n in range(2)]
    honest += [SeesLate("v0", late.address), SeesLate("v1", late.address)]
    manifest = minimal(rounds=14, min_workers=3, audit_rate=0, max_verifiers=2)
    world = World(manifest, [late, *honest], random.Random(2))
    world.run(limit=400_000)
    away = [
        c for c in world.seen(StandingChanged) if (c.address, c.standing) == (late.address, Standing.AWAY)
    ]
    assert len(away) >= 2
    assert not any(late.address in closed.included for closed in world.seen(RoundClosed))
    full = [
        b.opened_at - a.opened_at >= 300
        for a, b in zip(world.state.rounds, world.state.rounds[1:], strict=False)
    ]
    assert sum(full) <= 2, "only until it has missed a round"


def lasted(*stallers: Actor, seed: int = 4) -> int:
    """Return how long 20 rounds take with some actors beside honest ones."""
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0"), Verifier("v1")]
    manifest = minimal(rounds=20, min_workers=3, slots=4, audit_rate=100_000, max_verifiers=3)
    world = World(manifest, [*honest, *stallers], random.Random(seed), check=Invariants(honest))
    world.run(limit=400_000)
    assert len(world.state.rounds) == 20
    return world.state.rounds[-1].opened_at - world.state.rounds[0].opened_at


def test_a_member_that_does_nothing_but_come_back_makes_rounds_at_most_twice_as_long() -> None:
    """N8: it never commits, attests or seals and is back whenever it is away; before, rounds took 11 times as long."""
    staller = Worker("staller", Mute(Commit, Attest, Seal))
    alone, beside = lasted(), lasted(staller)
    assert beside <= 2 * alone


def test_a_verifier_that_does_nothing_but_come_back_makes_rounds_at_most_twice_as_long() -> None:
    staller = Verifier("staller", Mute(Commit, Attest, Seal, Verdict, Finished, Link))
    assert lasted(staller) <= 2 * lasted()


def test_coming_back_takes_longer_each_time() -> None:
    staller = Worker("staller", Mute(Commit, Attest, Seal))
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
    manifest = minimal(rounds=60, audit_rate=0, max_verifiers=1)
    world = World(manifest, [staller, *honest], random.Random(5))
    world.run(limit=400_000)
    inside = [staller.address in worked.members for worked in world.state.rounds]
    gaps, out = [], 0
    for number, is_inside in enumerate(inside):
        out = 0 if is_inside else out + 1
        if out and (number + 1 == len(inside) or inside[number + 1]):
            gaps.append(out)
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[0] < gaps[1] < gaps[2] < gaps[3] <= 17


def test_slots_follow_the_smaller_of_stake_and_delivered_rounds() -> None:
    manifest = minimal(max_steps=40, leaf_every=4, slots=1, min_workers=1)

    def member(name: bytes, capacity: int) -> Member:
        return Member(
            Address(name * 20), "worker", Amount(10_000), 1, Digest(bytes(32)), "", Round(0), capacity
        )

    idle, busy = member(b"a", 4), member(b"b", 40)
    drawn = [
        _draw_slots(manifest, Digest(n.to_bytes(32, "big")), [(idle,), (busy,)], 1)[0][0].address
        for n in range(1_100)
    ]
    assert 60 <= drawn.count(idle.address) <= 145, "one in eleven"


def test_the_place_of_a_verifier_that_is_long_away_is_free_again() -> None:
    """Before, two verifiers that came first and went could not be replaced, and all audits were over."""
    gone, fresh = Verifier("gone"), Verifier("fresh")
    honest: list[Actor] = [Worker("w0"), Worker("w1")]
    manifest = minimal(rounds=10, stall=60_000, **ALL)
    world = World(manifest, [gone, *honest, fresh], random.Random(6))
    fresh.is_up = False
    world.crash_when(gone, opened(2), None)
    world.at(9_000, lambda: (setattr(fresh, "is_up", True), world._wake(fresh))[-1])
    world.run(limit=400_000)
    assert len(world.state.rounds) == 10
    assert world.member(fresh).standing is Standing.ACTIVE
    assert world.refused[f"{fresh.name}: the run has all the verifiers that its deposit can pay"] >= 0
    assert world.gain(fresh) > 0


def test_who_comes_back_to_a_taken_place_keeps_its_stake() -> None:
    gone, fresh = Verifier("gone"), Verifier("fresh")
    honest: list[Actor] = [Worker("w0"), Worker("w1"), fresh]
    manifest = minimal(rounds=80, stall=60_000, **ALL)
    world = World(manifest, [gone, *honest], random.Random(6), check=Invariants([gone, *honest]))
    fresh.is_up = False
    world.crash_when(gone, is_quiet(gone), 10_500)
    world.at(9_000, lambda: (setattr(fresh, "is_up", True), world._wake(fresh))[-1])
    world.run(limit=400_000)
    assert world.member(gone).standing is Standing.AWAY
    assert world.member(gone).stake == 0, "withdrawn"
    assert world.gain(gone) >= 0
    assert len(world.state.rounds) == 80
