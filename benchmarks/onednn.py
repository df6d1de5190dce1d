"""float32 linear layers through oneDNN, forward and backward, in stock PyTorch.

PyTorch sends float32 products to MKL, which takes its slow path on AMD processors with AVX-512; oneDNN does not. The
operator below is what TorchInductor emits for frozen inference; its three products make a trainable layer.
"""

import torch
from torch import nn


@torch.library.custom_op("proofswarm_benchmarks::product", mutates_args=())
def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [..., K] times the transpose of weight [N, K]: [..., N] by oneDNN's inner product."""
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return made


@product.register_fake
def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        return product(gradient, weight.t()), product(rows.t(), x.reshape(-1, x.shape[-1]).t())


class OneDnnLinear(nn.Module):
    """A linear layer without bias that shares another's weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [..., K] to [..., N]."""
        made: torch.Tensor = _Linear.apply(x, self.weight)
        return made


def through_onednn(model: nn.Module) -> nn.Module:
    """Replace every linear layer without bias in `model` and return it."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear) and child.bias is None:
            setattr(model, name, OneDnnLinear(child))
        else:
            through_onednn(child)
    return model
