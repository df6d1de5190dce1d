"""Two signed statements of one author for one place: guilt without a dispute. (SPEC.md 6.9)"""

from verification import membership, money
from verification.causes import Cause, Reason
from verification.effects import Effect
from verification.errors import Refused
from verification.library import Now
from verification.signed import Said, open_statement
from verification.state import Standing, State
from verification.statements import Contradiction


def process_contradiction(state: State, said: Said[Contradiction], now: Now) -> list[Effect]:
    """Convict the author of two different statements in one place, without a dispute. (SPEC.md 6.9)

    Raises Refused when they are not two such statements of a member that is not excluded; Malformed or BadSignature
    when they are no statements.
    """
    first, second = open_statement(said.body.first), open_statement(said.body.second)
    run = (state.chain, state.run)
    if first.place != second.place or first.run != run or second.run != run:
        raise Refused("the statements do not speak in one place")
    if first.statement == second.statement:
        raise Refused("the statements do not differ")
    member, finder = membership.get_member(state, first.sender), membership.get_member(state, said.sender)
    if member.standing is Standing.EXCLUDED:
        raise Refused("the author is excluded already")
    reason = Reason(Cause.CONTRADICTION, first.body.round, about=first.body.slot)
    slashed = money.slash(state, member, [] if finder is member else [finder.address], reason)
    return [slashed, *membership.exclude(member, reason)]
