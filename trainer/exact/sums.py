"""Sums of float32 numbers as integers: the order of addition cannot matter.

Rule: for a group of n numbers with max|x| < 2^e (the e of `row_exponent`), each number becomes the
integer round_half_even(x * 2^(bits-e)) with bits = min(50, 62 - ceil(log2 n)). Integers are at most
2^bits, so that every partial sum stays within 2^62. The integer sum is rounded to float64, scaled
by 2^(e-bits), and rounded to float32. Up to n = 2^12 a number of at least 2^-26 of the largest keeps
all its digits; the error of a sum before its two roundings is at most n * 2^(e-bits-1).
"""

import math

import torch
from torch import Tensor

from trainer.exact.blocks import block_buffer, inverse, memory_order, tiles
from trainer.exact.checks import require_float32
from trainer.exact.scale import binary_exponent, power_of_two64
from verification.arithmetic.numbers import MAGIC

SUM_BITS = 62
NUMBER_BITS = 50
_MAGIC_BITS = 0x4338000000000000


def fixed_point_bits(count: int) -> int:
    """min(50, 62 - ceil(log2 count)): the bits of each of count numbers, count at least 1."""
    return min(NUMBER_BITS, SUM_BITS - (count - 1).bit_length())


def exact_sum(x: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Sum over dims (all dimensions when empty).

    x: float32 of any shape; the sum is float32, inf where it exceeds float32; an empty sum is 0.
    Integers and booleans are summed as int64 instead. Raises NonFinite for an infinity or a NaN
    in x, TypeError for other dtypes.
    """
    dims = _normal(x, dims)
    if not x.is_floating_point():
        return x.detach().sum(dims, keepdim=keepdim, dtype=torch.int64) if dims else x.to(torch.int64)
    return _sum64(x, dims).to(torch.float32).view(_reduced(x.shape, dims, keepdim))


def exact_mean(x: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Mean over dims (all dimensions when empty): the sum as float64 divided by n, then float32.

    x: float32 of any shape. Raises NonFinite as `exact_sum`, TypeError for other dtypes,
    ValueError for the mean of no numbers.
    """
    dims = _normal(x, dims)
    count = math.prod(x.shape[d] for d in dims)
    if count == 0:
        raise ValueError("the mean of no numbers")
    divisor = torch.full((), float(count), dtype=torch.float64, device=x.device)
    return _sum64(x, dims).div_(divisor).to(torch.float32).view(_reduced(x.shape, dims, keepdim))


def scatter_sum(index: Tensor, values: Tensor, rows: int) -> Tensor:
    """Row r of the result is the sum of values[i] over all i with index[i] == r.

    index: int64 [...] with n elements within 0..rows-1; values: float32 [n, D], or [..., D] with
    index's shape. Returns float32 [rows, D]. One exponent serves the whole of values, and the bits
    allow for all n numbers in one row. Raises NonFinite, TypeError, and torch's IndexError or
    RuntimeError for an index out of range. Integers are held only for the rows that the index names.
    """
    require_float32(values, "values")
    flat = index.reshape(-1)
    source = values.detach().reshape(flat.numel(), values.shape[-1])
    result = torch.zeros((rows, source.shape[1]), device=values.device)
    if source.numel() == 0:
        return result
    named, places = flat.unique(return_inverse=True)
    exponent = largest_exponent(source)
    total = _totals_by_row(places, source, len(named), exponent, flat.numel())
    return result.index_copy_(0, named, rounded_sum(total, exponent, flat.numel()))


def largest_exponent(x: Tensor, dims: tuple[int, ...] = ()) -> Tensor:
    """The e with max|x| < 2^e over dims (all when empty): int64, the dimensions left in order. Raises NonFinite."""
    low, high = (x.amin(dims), x.amax(dims)) if dims else torch.aminmax(x)
    return binary_exponent(torch.maximum(high, low.neg()))


def fixed_point_sum(x: Tensor, dims: tuple[int, ...], exponent: Tensor, terms: int) -> Tensor:
    """Sum over dims of x as integers on the scale that a sum of `terms` numbers below 2^exponent has.

    x: float32; exponent: int64 of x's shape without dims, as the result. Sums over parts of the terms add up to all's.
    """
    groups, order = _groups(x.detach(), dims)
    kept = [d for d in order if d not in dims]
    places = [sorted(kept).index(d) for d in kept]
    outer, _, inner = groups.shape
    exponents = exponent.permute(places).reshape(outer, 1, inner)
    total = _totals(groups, power_of_two64(fixed_point_bits(terms) - exponents))
    return total.view([x.shape[d] for d in kept]).permute(inverse(places))


def fixed_point_scatter(index: Tensor, values: Tensor, rows: int, exponent: Tensor, terms: int) -> Tensor:
    """The integers [rows, D] of a `scatter_sum`, on the scale of `terms` numbers below 2^exponent, which is 0-d.

    index: int64 [n]; values: float32 [n, D].
    """
    return _totals_by_row(index, values.detach(), rows, exponent, terms)


def rounded_sum(total: Tensor, exponent: Tensor, terms: int, divisor: int = 1) -> Tensor:
    """What a sum, or a mean over a divisor, makes of its integers, rounded once to float32; of the total's shape."""
    scaled = total.to(torch.float64).mul_(power_of_two64(exponent - fixed_point_bits(terms)))
    return scaled.div_(scaled.new_full((), divisor)).to(torch.float32)


def _totals_by_row(index: Tensor, source: Tensor, rows: int, exponent: Tensor, terms: int) -> Tensor:
    total = torch.zeros((rows, source.shape[1]), dtype=torch.int64, device=source.device)
    scale = power_of_two64(fixed_point_bits(terms) - exponent)
    work = block_buffer(source)
    for part, _ in tiles(source.shape[0], 1, source.shape[1], source.device):
        total.index_add_(0, index[part], _fixed(source[part], scale, work))
    return total


def _fixed(block: Tensor, scale: Tensor, work: Tensor) -> Tensor:
    """round_half_even(block * scale) as int64, in the memory of work: float64, at least as large.

    Adding 1.5 * 2^52 rounds |v| < 2^51 to an integer and leaves it in the low bits, several times
    faster than a rounding and a conversion.
    """
    fixed = work[: block.numel()].view(block.shape).copy_(block).mul_(scale).add_(MAGIC)
    return fixed.view(torch.int64).sub_(_MAGIC_BITS)


def _sum64(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The sums as a flat float64 tensor, in the order of the remaining dimensions."""
    require_float32(x, "x")
    groups, order = _groups(x.detach(), dims)
    outer, count, inner = groups.shape
    if groups.numel() == 0:
        return torch.zeros(outer * inner, dtype=torch.float64, device=x.device)
    exponent = binary_exponent(torch.maximum(groups.amax(1), groups.amin(1).neg_()))
    bits = fixed_point_bits(count)
    scale = power_of_two64(bits - exponent).unsqueeze(1)
    result = _totals(groups, scale).to(torch.float64).mul_(power_of_two64(exponent - bits))
    kept = [d for d in order if d not in dims]
    if kept == sorted(kept):
        return result.view(-1)
    back = inverse([sorted(kept).index(d) for d in kept])
    return result.view([x.shape[d] for d in kept]).permute(back).reshape(-1)


def _totals(groups: Tensor, scale: Tensor) -> Tensor:
    """The sums over the middle of [outer, count, inner] as int64, scale [outer, 1, inner] a number's power of two."""
    outer, count, inner = groups.shape
    work = block_buffer(groups)
    if work.numel() == groups.numel():
        return _fixed(groups, scale, work).sum(1)
    total = torch.zeros((outer, inner), dtype=torch.int64, device=groups.device)
    for a, b in tiles(outer, count, inner, groups.device):
        total[a] += _fixed(groups[a, b], scale[a], work).sum(1)
    return total


def _groups(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """x as [outer, count, inner] with the summed dimensions in the middle, copied only if needed."""
    order = memory_order(x)
    places = [place for place, d in enumerate(order) if d in dims]
    if places and places[-1] - places[0] != len(places) - 1:
        order = [d for d in order if d not in dims] + [d for d in order if d in dims]
        places = list(range(x.dim() - len(dims), x.dim()))
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    dense = x.permute(order).contiguous()
    shape = dense.shape
    sizes = (math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))
    return dense.view(sizes), order


def _normal(x: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    chosen = {d % x.dim() for d in dims} if dims else set(range(x.dim()))
    return tuple(sorted(chosen))


def _reduced(shape: torch.Size, dims: tuple[int, ...], keepdim: bool) -> list[int]:
    if keepdim:
        return [1 if d in dims else n for d, n in enumerate(shape)]
    return [n for d, n in enumerate(shape) if d not in dims]
