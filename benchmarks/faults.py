"""Faults of a machine as programs: one node more, or another constant, in a traced step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainer.programs.conversion import to_torch
from trainer.programs.tracing.capture import TracedRun
from verification.manifest import Place
from verification.program import Node, Output, Program, first_node
from verification.tensors import Tensor
from verification.units import Count


@dataclass(frozen=True)
class Fault:
    """A wrong node: `program` runs in place of the honest one, `numbers` maps its nodes to the honest numbers."""

    name: str
    place: Place
    node: int
    program: Program
    numbers: Mapping[int, int]


def after(name: str, place: Place, program: Program, leaf: int) -> Fault:
    """Return the fault that adds 1/64 to a node's float32 result."""
    return _with_node(name, place, program, leaf, leaf + 1, ("add", 0.015625, "float32"))


def before(name: str, place: Place, program: Program, leaf: int, source: int) -> Fault:
    """Return the fault that hands a node zeros in place of its int64 input `source`."""
    return _with_node(name, place, program, leaf, leaf, ("multiply", 0, "int64"), source)


def _with_node(
    name: str,
    place: Place,
    program: Program,
    leaf: int,
    at: int,
    change: tuple[str, float, str],
    source: int | None = None,
) -> Fault:
    """Return a fault by one more constant and one more node at position `at`."""  # fmt: skip
    first, constants = first_node(program), len(program.inputs) + len(program.constants)
    operator, number, dtype = change
    constant = Tensor(dtype, (), torch.tensor(number, dtype=getattr(torch, dtype)).numpy().tobytes())
    changed = first + leaf if source is None else source

    def moved(value: int, reader: int) -> Count:
        new = value if value < first else value + 1 + (value >= first + at)
        is_changed = value == changed and (reader >= at if source is None else reader == leaf)
        return Count(first + 1 + at if is_changed else new)

    nodes = [
        replace(node, inputs=tuple(moved(int(value), place) for value in node.inputs))
        for place, node in enumerate(program.nodes)
    ]
    sized: Any = program.nodes[changed - first] if changed >= first else program.inputs[changed]
    inner = Count(changed if changed < first else changed + 1)
    extra = Node(operator, (inner, Count(constants)), (), dtype, sized.shape)
    outputs = tuple(Output(o.name, moved(int(o.source), len(nodes))) for o in program.outputs)
    broken = replace(
        program,
        constants=(*program.constants, constant),
        nodes=(*nodes[:at], extra, *nodes[at:]),
        outputs=outputs,
    )
    numbers = {first + 1 + n + (n >= at): first + n for n in range(len(nodes))}
    if source is None:
        numbers[first + 1 + at] = numbers.pop(first + 1 + leaf)
    return Fault(name, place, first + leaf, broken, numbers)


def constant(name: str, place: Place, program: Program) -> Fault:
    """Return the fault of a machine that holds another value of the constant that is read last."""
    count, first = len(program.inputs), first_node(program)
    reads = [
        min((leaf for leaf, node in enumerate(program.nodes) if number in node.inputs), default=-1)
        for number in range(count, first)
    ]
    chosen = max(
        (n for n, c in enumerate(program.constants) if c.dtype == "float32" and not c.shape),
        key=lambda n: reads[n],
    )
    value = to_torch(program.constants[chosen]) * 1.5
    wrong = replace(program.constants[chosen], data=value.numpy().tobytes())
    constants = (*program.constants[:chosen], wrong, *program.constants[chosen + 1 :])
    numbers = {number: number for number in range(first, first + len(program.nodes))}
    return Fault(name, place, first + reads[chosen], replace(program, constants=constants), numbers)


def faults(run: TracedRun) -> list[Fault]:
    """Return one fault for every kind of node that matters."""
    inner, first = run.inner, first_node(run.inner)

    def leaves(program: Program, operator: str) -> list[int]:
        return [leaf for leaf, node in enumerate(program.nodes) if node.operator == operator]

    updated = [o for o in inner.outputs if o.name.startswith("working/parameter/") and "mlp" in o.name]
    (gather,), step = leaves(run.prologue, "gather"), Place.STEP
    index = int(run.prologue.nodes[gather].inputs[1])
    return [
        after("forward product", step, inner, leaves(inner, "product")[0]),
        after("softmax", step, inner, leaves(inner, "exp")[0]),
        after("backward product", step, inner, leaves(inner, "product")[-1]),
        after("embedding gradient", step, inner, leaves(inner, "scatter_sum")[-1]),
        after("optimizer update", step, inner, int(updated[-1].source) - first),
        constant("constant", step, inner),
        before("gather", Place.PROLOGUE, run.prologue, gather, index),
        after("compression", Place.EPILOGUE, run.epilogue, leaves(run.epilogue, "round")[0]),
    ]
