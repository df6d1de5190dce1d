"""What a dispute asks of whoever can re-run the execution: the digests of its nodes, and one node's inputs.

Written over an `Engine` like `trainer.rounds.training`. (SPEC.md 6.4)
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from trainer.rounds.engine import Engine
from trainer.rounds.training import Disputed
from verification.executor import StepFailed, failed
from verification.honest.actions import Traced
from verification.honest.openings import TraceList, Values, open_inputs, prove
from verification.layout import Home, origin_of
from verification.program import Program, first_node, program_head, size_bytes
from verification.statements import NodeInput
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
        return Traced(failure.node, (), (*results, failed(disputed.program, failure.node)))
    return Traced(None, tuple(engine.digests(outputs)), tuple(results))


def make_inputs(
    engine: Engine, disputed: Disputed, results: Sequence[Digest], number: int, trail: Sequence[TraceList]
) -> tuple[NodeInput, ...]:
    """Return the evidence for a node; `results` are the digests that `trace` gave. (SPEC.md 6.5)"""
    program = engine.program(disputed.program)
    node = program.nodes[number - first_node(program)]
    values = _values(engine, disputed, results, [*map(int, node.inputs)])
    sources = [s for s in dict.fromkeys(map(int, node.inputs)) if _is_brought(disputed, program, s)]
    return open_inputs(disputed.place, program_head(program), trail, values, node, sources)


def open_value(
    engine: Engine, disputed: Disputed, results: Sequence[Digest], number: int, trail: Sequence[TraceList]
) -> tuple[Digest, tuple[Digest, ...]]:
    """Return the digest of a value and the path that proves it. (SPEC.md 6.5)"""
    program = engine.program(disputed.program)
    first, values = first_node(program), _values(engine, disputed, results, [])
    if number >= first:
        digest = results[number - first]
    elif number < len(program.inputs) and disputed.inputs[number] is not None:
        digest = values.port(number)
    else:
        digest = tensor_digest(values.tensor(number))
    if not _is_brought(disputed, program, number):
        return digest, ()
    return digest, prove(disputed.place, program_head(program), trail, values, number)


def _is_brought(disputed: Disputed, program: Program, number: int) -> bool:
    if number >= len(program.inputs):
        return number >= first_node(program)
    port = origin_of(disputed.place, program_head(program), number)
    absent = port.home is Home.CONTRIBUTION and port.slot not in disputed.slots
    return port.home not in (Home.INDEX, Home.WEIGHTS) and not absent


class _Enough(Exception):
    """Everything that was wanted of an execution is there."""


def _values(engine: Engine, disputed: Disputed, results: Sequence[Digest], wanted: Sequence[int]) -> Values:
    """Execute as far as the wanted nodes, and keep their results."""
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
        with contextlib.suppress(_Enough):
            engine.run(disputed.program, [disputed.inputs], tap)

    def tensor(number: int) -> Tensor:
        if number >= first:
            return kept[number]
        if number >= count:
            return program.constants[number - count]
        held, port = disputed.inputs[number], program.inputs[number]
        if held is None:
            return Tensor(port.dtype, port.shape, bytes(size_bytes(port)))
        return engine.dump([held]).tensors[0]

    return Values(results, lambda number: engine.digests([disputed.inputs[number]])[0], tensor)
