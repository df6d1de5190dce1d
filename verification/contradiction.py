"""Two signed statements of one author for one place: guilt without a dispute. (SPEC.md 6.9)"""

from verification import codec, membership, money
from verification.causes import Cause, Reason
from verification.effects import Effect
from verification.errors import Refused
from verification.state import Standing, State
from verification.statements import Contradiction, Statement, open_statement
from verification.units import Address


def process_contradiction(state: State, sender: Address, body: Contradiction) -> list[Effect]:
    """Convict the author of two different statements in one place, without a dispute. (SPEC.md 6.9)

    Raises Refused when they are not two such statements of a member that is not excluded; Malformed or BadSignature
    when they are no statements.
    """
    author, first, _ = open_statement(body.first)
    other, second, _ = open_statement(body.second)
    is_here = (first.chain, first.run) == (state.chain, state.run)
    if author != other or not is_here or _place(first) != _place(second):
        raise Refused("the statements do not speak in one place")
    if codec.encode(first) == codec.encode(second):
        raise Refused("the statements do not differ")
    member, finder = membership.get_member(state, author), membership.get_member(state, sender)
    if member.standing is Standing.EXCLUDED:
        raise Refused("the author is excluded already")
    reason = Reason(Cause.CONTRADICTION, first.round, about=first.slot)
    slashed = money.slash(state, member, [] if finder is member else [finder.address], reason)
    return [slashed, *membership.exclude(member, reason)]


def _place(statement: Statement) -> tuple[object, ...]:
    return statement.chain, statement.run, statement.round, statement.slot, statement.head
