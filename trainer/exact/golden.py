"""Operands with known products, made to break integer product kernels that are nearly right.

Saturating and overflowing kernels agree with exact ones on small numbers, and some on any single
sign: the cases hold all entries at full magnitude in every pair of signs, odd shapes that reach
the tails of blocked loops, long sums, batches and empty dimensions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.exact.rng import uniform_bits

DEPTHS = (1, 2, 3, 7, 31, 64, 127, 255, 257, 1000, 4097, 65536)
SHAPES = ((65, 129, 67), (1, 513, 130), (130, 515, 1), (33, 17, 259), (8, 1024, 24))
EMPTY = ((0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0))
SEED = b"proofswarm golden products"

Case = tuple[str, Tensor, Tensor]


def reference(qa: Tensor, qb: Tensor) -> Tensor:
    """The exact product by elementwise int64 multiplication and addition only, as float64."""
    left, right = qa.to(torch.int64), qb.to(torch.int64)
    step = 512
    total = (left[..., :step, None] * right[..., None, :step, :]).sum(-2)
    for k in range(step, left.shape[-1], step):
        terms = left[..., k : k + step, None] * right[..., None, k : k + step, :]
        total += terms.sum(-2)
    return total.to(torch.float64)


def cases(bits: int, device: torch.device) -> Iterator[Case]:
    """(name, qa int16 [..., M, K], qb int16 [..., K, N]) with entries of at most 2^(bits-1)-1."""
    top = 2 ** (bits - 1) - 1
    for depth in DEPTHS:
        shape = (3, depth, 5)
        for left, right in ((top, top), (-top, top), (top, -top), (-top, -top)):
            yield f"full {left} {right} {shape}", *_full(shape, left, right, device)
        yield f"signs {shape}", *_random(shape, top, device, full=True)
        yield f"random {shape}", *_random(shape, top, device, full=False)
    for shape in SHAPES:
        yield f"full {shape}", *_full(shape, top, -top, device)
        yield f"signs {shape}", *_random(shape, top, device, full=True)
        yield f"random {shape}", *_random(shape, top, device, full=False)
    for shape in EMPTY:
        yield f"empty {shape}", *_full(shape, top, top, device)
    yield from _layouts(top, device)


def _layouts(top: int, device: torch.device) -> Iterator[Case]:
    """Batches, broadcast batches and transposed memory."""
    m, k, n = 9, 65, 17
    a, b = _random((6 * m, k, 6 * n), top, device, full=True)
    left, right = a.view(2, 3, m, k), b.view(k, 6, n).permute(1, 0, 2).reshape(2, 3, k, n)
    yield "batch", left, right
    yield "batch times matrix", left, right[0, 0]
    yield "broadcast batch", left[:, :1], right[:1]
    yield "transposed left", left[0, 0].t().contiguous().t(), right[0, 0]
    yield "transposed right", left[0, 0], right[0, 0].t().contiguous().t()
    yield "empty batch", left[:0], right[:0]


def _full(shape: tuple[int, int, int], left: int, right: int, device: torch.device) -> tuple[Tensor, Tensor]:
    m, k, n = shape
    a = torch.full((m, k), left, dtype=torch.int16, device=device)
    return a, torch.full((k, n), right, dtype=torch.int16, device=device)


def _random(shape: tuple[int, int, int], top: int, device: torch.device, full: bool) -> tuple[Tensor, Tensor]:
    """Entries of full magnitude with random signs, or uniform within -top..top."""
    m, k, n = shape
    bits = uniform_bits(SEED, f"{m} {k} {n} {full}", (m + n) * k)
    if full:
        values = ((bits & 1) * 2 - 1) * top
    else:
        values = ((bits >> 16) & 0x7FFFFFFF) % (2 * top + 1) - top
    values = values.to(device=device, dtype=torch.int16)
    return values[: m * k].view(m, k), values[m * k :].view(k, n)
