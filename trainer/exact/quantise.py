"""Rows and columns as small integers with one power-of-two scale each.

Follows block floating point with exponents read from bits; the integers then enter exact products
(Ozaki et al., "Error-free transformations of matrix multiplication", 2012, uses the same split).
"""

import math

import torch
from torch import Tensor

from trainer.exact.blocks import block_buffer, inverse, memory_order, tiles
from trainer.exact.checks import require_float32
from trainer.exact.errors import NonFinite
from trainer.exact.scale import binary_exponent, power_of_two32, power_of_two64

BITS_MIN = 2
BITS_MAX = 16

# From this exponent on, 2^(bits-1-e) is a finite float32 for every allowed number of bits.
_FLOAT32_EXPONENT = BITS_MAX - 1 - 127


def split_at(x: Tensor, dim: int) -> tuple[Tensor, list[int], tuple[int, int, int]]:
    """View x in memory order as [outer, length of dim, inner]; also the order of dimensions used."""
    order = memory_order(x)
    dense = x.detach().permute(order).contiguous()
    place = order.index(dim % x.dim())
    shape = dense.shape
    sizes = (math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :]))
    return dense.view(sizes), order, sizes


def magnitude(x: Tensor, dim: int) -> Tensor:
    """max |x| along dim of a float32 tensor, dim dropped; zero where dim is empty. NaN stays NaN."""
    if x.shape[dim] == 0:
        return x.new_zeros([n for d, n in enumerate(x.shape) if d != dim % x.dim()])
    return torch.maximum(x.amax(dim), x.amin(dim).neg_())


def row_exponent(x: Tensor, dim: int) -> Tensor:
    """The power-of-two scale of every row along dim: 2^(e-1) <= max|x| < 2^e.

    x: float32, at least 1-D. Returns int16 of x's shape with dim kept as 1, within -148..128.
    A row of zeros gets -148, the exponent of the least subnormal: quantising scales by
    2^(bits-1-e), and a smaller e would only bring that scale nearer to overflow.
    Raises NonFinite on an infinity or a NaN, TypeError for other dtypes.
    """
    require_float32(x, "x")
    exponent = binary_exponent(magnitude(x.detach(), dim))
    return exponent.to(torch.int16).unsqueeze(dim % x.dim())


def quantise(x: Tensor, exponent: Tensor, dim: int, bits: int = 14) -> Tensor:
    """round_half_even(x * 2^(bits-1-e)) clamped to +-(2^(bits-1)-1), as int16 of x's shape.

    x: float32 [..., n, ...]; exponent: integers of x's shape with dim as 1, from `row_exponent`;
    bits: 2..16, counting the sign. A zero of either sign gives 0.
    Raises NonFinite on an infinity or a NaN in x, ValueError for other bits or shapes.
    """
    require_float32(x, "x")
    if not BITS_MIN <= bits <= BITS_MAX:
        raise ValueError(f"bits must be {BITS_MIN}..{BITS_MAX}, not {bits}")
    source, order, (outer, length, inner) = split_at(x, dim)
    e = exponent.permute(order).reshape(outer, 1, inner)
    result = torch.empty(source.shape, dtype=torch.int16, device=x.device)
    if source.numel() == 0:
        return result.view([x.shape[d] for d in order]).permute(inverse(order))
    # A float32 product with a power of two is exact unless its result is subnormal, and those
    # round to 0 here anyway; only rows far below 1 need the wider range of float64.
    wide = int(e.min()) < _FLOAT32_EXPONENT
    scale = (power_of_two64 if wide else power_of_two32)(bits - 1 - e.to(torch.int64))
    limit = 2 ** (bits - 1) - 1
    work = block_buffer(source).to(scale.dtype)
    for a, b in tiles(outer, length, inner, x.device):
        block = source[a, b]
        _require_finite_block(block)
        scaled = work[: block.numel()].view(block.shape)
        if wide:
            scaled.copy_(block).mul_(scale[a])
        else:
            torch.mul(block, scale[a], out=scaled)
        result[a, b] = scaled.round_().clamp_(-limit, limit)
    return result.view([x.shape[d] for d in order]).permute(inverse(order))


def _require_finite_block(block: Tensor) -> None:
    low, high = torch.aminmax(block)
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        raise NonFinite("a tensor to quantise holds an infinity or a NaN")
