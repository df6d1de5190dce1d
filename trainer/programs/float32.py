"""A program on PyTorch's own float32 kernels: the same work without exactness, against which its cost is measured."""

from collections.abc import Callable, Sequence

import torch

from trainer.exact import Products
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import plan
from trainer.programs.kernels import Binder, Binding, Kernel, plain
from trainer.programs.operators import OPERATORS
from trainer.programs.shapes import Spec, one
from verification.program import Program, first_node

CPU = torch.device("cpu")


def run_in_float32(
    program: Program, inputs: Sequence[torch.Tensor], device: torch.device = CPU
) -> list[torch.Tensor]:
    """Return the outputs of a checked program, rounded as PyTorch rounds: other bits on every machine."""
    products = Products(device)  # none of the kernels below multiplies by it
    kernels = [
        KERNELS.get(node.operator, OPERATORS[node.operator].binder)(
            Binding(dict(node.attributes), Spec(node.dtype, node.shape), products)
        )
        for node in program.nodes
    ]
    constants = map(to_torch, program.constants)
    known: dict[int, torch.Tensor] = dict(enumerate(x.to(device) for x in [*inputs, *constants]))
    for number, (kernel, sources, ending) in enumerate(plan(program, kernels), first_node(program)):
        known[number] = kernel(*[known[source] for source in sources])
        for dead in ending:
            del known[dead]
    return [known[output.source] for output in program.outputs]


def _reduced(reduce: Callable[..., torch.Tensor]) -> Binder:
    def bind(node: Binding) -> Kernel:
        dims, keepdim = node.attributes["dims"], bool(one(node.attributes, "keepdim"))
        return lambda value: reduce(value, dims, keepdim=keepdim)

    return bind


def _scatter_sum(node: Binding) -> Kernel:
    rows, shape = one(node.attributes, "rows"), node.declared.shape

    def kernel(index: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        flat = value.reshape(index.numel(), -1)
        made = torch.zeros(rows, flat.shape[1], dtype=value.dtype, device=value.device)
        return made.index_add_(0, index.reshape(-1), flat).reshape(shape)

    return kernel


KERNELS: dict[str, Binder] = {
    **{
        name: plain(getattr(torch, name))
        for name in ("divide", "sqrt", "exp", "log", "tanh", "erf", "sigmoid")
    },
    **{name: plain(getattr(torch, name)) for name in ("sin", "cos", "rsqrt")},
    "power": plain(torch.pow),
    "sum": _reduced(torch.sum),
    "mean": _reduced(torch.mean),
    "scatter_sum": _scatter_sum,
    # Numbers are multiplied as they are.
    "row_exponent": plain(lambda value: value),
    "quantise": plain(lambda value, exponent: value),
    "product": plain(lambda left, left_exponent, right, right_exponent: torch.matmul(left, right)),
}
"""What replaces the kernels of `trainer.exact`; all other operators are PyTorch's own already."""
