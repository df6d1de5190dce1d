"""Short forms of `row_exponent` and `quantise` for tensors that fit into cache; the same bits as `trainer.exact`.

A training step quantises a few hundred tensors of some 100,000 elements, where blocks and a second check for NaN cost
more than the work. What these forms do not cover goes to the general ones.
"""

import torch

from trainer import exact
from trainer.exact.scale import binary_exponent, power_of_two32

CACHED_ELEMENTS = 1 << 18
"""Elements up to which whole-tensor passes stay in cache."""

LOWEST_EXPONENT = -112
"""From here on 2**(bits - 1 - exponent) is a finite float32 for up to 16 bits, as in `trainer.exact.quantise`."""


def row_exponent(value: torch.Tensor, dim: int) -> torch.Tensor:
    """`exact.row_exponent`: int16 with `dim` as 1; raises NonFinite."""
    if value.numel() > CACHED_ELEMENTS:
        return exact.row_exponent(value, dim)
    return binary_exponent(value.abs().amax(dim, keepdim=True)).to(torch.int16)


def quantise(value: torch.Tensor, exponent: torch.Tensor, dim: int, bits: int) -> torch.Tensor:
    """`exact.quantise`: int16 of `value`'s shape; `exponent` is `row_exponent(value, dim)`, so `value` is finite."""
    if value.numel() > CACHED_ELEMENTS or int(exponent.min()) < LOWEST_EXPONENT:
        return exact.quantise(value, exponent, dim, bits)
    limit = float(2 ** (bits - 1) - 1)
    # exact.quantise multiplies in float32 too: by a power of two, so nothing is rounded before round_.
    scaled = torch.mul(value, power_of_two32(bits - 1 - exponent.to(torch.int32)))
    return scaled.round_().clamp_(-limit, limit).to(torch.int16)
