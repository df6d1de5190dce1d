"""A learned bottleneck behind a block: its hidden states are made narrow, and wide again for the next block.

The first numbers of a row go through as they are, and matrices that begin as zeros add what training finds of the rest:
an identity of low rank with a learned residual, as Residual Bottleneck Models have one (Aboudib et al., 2026). All
bottlenecks of a model keep the same numbers, so that the identity leads through all of them.

This file needs PyTorch alone: an exported model brings it along.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

NAME = "boundary"
"""What a block calls its bottleneck."""


class Encoder(nn.Module):
    """Rows [..., wide] to [..., narrow]: their first numbers, and `weight`, [narrow, wide], of all."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(narrow, wide))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., narrow] of [..., wide]."""
        return hidden[..., : len(self.weight)] + functional.linear(hidden, self.weight)


class Decoder(nn.Module):
    """Rows [..., narrow] to [..., wide]: themselves, zeros behind them, and `weight`, [wide, narrow], of all."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(wide, narrow))

    def forward(self, narrow: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., wide] of [..., narrow]."""
        missing = len(self.weight) - narrow.shape[-1]
        return functional.pad(narrow, (0, missing)) + functional.linear(narrow, self.weight)


class Bottleneck(nn.Module):
    """An encoder, behind whose result a boundary may stand, and a decoder."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(wide, narrow), Decoder(wide, narrow)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers a row has outside and inside."""
        wide, narrow = self.decoder.weight.shape
        return wide, narrow

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., wide] of [..., wide]."""
        made: torch.Tensor = self.decoder(self.encoder(hidden))
        return made


def add_bottlenecks(model: nn.Module, sizes: Mapping[str, Sequence[int]]) -> None:
    """Put a bottleneck, wide and narrow, behind each block that is named, in place."""
    for name, (wide, narrow) in sizes.items():
        block = model.get_submodule(name)
        block.add_module(NAME, Bottleneck(wide, narrow))
        block.register_forward_hook(_through)


def bottlenecks_in(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what `add_bottlenecks` has put into a model."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Bottleneck)}
    return {name.removesuffix(f".{NAME}"): module.sizes for name, module in found.items()}


def _through(block: nn.Module, given: object, made: Any) -> Any:
    """Return what a block makes, its hidden states through the bottleneck."""
    bottleneck = block.get_submodule(NAME)
    if isinstance(made, tuple):
        return (bottleneck(made[0]), *made[1:])
    return bottleneck(made)
