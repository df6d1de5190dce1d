"""Disputes: lists that fold, a point, the inputs' bytes, one execution, a ruling. Nobody votes. (SPEC.md 6)"""

from collections.abc import Sequence

from verification import executor as execution
from verification import money, narrowing
from verification.effects import DisputeEnded, DisputeMoved, DisputeOpened, Effect
from verification.errors import BadEvidence, Refused
from verification.executor import Executor
from verification.membership import exclude, get_member, settle_debt
from verification.outer import outer_inputs
from verification.rounds import get_round
from verification.sampling import leaf_steps, record_index
from verification.state import Dispute, Member, Place, Ruling, State, Turn
from verification.statements import Answer, ChallengeSeal, Evidence, Opening, Point, Reveal
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import Address, Amount, Digest, Millis, Round


def open_from_audit(
    state: State, verifier: Address, opening: Opening, reveal: Reveal, now: Millis
) -> list[Effect]:
    """Put the first difference between a worker's opening and a verifier's reveal on record. (SPEC.md 6.1)"""
    worked = state.rounds[reveal.work]
    claimed_end = worked.commits[reveal.worker].contribution.digest
    steps = leaf_steps(worked.assignments[reveal.worker].steps, state.manifest.work.leaf_every)
    pairs = zip(opening.digests, reveal.digests, strict=False)
    leaf = next((index for index, (claimed, own) in enumerate(pairs) if claimed != own), None)
    if leaf is None:
        place, low, high = Place.EPILOGUE, steps[-1], steps[-1]
        agreed, claimed = opening.digests[-1], claimed_end
    elif leaf == 0:
        place, low, high = Place.PROLOGUE, 0, 0
        agreed, claimed = worked.start.digest, opening.digests[0]
    else:
        place, low, high = Place.STEP, steps[leaf - 1], steps[leaf]
        agreed, claimed = opening.digests[leaf - 1], opening.digests[leaf]
    return _open(
        state, reveal.work, reveal.worker, verifier, place, leaf, (low, high), (agreed, claimed), now
    )


def process_challenge_seal(state: State, sender: Address, body: ChallengeSeal, now: Millis) -> list[Effect]:
    """Contest a next state that someone sealed against the challenger's own seal. (SPEC.md 6.2)"""
    worked = get_round(state, body.round)
    if body.accused not in worked.seals or sender not in worked.seals:
        raise Refused("both sides of this challenge must have sealed the round")
    if worked.seals[body.accused].digest == worked.seals[sender].digest:
        raise Refused("the challenger sealed the same state")
    if not can_pay_bond(state, get_member(state, sender)):
        raise Refused("the sender's stake does not cover the bonds of its open accusations and this one")
    if any(
        (dispute.round, dispute.accused, dispute.place) == (body.round, body.accused, Place.OUTER)
        and (dispute.challenger == sender or dispute.ruling is Ruling.GUILTY)
        for dispute in state.disputes
    ):
        raise Refused("this seal is contested by the sender already, or convicted")
    values = (worked.start.digest, worked.seals[body.accused].digest)
    return _open(state, body.round, body.accused, sender, Place.OUTER, None, (0, 0), values, now)


def can_pay_bond(state: State, member: Member) -> bool:
    """Return whether a member's stake covers the bond of one more accusation. (SPEC.md 6.2)"""
    running = sum(dispute.challenger == member.address for dispute in state.open_disputes())
    return member.stake >= (running + 1) * state.manifest.money.accuser_bond


def process_answer(state: State, sender: Address, body: Answer, now: Millis) -> list[Effect]:
    """Take the accused's list; it must have the interval's length and fold to what it replaces. (SPEC.md 6.3)"""
    dispute = _get_dispute(state, body.dispute, Turn.LIST)
    if sender != dispute.accused or body.level != dispute.level:
        raise Refused("the dispute waits for another party or list")
    entries = narrowing.verify_list(dispute.low, dispute.high, dispute.claimed, body.entries)
    state.rounds[dispute.round].lists[sender, dispute.low, dispute.high] = entries
    effects: list[Effect] = [DisputeMoved(dispute.number, sender, f"listed {len(entries)} state digests")]
    for other in state.open_disputes():
        effects += _reuse_list(state, other, now)
    return effects


def process_point(state: State, sender: Address, body: Point, now: Millis) -> list[Effect]:
    """Narrow the dispute to the first entry that the challenger disagrees with. (SPEC.md 6.4)"""
    dispute = _get_dispute(state, body.dispute, Turn.POINT)
    if sender != dispute.challenger or body.level != dispute.level:
        raise Refused("the dispute waits for another party or list")
    part = narrowing.narrow(dispute.low, dispute.high, dispute.agreed, dispute.entries, body.index)
    effects = settle_debt(state, get_member(state, sender), debt_of(dispute))
    _spend_clock(dispute, sender, now)
    dispute.low, dispute.high, dispute.agreed, dispute.claimed = part
    dispute.level, dispute.entries = dispute.level + 1, ()
    dispute.turn = Turn.EVIDENCE if dispute.high - dispute.low == 1 else Turn.LIST
    moved = DisputeMoved(dispute.number, sender, f"contests the state after step {dispute.high}")
    return [*effects, moved, *_reuse_list(state, dispute, now)]


def process_evidence(
    state: State, sender: Address, body: Evidence, now: Millis, executor: Executor
) -> list[Effect]:
    """Check the inputs against agreed digests, execute once, rule. (SPEC.md 6.5)"""
    dispute = _get_dispute(state, body.dispute, Turn.EVIDENCE)
    if sender != dispute.challenger:
        raise Refused("the dispute waits for another party")
    program, inputs = _inputs(state, dispute, body.bundles)
    dispute.computed = execution.outcome(executor, program, inputs)
    effects = settle_debt(state, get_member(state, sender), debt_of(dispute))
    _spend_clock(dispute, sender, now)
    moved = DisputeMoved(dispute.number, sender, f"brought the inputs of the {dispute.place.value}")
    if dispute.computed == dispute.claimed:
        return [*effects, moved, *_acquit(state, dispute, "the law computes what the accused claimed")]
    return [
        *effects,
        moved,
        *convict(state, dispute, "the law computes another value than the accused claimed"),
    ]


def convict(state: State, dispute: Dispute, reason: str) -> list[Effect]:
    """Slash the accused once for this fault and split the finders' share among all who were right. (SPEC.md 6.6)

    A worker pays once for a round: disputes about another place of it are void, at no cost to their challengers.
    """
    about = [other for other in state.open_disputes() if _fault(other) == _fault(dispute)]
    siblings = [other for other in about if (other.place, other.leaf) == (dispute.place, dispute.leaf)]
    if dispute.place is not Place.OUTER:
        state.convicted.add((dispute.round, dispute.accused))
        state.redraws.discard((dispute.round, dispute.accused))
    member = state.members[dispute.accused]
    finders = [other.challenger for other in siblings]
    fees = [] if dispute.place is Place.OUTER else siblings
    slashed = money.slash(state, member, finders, f"{dispute.place.value} of round {dispute.round}: {reason}")
    dispute.slashed = Amount(slashed.stake + slashed.escrow)
    dispute.burned, dispute.rewarded = slashed.burned, slashed.rewarded
    effects: list[Effect] = [slashed]
    for audit in fees:
        effects += money.pay_fee(state, audit.challenger, audit.round, audit.accused)
    for other in about:
        is_right = other in siblings
        if is_right:
            other.low, other.high, other.agreed = dispute.low, dispute.high, dispute.agreed
            other.claimed, other.computed = dispute.claimed, dispute.computed
        effects += _end(
            other, *((Ruling.GUILTY, reason) if is_right else (Ruling.VOID, "the round is convicted"))
        )
        effects += settle_debt(state, state.members[other.challenger], debt_of(other))
        effects += settle_debt(state, member, debt_of(other))
    if member.convictions >= state.manifest.money.excluded_after:
        effects += exclude(member, f"convicted of a wrong {dispute.place.value} in round {dispute.round}")
    return effects


def charge_idle(state: State, verifier: Member, reason: str) -> list[Effect]:
    """Take the bond of a verifier that signed that it was finished, with a duty undone. (SPEC.md 7.7)"""
    effects: list[Effect] = list(money.charge_silent(state, verifier, reason))
    if verifier.stake < state.manifest.money.accuser_bond:
        effects += exclude(verifier, "its stake no longer covers a wrong accusation")
    return effects


def _fault(dispute: Dispute) -> tuple[Round, Address, bool]:
    return dispute.round, dispute.accused, dispute.place is Place.OUTER


def void(state: State, dispute: Dispute, reason: str) -> list[Effect]:
    """End a dispute whose challenger fell silent: it pays its bond, and nothing is decided. (SPEC.md 6.8)"""
    return _fail(state, dispute, Ruling.VOID, reason)


def redraw(state: State, work: Round, worker: Address) -> None:
    """Put an audit back into the draw for anyone who never had it. (SPEC.md 5.9)"""
    if (work, worker) not in state.convicted:
        state.redraws.add((work, worker))


def mover(dispute: Dispute) -> Address:
    """Return the party that a dispute waits for."""
    return dispute.accused if dispute.turn is Turn.LIST else dispute.challenger


def clock_ends(state: State, dispute: Dispute) -> Millis | None:
    """Return when the waiting party's clock runs out; None while it is suspended for this very dispute."""
    party = mover(dispute)
    if debt_of(dispute) in state.members[party].owes:
        return None
    return Millis(dispute.since + dispute.clocks[party])


def debt_of(dispute: Dispute) -> str:
    """Return the name under which a silent party owes its move."""
    return f"dispute/{dispute.number}"


def _open(
    state: State,
    number: Round,
    accused: Address,
    challenger: Address,
    place: Place,
    leaf: int | None,
    interval: tuple[int, int],
    values: tuple[Digest, Digest],
    now: Millis,
) -> list[Effect]:
    low, high = interval
    clock = state.manifest.windows.clock
    turn = Turn.LIST if high - low > 1 else Turn.EVIDENCE
    dispute = Dispute(
        len(state.disputes), number, accused, challenger, place, leaf, low, high, *values,
        turn=turn, since=now, clocks={accused: clock, challenger: clock},
    )  # fmt: skip
    state.disputes.append(dispute)
    return [
        DisputeOpened(dispute.number, number, accused, challenger, place, leaf),
        *_reuse_list(state, dispute, now),
    ]


def _get_dispute(state: State, number: int, turn: Turn) -> Dispute:
    if not number < len(state.disputes):
        raise Refused("there is no such dispute")
    dispute = state.disputes[number]
    if dispute.ruling is not None or dispute.turn is not turn:
        raise Refused("the dispute does not wait for this move")
    return dispute


def _reuse_list(state: State, dispute: Dispute, now: Millis) -> list[Effect]:
    """Lists are posted once, for all challengers: take one that any dispute has drawn out. (SPEC.md 6.3)

    A list that is taken pays the debt of its author: nothing else could, once the dispute has moved on.
    """
    entries = state.rounds[dispute.round].lists.get((dispute.accused, dispute.low, dispute.high))
    if dispute.turn is not Turn.LIST or entries is None or entries[-1] != dispute.claimed:
        return []
    _spend_clock(dispute, dispute.accused, now)
    dispute.entries, dispute.turn = entries, Turn.POINT
    return settle_debt(state, state.members[dispute.accused], debt_of(dispute))


def _spend_clock(dispute: Dispute, party: Address, now: Millis) -> None:
    dispute.clocks[party] = max(0, dispute.clocks[party] - (now - dispute.since))
    dispute.since = now


def _inputs(state: State, dispute: Dispute, bundles: Sequence[Bundle]) -> tuple[Digest, list[Tensor | None]]:
    """Return the disputed program and its inputs, each bundle checked against the digest it must open."""
    worked, manifest = state.rounds[dispute.round], state.manifest
    programs = manifest.programs
    if dispute.place is Place.PROLOGUE:
        opened = _verify(bundles, [worked.start.digest, None])
        (data,) = _verify_data(state, bundles[1])
        steps = worked.assignments[dispute.accused].steps
        index = record_index(manifest, worked.beacon, dispute.accused, steps)
        return programs.prologue.digest, [*opened[0].tensors, data, index]
    if dispute.place is Place.STEP:
        (working,) = _verify(bundles, [dispute.agreed])
        return programs.inner.digest, list(working.tensors)
    if dispute.place is Place.EPILOGUE:
        start, working = _verify(bundles, [worked.start.digest, dispute.agreed])
        return programs.epilogue.digest, [*start.tensors, *working.tensors]
    digests = [worked.commits[worker].contribution.digest for worker in worked.included]
    start, *contributions = _verify(bundles, [worked.start.digest, *digests])
    entries = {
        worked.assignments[worker].slot: (worked.assignments[worker].steps, contribution)
        for worker, contribution in zip(worked.included, contributions, strict=True)
    }
    return programs.outer.digest, outer_inputs(manifest.work.slots, start, entries)


def _verify(bundles: Sequence[Bundle], digests: Sequence[Digest | None]) -> list[Bundle]:
    if len(bundles) != len(digests):
        raise BadEvidence(f"this execution has {len(digests)} inputs")
    for bundle, digest in zip(bundles, digests, strict=True):
        if not bundle.tensors or (digest is not None and digest_of(bundle) != digest):
            raise BadEvidence("an input does not open the agreed digest")
    return list(bundles)


def _verify_data(state: State, bundle: Bundle) -> tuple[Tensor, ...]:
    if len(bundle.tensors) != 1 or tensor_digest(bundle.tensors[0]) != state.manifest.data.root:
        raise BadEvidence("the data do not open the data root")
    return bundle.tensors


def _acquit(state: State, dispute: Dispute, reason: str) -> list[Effect]:
    """The accuser was wrong: it pays its bond; the audit passed nothing and is drawn again. (SPEC.md 6.7)"""
    return _fail(state, dispute, Ruling.INNOCENT, reason)


def _fail(state: State, dispute: Dispute, ruling: Ruling, reason: str) -> list[Effect]:
    """End a dispute to its challenger's cost; who can pay no further bond accuses no more."""
    challenger = state.members[dispute.challenger]
    effects = money.charge_accuser(state, challenger, dispute.accused, reason)
    effects += settle_debt(state, challenger, debt_of(dispute))
    if challenger.stake < state.manifest.money.accuser_bond:
        effects += exclude(challenger, "its stake no longer covers a wrong accusation")
    if dispute.place is not Place.OUTER:
        redraw(state, dispute.round, dispute.accused)
    return [*effects, *_end(dispute, ruling, reason)]


def _end(dispute: Dispute, ruling: Ruling, reason: str) -> list[Effect]:
    dispute.ruling, dispute.reason, dispute.turn = ruling, reason, Turn.CLOSED
    step = dispute.high if dispute.place is Place.STEP else None
    return [
        DisputeEnded(
            dispute.number,
            dispute.round,
            dispute.accused,
            dispute.challenger,
            dispute.place,
            step,
            ruling,
            reason,
        )
    ]
