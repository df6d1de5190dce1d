"""The product of `int16.c`: compiled by the machine's own C compiler at first use, loaded with ctypes.

PyTorch has no product of int16 matrices, though every vector unit does: it forms two products per 32 bits, twice what
float32 gets, and needs no slices. Without a compiler this backend refuses and another one serves, with the same bits.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import resources

import torch
from torch import Tensor

from trainer.native import CannotCompile, build

SUM_LIMIT = 2**31 - 2**16
"""What a run of pairs may sum to in int32, above the 16 bits that the run before it left."""


class _Operand(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("outer", ctypes.c_int64),
        ("depth", ctypes.c_int64),
    )


class _Task(ctypes.Structure):
    _fields_ = (
        ("left", _Operand),
        ("right", _Operand),
        ("batch", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("flush", ctypes.c_int64),
        ("left_scale", ctypes.c_void_p),
        ("right_scale", ctypes.c_void_p),
        ("scaled", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
    )


def flush_pairs(bits: int) -> int:
    """How many pairs of products of `bits`-bit integers an int32 sums before it must be emptied."""
    return int(SUM_LIMIT // (2 * (2 ** (bits - 1) - 1) ** 2))


def refusal(device: torch.device, bits: int, depth: int) -> str:
    """Say why the compiled product cannot serve, or nothing."""
    if device.type != "cpu":
        return "runs on the CPU only"
    longest = 2 * flush_pairs(bits) * (2**16 - 1)
    if depth > longest:
        return f"int32 holds the upper halves of sums of {longest} products only"
    found = _library()
    return str(found) if isinstance(found, CannotCompile) else ""


def against(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
    """Return the function that multiplies int16 [B, M, K] by right, int16 [B, K, N], into float64 [B, M, N]."""

    def multiply(left: Tensor) -> Tensor:
        result = torch.empty(left.shape[0], left.shape[1], right.shape[2], dtype=torch.float64)
        _run(_task(left, right, bits, exact=result.data_ptr()))
        return result

    return multiply


def rounded(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bits: int) -> Tensor:
    """The product times float64 left_scale [B, M] and right_scale [B, N], contiguous, as float32 [B, M, N]."""
    result = torch.empty(left.shape[0], left.shape[1], right.shape[2])
    task = _task(left, right, bits, scaled=result.data_ptr())
    task.left_scale, task.right_scale = left_scale.data_ptr(), right_scale.data_ptr()
    _run(task)
    return result


def prepare(
    left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, result: Tensor, bits: int
) -> Callable[[], None]:
    """Return what does `rounded` into a float32 [B, M, N] that exists, any number of times: no work but the product."""
    task = _task(left, right, bits, scaled=result.data_ptr())
    task.left_scale, task.right_scale = left_scale.data_ptr(), right_scale.data_ptr()
    kept = (left, right, left_scale, right_scale, result)

    def run() -> None:
        assert kept
        _run(task)

    return run


def _task(
    left: Tensor, right: Tensor, bits: int, scaled: int | None = None, exact: int | None = None
) -> _Task:
    (batch, rows, depth), columns = left.shape, right.shape[2]
    a, b = left.stride(), right.stride()
    sides = _Operand(left.data_ptr(), a[0], a[1], a[2]), _Operand(right.data_ptr(), b[0], b[2], b[1])
    return _Task(*sides, batch, rows, columns, depth, flush_pairs(bits), None, None, scaled, exact)


def _run(task: _Task) -> None:
    library = _library()
    if isinstance(library, CannotCompile):
        raise library
    if library.int16_product(ctypes.byref(task), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError("no memory for the packed operands of a product")


@cache
def _library() -> ctypes.CDLL | CannotCompile:
    try:
        return build(resources.files("trainer.exact").joinpath("int16.c").read_text("utf-8"))
    except CannotCompile as error:
        return error
