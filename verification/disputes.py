"""Disputes: lists that fold, points, one node's inputs, one execution, a ruling. Nobody votes. (SPEC.md 6)"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from verification import narrowing, referee, rulings
from verification.causes import Cause
from verification.effects import DisputeMoved, DisputeOpened, Effect, Move
from verification.errors import Refused
from verification.executor import Executor, Now, failed, failures
from verification.game import Game
from verification.manifest import Manifest, Place
from verification.membership import get_member, settle_debt
from verification.narrowing import Tracing
from verification.outer import mixture
from verification.program import Program, place_of, program_head
from verification.referee import Execution
from verification.rounds import get_round
from verification.sampling import leaf_steps, record_index
from verification.signed import Said
from verification.state import Dispute, Member, Ruling, State, Turn
from verification.statements import (
    Answer,
    ChallengeSeal,
    Evidence,
    Mismatch,
    NodeList,
    Opening,
    Point,
    Reveal,
    Trace,
)
from verification.tensors import Tensor
from verification.units import Address, Digest, Millis, Round


def open_from_audit(
    state: State, verifier: Address, opening: Opening, reveal: Reveal, now: Millis
) -> list[Effect]:
    """Put the first difference between a worker's opening and a verifier's reveal on record. (SPEC.md 6.1)"""
    worked = state.rounds[reveal.work]
    claimed_end = worked.commits[reveal.worker].contribution.digest
    steps = leaf_steps(worked.assignments[reveal.worker].steps, state.manifest.work.leaf_every)
    leaf = narrowing.first_change(opening.digests, reveal.digests)
    game = claim_at(leaf, steps, worked.start.digest, opening.digests, claimed_end)
    effects = _open(state, (reveal.work, reveal.worker), verifier, leaf, game, now)
    if game.agreed == worked.failures.get(reveal.worker):
        effects += rulings.acquit(state, state.disputes[-1], Cause.FAILED_BEFORE)
    return effects


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
    state: State, values: Sequence[Digest], places: Sequence[Place], executor: Executor
) -> Digest | None:
    """Return the failure of one of the places' programs in which states end, None without one. (SPEC.md 2.5)

    Raises BadEvidence when they go on after it.
    """
    digests = [program_of(state.manifest, place) for place in places]
    known = [failures(digest, program_head(executor.program(digest))) for digest in digests]
    return narrowing.first_failure(values, frozenset().union(*known))


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
    game = Game(Place.OUTER, 0, 0, worked.start.digest, worked.seals[body.accused].digest)
    return _open(state, (body.round, body.accused), sender, None, game, now.time)


def is_overdue(state: State, dispute: Dispute) -> bool:
    """Return whether the party whose move it is has used up its clock, and is suspended for it. (SPEC.md 6.8)"""
    return dispute.debt in state.members[mover(dispute)].owes


def can_pay_bond(state: State, member: Member) -> bool:
    """Return whether a member's stake covers the bond of one more accusation. (SPEC.md 6.2)"""
    running = sum(dispute.challenger == member.address for dispute in state.open_disputes())
    return member.stake >= (running + 1) * state.manifest.money.accuser_bond


def process_list(state: State, said: Said[Answer | Trace | NodeList], now: Now) -> list[Effect]:
    """Take the list that disputes with its author wait for; one that is wrong in itself convicts. (SPEC.md 6.3, 6.4)

    An honest peer is never refused here and cannot be made to sign a wrong list, so there is nothing to wait for.
    Raises Refused when no dispute waits for the list.
    """
    sender, body, slot = said.sender, said.body, said.body.slot
    about = [d for d in state.open_disputes() if (d.round, d.accused) == (body.round, sender)]
    waiting = [d for d in about if d.turn is Turn.LIST and d.game.awaited == slot]
    if not waiting:
        raise Refused("no dispute waits for this list of the sender's")
    program = program_of(state.manifest, waiting[0].place)
    listed = waiting[0].game.check(body, program, program_head(now.executor.program(program)))
    if isinstance(listed, Cause):
        return rulings.convict(state, waiting[0], listed)
    state.rounds[body.round].lists[sender, slot] = listed
    move, count = Move.LISTS_STATES if isinstance(body, Answer) else Move.LISTS_NODES, len(body.entries)
    effects: list[Effect] = [DisputeMoved(waiting[0].number, sender, move, count, count)]
    for dispute in waiting:
        effects += _reuse_list(state, dispute, now.time)
    return effects


def process_point(state: State, said: Said[Point], now: Now) -> list[Effect]:
    """Narrow the dispute to the first entry that the challenger disagrees with. (SPEC.md 6.3, 6.4)

    Raises Refused when the dispute waits for something else, BadEvidence for an entry that its list has not.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.POINT)
    if sender != dispute.challenger or body.level != dispute.level:
        raise Refused("the dispute waits for another party or list")
    game, before = dispute.game.point(int(body.index)), dispute.game.trace
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.game, dispute.level = game, dispute.level + 1
    if game.node is not None:
        _arrive(dispute, game.node, now.executor)
    dispute.turn = Turn.LIST if game.node is None else Turn.EVIDENCE
    effects.append(_pointed(dispute, before))
    if game.trace is None and game.agreed and failure_in(state, [game.agreed], [Place.STEP], now.executor):
        return [*effects, *rulings.acquit(state, dispute, Cause.FAILED_BEFORE)]
    return [*effects, *_reuse_list(state, dispute, now.time)]


def _pointed(dispute: Dispute, before: Tracing | None) -> DisputeMoved:
    """Return what the challenger contests now: a state, or nodes of the trace that was open `before`."""
    game, who = dispute.game, (dispute.number, dispute.challenger)
    if game.trace is None or before is None:
        return DisputeMoved(*who, Move.CONTESTS_STATE, game.high, game.high)
    first, last = game.trace.first + game.trace.low, game.trace.first + game.trace.high - 1
    return DisputeMoved(*who, Move.CONTESTS_NODES, first, last, dispute.operator)


def _arrive(dispute: Dispute, number: int, executor: Executor) -> None:
    """Note at which node a dispute has arrived, and what people call it."""
    assert dispute.game.trace is not None
    program, first = executor.program(dispute.game.trace.program), dispute.game.trace.first
    if number >= first:
        node = program.nodes[number - first]
        dispute.game = replace(dispute.game, node=number)
        dispute.operator = f"{node.operator} {node.dtype}{list(map(int, node.shape))}"
    dispute.near = place_of(program, number)


def process_mismatch(state: State, said: Said[Mismatch], now: Now) -> list[Effect]:
    """Convict an accused whose trace has right nodes and other outputs than these give. (SPEC.md 6.5)

    Raises Refused when the dispute waits for something else, BadEvidence when the output is right or nothing is shown.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.POINT)
    trace = dispute.game.trace
    if sender != dispute.challenger or trace is None or not trace.is_whole:
        raise Refused("the dispute waits for another party or move")
    program = now.executor.program(trace.program)
    constants = partial(_constant, program)
    computed = referee.judge_output(
        execution_of(state, dispute), program_head(program), trace, constants, body
    )
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.computed, dispute.game = computed, replace(dispute.game, claimed=trace.outputs[body.output])
    _arrive(dispute, trace.sources[body.output], now.executor)
    output = int(body.output)
    moved = DisputeMoved(dispute.number, sender, Move.SHOWS_OUTPUT, output, output)
    return [*effects, moved, *rulings.convict(state, dispute, Cause.WRONG_OUTPUT)]


def process_evidence(state: State, said: Said[Evidence], now: Now) -> list[Effect]:
    """Check the disputed node's inputs against what is agreed, execute it, rule. (SPEC.md 6.5)

    Raises Refused when the dispute waits for something else, BadEvidence for inputs that are not the node's.
    """
    sender, body = said.sender, said.body
    dispute = _get_dispute(state, body.dispute, Turn.EVIDENCE)
    if sender != dispute.challenger:
        raise Refused("the dispute waits for another party")
    trace, number = dispute.game.trace, dispute.game.node
    assert trace is not None
    assert number is not None
    program = now.executor.program(trace.program)
    node = program.nodes[number - trace.first]
    computed = referee.judge_node(
        now.executor, execution_of(state, dispute), program_head(program), trace, number, node,
        partial(_constant, program), body.inputs,
    )  # fmt: skip
    effects = settle_debt(state, get_member(state, sender), dispute.debt)
    _spend_clock(dispute, sender, now.time)
    dispute.computed = computed
    moved = DisputeMoved(dispute.number, sender, Move.BRINGS_INPUTS, number, number)
    goes_on = computed == failed(trace.program, number) and trace.failed != number
    if computed != dispute.game.claimed:
        return [*effects, moved, *rulings.convict(state, dispute, Cause.WRONG_NODE)]
    if goes_on:
        return [*effects, moved, *rulings.convict(state, dispute, Cause.TRACE_GOES_ON)]
    return [*effects, moved, *rulings.acquit(state, dispute, Cause.RIGHT_NODE)]


def _constant(program: Program, number: int) -> Tensor:
    return program.constants[number - len(program.inputs)]


def execution_of(state: State, dispute: Dispute) -> Execution:
    """Return what fixes the inputs of an execution: public inputs and what both sides agree on. (SPEC.md 6.5)"""
    worked, manifest = state.rounds[dispute.round], state.manifest
    program = program_of(manifest, dispute.place)
    index, slots, ballast = None, {}, 0
    if dispute.place is Place.PROLOGUE:
        steps = worked.assignments[dispute.accused].steps
        index = record_index(manifest, worked.beacon, dispute.accused, steps)
    if dispute.place is Place.OUTER:
        mixed = mixture(state, worked)
        ballast = mixed.ballast
        for part in mixed.parts:
            commit = state.rounds[part.number].commits[part.worker]
            slots[part.slot] = part.weight, commit.contribution.digest
    return Execution(
        dispute.place,
        program,
        worked.start.digest,
        dispute.game.agreed,
        manifest.data.root,
        index,
        slots,
        ballast,
    )


def program_of(manifest: Manifest, place: Place) -> Digest:
    """Return the digest of the program that runs at a place."""
    return manifest.programs.at(place).digest


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
