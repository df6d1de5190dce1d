"""How each dispute came down to one node, from the statements on the ledger: lists, points, and the node's inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from verification.disputes import execution_of, program_of
from verification.evidence.collect import Log, ProgramOf, lists_of
from verification.layout import origin_of
from verification.narrowing import positions, segments
from verification.program import Program, first_node, program_head, values
from verification.referee import sources_to_open
from verification.report.schema import InputReport, ListReport
from verification.signed import Said
from verification.state import Dispute, State
from verification.statements import Answer, Body, Evidence, Mismatch, NodeInput, NodeList, Point, Trace


@dataclass(frozen=True)
class Descent:
    """One dispute's way down: the program it is about, the lists, the node's inputs, and the bytes of both sides."""

    program: str
    lists: tuple[ListReport, ...]
    inputs: tuple[InputReport, ...]
    accused_bytes: int
    accuser_bytes: int


def descents(state: State, log: Log, programs: ProgramOf) -> Mapping[int, Descent]:
    """Return every dispute's way down by its number in the state."""
    return {dispute.number: _descent(state, log, dispute, programs) for dispute in state.disputes}


def _descent(state: State, log: Log, dispute: Dispute, programs: ProgramOf) -> Descent:
    digest = program_of(state.manifest, dispute.place)
    program = programs(digest)
    listed = lists_of(state, log, dispute, dispute.game.node)

    def by_challenger(slot: str) -> Said[Body] | None:
        return log.of_run(dispute.challenger, slot)

    points = [by_challenger(Point.at(dispute.number, level)) for level in range(dispute.level)]
    ends = [by_challenger(kind.at(dispute.number)) for kind in (Mismatch, Evidence)]
    said = [found for found in [*points, *ends] if found is not None]
    chosen = [found.body.index for found in points if found is not None and isinstance(found.body, Point)]
    lists = [
        _list(one.body, program, dispute, len(one.data), chosen[place] if place < len(chosen) else None)
        for place, one in enumerate(listed)
    ]
    shown = ends[0].body if ends[0] is not None else None
    if isinstance(shown, Mismatch) and lists:
        lists[-1] = replace(lists[-1], contested=f"output {program.outputs[shown.output].name}")
    return Descent(
        digest.hex(),
        tuple(lists),
        tuple(_inputs(state, dispute, program, [one.body for one in said])),
        sum(len(one.data) for one in listed),
        sum(len(one.data) for one in said),
    )


def _list(body: Body, program: Program, dispute: Dispute, size: int, index: int | None) -> ListReport:
    if isinstance(body, Answer):
        steps = positions(body.low, body.high)
        chosen = "" if index is None else f"the state after step {steps[index]}"
        return ListReport(f"states after steps {steps[0]} to {steps[-1]}", len(steps), chosen, size)
    assert isinstance(body, Trace | NodeList)
    first, total = (
        first_node(program),
        dispute.game.trace.length if dispute.game.trace else len(program.nodes),
    )
    low, high = (0, total) if isinstance(body, Trace) else (int(body.low), int(body.high))
    chosen = "" if index is None else _nodes(first, *segments(low, high)[index])
    return ListReport(f"results of {_nodes(first, low, high)}", len(body.entries), chosen, size)


def _nodes(first: int, low: int, high: int) -> str:
    return f"node {first + low}" if high - low == 1 else f"nodes {first + low} to {first + high - 1}"


def _inputs(state: State, dispute: Dispute, program: Program, said: list[Body]) -> Iterator[InputReport]:
    """Yield what the disputed node reads, each value once: where it came from, and what of it was brought."""
    if dispute.game.node is None:
        return
    node, head, made = (
        program.nodes[dispute.game.node - first_node(program)],
        program_head(program),
        values(program),
    )
    brought: dict[int, NodeInput] = {}
    for body in said:
        if isinstance(body, Evidence):
            wanted = sources_to_open(execution_of(state, dispute), head, node)
            brought = dict(zip(wanted, body.inputs, strict=True))
    for number in dict.fromkeys(map(int, node.inputs)):
        opened = brought.get(number)
        rows = (
            "" if opened is None or not opened.total else f", {opened.tensor.shape[0]} of {opened.total} rows"
        )
        shape = f"{made[number].dtype}{list(map(int, made[number].shape))}{rows}"
        size = 0 if opened is None else len(opened.tensor.data)
        yield InputReport(number, *_source(dispute, program, number), shape, size)


def _source(dispute: Dispute, program: Program, number: int) -> tuple[str, str]:
    """Return what a value is and where it comes from."""
    head = program_head(program)
    if number >= head.first:
        operator = program.nodes[number - head.first].operator
        return operator, "an earlier node, by a path in the accused's own trace"
    if number >= len(head.inputs):
        return "constant", "the program itself"
    home = origin_of(dispute.place, head, number).home.value
    return head.inputs[number].name, home
