"""A run's programs in parts, for the members of a crew: each shard's own programs, and what crosses between them. Pure.

A shard's programs are judged like any worker's, so each is whole by itself: of other shards it reads ports alone, in
the inner step. Run together they make bit for bit what the run's own programs make. (SPEC.md 4.17)
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.capture import TracedRun
from trainer.programs.tracing.compression import Working, compress
from trainer.shards.cut import INNER, Cut
from trainer.shards.demand import (
    Demand,
    free_ports,
    free_values,
    order_of_crossings,
    order_of_nodes,
)
from trainer.shards.depth import LOSS
from trainer.shards.programs import Part, Parts
from trainer.shards.segments import Layout, part_of
from verification.errors import UserError
from verification.layout import PROLOGUE
from verification.manifest import Crossing
from verification.program import Output, Port, Program, first_node
from verification.units import Count

STEP = "step"
"""The number of inner steps done, by which the sum of their losses is divided."""


def parts_of(run: TracedRun, cut: Cut) -> Parts:
    """Return the programs of a run's shards.

    Raises UserError for a cut in which a shard has no parameter, and where a working tensor's first value depends on
    parameters of several shards.
    """
    names = run.parameter_names
    count = cut.count
    held = [
        [place for place, name in enumerate(names) if cut.shards[name] == shard] for shard in range(count)
    ]
    if not all(held):
        raise UserError(f"shard {held.index([]) + 1} of {count} would hold no parameter: take fewer shards")
    layout = cut.pieces[INNER].layout
    is_start = [place < len(run.prologue.inputs) - len(PROLOGUE) for place in range(len(run.prologue.inputs))]
    begun = free_values(run.prologue, [not each for each in is_start])
    free = free_ports(run.inner, [begun[output.source] for output in run.prologue.outputs])
    demand = Demand(run.inner, layout, free)
    demand.find([_read_at_the_end(run.inner, demand, shard) for shard in range(count)])
    orders = order_of_nodes(demand, layout, cut.lead)
    crossing = order_of_crossings(demand, orders)
    shards = []
    for shard, own in enumerate(held):
        working = [number for number in range(len(run.inner.inputs)) if number in demand.makes[shard]]
        inner = _inner(demand, layout, shard, working, orders[shard], crossing)
        shards.append(
            Part(_prologue(run, own, working), inner, _epilogue(run, own, inner, len(working)), _counts(own))
        )
    return Parts(tuple(shards), tuple(_crossing(demand, number) for number in crossing))


def _read_at_the_end(inner: Program, demand: Demand, shard: int) -> list[int]:
    """Return the inputs that a shard must hold for its epilogue alone: with the sum of losses the steps' number."""
    names = [port.name for port in inner.inputs]
    return [names.index(STEP)] if demand.owner_of(names.index(LOSS)) == shard else []


def _crossing(demand: Demand, number: int) -> Crossing:
    maker = demand.owner_of(number)
    assert maker is not None
    takers = (Count(shard) for shard, taken in enumerate(demand.takes) if number in taken)
    return Crossing(Count(maker), tuple(takers))


def _inner(
    demand: Demand,
    layout: Layout,
    shard: int,
    working: Sequence[int],
    nodes: Sequence[int],
    crossing: Sequence[int],
) -> Program:
    """Return a shard's inner program: of working state and what it takes, to working state and what it gives.

    For people, what crosses is named by the pass that it is of, forward or backward.
    """
    program, inputs = demand.program, len(demand.program.inputs)
    taken = [place for place, number in enumerate(crossing) if number in demand.takes[shard]]
    given = [place for place, number in enumerate(crossing) if demand.owner_of(number) == shard]
    reads = [*working, *(crossing[place] for place in taken)]
    makes = [*(int(program.outputs[number].source) for number in working), *(crossing[n] for n in given)]
    constants = [number for number in sorted(demand.makes[shard]) if inputs <= number < demand.first]
    names = [program.inputs[number].name for number in working]
    made = part_of(program, reads, constants, nodes, makes)
    ways = [
        f"{'forward' if layout.is_forward[number] else 'backward'}{place}"
        for place, number in enumerate(crossing)
    ]
    return _named(made, [*names, *(ways[n] for n in taken)], [*names, *(ways[n] for n in given)])


def _prologue(run: TracedRun, own: Sequence[int], working: Sequence[int]) -> Program:
    """Return a shard's prologue: of its parameters' start and the round's data to its working state."""
    program, count = run.prologue, len(run.parameter_names)
    ending = range(2 * count, len(program.inputs))
    reads = [*own, *(count + place for place in own), *ending]
    makes = [int(program.outputs[number].source) for number in working]
    needed = _behind(program, makes)
    first, inputs = first_node(program), len(program.inputs)
    if any(number < inputs and number not in reads for number in needed):
        raise UserError(
            "what a shard begins with depends on another's parameters: this model cannot be shared"
        )
    constants = [number for number in needed if inputs <= number < first]
    made = part_of(program, reads, constants, [number for number in needed if number >= first], makes)
    return _named(
        made,
        [program.inputs[number].name for number in reads],
        [program.outputs[number].name for number in working],
    )


def _epilogue(run: TracedRun, own: Sequence[int], inner: Program, working: int) -> Program:
    """Return a shard's epilogue: of its parameters' start and its working state to their contribution."""
    sizes, b = run.sizes, Builder()
    start = [_port(b, f"parameter/{sizes.parameters[n].name}", run) for n in own]
    for place in own:
        _port(b, f"momentum/{sizes.parameters[place].name}", run)
    held = {port.name: b.port(port.name, port.dtype, port.shape) for port in inner.inputs[:working]}
    now = [held[f"working/parameter/{sizes.parameters[place].name}"] for place in own]
    nothing, has_loss = b.scalar(0.0), LOSS in held
    ended = Working(now, [], held.get(LOSS, nothing), held.get(STEP, nothing), nothing, nothing)
    if not has_loss:
        ended = replace(ended, step=b.scalar(1, "int64"))
    packed, norm, loss = compress(b, start, ended, [sizes.grids[n] for n in own], sizes.job.compression)
    names = [f"contribution/{sizes.parameters[place].name}" for place in own]
    outputs = [*zip(names, packed, strict=True), ("norm", norm), ("loss", loss if has_loss else nothing)]
    return b.finish("epilogue", outputs)


def _port(b: Builder, name: str, run: TracedRun) -> Value:
    port = next(port for port in run.epilogue.inputs if port.name == name)
    return b.port(port.name, port.dtype, port.shape)


def _behind(program: Program, wanted: Iterable[int]) -> list[int]:
    """Return all values that some depend on, and these, ascending."""
    found, waiting, first = set[int](), list(wanted), first_node(program)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += map(int, program.nodes[number - first].inputs) if number >= first else []
    return sorted(found)


def _named(program: Program, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    ports = zip(inputs, program.inputs, strict=True)
    made = zip(outputs, program.outputs, strict=True)
    return replace(
        program,
        inputs=tuple(Port(name, port.dtype, port.shape) for name, port in ports),
        outputs=tuple(Output(name, output.source) for name, output in made),
    )


def _counts(numbers: Iterable[int]) -> tuple[Count, ...]:
    return tuple(map(Count, numbers))
