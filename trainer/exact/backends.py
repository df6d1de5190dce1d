"""Backends of the exact integer matrix product: ways to compute the same integers with the kernels at hand.

Each splits or converts its int16 operands so that every partial sum is exact whatever the order, the vector width and
the use of fused multiply-add; `refusal` states the sizes for which that holds. Slices follow Ozaki et al.,
"Error-free transformations of matrix multiplication" (2012). None is used before it has passed its certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from trainer.exact import int8, int16
from trainer.exact.int8 import INT8
from trainer.exact.int16 import INT16

Multiply = Callable[[Tensor], Tensor]
"""int16 [B, M, K] to float64 [B, M, N] that holds exact integers."""


@dataclass(frozen=True)
class Backend:
    """`refusal(device, bits, depth)` says in one line why this backend cannot serve, or nothing when it can.

    `against(right, bits)` prepares int16 [B, K, N] once and returns the function that multiplies by it.
    `rounded(left, right, left_scale, right_scale, bits)`, where there is one, gives the scaled float32 at once:
    int16 [B, M, K] and [B, K, N], float64 [B, M] and [B, N] to float32 [B, M, N].
    `prepare(left, right, left_scale, right_scale, result, bits)`, where there is one, returns what does `rounded` into
    a float32 [B, M, N] that exists, any number of times: no work but the product.
    `instructions()`, where there are any to name, says what a backend that serves was compiled to.
    """

    refusal: Callable[[torch.device, int, int], str]
    against: Callable[[Tensor, int], Multiply]
    rounded: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor] | None = None
    prepare: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Callable[[], None]] | None = None
    instructions: Callable[[], str] | None = None


def _top(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


# One product in floating point. Integers below 2^53 or 2^24 are float64's or float32's own, so nothing rounds.


def _fits_float64(device: torch.device, bits: int, depth: int) -> str:
    return "" if depth * _top(bits) ** 2 < 2**53 else "sums exceed 2^53"


def _float64(right: Tensor, bits: int) -> Multiply:
    prepared = right.to(torch.float64)
    return lambda left: torch.matmul(left.to(torch.float64), prepared)


def _fits_numpy(device: torch.device, bits: int, depth: int) -> str:
    return _fits_float64(device, bits, depth) if device.type == "cpu" else "runs on the CPU only"


def _numpy_matmul(left: Tensor, right: Tensor) -> Tensor:
    """NumPy brings OpenBLAS, whose kernels use all of an AMD processor; MKL in PyTorch's wheel does not."""
    _follow_threads(torch.get_num_threads())
    return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))


def _numpy64(right: Tensor, bits: int) -> Multiply:
    prepared = right.to(torch.float64)
    return lambda left: _numpy_matmul(left.to(torch.float64), prepared)


@cache
def _openblas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _follow_threads(threads: int) -> None:
    for library in _openblas().lib_controllers:
        if library.num_threads != threads:
            library.set_num_threads(threads)


FLOAT32_LIMIT = 2**24
LEAST_BLOCK = 256
"""Blocks of K shorter than this cost more in additions than float32 gains."""


def _fits_float32(device: torch.device, bits: int, depth: int) -> str:
    if _float32_block(bits) < max(1, min(depth, LEAST_BLOCK)):
        return f"float32 holds too few products of {bits} bits exactly"
    return _fits_float64(device, bits, depth)


def _fits_numpy32(device: torch.device, bits: int, depth: int) -> str:
    return _fits_float32(device, bits, depth) if device.type == "cpu" else "runs on the CPU only"


def _float32_block(bits: int) -> int:
    """Products of two numbers that float32 sums exactly in any order: 1,040 for 8 bits."""
    return FLOAT32_LIMIT // _top(bits) ** 2


def _in_blocks(matmul: Callable[[Tensor, Tensor], Tensor], right: Tensor, bits: int) -> Multiply:
    """Sum float32 products over blocks of K in float64.

    TF32 and bfloat16 modes do no harm: 8 bits fit into either's significand, and both accumulate in float32.
    """
    block, depth = _float32_block(bits), right.shape[1]
    prepared = right.to(torch.float32)

    def multiply(left: Tensor) -> Tensor:
        operand = left.to(torch.float32)
        total = matmul(operand[..., :block], prepared[:, :block]).to(torch.float64)
        for k in range(block, depth, block):
            total += matmul(operand[..., k : k + block], prepared[:, k : k + block])
        return total

    return multiply


# Products of int8 slices, summed in int32: hi * 2^7 + lo, both within -64..64 for up to 14 bits.

SLICED_BITS = 14
INT8_DEPTH = 2**31 // 2**14
"""Below this many products of full-range int8, any sum fits into int32."""


def _fits_int8(device: torch.device, bits: int, depth: int) -> str:
    if bits > SLICED_BITS:
        return f"two 7-bit slices hold {SLICED_BITS} bits"
    return "" if depth < INT8_DEPTH else f"int32 holds sums of fewer than {INT8_DEPTH} products"


def slices(q: Tensor) -> tuple[Tensor, Tensor]:
    """(hi, lo) int8 with q = hi * 128 + lo, both within -64..64. q: int16 of at most 14 bits."""
    high = (q + 64) >> 7
    return high.to(torch.int8), (q - (high << 7)).to(torch.int8)


def int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """int8 [B, M, K] by int8 [B, K, N] to int32 [B, M, N]; on CUDA padded to what its kernels accept."""
    (batch, rows, depth), columns = left.shape, right.shape[2]
    if 0 in (batch, rows, depth, columns):
        return torch.zeros(batch, rows, columns, dtype=torch.int32, device=left.device)
    if left.device.type == "cuda":
        # cuBLASLt wants more than 16 rows, multiples of 8, and the right side with K contiguous.
        left = torch.nn.functional.pad(left, (0, -depth % 8, 0, max(0, 32 - rows)))
        right = torch.nn.functional.pad(right.mT, (0, -depth % 8, 0, -columns % 8)).mT
    result = torch.empty(batch, left.shape[1], right.shape[2], dtype=torch.int32, device=left.device)
    for index in range(batch):
        torch._int_mm(left[index], right[index], out=result[index])
    return result[:, :rows, :columns]


def _four_slices(right: Tensor, bits: int) -> Multiply:
    """No kernel saturates on 7-bit slices: a pair of products is at most 2^13, or 192 * 64 * 2 with one side biased."""
    right_high, right_low = slices(right)

    def multiply(left: Tensor) -> Tensor:
        high, low = slices(left)
        middle = int8_matmul(high, right_low)
        middle += int8_matmul(low, right_high)
        return _recombined(int8_matmul(high, right_high), middle, int8_matmul(low, right_low))

    return multiply


def _full_range(right: Tensor, bits: int) -> Multiply:
    """One product of up to 8 bits; else three by Karatsuba's trick, with hi + lo within -128..127."""
    if bits <= 8:
        whole = right.to(torch.int8)
        return lambda left: int8_matmul(left.to(torch.int8), whole).to(torch.float64)
    right_high, right_low = slices(right)
    right_sum = right_high + right_low

    def multiply(left: Tensor) -> Tensor:
        high, low = slices(left)
        highs, lows = int8_matmul(high, right_high), int8_matmul(low, right_low)
        middle = int8_matmul(high + low, right_sum).sub_(highs).sub_(lows)
        return _recombined(highs, middle, lows)

    return multiply


def _recombined(highs: Tensor, middle: Tensor, lows: Tensor) -> Tensor:
    return highs.to(torch.float64).mul_(128).add_(middle).mul_(128).add_(lows)


# The reference.


def _fits_int64(device: torch.device, bits: int, depth: int) -> str:
    return _fits_float64(device, bits, depth) if device.type == "cpu" else "no int64 product on this device"


def _int64(right: Tensor, bits: int) -> Multiply:
    prepared = right.to(torch.int64)
    return lambda left: torch.matmul(left.to(torch.int64), prepared).to(torch.float64)


REFERENCE = "int64"
TRUSTED = "float64"
"""What every machine has, and what the others must agree with."""

BACKENDS: dict[str, Backend] = {
    "int16": Backend(int16.refusal, INT16.against, INT16.rounded, INT16.prepare, INT16.instructions),
    "int8-tiles": Backend(int8.refusal, INT8.against, INT8.rounded, INT8.prepare, INT8.instructions),
    TRUSTED: Backend(_fits_float64, _float64),
    "numpy64": Backend(_fits_numpy, _numpy64),
    "int8": Backend(_fits_int8, _full_range),
    "int8-slices": Backend(_fits_int8, _four_slices),
    "float32": Backend(_fits_float32, lambda right, bits: _in_blocks(torch.matmul, right, bits)),
    "numpy32": Backend(_fits_numpy32, lambda right, bits: _in_blocks(_numpy_matmul, right, bits)),
    REFERENCE: Backend(_fits_int64, _int64),
}
"""By name, in the order in which equals are preferred."""
