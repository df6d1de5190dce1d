"""Attacks that a hostile reading of the rules found, played as they would have worked, and what they come to now."""

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import (
    Act,
    Behaviour,
    Collude,
    FalseAccuser,
    Forge,
    Late,
    Mute,
    Ring,
    View,
    Whisper,
    WrongSeal,
)
from verification.causes import Cause
from verification.digest import ZERO, tagged
from verification.effects import (
    AuditEnded,
    DisputeEnded,
    DisputeOpened,
    Paid,
    Slashed,
)
from verification.honest.actions import (
    RunRound,
    Say,
)
from verification.manifest import BundleRef, Place, reward_of
from verification.outer import clipped_weights
from verification.sampling import assign, limited_speeds
from verification.signed import make_statement, sign_statement
from verification.state import Assignment, Member, Phase, RoundState, Ruling, Stage
from verification.statements import (
    Answer,
    ChallengeSeal,
    Commit,
    Contradiction,
    Link,
    NodeList,
    Point,
    Seal,
    Trace,
)
from verification.units import MILLION, Address, Amount, Count, Millis, Round


def world_of(cheats: list[Actor], honest: list[Actor], seed: int = 3, **changes: int) -> World:
    """Return the finished run of some cheats among honest peers."""
    workers = sum(isinstance(actor, Worker) for actor in [*cheats, *honest])
    everyone = {"min_workers": workers, "min_verifiers": len(cheats) + len(honest) - workers}
    rules = {"audit_rate": MILLION, "rounds": 8, "slots": 6, **everyone, **changes}
    world = World(minimal(**rules), [*cheats, *honest], random.Random(seed), check=Invariants(honest))
    world.run()
    assert world.state.stage is Stage.ENDED
    return world


class LateSeal(Behaviour):
    """Keeps its seal of a round back until its inputs are forgotten, then seals wrongly and contests everyone."""

    def __init__(self, number: int, after: int) -> None:
        """Round `number` is sealed when `after` rounds have opened."""
        super().__init__()
        self._number, self._after = Round(number), after

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Swallow the honest seal; later forge another and every challenge that it allows."""
        state, me = view.state, view.me.address
        kept = [
            a
            for a in wanted
            if not (isinstance(a, Say) and isinstance(a.body, Seal) and a.body.round == self._number)
        ]
        if len(state.rounds) < self._after:
            return kept
        self.faults += 1
        worked = state.rounds[self._number]
        wrong = BundleRef(tagged("wrong"), ZERO)
        accused = sorted(worked.seals.keys() - {me})
        return [
            *kept,
            Forge(Seal(self._number, wrong)),
            *(Forge(ChallengeSeal(self._number, one)) for one in accused),
        ]


def test_an_old_round_cannot_be_contested_once_its_inputs_may_be_gone() -> None:
    """Who sealed rightly could not show its work any more, and would have been convicted of silence."""
    late = LateSeal(0, 6)
    world = world_of([Verifier("late", late)], [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")])
    assert late.faults > 0
    assert not world.state.disputes
    assert world.refused["late: the round lies too far back to be sealed"] > 0
    assert not world.seen(Slashed)


class LateChallenge(Behaviour):
    """Contests every seal of round 0 when six rounds have opened."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Forge every challenge that its own wrong seal allows."""
        if len(view.state.rounds) < 6:
            return wanted
        self.faults += 1
        accused = sorted(view.state.rounds[0].seals.keys() - {view.me.address})
        return [*wanted, *(Forge(ChallengeSeal(Round(0), one)) for one in accused)]


def test_a_wrong_seal_in_time_gives_no_right_to_contest_others_late() -> None:
    late = LateChallenge()
    rogue = Verifier("late", WrongSeal(0), Mute(ChallengeSeal), late, stake=20_000)
    world = world_of([rogue], [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")], min_verifiers=1)
    assert late.faults > 0
    assert {d.accused for d in world.state.disputes} == {rogue.address}
    assert {s.address for s in world.seen(Slashed)} == {rogue.address}


def test_nothing_is_paid_to_whom_a_dispute_is_open_about() -> None:
    """Rewards of earlier rounds mature while it goes on: the slash must still find them."""
    slow = [Late(Answer, 550), Late(Trace, 500)]
    cheat = Worker("cheat", *slow, conduct=conduct_named("skip-steps", 3))
    world = world_of([cheat], [Worker("w0"), Worker("w1"), Verifier("v0")], rounds=10, escrow_rounds=2)
    assert sum(behaviour.faults for behaviour in slow) > 0
    (opened, *_) = [
        n
        for n, line in enumerate(world.ledger.log)
        if any(isinstance(e, DisputeOpened) for e in line.effects)
    ]
    (ended, *_) = [
        n for n, line in enumerate(world.ledger.log) if any(isinstance(e, DisputeEnded) for e in line.effects)
    ]
    during = [e for line in world.ledger.log[opened:ended] for e in line.effects]
    assert [e for e in during if isinstance(e, Paid) and e.what == "reward" and e.address != cheat.address]
    assert not [
        e for e in during if isinstance(e, Paid) and e.what == "reward" and e.address == cheat.address
    ]
    assert world.seen(Slashed)[0].escrow > 0


def test_a_recent_round_is_still_contested_and_the_honest_can_answer() -> None:
    late = LateSeal(3, 5)
    world = world_of([Verifier("late", late)], [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")])
    assert late.faults > 0
    assert {d.ruling for d in world.state.disputes if d.challenger == world.actors[0].address} == {
        Ruling.INNOCENT
    }
    assert any(
        d.accused == world.actors[0].address and d.ruling is Ruling.GUILTY for d in world.state.disputes
    )


def test_a_hidden_link_keeps_the_round_s_inputs_until_it_is_out() -> None:
    """A link held back for almost all of `silence` brings a lost audit of a round that all had forgotten.

    The honest worker has meanwhile lost its memory: it must find the round's start state to open and to answer.
    """
    link = Late(Link, 5_000)
    held = Verifier("held", link)
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0"), Verifier("v1")]
    rules = {"min_workers": 3, "min_verifiers": 3, "audit_rate": 300_000, "rounds": 14, "slots": 6}
    world = World(minimal(**rules), [held, *honest], random.Random(2), check=Invariants(honest))
    for worker in honest[:3]:
        world.crash(worker, 4_000, 4_100)
        world.crash(worker, 8_000, 8_100)
    world.run()
    assert link.faults > 0
    late = [a for a in world.seen(AuditEnded) if a.drawn == "public" and a.session > a.work + 2]
    assert late
    assert not [s for s in world.seen(Slashed) if s.address != held.address]


def member(name: str, stake: int, speed: int = 1_000_000, role: str = "worker") -> Member:
    """Return a member that has delivered a lot."""
    address = Address(name.encode().ljust(20, b"\0"))
    return Member(address, role, Amount(stake), speed, ZERO, "", Round(-1), capacity=10_000)


def test_slots_follow_stake_not_the_number_of_names() -> None:
    """Thirty names with a leaf's stake each once took nearly every slot from three that stake for a whole round."""
    manifest = minimal(max_steps=40, leaf_every=4)
    least = 10_000 * (5 + 40 + 5) // (5 + 400 + 5) + 1
    names = [member(f"name-{i}", least) for i in range(30)]
    honest = [member(f"honest-{i}", 10_000) for i in range(3)]
    crowd = [*names, *honest]
    drawn = 0
    for number in range(400):
        given = assign(manifest, tagged("beacon", bytes([number // 256, number % 256])), crowd, 4)
        assert len(given) == 4
        drawn += sum(one.address in given for one in honest)
    # Half of the stake's work is the honest ones'; by names it would be an eleventh, 145 of 1,600.
    assert 640 < drawn < 960


def test_a_stake_in_proportion_to_the_reward_gives_no_name_a_discount() -> None:
    """The prologue and the epilogue are paid in a round of one leaf too, so its stake must cover them."""
    manifest = minimal(max_steps=12, leaf_every=4)
    whole = reward_of(manifest, 12)
    for stake in range(0, 10_001, 137):
        given = assign(manifest, ZERO, [member("one", stake)], 1)
        for work in given.values():
            assert reward_of(manifest, work.steps) * 10_000 <= (stake + 1) * whole


def test_a_whale_sets_no_median() -> None:
    """One name with all the money in the world: windows, and others' weights in the outer step, stay as they are."""
    manifest = minimal(clip=2_000)
    honest = [member(f"h{i}", 10_000) for i in range(3)]
    whale = member("whale", 10**12, speed=1)
    assert limited_speeds(manifest, [*honest, whale])[honest[0].address] == 1_000_000
    everyone = [*honest, whale]
    worked = RoundState(
        Round(0), manifest.start, ZERO, ZERO, Millis(0), Millis(0),
        {m.address: int(m.stake) for m in everyone},
        {m.address: Assignment(i, 12, m.stake) for i, m in enumerate(everyone)},
        phase=Phase.SEAL, included=tuple(m.address for m in everyone),
    )  # fmt: skip
    for one in everyone:
        norm = Count(1 if one is whale else 1_000_000)
        worked.commits[one.address] = Commit(Round(0), ZERO, ZERO, manifest.start, norm, ZERO)
    weights = clipped_weights(manifest, worked)
    assert len(set(weights.values())) == 1


class Concede(Behaviour):
    """Gives itself up in a partner's dispute about the prologue, and says nothing in any other."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Break the trace of the prologue, which was right."""
        kept: list[Act] = []
        for act in wanted:
            body = act.body if isinstance(act, Say) else None
            if getattr(body, "round", 0) != 1:
                kept.append(act)
            elif isinstance(body, Trace) and body.place == Place.PROLOGUE.value:
                self.faults += 1
                kept.append(Say(dataclasses.replace(body, entries=(ZERO,))))
            elif not isinstance(body, Answer | Trace | NodeList):
                kept.append(act)
        return kept


class AccuseOne(FalseAccuser):
    """Accuses its partner of round 1, at the prologue."""

    def __init__(self, partner: Actor) -> None:
        """`partner` is the worker."""
        super().__init__(0)
        self._partner = partner

    def result(self, view: View, action: Any, compute: Any) -> Any:
        """Audit all others honestly."""
        is_partner_s = action == RunRound(Round(1), self._partner.address)
        return super().result(view, action, compute) if is_partner_s else compute()


def test_a_partner_that_disputes_another_place_does_not_take_the_whole_share() -> None:
    concede = Concede()
    cheat = Worker("cheat", concede, conduct=conduct_named("skip-steps", 1))
    partner = Verifier("partner", AccuseOne(cheat))
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")]
    world = world_of([cheat, partner], honest)
    assert concede.faults > 0
    slashed = [s for s in world.seen(Slashed) if s.address == cheat.address]
    rulings = {
        e.challenger: e.ruling for e in world.seen(DisputeEnded) if (e.accused, e.round) == (cheat.address, 1)
    }
    assert rulings == {partner.address: Ruling.GUILTY, honest[-1].address: Ruling.VOID}
    found = world.member(honest[-1]).rewards - sum(
        p.amount for p in world.seen(Paid) if (p.address, p.what) == (honest[-1].address, "fee")
    )
    assert found == sum(s.rewarded // 2 for s in slashed) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Point, NodeList])
def test_a_dispute_s_silence_is_one_for_all_its_moves(kind: type) -> None:
    """Late by most of `silence` at every move, a party once stretched a dispute by as much as it has moves."""
    stall = Late(kind, 4_500)
    if kind is Point:
        cheats: list[Actor] = [Verifier("stall", FalseAccuser(1), stall)]
    else:
        cheats = [
            Worker(
                "stall",
                stall,
                Late(Answer, 4_500),
                Late(Trace, 4_500),
                conduct=conduct_named("skip-steps", 1),
            )
        ]
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")]
    manifest = minimal(
        chain=70, audit_rate=MILLION, rounds=4, slots=6, max_steps=300, leaf_every=100,
        min_workers=3 + (kind is NodeList), min_verifiers=1 + (kind is Point),
    )  # fmt: skip
    world = World(manifest, [*cheats, *honest], random.Random(3), check=Invariants(honest))
    windows, opened, ended = manifest.windows, {}, {}
    world.run()
    for line in world.ledger.log:
        for effect in line.effects:
            if isinstance(effect, DisputeOpened):
                opened[effect.number] = line.at
            if isinstance(effect, DisputeEnded):
                ended[effect.number] = line.at
    assert stall.faults > 0 or sum(b.faults for b in cheats[0].behaviours) > 1
    assert opened
    assert max(ended[n] - opened[n] for n in opened) <= 2 * (windows.clock + windows.silence)
    assert any(d.cause in (Cause.ACCUSED_SILENT, Cause.CHALLENGER_SILENT) for d in world.state.disputes)
    assert all(
        d.ruling is not Ruling.INNOCENT or d.challenger == cheats[0].address for d in world.state.disputes
    )


class ByPartner(Behaviour):
    """Signs a second commitment as soon as an honest verdict about it is in, and lets a partner report it."""

    def __init__(self, partner: Actor) -> None:
        """`partner` is a worker, who is no verifier and yet a finder."""
        super().__init__()
        self._partner = partner

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Contradict oneself once."""
        state, me = view.state, view.me
        about = [
            work for s in state.sessions.values() for _, work, worker in s.verdicts if worker == me.address
        ]
        if self.faults or not about:
            return wanted
        self.faults += 1
        first = state.rounds[about[0]].commits[me.address]
        head = state.rounds[about[0]].head
        signed = [
            sign_statement(me.secret, make_statement(state.chain, state.run, head, body))
            for body in (first, dataclasses.replace(first, leaves=ZERO))
        ]
        self._partner.behaviours = (Report(Contradiction(*signed)),)
        return wanted


class Report(Behaviour):
    """Says one thing, once."""

    def __init__(self, body: Contradiction) -> None:
        """Hold what to say."""
        super().__init__()
        self._body = body

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Say it."""
        self.faults += 1
        return [*wanted, Say(self._body)]


def test_whoever_hurries_to_be_convicted_by_a_partner_pays_the_next_grade_too() -> None:
    """The honest verdict that is in still convicts; the economics count the cheaper of the two ways."""
    partner = Worker("partner")
    hurry = ByPartner(partner)
    cheat = Worker("cheat", hurry, conduct=conduct_named("noise", 0))
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")]
    world = world_of([cheat, partner], honest)
    assert hurry.faults == 1
    taken = [s for s in world.seen(Slashed) if s.address == cheat.address]
    assert [s.stake for s in taken[:2]] == [1_000, 4_500]
    assert taken[0].reason.cause is Cause.CONTRADICTION
    own = sum(s.stake + s.escrow for s in taken)
    assert own - world.member(partner).rewards >= 1_000


@pytest.mark.slow
@given(st.sampled_from(["noise", "skip-steps", "stale", "wrong-data"]), st.integers(0, 3), st.integers(0, 50))
@settings(max_examples=8, deadline=None)
def test_one_honest_verifier_wins_against_everyone_else_together(name: str, first: int, seed: int) -> None:
    """Every worker lies and every other verifier passes it, with nearly all of the stake: the law needs no majority."""
    ring: Ring = {}
    liars = [Worker(f"liar{i}", Whisper(ring), conduct=conduct_named(name, first)) for i in range(3)]
    bribed = [Verifier(f"bribed{i}", Collude(ring)) for i in range(3)]
    lone = Verifier("lone")
    world = world_of([*liars, *bribed], [lone], seed=seed, rounds=6)
    assert sum(actor.faults for actor in [*liars, *bribed]) > 0
    convicted = {e.accused for e in world.seen(DisputeEnded) if e.ruling is Ruling.GUILTY}
    assert convicted == {actor.address for actor in liars}
    assert {e.challenger for e in world.seen(DisputeEnded)} == {lone.address}
    assert world.gain(lone) > 0
