"""Exact integer matrix products, scaled and rounded once.

Every partial sum is an integer that the kernel's number type represents, so that any order of accumulation, any vector
width, any library and fused multiply-add all give the same number. `backends` holds the ways to compute that integer,
`certificate` proves each on this machine, `choice` takes the fastest; none of it can change a bit.
"""

import math
from itertools import product as pairs

import numpy as np
import torch
from torch import Tensor

from trainer.exact.backends import BACKENDS, Backend
from trainer.exact.blocks import block_elements
from trainer.exact.choice import Products, Run
from trainer.exact.scale import power_of_two64

EXACT_LIMIT = 2**53
BLOCKS = 8
"""Blocks of `block_elements` that one step of an unfused product takes: enough rows to make its kernels efficient."""
COPIED = 1 << 22
"""Elements of a right operand that are converted at a time."""


def product(qa: Tensor, ea: Tensor, qb: Tensor, eb: Tensor, bits: int, by: Products | str) -> Tensor:
    """The exact sum over K of qa * qb, times 2^(ea+eb-2(bits-1)), rounded once to float32.

    qa: int16 [..., M, K]; ea: integers [..., M, 1]; qb: int16 [..., K, N]; eb: integers [..., 1, N],
    as `row_exponent` and `quantise` return them for dim -1 and dim -2; leading dimensions broadcast.
    `by` are the products that choose a certified backend, or the name of one of `BACKENDS`, taken as it is.
    Returns float32 [..., M, N], +-inf where the sum exceeds float32. Raises TypeError for other dtypes, ValueError when
    K and bits allow a sum that float64 does not represent exactly and for leading dimensions that do not broadcast,
    KeyError for an unknown backend, BackendFault.
    """
    left, right, shape = _matrices(qa, qb, bits)
    batch = () if qb.dim() == 2 else shape[:-2]
    left_scale = _scale(ea, bits).expand(*shape[:-1], 1).reshape(left.shape[:2]).contiguous()
    right_scale = (
        _scale(eb, bits).expand(*batch, 1, shape[-1]).reshape(right.shape[0], shape[-1]).contiguous()
    )

    def run(name: str) -> Tensor:
        chosen = BACKENDS[name]
        if chosen.rounded is not None:
            return chosen.rounded(left, right, left_scale, right_scale, bits)
        return _in_blocks(chosen, left, right, left_scale, right_scale, bits)

    return run(_backend(by, left, right, bits, run)).view(shape)


def integer_product(qa: Tensor, qb: Tensor, bits: int, by: Products | str) -> Tensor:
    """The exact sum over K of qa * qb as float64 [..., M, N]; arguments and errors as for `product`."""
    left, right, shape = _matrices(qa, qb, bits)

    def run(name: str) -> Tensor:
        return BACKENDS[name].against(right, bits)(left)

    return run(_backend(by, left, right, bits, run)).view(shape)


def scaled(total: Tensor, ea: Tensor, eb: Tensor, bits: int = 14) -> Tensor:
    """What `product` makes of its integers: float64 [..., M, N] from `integer_product`, rounded once to float32."""
    return (total * _scale(ea, bits)).mul_(_scale(eb, bits)).to(torch.float32)


def _backend(by: Products | str, left: Tensor, right: Tensor, bits: int, run: Run) -> str:
    return by if isinstance(by, str) else by.choose(left, right, bits, run)


def _matrices(qa: Tensor, qb: Tensor, bits: int) -> tuple[Tensor, Tensor, torch.Size]:
    """Both operands with one batch dimension, [B, M, K] and [B, K, N], and the shape of the result."""
    if qa.dtype != torch.int16 or qb.dtype != torch.int16:
        raise TypeError(f"expected int16 operands, not {qa.dtype} and {qb.dtype}")
    (rows, depth), columns = qa.shape[-2:], qb.shape[-1]
    if depth * (2 ** (bits - 1) - 1) ** 2 >= EXACT_LIMIT:
        raise ValueError(f"sums of {depth} products of {bits}-bit integers may exceed 2^53")
    if qb.dim() == 2:
        # A batch times one matrix is one taller product.
        return (
            qa.reshape(1, math.prod(qa.shape[:-1]), depth),
            qb.unsqueeze(0),
            torch.Size((*qa.shape[:-1], columns)),
        )
    batch = np.broadcast_shapes(qa.shape[:-2], qb.shape[:-2])  # torch's own loads sympy, for symbolic shapes
    left = qa.expand(*batch, rows, depth).reshape(math.prod(batch), rows, depth)
    right = qb.expand(*batch, depth, columns).reshape(math.prod(batch), depth, columns)
    return left, right, torch.Size((*batch, rows, columns))


def _scale(exponent: Tensor, bits: int) -> Tensor:
    return power_of_two64(exponent.to(torch.int64) - (bits - 1))


def _in_blocks(
    backend: Backend, left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bits: int
) -> Tensor:
    """Multiply, scale and round a block of matrices or rows at a time, so that the float64 sums stay in cache, and of
    a vocabulary's matrix some columns, whose copy is up to four times as wide.

    |total| < 2^53 and both scales lie in 2^-163..2^127: float64 neither rounds nor underflows.
    """
    (batch, rows, depth), columns = left.shape, right.shape[2]
    result = torch.empty(batch, rows, columns, dtype=torch.float32, device=left.device)
    room = BLOCKS * block_elements(left.device)
    wide = max(1, min(columns, max(room, COPIED) // max(1, depth)))
    along = max(1, min(rows, room // max(1, depth, wide)))
    across = max(1, room // max(1, along * max(depth, wide), depth * wide))
    for first, start in pairs(range(0, batch, across), range(0, columns, wide)):
        entries, part = slice(first, first + across), slice(start, start + wide)
        multiply = backend.against(right[entries, :, part], bits)
        for second in range(0, rows, along):
            block = slice(second, second + along)
            total = multiply(left[entries, block])
            total.mul_(left_scale[entries, block, None]).mul_(right_scale[entries, None, part])
            result[entries, block, part] = total
    return result
