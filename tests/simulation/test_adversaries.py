"""Who catches each adversary of docs/adversaries.md, or what the most is that it gains or costs."""

import dataclasses
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import (
    AnswerHonestly,
    Behaviour,
    Collude,
    CopyWork,
    Dawdle,
    Equivocate,
    FalseAccuser,
    Grind,
    InventDuties,
    Late,
    Mute,
    Recommit,
    Ring,
    SkipDuties,
    Vandal,
    Whisper,
)
from verification.causes import Cause
from verification.digest import integer, tagged
from verification.effects import AuditEnded, DisputeEnded, Paid, RoundSealed, Slashed, StandingChanged
from verification.manifest import Place
from verification.sampling import draw_verifier
from verification.state import Audit, Ruling, Stage, Standing, State
from verification.statements import Answer, Attest, Commit, Evidence, Opening, Point, Seal, Verdict
from verification.units import MILLION, Digest, Round


def played(others: Sequence[Actor], seed: int = 1, honest: Sequence[Actor] = (), **changes: int) -> World:
    """Return a finished run of three honest workers, two honest verifiers (or `honest`) and the others."""
    cast = honest or [*(Worker(f"w{i}") for i in range(3)), Verifier("v0"), Verifier("v1")]
    workers = sum(isinstance(actor, Worker) for actor in [*others, *cast])
    everyone = {"min_workers": workers, "min_verifiers": len(others) + len(cast) - workers}
    rules = {"audit_rate": MILLION, "rounds": 8, "slots": 8, "max_verifiers": 6, **everyone, **changes}
    manifest = dataclasses.replace(
        minimal(**rules), seed=tagged("seed", integer(seed))
    )  # other beacons each time
    world = World(manifest, [*others, *cast], random.Random(seed), check=Invariants(cast))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == rules["rounds"]
    return world


def lost(world: World, actor: Actor) -> int:
    """Return what an actor was slashed by, escrow included."""
    return sum(s.stake + s.escrow for s in world.seen(Slashed) if s.address == actor.address)


def fees(world: World, actor: Actor) -> int:
    """Return what an actor got for audits."""
    return sum(p.amount for p in world.seen(Paid) if (p.address, p.what) == (actor.address, "fee"))


def standings(world: World, actor: Actor) -> list[str]:
    """Return what became of a member, in order."""
    return [change.standing for change in world.seen(StandingChanged) if change.address == actor.address]


def outcomes(world: World, verifier: Actor) -> set[Audit]:
    """Return how a verifier's audits ended."""
    return {audit.outcome for audit in world.seen(AuditEnded) if audit.verifier == verifier.address}


def test_a_cheat_that_answers_honestly_one_level_down_is_convicted_by_its_last_entry() -> None:
    below = AnswerHonestly()
    cheat = Worker("cheat", below, conduct=conduct_named("skip-steps", 1))
    world = played([cheat], max_steps=100, leaf_every=100)
    assert below.faults > 0
    first = world.seen(DisputeEnded)[0]
    assert (first.ruling, first.accused, first.place) == (Ruling.GUILTY, cheat.address, Place.STEP)
    assert first.step == 100  # true states up to the last, which must be the claim: the fold gives it away


@pytest.mark.parametrize("kind", [Commit, Attest, Seal])
@pytest.mark.parametrize("seed", range(2))
def test_two_statements_for_one_place_convict_whoever_reports_them_is_paid(kind: type, seed: int) -> None:
    twice = Equivocate(kind)
    liar = Worker("liar", twice)
    world = played([liar], seed)
    assert twice.faults == 1
    assert {s.address for s in world.seen(Slashed)} == {
        liar.address
    }  # the wrong one of the two may cost more
    found = (Cause.CONTRADICTION, kind.__name__)
    caught = [s for s in world.seen(Slashed) if (s.reason.cause, s.reason.about) == found]
    wrong_seals = [
        e for e in world.seen(DisputeEnded) if e.ruling is Ruling.GUILTY and e.place is Place.OUTER
    ]
    assert len(caught) == 1 or (kind is Seal and wrong_seals)  # a wrong seal may be convicted first
    assert all(slashed.rewarded > 0 for slashed in caught)
    assert world.member(liar).standing is Standing.EXCLUDED


def test_a_second_commitment_after_the_beacon_is_refused_and_convicts() -> None:
    again = Recommit()
    liar = Worker("liar", again)
    world = played([liar])
    assert again.faults == 1
    assert world.refused["liar: the sender has spoken in this slot already"] == 1
    (slashed,) = world.seen(Slashed)
    assert (slashed.address, slashed.reason.cause) == (liar.address, Cause.CONTRADICTION)
    assert slashed.reason.about == "Commit"
    assert {worked.commits[liar.address].leaves for worked in world.state.rounds[:1]}


def test_another_s_work_does_not_open_as_one_s_own() -> None:
    copy = CopyWork(1)  # in round 0 there is no work to copy, and what else it commits to its bytes convict
    cheat = Worker("cheat", copy)
    world = played([cheat])
    assert copy.faults > 0
    assert {(e.ruling, e.accused) for e in world.seen(DisputeEnded)} == {(Ruling.GUILTY, cheat.address)}
    assert world.gain(cheat) < 0


@pytest.mark.parametrize("name", ["noise", "skip-steps"])
def test_silence_costs_as_much_as_the_lie_it_hides(name: str) -> None:
    """Withholding everything, withholding only what was wrong, falling silent in the dispute: never the cheaper way."""
    conduct = conduct_named(name, 2)
    open_liar = Worker("cheat", conduct=conduct)
    silent: list[list[Behaviour]] = [
        [Mute(Opening)],
        [Mute(Opening, when=lambda body: body.round >= 2)],
        [Mute(Answer)],
    ]
    fine = lost(played([open_liar]), open_liar)
    assert fine >= 1_000
    for behaviours in silent[: 3 if name == "skip-steps" else 2]:
        cheat = Worker("cheat", *behaviours, conduct=conduct)
        world = played([cheat])
        assert cheat.faults > 0
        assert "excluded" in standings(world, cheat)
        # Each loses a tenth of its stake and all its escrow; who is suspended sooner has less in it.
        taken = [s for s in world.seen(Slashed) if s.address == cheat.address]
        assert taken[0].stake == 1_000
        assert world.member(cheat).rewards == 0


def test_one_honest_verifier_is_enough_beside_colluding_ones() -> None:
    ring: Ring = {}
    cheat = Worker("cheat", Whisper(ring), conduct=conduct_named("noise", 1))
    bribed = [Verifier(f"bribed{i}", Collude(ring)) for i in range(3)]
    honest = [*(Worker(f"w{i}") for i in range(4)), Verifier("v0")]
    world = played([cheat, *bribed], honest=honest)
    assert all(verifier.faults > 0 for verifier in bribed)
    assert all(outcomes(world, verifier) == {Audit.PASSED} for verifier in bribed)
    ended = world.seen(DisputeEnded)
    assert {(e.challenger, e.ruling) for e in ended} == {(honest[-1].address, Ruling.GUILTY)}
    assert world.member(cheat).standing is Standing.EXCLUDED


def test_a_worker_whose_drawn_verifiers_all_collude_gets_through() -> None:
    """The bound: the guarantee is the chance that an honest verifier is drawn, and nothing else. (SPEC.md 10)"""
    ring: Ring = {}
    cheat = Worker("cheat", Whisper(ring), conduct=conduct_named("noise", 1))
    honest = [*(Worker(f"w{i}") for i in range(4))]
    world = played([cheat, Verifier("bribed", Collude(ring))], honest=honest, audit_rate=0)
    assert not world.seen(DisputeEnded)
    assert world.member(cheat).rewards > 0


def test_a_griefing_challenger_pays_for_every_accusation_and_delays_nothing_for_long() -> None:
    griefer = Verifier("griefer", FalseAccuser(), Mute(Point, Evidence))
    world = played([griefer])
    ended = world.seen(DisputeEnded)
    assert {(e.ruling, e.challenger) for e in ended} == {(Ruling.VOID, griefer.address)}
    assert lost(world, griefer) == min(5_000, 1_000 * len(ended))
    assert "excluded" in standings(world, griefer)
    victims = {e.accused for e in ended}
    bonds = {paid.address for paid in world.seen(Paid) if paid.what == "bond"}
    assert bonds <= victims
    sealed = [line.at for line in world.ledger.log for e in line.effects if isinstance(e, RoundSealed)]
    assert max(sealed) < world.state.manifest.windows.silence  # rounds do not wait for disputes


def test_a_verifier_that_says_it_is_finished_with_duties_undone_pays_a_bond_for_each() -> None:
    skipper = Verifier("skipper", SkipDuties())
    world = played([skipper], seed=2, min_verifiers=2)
    assert skipper.faults > 0
    assert outcomes(world, skipper) == {Audit.LOST}
    assert world.member(skipper).rewards == 0
    slashed = [s for s in world.seen(Slashed) if s.address == skipper.address]
    assert {s.reason.cause for s in slashed} == {Cause.NOT_AUDITED}
    assert [(s.stake, s.burned) for s in slashed] == [(1_000, 1_000)] * 5
    assert world.member(skipper).standing is Standing.EXCLUDED
    again = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.verifier == skipper.address}
    passed = {(a.work, a.worker) for a in world.seen(AuditEnded) if a.outcome is Audit.PASSED}
    assert again <= passed


def test_a_verifier_that_invents_duties_is_paid_for_none_of_them() -> None:
    eager, rate = Verifier("eager", InventDuties()), 300_000
    world = played([eager], audit_rate=rate)
    assert eager.faults > 0
    audits = [a for a in world.seen(AuditEnded) if a.verifier == eager.address]
    assert {a.outcome for a in audits} == {Audit.PASSED, Audit.VOID}
    steps = [
        world.state.rounds[a.work].assignments[a.worker].steps for a in audits if a.outcome is Audit.PASSED
    ]
    assert fees(world, eager) == sum(3 + 3 * count for count in steps)


@pytest.mark.parametrize("role", [Worker, Verifier])
def test_saying_everything_at_the_last_moment_costs_time_within_the_windows(role: type[Actor]) -> None:
    slow = role("slow", Dawdle())
    world = played([slow], rounds=4)
    assert slow.faults > 0
    assert not world.seen(Slashed)
    windows = world.state.manifest.windows
    longest = windows.commit + windows.attest + windows.seal
    sealed = [line.at for line in world.ledger.log for e in line.effects if isinstance(e, RoundSealed)]
    assert max(b - a for a, b in pairwise(sealed)) <= longest


def test_a_worker_that_takes_assignments_and_stalls_is_set_aside_and_unpaid() -> None:
    stalling = Worker("stalling", Mute(Commit))
    world = played([stalling], rounds=5)
    assert world.member(stalling).rewards == 0
    assert "away" in standings(world, stalling)
    assert not world.seen(Slashed)


@pytest.mark.parametrize(
    ("kind", "refusal"), [(Commit, "closed"), (Attest, "no attestations"), (Verdict, "verdict")]
)
def test_what_comes_late_is_absent(kind: type, refusal: str) -> None:
    late = Late(kind, 1_100)
    liar = (Verifier if kind is Verdict else Worker)("liar", late)
    world = played([liar], rounds=5 if kind is Verdict else 30)
    assert late.faults > 0
    assert any(said.startswith("liar: ") and refusal in said for said in world.refused)
    assert world.member(liar).rewards == 0 or kind is Attest
    assert {slashed.address for slashed in world.seen(Slashed)} <= {liar.address}


@pytest.mark.parametrize("skew", [-100_000, 100_000])
def test_a_peer_s_own_clock_moves_nothing_on_the_ledger(skew: int) -> None:
    liar = Verifier("liar")
    liar.skew = skew
    world = played([liar], rounds=4)
    assert not world.seen(Slashed)
    assert world.now < 20_000


def test_bytes_that_are_no_statement_change_nothing() -> None:
    vandal = Vandal()
    world = played([Worker("vandal", vandal)], rounds=4)
    assert vandal.faults > 50
    kinds = {said.split(": ")[1] for said in world.refused if said.startswith("vandal")}
    assert len(kinds) > 5
    assert {s.address for s in world.seen(Slashed)} <= {world.actors[0].address}
    assert world.ledger.replay() == world.state


def test_an_eclipsed_worker_opens_late_and_loses_nothing() -> None:
    worker = Worker("w9")
    honest = [worker, *(Worker(f"w{i}") for i in range(3)), Verifier("v0"), Verifier("v1")]
    rules = minimal(audit_rate=MILLION, rounds=6, slots=8)
    world = World(rules, honest, random.Random(3), check=Invariants(honest))

    def is_committed(world: World) -> bool:
        return len(world.state.rounds) == 2 and worker.address in world.state.current.commits

    world.run(until=is_committed)
    assert len(world.state.current.commits) < 4  # whoever commits last sees that attestations are due
    world.cut_off(worker, world.now, world.now + 4_000)
    world.run()
    assert standings(world, worker)[0] in ("suspended", "away")
    assert "suspended" in standings(world, worker)
    assert world.member(worker).standing is Standing.ACTIVE
    assert world.traffic["lost"] == 0  # what it cannot see it does not answer
    assert not world.seen(Slashed)


def test_many_identities_on_one_machine_earn_what_the_machine_earns() -> None:
    """Reward follows steps done, not heads; each head needs a stake of its own."""
    one = Worker("one", speed=100)
    alone = played([one], rounds=4)
    many = [Worker(f"sybil{i}", speed=25) for i in range(4)]
    together = played(many, rounds=4, max_steps=16)
    steps = [
        worked.assignments[worker.address].steps
        for worked in together.state.rounds
        for worker in many
        if worker.address in worked.included
    ]
    assert sum(together.gain(worker) for worker in many) == sum(7 + 7 * count for count in steps)
    assert steps == [4] * 16
    assert alone.gain(one) == sum(7 + 7 * count for count in (4, 8, 12, 12))


def test_identities_without_a_machine_lose_more_than_they_earn() -> None:
    sybils = [Worker(f"sybil{i}", CopyWork(), speed=25) for i in range(3)]
    world = played(sybils)
    assert all(sybil.faults > 0 for sybil in sybils)
    # One may report another's bytes and keep half of that slash in the family; the rest is burned.
    assert sum(world.gain(sybil) for sybil in sybils) <= -1_500


def test_challenging_oneself_recovers_half_at_most() -> None:
    cheat, own = Worker("cheat", conduct=conduct_named("noise", 2)), Verifier("own")
    world = played([cheat], honest=[*(Worker(f"w{i}") for i in range(3)), own])
    assert {slashed.address for slashed in world.seen(Slashed)} == {cheat.address}
    taken = lost(world, cheat)
    back = sum(slashed.rewarded for slashed in world.seen(Slashed))
    assert world.gain(own) - fees(world, own) == back
    assert 2 * back <= taken


@pytest.mark.slow
def test_the_last_to_commit_may_withhold_for_a_round_s_pay_and_does_not_choose_who_audits_the_last_round() -> (
    None
):
    """The last round's auditors are drawn from links that are shown after its verdicts. (SPEC.md 5.1)"""
    rounds = 4
    drawn: list[tuple[bool, int]] = []

    def suits(state: State, beacon: Digest) -> bool:
        if len(state.rounds) != rounds:
            return False
        verifiers = [member.address for member in state.members.values() if member.role == "verifier"]
        given = draw_verifier(beacon, Round(rounds - 1), Worker("cheat").address, verifiers)
        return given == Verifier("bribed").address

    for seed in range(20):
        bribed, cheat, grind = Verifier("bribed"), Worker("cheat"), Grind(suits)
        accomplice = Worker("accomplice", grind)
        honest = [Worker("w0"), Worker("w1"), Worker("w2"), cheat, Verifier("v0"), bribed]
        world = played([accomplice], seed, honest=honest, rounds=rounds, audit_rate=0)
        got = any(a.worker == cheat.address and a.verifier == bribed.address for a in world.seen(AuditEnded))
        drawn.append((got, grind.faults))
        paid_rounds = sum(accomplice.address in worked.included for worked in world.state.rounds)
        assert paid_rounds == rounds - bool(grind.faults)
        assert not world.seen(Slashed)
    assert sum(bool(faults) for _, faults in drawn) >= 2
    assert not all(got for got, faults in drawn if faults)
