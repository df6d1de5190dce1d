"""Rows and columns as small integers with one power-of-two scale each.

Follows block floating point with exponents read from bits; the integers then enter exact products
(Ozaki et al., "Error-free transformations of matrix multiplication", 2012, uses the same split).
"""

import math

import torch
from torch import Tensor

from trainer.exact.blocks import inverse, memory_order, tiles
from trainer.exact.checks import require_float32
from trainer.exact.scale import binary_exponent, power_of_two32

BITS_MIN = 2
BITS_MAX = 16

# From this exponent on, 2^(bits-1-e) is a finite float32 for every allowed number of bits.
_ONE_FACTOR = BITS_MAX - 1 - 127

CACHED_ELEMENTS = 1 << 18
"""Elements up to which whole-tensor passes stay in cache; walking in blocks would cost more than it saves."""


def row_exponent(x: Tensor, dim: int) -> Tensor:
    """The power-of-two scale of every row along dim: 2^(e-1) <= max|x| < 2^e.

    x: float32, at least 1-D. Returns int16 of x's shape with dim kept as 1, within -148..128.
    A row of zeros gets -148, the exponent of the least subnormal: quantising scales by
    2^(bits-1-e), and a smaller e would only bring that scale nearer to overflow.
    Raises NonFinite on an infinity or a NaN, TypeError for other dtypes.
    """
    require_float32(x, "x")
    x = x.detach()
    if x.shape[dim] == 0:
        largest = x.new_zeros([1 if d == dim % x.dim() else n for d, n in enumerate(x.shape)])
    else:
        # NaN stays NaN in both.
        largest = torch.maximum(x.amax(dim, keepdim=True), x.amin(dim, keepdim=True).neg_())
    return binary_exponent(largest).to(torch.int16)


def quantise(x: Tensor, exponent: Tensor, dim: int, bits: int = 14) -> Tensor:
    """round_half_even(x * 2^(bits-1-e)) clamped to +-(2^(bits-1)-1), as int16 of x's shape.

    x: float32 [..., n, ...]; exponent: `row_exponent(x, dim)`, which vouches that x is finite;
    bits: 2..16, counting the sign. A zero of either sign gives 0. Raises TypeError for other dtypes,
    ValueError for other bits.
    """
    require_float32(x, "x")
    if not BITS_MIN <= bits <= BITS_MAX:
        raise ValueError(f"bits must be {BITS_MIN}..{BITS_MAX}, not {bits}")
    limit = float(2 ** (bits - 1) - 1)
    if x.numel() == 0:
        return torch.empty_like(x, dtype=torch.int16)
    factors = _factors(exponent, bits)
    if x.numel() <= CACHED_ELEMENTS:
        scaled = torch.mul(x.detach(), factors[0])
        for factor in factors[1:]:
            scaled.mul_(factor)
        return scaled.round_().clamp_(-limit, limit).to(torch.int16)
    order = memory_order(x)
    dense = x.detach().permute(order).contiguous()
    place = order.index(dim % x.dim())
    shape = dense.shape
    outer, length, inner = math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :])
    source, factors = (
        dense.view(outer, length, inner),
        [f.permute(order).reshape(outer, 1, inner) for f in factors],
    )
    result = torch.empty(source.shape, dtype=torch.int16, device=x.device)
    for a, b in tiles(outer, length, inner, x.device):
        scaled = source[a, b] * factors[0][a]
        for factor in factors[1:]:
            scaled.mul_(factor[a])
        result[a, b] = scaled.round_().clamp_(-limit, limit)
    return result.view(shape).permute(inverse(order))


def _factors(exponent: Tensor, bits: int) -> list[Tensor]:
    """Powers of two in float32 whose product is 2^(bits-1-e): one, or two where one would overflow.

    A float32 product with a power of two is exact unless its result is subnormal. Of two factors
    below 1 the first may make a number subnormal, and so round it; the second then takes it below 1/2,
    where it rounds to 0 as its exact value does.
    """
    shift = bits - 1 - exponent.to(torch.int32)
    if int(exponent.min()) >= _ONE_FACTOR:
        return [power_of_two32(shift)]
    half = shift >> 1
    return [power_of_two32(half), power_of_two32(shift - half)]
