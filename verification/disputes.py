"""Disputes: lists that fold, points, what one number reads, a ruling. Nobody votes. (SPEC.md 6)"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from verification import claims, narrowing, referee, rulings
from verification.causes import Cause
from verification.claims import Judged
from verification.crews import items_of, made_by
from verification.effects import DisputeMoved, DisputeOpened, Effect, Move
from verification.errors import BadEvidence, Refused
from verification.executions import constant_of, execution_of, post_of, program_of, reader_of, result_at
from verification.game import Body, Game
from verification.library import Library, Now, failures
from verification.manifest import Manifest, Place, Post
from verification.membership import get_member, settle_debt
from verification.program import place_of, program_head
from verification.rounds import get_round
from verification.sampling import leaf_steps
from verification.signed import Said
from verification.state import Dispute, Member, Ruling, State, Turn, state_before
from verification.statements import (
    Answer,
    Block,
    ChallengeSeal,
    Commit,
    Evidence,
    FailedAt,
    Mismatch,
    NodeList,
    Opening,
    Point,
    RangeList,
    ResultList,
    Reveal,
    TotalList,
    Trace,
)
from verification.units import Address, Digest, Millis, Round

_MOVES: dict[type[Body], Move] = {
    Answer: Move.LISTS_STATES,
    Trace: Move.LISTS_NODES,
    NodeList: Move.LISTS_NODES,
    ResultList: Move.LISTS_PARTS,
    Block: Move.SHOWS_BLOCK,
    TotalList: Move.LISTS_TOTALS,
    RangeList: Move.LISTS_RANGES,
    FailedAt: Move.NAMES_FAILURE,
}


@dataclass(frozen=True)
class Difference:
    """Where a verdict first differs from what was opened: whose claim that is, and which of its leaves (None: its
    contribution)."""

    accused: Address
    leaf: int | None


def difference(state: State, reveal: Reveal) -> Difference | None:
    """Return where a verdict first differs from what a worker, or all of a crew, has opened; None where nowhere.

    Of a crew that is the first item in the order of the round: all that its maker read is agreed. (SPEC.md 4.17, 6.1)
    """
    worked = state.rounds[reveal.work]
    crew, post = worked.crews[reveal.worker], worked.assignments[reveal.worker].post
    openings = [worked.openings[member] for member in crew]
    if post is None:
        place = narrowing.first_change(openings[0].digests, reveal.digests)
        if place is not None:
            return Difference(reveal.worker, place)
    else:
        items = items_of(state.manifest.cuts[post.cut], worked.assignments[reveal.worker].steps)
        waiting = [iter(opening.digests) for opening in openings]
        opened = [next(waiting[item.shard]) for item in items]
        place = narrowing.first_change(opened, reveal.digests)
        if place is not None:
            return Difference(crew[items[place].shard], items[place].step)
    ends = [worked.commits[member].contribution.digest for member in crew]
    wrong = narrowing.first_change(ends, reveal.contributions)
    return None if wrong is None else Difference(crew[wrong], None)


def open_from_audit(state: State, verifier: Address, reveal: Reveal, now: Millis) -> list[Effect]:
    """Put the first difference between what was opened and a verifier's reveal on record. (SPEC.md 6.1)"""
    worked, found = state.rounds[reveal.work], difference(state, reveal)
    assert found is not None
    commit, opening = worked.commits[found.accused], worked.openings[found.accused]
    steps = int(worked.assignments[found.accused].steps)
    game = claim_of_round(state.manifest, commit, opening, steps, found.leaf)
    effects = _open(state, (reveal.work, found.accused), verifier, found.leaf, game, now)
    if game.agreed == worked.failures.get(found.accused):
        effects += rulings.acquit(state, state.disputes[-1], Cause.FAILED_BEFORE)
    return effects


def claim_of_round(
    manifest: Manifest, commit: Commit, opening: Opening, steps: int, leaf: int | None
) -> Game:
    """Return what is in dispute about a round of so many steps that was opened, at one of its leaves. (SPEC.md 6.1)"""
    leaves = leaf_steps(steps, manifest.work.leaf_every)
    end = commit.contribution.digest
    if commit.post is None:
        return claim_at(leaf, leaves, commit.start, opening.digests, end)
    made = made_by(manifest.cuts[commit.post.cut], int(commit.post.shard), steps)
    states = tuple(d for d, item in zip(opening.digests, made, strict=True) if item.crossing is None)
    game = claim_at(leaf, leaves, commit.start, states, end)
    given = (
        d
        for d, item in zip(opening.digests, made, strict=True)
        if item.crossing is not None and item.step == leaf
    )
    return replace(game, given=tuple(given))


def claim_at(
    leaf: int | None, steps: Sequence[int], start: Digest, digests: Sequence[Digest], contribution: Digest
) -> Game:
    """Return what is in dispute about a round whose leaves, after so many `steps`, first differ at one. (SPEC.md 6.1)

    Leaf 0 disputes the prologue, None the epilogue.
    """
    if leaf is None:
        return Game(Place.EPILOGUE, steps[-1], steps[-1], digests[-1], contribution)
    if leaf == 0:
        return Game(Place.PROLOGUE, 0, 0, start, digests[0])
    return Game(Place.STEP, steps[leaf - 1], steps[leaf], digests[leaf - 1], digests[leaf])


def failure_in(
    state: State, values: Sequence[Digest], places: Sequence[Place], post: Post | None, library: Library
) -> Digest | None:
    """Return the failure of one of the places' programs in which states end, None without one. (SPEC.md 2.5)

    Raises BadEvidence when they go on after it, and for a failure in a crew, where nobody could go on: no honest member
    has committed to it. (SPEC.md 4.17)
    """
    digests = [program_of(state.manifest, place, post) for place in places]
    known = [failures(digest, program_head(library.program(digest))) for digest in digests]
    failure = narrowing.first_failure(values, frozenset().union(*known))
    if failure is not None and post is not None:
        raise BadEvidence("a crew's round that fails is committed to by nobody honest")
    return failure


def process_challenge_seal(state: State, said: Said[ChallengeSeal], now: Now) -> list[Effect]:
    """Contest a next state that someone sealed against the challenger's own seal. (SPEC.md 6.2)

    Raises Refused where there is nothing to contest, or the sender may not.
    """
    sender, body = said.sender, said.body
    worked = get_round(state, body.round)
    if body.accused not in worked.seals or sender not in worked.seals:
        raise Refused("both sides of this challenge must have sealed the round")
    if not state.is_recent(body.round):
        raise Refused("the round lies too far back to be contested: its inputs may be gone")
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
    game = Game(Place.OUTER, 0, 0, state_before(state, body.round).digest, worked.seals[body.accused].digest)
    return _open(state, (body.round, body.accused), sender, None, game, now.time)


def is_overdue(state: State, dispute: Dispute) -> bool:
    """Return whether the party whose move it is has used up its clock, and is suspended for it. (SPEC.md 6.8)"""
    return dispute.debt in state.members[mover(dispute)].owes


def can_pay_bond(state: State, member: Member) -> bool:
    """Return whether a member's stake covers the bond of one more accusation. (SPEC.md 6.2)"""
    running = sum(dispute.challenger == member.address for dispute in state.open_disputes())
    return member.stake >= (running + 1) * state.manifest.money.accuser_bond


def process_list(state: State, said: Said[Body], now: Now) -> list[Effect]:
    """Take the list that disputes with its author wait for; a wrong one convicts by itself. (SPEC.md 6.3, 6.4, 6.12)

    An honest peer is never refused here and cannot be made to sign a wrong list, so there is nothing to wait for.
    Raises Refused when no dispute waits for the list.
    """
    sender, body, slot = said.sender, said.body, said.body.slot
    about = [d for d in state.open_disputes() if (d.round, d.accused) == (body.round, sender)]
    waiting = [d for d in about if d.turn is Turn.LIST and d.game.awaited == slot]
    if not waiting:
        raise Refused("no dispute waits for this list of the sender's")
    program = program_of(state.manifest, waiting[0].place, post_of(state, waiting[0]))
    posted = waiting[0].game.check(body, program, program_head(now.library.program(program)))
    if isinstance(posted, Cause):
        return rulings.convict(state, waiting[0], posted)
    state.rounds[body.round].lists[sender, slot] = posted
    count = _length(body)
    effects: list[Effect] = [DisputeMoved(waiting[0].number, sender, _MOVES[type(body)], count, count)]
    for dispute in waiting:
        effects += _reuse_list(state, dispute, now.time)
    return effects


def _length(body: Body) -> int:
    """Return what a list's move counts: entries, bytes of a block, or the number that fails."""
    match body:
        case Block():
            return len(body.data)
        case FailedAt():
            return int(body.index)
    return len(body.entries)


def process_point(state: State, said: Said[Point], now: Now) -> list[Effect]:
    """Narrow the dispute to the first entry that the challenger disagrees with. (SPEC.md 6.3, 6.4, 6.12, 6.13)

    Raises Refused when the dispute waits for something else, BadEvidence for an entry that its list has not, or a node
    that is none of the arithmetic.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.POINT)
    if sender != dispute.challenger or body.level != dispute.level:
        raise Refused("the dispute waits for another party or list")
    before, game = dispute.game, dispute.game.point(int(body.index))
    if game.node is not None and before.node is None:
        game = game.arrive(result_at(now.library.program(game.program), game.node))
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.game, dispute.level = game, dispute.level + 1
    if game.node is not None and before.node is None:
        _arrive(dispute, game.node, now.library)
    effects.append(_pointed(dispute, before))
    return [*effects, *_go_on(state, dispute, before, now)]


def _go_on(state: State, dispute: Dispute, before: Game, now: Now) -> list[Effect]:
    """Rule where what is left shows by itself, else wait for the next list, or for evidence."""
    game = dispute.game
    post = post_of(state, dispute)
    if (
        game.trace is None
        and game.agreed
        and failure_in(state, [game.agreed], [Place.STEP], post, now.library)
    ):
        return rulings.acquit(state, dispute, Cause.FAILED_BEFORE)
    if game.node is not None and before.node is None:
        if (cause := game.fault()) is not None:
            return rulings.convict(state, dispute, cause)
        if game.claim is None:
            return rulings.acquit(state, dispute, Cause.RIGHT_NUMBER)
    dispute.turn = Turn.LIST if game.awaited else Turn.EVIDENCE
    return _reuse_list(state, dispute, now.time)


def _pointed(dispute: Dispute, before: Game) -> DisputeMoved:
    """Return what the challenger contests now: a state, nodes of a trace, or a part of a node's result."""
    game, who = dispute.game, (dispute.number, dispute.challenger)
    if game.trace is None or before.trace is None:
        return DisputeMoved(*who, Move.CONTESTS_STATE, game.high, game.high)
    if before.node is not None and game.claim is not None and game.result is not None:
        is_terms = isinstance(game.claim, claims.Range)
        what = Move.CONTESTS_TERMS if is_terms else Move.CONTESTS_NUMBERS
        return DisputeMoved(*who, what, *claims.extent(game.claim, game.result), dispute.operator)
    first, last = game.trace.first + game.trace.low, game.trace.first + game.trace.high - 1
    return DisputeMoved(*who, Move.CONTESTS_NODES, first, last, dispute.operator)


def _arrive(dispute: Dispute, number: int, library: Library) -> None:
    """Note at which node a dispute has arrived, and what people call it."""
    assert dispute.game.trace is not None
    program, first = library.program(dispute.game.trace.program), dispute.game.trace.first
    if number >= first:
        node = program.nodes[number - first]
        dispute.game = replace(dispute.game, node=number)
        dispute.operator = f"{node.operator} {node.dtype}{list(map(int, node.shape))}"
    dispute.near = place_of(program, number)


def process_mismatch(state: State, said: Said[Mismatch], now: Now) -> list[Effect]:
    """Convict an accused whose trace has an output that its source does not give. (SPEC.md 6.5)

    Raises Refused when the dispute waits for something else, BadEvidence when the output is right or nothing is shown.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.POINT)
    trace = dispute.game.trace
    if sender != dispute.challenger or trace is None or dispute.game.node is not None:
        raise Refused("the dispute waits for another party or move")
    program = now.library.program(trace.program)
    constants = partial(constant_of, program)
    computed = referee.judge_output(
        execution_of(state, dispute), program_head(program), trace, constants, body
    )
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.computed, dispute.game = computed, replace(dispute.game, claimed=trace.outputs[body.output])
    _arrive(dispute, trace.sources[body.output], now.library)
    output = int(body.output)
    moved = DisputeMoved(dispute.number, sender, Move.SHOWS_OUTPUT, output, output)
    return [*effects, moved, *rulings.convict(state, dispute, Cause.WRONG_OUTPUT)]


def process_evidence(state: State, said: Said[Evidence], now: Now) -> list[Effect]:
    """Read what is left of the claim from blocks that open what is agreed, and rule. (SPEC.md 6.5)

    Raises Refused when the dispute waits for something else, BadEvidence for other blocks than the claim reads.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.EVIDENCE)
    if sender != dispute.challenger:
        raise Refused("the dispute waits for another party")
    claim, number = dispute.game.claim, dispute.game.node
    assert isinstance(claim, Judged)
    assert number is not None
    assert dispute.game.result is not None
    program = now.library.program(dispute.game.program)
    right = referee.judge(claim, dispute.game.result, reader_of(state, dispute, program, body.inputs))
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.right = right
    moved = DisputeMoved(dispute.number, sender, Move.BRINGS_INPUTS, number, number)
    if right == claim.claimed:
        return [*effects, moved, *rulings.acquit(state, dispute, Cause.RIGHT_NUMBER)]
    return [*effects, moved, *rulings.convict(state, dispute, claims.WRONG[type(claim)])]


def mover(dispute: Dispute) -> Address:
    """Return the party that a dispute waits for."""
    return dispute.accused if dispute.turn is Turn.LIST else dispute.challenger


def clock_ends(state: State, dispute: Dispute) -> Millis | None:
    """Return when the waiting party's clock runs out; None while it is suspended for this very dispute.

    A clock below zero is what has been used of its silence: both are for the whole dispute. (SPEC.md 6.8)
    """
    party = mover(dispute)
    if dispute.debt in state.members[party].owes:
        return None
    return Millis(dispute.since + dispute.clocks[party])


def _open(
    state: State, claim: tuple[Round, Address], challenger: Address, leaf: int | None, game: Game, now: Millis
) -> list[Effect]:
    """Open a dispute about what an accused claimed in a round."""
    number, accused = claim
    clock = state.manifest.windows.clock
    dispute = Dispute(
        len(state.disputes), number, accused, challenger, leaf, opened=game, game=game,
        turn=Turn.LIST, since=now, clocks={accused: clock, challenger: clock},
    )  # fmt: skip
    state.disputes.append(dispute)
    state.running[dispute.number] = dispute
    return [
        DisputeOpened(dispute.number, number, accused, challenger, game.place, leaf),
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
    if dispute.turn is not Turn.LIST:
        return []
    listed = state.rounds[dispute.round].lists.get((dispute.accused, dispute.game.awaited))
    if listed is None:
        return []
    _spend_clock(dispute, dispute.accused, now)
    dispute.game, dispute.turn = dispute.game.take(listed), Turn.POINT
    return settle_debt(state, state.members[dispute.accused], dispute.debt)


def _spend_clock(dispute: Dispute, party: Address, now: Millis) -> None:
    dispute.clocks[party] -= now - dispute.since
    dispute.since = now
