"""Two signed statements of one author that cannot both stand: guilt without a dispute. (SPEC.md 6.9)"""

from verification import membership, money
from verification.causes import Cause, Reason
from verification.crews import neighbours, root_with
from verification.effects import Effect
from verification.errors import Refused
from verification.library import Now
from verification.manifest import Manifest
from verification.membership import has_post
from verification.parting import disagreement
from verification.signed import Said, open_statement
from verification.state import Standing, State
from verification.statements import Body, Commit, Contradiction, Receipt
from verification.units import Address, Round


def contradict(manifest: Manifest, first: Said[Body], second: Said[Body]) -> bool:
    """Return whether two statements of one run contradict each other: they speak in one place and differ, or a member
    of a crew committed to something else than its receipt says. (SPEC.md 3.2, 4.17)"""
    if first.place == second.place:
        return first.statement != second.statement
    said_by = (first.sender, first.statement.round, first.statement.head)
    is_ones = said_by == (second.sender, second.statement.round, second.statement.head)
    return is_ones and isinstance(second.body, Commit) and betrays(manifest, first, second.body)


def betrays(manifest: Manifest, receipt: Said[Body], commit: Commit) -> bool:
    """Return whether an author's commitment to a round holds another root than its receipt for a neighbour.

    (SPEC.md 4.17)
    """
    if not isinstance(receipt.body, Receipt) or commit.post is None or not has_post(manifest, commit.post):
        return False
    cut = manifest.cuts[commit.post.cut]
    shard, other = int(commit.post.shard), int(receipt.body.other)
    if len(commit.shared) != len(neighbours(cut, shard)):
        return False
    return root_with(cut, commit, other) not in (None, receipt.body.root)


def process_contradiction(state: State, said: Said[Contradiction], now: Now) -> list[Effect]:
    """Convict the author of two statements that contradict each other, without a dispute. (SPEC.md 6.9)

    Raises Refused when they are not two such statements of a member that is not excluded; Malformed or BadSignature
    when they are no statements.
    """
    first, second = open_statement(said.body.first), open_statement(said.body.second)
    run = (state.chain, state.run)
    if first.run != run or second.run != run:
        raise Refused("the statements belong to another chain or run")
    if not contradict(state.manifest, first, second):
        raise Refused("the statements do not speak in one place, or do not differ")
    member, finder = membership.get_member(state, first.sender), membership.get_member(state, said.sender)
    if member.standing is Standing.EXCLUDED:
        raise Refused("the author is excluded already")
    reason = Reason(Cause.CONTRADICTION, first.body.round, about=first.body.slot)
    finders = [] if finder is member else [finder.address]
    if _took_work(state, first.body.round, member.address):
        finders = money.with_mates(state, first.body.round, member.address, finder.address)
    slashed = money.slash(state, member, finders, reason)
    return [slashed, *membership.exclude(member, reason)]


def _took_work(state: State, number: Round, worker: Address) -> bool:
    """Return whether a crew has no work in a round since a member committed to another root than a neighbour. A crew
    that has work has its reward as ever. (SPEC.md 4.17)"""
    if not number < len(state.rounds):
        return False
    worked = state.rounds[number]
    if not all(member in worked.commits for member in worked.crews.get(worker, (worker,))):
        return False
    return any(worker in pair for pair in disagreement(state, worked, worker))
