"""How each dispute came down to one number, from the statements on the ledger: lists, points, and what was read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from verification import claims
from verification.causes import Cause
from verification.claims import Judged, Listed, Result
from verification.crews import held_at
from verification.evidence.collect import Log, ProgramOf, way_of
from verification.executions import post_of, program_of, reader_of, result_at
from verification.layout import Held, origin_of
from verification.narrowing import positions, segments
from verification.placed import OfResult
from verification.program import Program, first_node, program_head, values
from verification.report.judged import lines_of, report_of
from verification.report.schema import InputReport, JudgedReport, ListReport
from verification.report.words import some
from verification.signed import Said
from verification.state import Dispute, State
from verification.statements import (
    Answer,
    Block,
    Body,
    Evidence,
    FailedAt,
    Mismatch,
    NodeList,
    Point,
    RangeList,
    ResultList,
    TotalList,
    Trace,
)

JUDGED = (*claims.WRONG.values(), Cause.RIGHT_NUMBER)
"""Why a dispute ends when evidence has been judged."""


@dataclass(frozen=True)
class Descent:
    """One dispute's way down: program, lists, the node's inputs, what was judged, and the bytes of both sides."""

    program: str
    lists: tuple[ListReport, ...]
    inputs: tuple[InputReport, ...]
    judged: JudgedReport | None
    accused_bytes: int
    accuser_bytes: int


def descents(state: State, log: Log, programs: ProgramOf) -> Mapping[int, Descent]:
    """Return every dispute's way down by its number in the state."""
    return {dispute.number: _descent(state, log, dispute, programs) for dispute in state.disputes}


def _descent(state: State, log: Log, dispute: Dispute, programs: ProgramOf) -> Descent:
    post = post_of(state, dispute)
    digest = program_of(state.manifest, dispute.place, post)
    program = programs(digest)
    listed = way_of(state, log, dispute, program).lists

    def by_challenger(slot: str) -> Said[Body] | None:
        return log.of_run(dispute.challenger, slot)

    points = [by_challenger(Point.at(dispute.number, level)) for level in range(dispute.level)]
    shown, brought = (by_challenger(kind.at(dispute.number)) for kind in (Mismatch, Evidence))
    said = [found for found in [*points, shown, brought] if found is not None]
    chosen = [
        int(found.body.index) for found in points if found is not None and isinstance(found.body, Point)
    ]
    lists = [
        ListReport(
            *_list(one.body, program, dispute, chosen[place] if place < len(chosen) else None), len(one.data)
        )
        for place, one in enumerate(listed)
    ]
    if shown is not None and isinstance(shown.body, Mismatch) and lists:
        lists[-1] = replace(lists[-1], contested=f"output {program.outputs[shown.body.output].name}")
    evidence = brought.body if brought is not None and isinstance(brought.body, Evidence) else None
    return Descent(
        digest.hex(),
        tuple(lists),
        tuple(_inputs(dispute, program, evidence, held_at(state.manifest, post))),
        _judged(state, dispute, program, evidence),
        sum(len(one.data) for one in listed),
        sum(len(one.data) for one in said),
    )


def _list(body: Body, program: Program, dispute: Dispute, index: int | None) -> tuple[str, int, str]:
    """Return what a list holds, how many entries, and what was contested of it."""
    if isinstance(body, OfResult):
        return _within(body, result_at(program, int(body.node)), index)
    if isinstance(body, Answer):
        steps = positions(body.low, body.high)
        chosen = "" if index is None else f"the state after step {steps[index]}"
        return f"states after steps {steps[0]} to {steps[-1]}", len(steps), chosen
    assert isinstance(body, Trace | NodeList)
    first = first_node(program)
    length = dispute.game.trace.length if dispute.game.trace else len(program.nodes)
    low, high = (0, length) if isinstance(body, Trace) else (int(body.low), int(body.high))
    chosen = "" if index is None else _nodes(first, *segments(low, high)[index])
    return f"results of {_nodes(first, low, high)}", len(body.entries), chosen


def _nodes(first: int, low: int, high: int) -> str:
    return some("node", first + low, first + high - 1)


def _within(body: Listed, result: Result, index: int | None) -> tuple[str, int, str]:
    """Return the same of a list within a node: rows or blocks, a block's numbers, totals, terms, or where it fails."""
    match body:
        case ResultList(row=row, low=low, high=high):
            what, of_row = ("row", "") if row is None else ("block", f" of row {row}")
            parts = [some(what, start, end - 1) + of_row for start, end in segments(low, high)]
            whole = some(what, low, high - 1) + of_row
            return f"{whole} of node {body.node}'s result", len(body.entries), _chosen(parts, index)
        case Block(row=row, block=block):
            first, count = result.grid.first_in(row, block), result.grid.length_of(block)
            numbers = range(first, first + count)
            chosen = "" if index is None else f"number {numbers[index]}"
            return f"{some('number', first, first + count - 1)} of node {body.node}'s result", count, chosen
        case TotalList(index=number):
            parts = [f"total {place + 1}" for place in range(len(body.entries))]
            return f"all totals of number {number}", len(parts), _chosen([*parts, "what they give"], index)
        case RangeList(index=number, total=total, low=low, high=high):
            parts = [some("term", start, end - 1) for start, end in segments(low, high)]
            what = f"parts of total {total + 1} of number {number}, {some('term', low, high - 1)}"
            return what, len(body.entries), _chosen(parts, index)
    return (
        f"where node {body.node} fails: {_failing(body)}",
        1,
        "" if index is None else "that it fails there",
    )


def _chosen(parts: Sequence[str], index: int | None) -> str:
    return "" if index is None else parts[index]


def _failing(at: FailedAt) -> str:
    if at.total is None:
        return f"number {at.index}"
    return f"number {at.index}, term {at.term} of its total {at.total + 1}"


def _inputs(
    dispute: Dispute, program: Program, evidence: Evidence | None, held: Held | None
) -> Iterator[InputReport]:
    """Yield what the disputed node reads, each value once: where it came from, and what of it was brought."""
    number, first = dispute.game.node, first_node(program)
    if number is None or number < first:
        return
    known = values(program)
    brought = {} if evidence is None else {int(part.value): part.blocks for part in evidence.inputs}
    for source in dict.fromkeys(map(int, program.nodes[number - first].inputs)):
        blocks = brought.get(source, ())
        some_of = f", {len(blocks)} of its blocks" if blocks else ""
        tensor = f"{known[source].dtype}{list(map(int, known[source].shape))}{some_of}"
        yield InputReport(
            source, *_source(dispute, program, source, held), tensor, sum(len(block.data) for block in blocks)
        )


def _source(dispute: Dispute, program: Program, number: int, held: Held | None) -> tuple[str, str]:
    """Return what a value is and where it comes from."""
    head = program_head(program)
    if number >= head.first:
        operator = program.nodes[number - head.first].operator
        return operator, "an earlier node, by a path in the accused's own trace"
    if number >= len(head.inputs):
        return "constant", "the program itself"
    home = origin_of(dispute.place, head, number, held).home.value
    return head.inputs[number].name, home


def _judged(
    state: State, dispute: Dispute, program: Program, evidence: Evidence | None
) -> JudgedReport | None:
    """Return what the law judged by itself, reckoned again from the numbers that the challenger brought."""
    claim, result = dispute.game.claim, dispute.game.result
    is_decided = dispute.cause in JUDGED and not dispute.game.awaited
    if not is_decided or result is None or not isinstance(claim, Judged):
        return None
    if evidence is None:  # another challenger's evidence decided this dispute too
        return report_of(claim, result, dispute.right)
    lines = lines_of(claim, result, reader_of(state, dispute, program, evidence.inputs))
    node = program.nodes[(dispute.game.node or 0) - first_node(program)]
    return report_of(claim, result, dispute.right, lines, list(map(int, node.inputs)))
