"""Who stays silent to the end of its time pays what a lie in the same place would have cost. (SPEC.md 6.8)"""

from collections.abc import Collection, Sequence

from verification import judgement, money, rulings
from verification.causes import Cause, Reason
from verification.debts import ChunkDebt, Debt, LinkDebt, MoveDebt, OpeningDebt, RevealDebt
from verification.effects import Effect
from verification.membership import exclude, forget_debt, mark_away
from verification.state import Member, Standing, State
from verification.units import Millis, Round


def silence_ends(state: State) -> Millis | None:
    """`silence` after the oldest debt fell due."""
    since = (state.members[address].suspended_at for address in state.debtors)
    first = min((time for time in since if time is not None), default=None)
    return None if first is None else Millis(first + state.manifest.windows.silence)


def convict_silent(state: State) -> list[Effect]:
    """Who owes it pays what a lie would have cost; a chunk's debtor goes away. (SPEC.md 6.8, 4.13)"""
    ends = state.now - state.manifest.windows.silence
    for member in [state.members[address] for address in sorted(state.debtors)]:
        overdue = [owed for owed, since in member.owes.items() if since <= ends]
        if overdue:
            return _convict(state, member, overdue)
    raise AssertionError("nobody has been silent for so long")


def _convict(state: State, member: Member, overdue: Sequence[Debt]) -> list[Effect]:
    """Take what a lie in the same place would have cost: silence must never be cheaper.

    Who failed to deliver what to whom cannot be proven: a chunk that never came only sets its attester away.
    """
    for owed in overdue:
        forget_debt(state, member, owed)
    if all(isinstance(owed, ChunkDebt) for owed in overdue):
        is_free = not member.owes and member.standing is Standing.SUSPENDED
        return mark_away(state, member, Reason(Cause.NOT_SHOWN, debt=overdue[0])) if is_free else []
    pays_bond = member.standing is not Standing.EXCLUDED
    effects = exclude(member, Reason(Cause.SILENT, debt=overdue[0]))
    effects += _lose_disputes(state, member, {owed.dispute for owed in overdue if isinstance(owed, MoveDebt)})
    for number in sorted(owed.round for owed in overdue if isinstance(owed, OpeningDebt)):
        effects += _convict_unopened(state, member, number)
    hidden = [owed for owed in overdue if isinstance(owed, RevealDebt | LinkDebt)]
    if (
        hidden and pays_bond
    ):  # one for all, now and later: who is cut off for good must not lose its stake bit by bit
        effects += money.charge_silent(state, member, Reason(Cause.SILENT, debt=hidden[0]))
    return effects


def _lose_disputes(state: State, member: Member, numbers: Collection[int]) -> list[Effect]:
    """End the disputes in which a member owed its move; a conviction may end others of them."""
    effects: list[Effect] = []
    for dispute in state.open_disputes():
        if dispute.ruling is not None or dispute.number not in numbers:
            continue
        if dispute.accused == member.address:
            effects += rulings.convict(state, dispute, Cause.ACCUSED_SILENT)
        else:
            effects += rulings.void(state, dispute, Cause.CHALLENGER_SILENT)
    return effects


def _convict_unopened(state: State, member: Member, number: Round) -> list[Effect]:
    """Convict a worker of a round that it never opened: like a convict, without finders."""
    state.convicted.add((number, member.address))
    lead = state.rounds[number].lead(member.address)
    state.redraws.discard((number, lead))
    slashed = money.slash(state, member, [], Reason(Cause.NOT_OPENED, number))
    return [slashed, *judgement.end_waiting(state, number, lead)]
