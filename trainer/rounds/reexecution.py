"""What a dispute asks of whoever can re-run the execution: the digests of its nodes, and the numbers of one.

Written over an `Engine` like `trainer.rounds.training`. (SPEC.md 6.4)
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from trainer.rounds.engine import Engine
from trainer.rounds.failures import suspects
from trainer.rounds.totals import NUMPY_DTYPES, Array, FastTotals
from trainer.rounds.training import Disputed
from verification import referee
from verification.arithmetic.numbers import Number, read_number
from verification.claims import Judged, Result
from verification.grid import Rows
from verification.honest.actions import Traced
from verification.honest.openings import TraceList, Values, open_inputs, prove
from verification.honest.within import Held, read_by
from verification.library import StepFailed, failed
from verification.program import Program, first_node, program_head, size_bytes, values
from verification.statements import OpenedInput
from verification.tensors import Tensor, tensor_digest
from verification.units import Digest


def trace(engine: Engine, disputed: Disputed) -> Traced:
    """Execute, and return the digests of all node results and of the outputs."""
    results: list[Digest] = []
    try:
        outputs = engine.run(
            disputed.program, [disputed.inputs], lambda n, value: results.extend(engine.digests([value]))
        )
    except StepFailed as failure:
        before = results[: failure.node - first_node(engine.program(disputed.program))]
        return Traced(failure.node, (), (*before, failed(disputed.program, failure.node)))
    return Traced(None, tuple(engine.digests(outputs)), tuple(results))


@dataclass(frozen=True)
class Holding:
    """One node of a disputed execution as one's own engine makes it, and the rest of the execution by digest."""

    disputed: Disputed
    program: Program
    number: int
    held: Held
    values: Values


def hold(engine: Engine, disputed: Disputed, number: int) -> Holding:
    """Execute as far as a node, and return what it reads and makes: a dispute below it asks for many parts of that."""
    program = engine.program(disputed.program)
    node, known = program.nodes[number - first_node(program)], values(program)
    sources = [int(source) for source in node.inputs]
    tensors, found = _values(engine, disputed, (), [*sources, number])
    result = referee.result_of(program_head(program), number, node, [known[source] for source in sources])
    inputs = {source: tensors(source) for source in dict.fromkeys(sources)}
    held = held_of(result, [inputs[source] for source in sources], found.made(number))
    return Holding(disputed, program, number, held, replace(found, tensor=inputs.__getitem__))


def held_of(result: Result, inputs: Sequence[Tensor], made: Rows | None) -> Held:
    """Return a node by its inputs and what it made of them."""
    arrays = [np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.dtype]) for tensor in inputs]

    def read(place: int, index: int) -> Number:
        return read_number(inputs[place].dtype, inputs[place].data, index)

    def read_many(place: int, indices: Array) -> Array:
        return arrays[place][indices]

    return Held(result, read, made, FastTotals(result, read, read_many), partial(suspects, result, read_many))


def open_claim(
    holding: Holding, results: Sequence[Digest], claim: Judged, trail: Sequence[TraceList]
) -> tuple[OpenedInput, ...]:
    """Return the evidence for a claim about a node; `results` are the digests that `trace` gave. (SPEC.md 6.5)"""
    program, disputed, held = holding.program, holding.disputed, holding.held
    head = program_head(program)
    sources = [int(source) for source in program.nodes[holding.number - first_node(program)].inputs]
    reads = dict.fromkeys(
        (sources[place], row, block) for place, row, block in read_by(claim, held.result, held.read)
    )
    about = disputed.place, disputed.slots, head
    brought = [read for read in reads if referee.is_brought(*about, read[0], disputed.held)]
    own = replace(holding.values, results=results)
    return open_inputs(disputed.place, head, trail, own, brought, disputed.held)


def open_value(
    engine: Engine, disputed: Disputed, results: Sequence[Digest], number: int, trail: Sequence[TraceList]
) -> tuple[Digest, tuple[Digest, ...]]:
    """Return the digest of a value and the path that proves it. (SPEC.md 6.5)"""
    program = engine.program(disputed.program)
    head, (tensors, held) = program_head(program), _values(engine, disputed, results, [])
    if number >= head.first:
        digest = results[number - head.first]
    elif number < len(head.inputs) and disputed.inputs[number] is not None:
        digest = held.port(number)
    else:
        digest = tensor_digest(tensors(number))
    if not referee.is_brought(disputed.place, disputed.slots, head, number, disputed.held):
        return digest, ()
    return digest, prove(disputed.place, head, trail, held, number, disputed.held)


class _Enough(Exception):
    """Everything that was wanted of an execution is there."""


def _values(
    engine: Engine, disputed: Disputed, results: Sequence[Digest], wanted: Sequence[int]
) -> tuple[Callable[[int], Tensor], Values]:
    """Execute as far as the wanted nodes, or to where the execution fails, and keep their results.

    Returns what gives each of them, a constant or a port as a tensor, and all values.
    """
    program = engine.program(disputed.program)
    count, first = len(program.inputs), first_node(program)
    missing, kept = {number for number in wanted if number >= first}, {}

    def tap(number: int, value: Any) -> None:
        if number in missing:
            kept[number] = engine.dump([value]).tensors[0]
            missing.remove(number)
        if not missing:
            raise _Enough

    if missing:
        with contextlib.suppress(_Enough, StepFailed):
            engine.run(disputed.program, [disputed.inputs], tap)

    def tensor(number: int) -> Tensor:
        if number >= first:
            return kept[number]
        if number >= count:
            return program.constants[number - count]
        held, port = disputed.inputs[number], program.inputs[number]
        if held is None:
            return Tensor(port.dtype, port.shape, bytes(size_bytes(port)))
        return engine.shown([held]).tensors[0]

    def port(number: int) -> Digest:
        return engine.digests([disputed.inputs[number]])[0]

    def bundle(number: int) -> tuple[list[Digest], int]:
        held, index = disputed.bundle_of(program_head(program), number)
        return engine.digests(held), index

    return tensor, Values(results, port, bundle, tensor, kept.get)
