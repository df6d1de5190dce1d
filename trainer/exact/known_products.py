"""Operands with known products, made to break integer product kernels that are nearly right.

Saturating and overflowing kernels agree with exact ones on small numbers, and some on any single
sign: the cases hold all entries at full magnitude in every pair of signs, odd shapes that reach
the tails of blocked loops, long sums, batches and empty dimensions. Numbers of a third of that magnitude let kernels
add more of them at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.exact.rng import uniform_bits

DEPTHS = (1, 2, 3, 7, 31, 64, 127, 255, 257, 1000, 1041, 4097, 65536)
SHORT_DEPTHS = (1, 2, 7, 64, 1041)
SHAPES = ((65, 129, 67), (1, 513, 130), (130, 515, 1), (33, 17, 259), (8, 1024, 24), (150, 1030, 9))
SHORT_SHAPES = ((65, 129, 67),)
EMPTY = ((0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0))
LARGE = (90, 70, 130)
SEED = b"proofswarm golden products"

Case = tuple[str, Tensor, Tensor]


def reference(left: Tensor, right: Tensor) -> Tensor:
    """The exact product by elementwise int64 multiplication and addition only, as float64."""
    a, b = left.to(torch.int64), right.to(torch.int64)
    step = max(1, 2**18 // max(1, a.shape[-2] * b.shape[-1]))
    total = (a[..., :step, None] * b[..., None, :step, :]).sum(-2)
    for k in range(step, a.shape[-1], step):
        total += (a[..., k : k + step, None] * b[..., None, k : k + step, :]).sum(-2)
    return total.to(torch.float64)


def cases(bits: int, device: torch.device, full: bool = True) -> Iterator[Case]:
    """(name, left int16 [B, M, K], right int16 [B, K, N]) with entries of at most 2^(bits-1)-1."""
    top = 2 ** (bits - 1) - 1
    for depth in DEPTHS if full else SHORT_DEPTHS:
        for most in (top, top // 3):
            yield from _various((3, depth, 5), most, device)
    for shape in SHAPES if full else SHORT_SHAPES:
        yield from _various(shape, top, device)
    for shape in EMPTY:
        yield f"empty {shape}", *_full(shape, top, top, device)
    yield from _layouts((9, 65, 17), top, device)
    if full:
        yield from _layouts(LARGE, top, device)


def _various(shape: tuple[int, int, int], top: int, device: torch.device) -> Iterator[Case]:
    for left, right in ((top, top), (-top, top), (top, -top), (-top, -top)):
        yield f"full {left} {right} {shape}", *_full(shape, left, right, device)
    yield f"signs of {top} {shape}", *_random(shape, top, device, True)
    yield f"random up to {top} {shape}", *_random(shape, top, device, False)


def _layouts(shape: tuple[int, int, int], top: int, device: torch.device) -> Iterator[Case]:
    """Batches, repeated and transposed memory, every second element."""
    m, k, n = shape
    a, b = _random((3 * m, k, 3 * n), top, device, full=True)
    left, right = a.view(3, m, k), b.view(k, 3, n).permute(1, 0, 2)
    yield f"batch {shape}", left, right
    yield f"transposed left {shape}", left.mT.contiguous().mT, right
    yield f"transposed right {shape}", left, right.mT.contiguous().mT
    yield f"repeated {shape}", left[:1].expand(3, m, k), right
    yield f"strided {shape}", left[:, ::2, ::2], right[:, ::2, ::2]
    yield f"empty batch {shape}", left[:0], right[:0]


def _full(shape: tuple[int, int, int], left: int, right: int, device: torch.device) -> tuple[Tensor, Tensor]:
    m, k, n = shape
    a = torch.full((1, m, k), left, dtype=torch.int16, device=device)
    return a, torch.full((1, k, n), right, dtype=torch.int16, device=device)


def _random(shape: tuple[int, int, int], top: int, device: torch.device, full: bool) -> tuple[Tensor, Tensor]:
    """Entries of full magnitude with random signs, or uniform within -top..top."""
    m, k, n = shape
    bits = uniform_bits(SEED, f"{m} {k} {n} {full}", (m + n) * k)
    if full:
        values = ((bits & 1) * 2 - 1) * top
    else:
        values = ((bits >> 16) & 0x7FFFFFFF) % (2 * top + 1) - top
    values = values.to(device=device, dtype=torch.int16)
    return values[: m * k].view(1, m, k), values[m * k :].view(1, k, n)
