"""bfloat16 training on processors without its instructions, where PyTorch's own kernels are twenty times slower."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.trainers import Trainer

aten = torch.ops.aten
PRODUCTS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default})


class WideProducts(TorchDispatchMode):
    """Computes products of bfloat16 matrices with float32 kernels and rounds the results to bfloat16.

    That is what bfloat16 instructions do: exact products of the rounded operands, summed in float32. Only the order of
    the sums is another one.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen the operands of a product and round what it makes; leave every other operator alone."""
        tensors = [part for part in args if isinstance(part, torch.Tensor)]
        if func not in PRODUCTS or any(part.dtype is not torch.bfloat16 for part in tensors):
            return func(*args, **(kwargs or {}))
        return func(*tree_map_only(torch.Tensor, torch.Tensor.float, args), **(kwargs or {})).bfloat16()


class Widened:
    """A trainer whose bfloat16 products are computed that way."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def step(self) -> float:
        """Do the next step and return its loss, in nats a byte."""
        with WideProducts():
            return self._trainer.step()

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the float32 parameters as they are now, by name."""
        return self._trainer.parameters()


def has_instructions() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported
