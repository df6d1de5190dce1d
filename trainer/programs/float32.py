"""A program on PyTorch's own float32 kernels: the same work without exactness, against which its cost is measured."""

from collections.abc import Sequence

import torch

from trainer.exact import Products
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import plan
from trainer.programs.kernels import Binding
from trainer.programs.operators import OPERATORS
from verification.arithmetic.places import Spec
from verification.program import Program, first_node, last_uses

CPU = torch.device("cpu")


def run_in_float32(
    program: Program, inputs: Sequence[torch.Tensor], device: torch.device = CPU
) -> list[torch.Tensor]:
    """Return the outputs of a checked program, rounded as PyTorch rounds: other bits on every machine."""
    products = Products(device)  # by which no native kernel multiplies
    kernels = [
        OPERATORS[node.operator].native_binder(
            Binding(dict(node.attributes), Spec(node.dtype, node.shape), products)
        )
        for node in program.nodes
    ]
    constants = map(to_torch, program.constants)
    known: dict[int, torch.Tensor] = dict(enumerate(x.to(device) for x in [*inputs, *constants]))
    for number, (kernel, sources, ending) in enumerate(
        plan(program, kernels, last_uses(program)), first_node(program)
    ):
        known[number] = kernel(*[known[source] for source in sources])
        for dead in ending:
            del known[dead]
    return [known[output.source] for output in program.outputs]
