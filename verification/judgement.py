"""Judging one audit: the facts, the case that holds of them, and what follows. (SPEC.md 5.9)"""

from verification import disputes, money, rulings
from verification.cases import Deed, Facts, case_of
from verification.causes import Cause, Reason
from verification.debts import RevealDebt
from verification.effects import AuditEnded, Effect
from verification.manifest import Place
from verification.membership import suspend
from verification.rounds import works
from verification.sampling import is_private_duty
from verification.state import (
    Audit,
    AuditKey,
    Duty,
    Ruling,
    Session,
    Standing,
    State,
    is_convicted,
)
from verification.statements import Reveal
from verification.units import Address, Millis, Round


def is_duty(state: State, session: Session, key: AuditKey) -> bool:
    """Return whether an audit was a verifier's duty, by name or by its link."""
    verifier, work, worker = key
    if Duty(work, worker, verifier) in session.public:
        return True
    link = session.links.get(verifier)
    if link is None or work != session.number or worker not in works(state, state.rounds[work]):
        return False
    return is_private_duty(session.beacon, link, worker, session.rates[verifier])


def judge(state: State, session: Session, key: AuditKey, now: Millis) -> list[Effect]:
    """Decide one audit, and do what follows from it. (SPEC.md 5.9)"""
    verifier, work, worker = key
    case = case_of(_facts(state, session, key))
    session.audits[key] = case.outcome
    state.rounds[work].audited.setdefault(worker, set()).add(verifier)
    drawn = "public" if Duty(work, worker, verifier) in session.public else "private"
    effects: list[Effect] = [AuditEnded(session.number, work, worker, verifier, case.outcome, drawn)]
    for deed in case.deeds:
        effects += _do(state, session, key, deed, now)
    return effects


def _facts(state: State, session: Session, key: AuditKey) -> Facts:
    verifier, work, worker = key
    worked, reveal = state.rounds[work], session.reveals.get(key)
    has_opening = all(each in worked.openings for each in worked.crews[worker])
    member, is_paid = state.members[verifier], is_convicted(state, work, worker)
    has_link = verifier in session.links or not session.has_links
    return Facts(
        has_link=has_link,
        is_due=is_duty(state, session, key),
        is_convicted=is_paid,
        is_right=is_paid and has_link and reveal is not None and _was_right(state, reveal),
        has_verdict=key in session.verdicts,
        has_finished=verifier in session.finished,
        has_reveal=reveal is not None,
        has_opening=has_opening,
        is_equal=has_opening and reveal is not None and disputes.difference(state, reveal) is None,
        is_excluded=member.standing is Standing.EXCLUDED,
        can_accuse=disputes.can_pay_bond(state, member),
    )


def _do(state: State, session: Session, key: AuditKey, deed: Deed, now: Millis) -> list[Effect]:
    verifier, work, worker = key
    match deed:
        case Deed.PAY:
            return money.pay_fee(state, verifier, work, worker)
        case Deed.REDRAW:
            rulings.redraw(state, work, worker)
        case Deed.OWE:
            return suspend(state, state.members[verifier], RevealDebt(work, worker), now)
        case Deed.CHARGE:
            return rulings.charge_idle(state, state.members[verifier], Reason(Cause.NOT_AUDITED, work))
        case Deed.AWAIT_OPENING:
            state.waiting.setdefault((work, worker), []).append((session.number, key))
        case Deed.AWAIT_BOND:
            state.queued.add((session.number, key))
        case Deed.DISPUTE:
            return disputes.open_from_audit(state, verifier, session.reveals[key], now)
    return []


def end_waiting(state: State, work: Round, worker: Address) -> list[Effect]:
    """Close and pay the audits of a worker that never opened: convicted already, they decide nothing. (SPEC.md 5.9)"""
    effects: list[Effect] = []
    for number, key in sorted(state.waiting.pop((work, worker), [])):
        session = state.sessions[number]
        session.audits[key] = Audit.VOID
        drawn = "public" if Duty(work, worker, key[0]) in session.public else "private"
        effects.append(AuditEnded(number, work, worker, key[0], Audit.VOID, drawn))
        effects += money.pay_fee(state, key[0], work, worker)
    return effects


def _was_right(state: State, reveal: Reveal) -> bool:
    """Return whether a verdict found the difference of which the worker, or one of its crew, has been convicted.

    (SPEC.md 7.3)
    """
    worked = state.rounds[reveal.work]
    crew = worked.crews[reveal.worker]
    found = [
        d
        for d in state.disputes
        if (d.round, d.ruling) == (reveal.work, Ruling.GUILTY)
        and d.accused in crew
        and d.place is not Place.OUTER
    ]
    if not found or not all(member in worked.openings for member in crew):
        return True  # convicted for silence, which no verifier could foresee
    wrong = disputes.difference(state, reveal)
    return wrong is not None and (wrong.accused, wrong.leaf) == (found[0].accused, found[0].leaf)
