"""The norm of a contribution, counted again from its tensors: it decides how much that weighs. (SPEC.md 2.7, 4.5)"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.rounds.engine import Unread, read
from verification.errors import Malformed
from verification.layout import SUMMARY, per_parameter
from verification.program import Node, Output, Port, Program, first_node, values
from verification.tensors import Tensor
from verification.units import Count

SOME = 1 << 20
"""Numbers that are counted at a time."""


class Norms:
    """Counts norms as one epilogue does.

    Raises Malformed for packed contributions whose norm does not follow from their tensors alone.
    """

    def __init__(self, epilogue: Program) -> None:
        """Integers that are packed are unpacked by the epilogue's own nodes."""
        known, outputs = values(epilogue), per_parameter(epilogue.outputs)
        packed = any(known[output.source].dtype == "uint8" for output in outputs)
        self._program = LoadedProgram(norm_program(epilogue)) if packed else None

    def of(self, contribution: Sequence[Tensor | Unread]) -> int:
        """Return the norm of a contribution of the epilogue's dtypes and shapes, in the memory of a tensor of it."""
        parts = (to_torch(read(part)) for part in per_parameter(contribution))
        if self._program is None:
            return sum(
                int(some.to(torch.int64).square().sum())
                for part in parts
                for some in part.reshape(-1).split(SOME)
            )
        (norm,) = self._program.run(list(parts))
        return int(norm)


def norm_program(epilogue: Program) -> Program:
    """Return the part of an epilogue that makes the norm of its contribution's tensors; raises Malformed for none."""
    known, first, constants = values(epilogue), first_node(epilogue), len(epilogue.inputs)
    given = per_parameter(epilogue.outputs)
    norm = dict(zip(SUMMARY, epilogue.outputs[-len(SUMMARY) :], strict=True))["norm"]
    number = {int(output.source): place for place, output in enumerate(given)}
    if len(number) < len(given):
        raise Malformed("the epilogue gives one tensor for two parameters: whoever made the run cheats")
    used, waiting = set[int](), [int(norm.source)]
    while waiting:
        value = waiting.pop()
        if value in number or value in used:
            continue
        if value < constants:
            raise Malformed(
                "the epilogue's norm does not follow from the contribution: whoever made the run cheats"
            )
        used.add(value)
        waiting += map(int, epilogue.nodes[value - first].inputs) if value >= first else []
    number |= {value: len(given) + place for place, value in enumerate(sorted(used))}

    def numbered(node: Node) -> Node:
        return replace(node, inputs=tuple(Count(number[int(source)]) for source in node.inputs))

    return replace(
        epilogue,
        role="norm",
        inputs=tuple(Port(o.name, known[o.source].dtype, known[o.source].shape) for o in given),
        constants=tuple(epilogue.constants[value - constants] for value in sorted(used) if value < first),
        nodes=tuple(numbered(epilogue.nodes[value - first]) for value in sorted(used) if value >= first),
        outputs=(Output("norm", Count(number[int(norm.source)])),),
    )
