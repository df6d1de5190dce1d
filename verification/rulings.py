"""How a dispute ends: who was wrong, what it costs, and what becomes of the other disputes about the same fault.

SPEC.md 6.6 to 6.8. `verification.disputes` says when.
"""

from verification import money
from verification.causes import Cause, Reason
from verification.effects import DisputeEnded, Effect
from verification.manifest import Place
from verification.membership import exclude, settle_debt
from verification.state import Dispute, Member, Ruling, State, Turn, is_convicted
from verification.statements import VERIFIER
from verification.units import Address, Amount, Round


def convict(state: State, dispute: Dispute, cause: Cause) -> list[Effect]:
    """Slash the accused once for this fault and split the finders' share among all who accuse it. (SPEC.md 6.6)

    A worker pays once for a round: disputes about another place of it are void. Their challengers are finders too, or a
    partner would take the whole share by disputing a place that nobody else does.
    """
    about = [other for other in state.open_disputes() if _fault(state, other) == _fault(state, dispute)]
    same = (dispute.accused, dispute.place, dispute.leaf)
    siblings = [other for other in about if (other.accused, other.place, other.leaf) == same]
    if dispute.place is not Place.OUTER:
        state.convicted.add((dispute.round, dispute.accused))
        state.redraws.discard((dispute.round, state.rounds[dispute.round].lead(dispute.accused)))
    member = state.members[dispute.accused]
    finders = [other.challenger for other in about]
    fees = [] if dispute.place is Place.OUTER else about
    reason = Reason(cause, dispute.round, dispute.place, dispute.number, dispute.game.node)
    slashed = money.slash(state, member, finders, reason)
    dispute.slashed = Amount(slashed.stake + slashed.escrow)
    dispute.burned, dispute.rewarded = slashed.burned, slashed.rewarded
    effects: list[Effect] = [slashed]
    for audit in fees:
        lead = state.rounds[audit.round].lead(audit.accused)
        effects += money.pay_fee(state, audit.challenger, audit.round, lead)
    for other in about:
        is_right = other in siblings
        if is_right:
            other.game, other.computed = other.game.at_end_of(dispute.game), dispute.computed
            other.operator, other.near, other.right = dispute.operator, dispute.near, dispute.right
            other.decided = dispute.number
        ruling, why = (Ruling.GUILTY, cause) if is_right else (Ruling.VOID, Cause.ROUND_CONVICTED)
        effects += _close(state, other, ruling, why)
    if member.convictions >= state.manifest.money.excluded_after:
        effects += exclude(member, Reason(Cause.CONVICTED, dispute.round, dispute.place))
    return [*effects, *(_exclude_poor(state, member) if member.role == VERIFIER else [])]


def close_disputes(state: State, number: Round, lead: Address) -> list[Effect]:
    """Void the disputes about a worker's or a crew's round of which one has been convicted without. (SPEC.md 4.15)"""
    about = [d for d in state.open_disputes() if _fault(state, d) == (number, lead, False)]
    return [effect for d in about for effect in _close(state, d, Ruling.VOID, Cause.ROUND_CONVICTED)]


def charge_idle(state: State, verifier: Member, reason: Reason) -> list[Effect]:
    """Take the bond of a verifier that signed that it was finished, with a duty undone. (SPEC.md 7.7)"""
    return [*money.charge_silent(state, verifier, reason), *_exclude_poor(state, verifier)]


def _exclude_poor(state: State, member: Member) -> list[Effect]:
    """Exclude who can pay no further bond: its accusations would wait for ever. (SPEC.md 3.7)"""
    if member.stake >= state.manifest.money.accuser_bond:
        return []
    return exclude(member, Reason(Cause.POOR))


def _fault(state: State, dispute: Dispute) -> tuple[Round, Address, bool]:
    """Return for what is paid once: a worker's round, of a crew by one of its; or a seal."""
    is_seal = dispute.place is Place.OUTER
    who = dispute.accused if is_seal else state.rounds[dispute.round].lead(dispute.accused)
    return dispute.round, who, is_seal


def void(state: State, dispute: Dispute, cause: Cause) -> list[Effect]:
    """End a dispute whose challenger fell silent: it pays its bond, and nothing is decided. (SPEC.md 6.8)"""
    return _fail(state, dispute, Ruling.VOID, cause)


def redraw(state: State, work: Round, worker: Address) -> None:
    """Put an audit back into the draw for anyone who never had it. (SPEC.md 5.9)"""
    if not is_convicted(state, work, worker):
        state.redraws.add((work, worker))


def acquit(state: State, dispute: Dispute, cause: Cause) -> list[Effect]:
    """The accuser was wrong: it pays its bond; the audit passed nothing and is drawn again. (SPEC.md 6.7)"""
    return _fail(state, dispute, Ruling.INNOCENT, cause)


def _fail(state: State, dispute: Dispute, ruling: Ruling, cause: Cause) -> list[Effect]:
    """End a dispute to its challenger's cost."""
    challenger = state.members[dispute.challenger]
    effects = money.charge_accuser(state, challenger, dispute.accused, Reason(cause, dispute=dispute.number))
    effects += settle_debt(state, challenger, dispute.debt)
    effects += _exclude_poor(state, challenger)
    if dispute.place is not Place.OUTER:
        redraw(state, dispute.round, state.rounds[dispute.round].lead(dispute.accused))
    return [*effects, *_end(state, dispute, ruling, cause)]


def _close(state: State, dispute: Dispute, ruling: Ruling, cause: Cause) -> list[Effect]:
    """End a dispute in which neither side owes a move any more."""
    effects = _end(state, dispute, ruling, cause)
    for party in (dispute.challenger, dispute.accused):
        effects += settle_debt(state, state.members[party], dispute.debt)
    return effects


def _end(state: State, dispute: Dispute, ruling: Ruling, cause: Cause) -> list[Effect]:
    dispute.ruling, dispute.cause, dispute.turn = ruling, cause, Turn.CLOSED
    del state.running[dispute.number]
    step = dispute.game.high if dispute.place is Place.STEP else None
    return [
        DisputeEnded(
            dispute.number, dispute.round, dispute.accused, dispute.challenger, dispute.place, step,
            dispute.game.node, dispute.operator, ruling, cause,
        )
    ]  # fmt: skip
