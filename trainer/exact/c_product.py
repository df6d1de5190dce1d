"""Products compiled by the machine's own C compiler at first use and loaded with ctypes: what their kernels share.

Without a compiler their backends refuse and another one serves, with the same bits.
"""

import ctypes
from collections.abc import Callable
from functools import cached_property
from importlib import resources

import torch
from torch import Tensor

from trainer.exact.native import CannotCompile


class _Operand(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("outer", ctypes.c_int64),
        ("depth", ctypes.c_int64),
    )


class Task(ctypes.Structure):
    """The `task` of product.h."""

    _fields_ = (
        ("left", _Operand),
        ("right", _Operand),
        ("batch", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("run", ctypes.c_int64),
        ("left_scale", ctypes.c_void_p),
        ("right_scale", ctypes.c_void_p),
        ("scaled", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
    )

    def round_into(self, left_scale: Tensor, right_scale: Tensor, result: Tensor) -> None:
        """Set float64 scales [B, M] and [B, N] and the float32 [B, M, N] of the way out, all contiguous."""
        self.left_scale, self.right_scale = left_scale.data_ptr(), right_scale.data_ptr()
        self.scaled = result.data_ptr()


TEXTS = {
    "int16.c": ("product.h", "int16.c"),
    "int8.c": ("product.h", "tiles.h", "tiles_amx.h", "tiles_arm.h", "int8.c"),
}
"""The files of each kernel, in their order."""


def text(kernel: str) -> str:
    """Return the C text of a kernel, int16.c or int8.c, after what kernels share."""
    folder = resources.files("trainer.exact")
    return "".join(folder.joinpath(name).read_text("utf-8") for name in TEXTS[kernel])


def instructions(library: ctypes.CDLL) -> str:
    """Return what a kernel multiplies with, for people, or nothing where the instructions it is for are missing."""
    library.instructions.restype = ctypes.c_char_p
    name: bytes | None = library.instructions()
    return (name or b"").decode()


class CompiledProduct:
    """The ways out of a kernel that a `Backend` has, and its library, built at first use."""

    def __init__(self, load: Callable[[], ctypes.CDLL], run: Callable[[int], int]) -> None:
        """`load` builds the library or raises CannotCompile; `run` is the task's, by bits."""
        self._load = load
        self.run = run

    @cached_property
    def library(self) -> ctypes.CDLL | CannotCompile:
        """The loaded library, or why there is none."""
        try:
            return self._load()
        except CannotCompile as error:
            return CannotCompile(str(error))  # a new one: the frames of that one would keep a step's tensors

    def instructions(self) -> str:
        """Return what the library multiplies with, for people, or nothing where there is none."""
        return "" if isinstance(self.library, CannotCompile) else instructions(self.library)

    def refusal(self, device: torch.device) -> str:
        """Say why this machine's processor cannot serve, or nothing."""
        if device.type != "cpu":
            return "runs on the CPU only"
        return str(self.library) if isinstance(self.library, CannotCompile) else ""

    def against(self, right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
        """Return the function that multiplies int16 [B, M, K] by right, int16 [B, K, N], into float64 [B, M, N]."""

        def multiply(left: Tensor) -> Tensor:
            result = torch.empty(left.shape[0], left.shape[1], right.shape[2], dtype=torch.float64)
            task = self.task(left, right, bits)
            task.exact = result.data_ptr()
            self.call(task)
            return result

        return multiply

    def rounded(
        self, left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bits: int
    ) -> Tensor:
        """The product times float64 left_scale [B, M] and right_scale [B, N], contiguous, as float32 [B, M, N]."""
        result = torch.empty(left.shape[0], left.shape[1], right.shape[2])
        self.prepare(left, right, left_scale, right_scale, result, bits)()
        return result

    def prepare(
        self,
        left: Tensor,
        right: Tensor,
        left_scale: Tensor,
        right_scale: Tensor,
        result: Tensor,
        bits: int,
    ) -> Callable[[], None]:
        """Return what does `rounded` into a float32 [B, M, N] that exists, any number of times."""
        task = self.task(left, right, bits)
        task.round_into(left_scale, right_scale, result)
        kept = (left, right, left_scale, right_scale, result)

        def run() -> None:
            assert kept
            self.call(task)

        return run

    def task(self, left: Tensor, right: Tensor, bits: int) -> Task:
        """Return the product of int16 [B, M, K] and [B, K, N], without scales and a way out."""
        (batch, rows, depth), columns = left.shape, right.shape[2]
        a, b = left.stride(), right.stride()
        sides = _Operand(left.data_ptr(), a[0], a[1], a[2]), _Operand(right.data_ptr(), b[0], b[2], b[1])
        return Task(*sides, batch, rows, columns, depth, bits, self.run(bits))

    def call(self, task: Task) -> None:
        """Do a product on as many threads as torch uses.

        Raises CannotCompile without a library, MemoryError when the function has no room to work in.
        """
        if isinstance(self.library, CannotCompile):
            raise self.library
        if self.library.product(ctypes.byref(task), ctypes.c_int(torch.get_num_threads())):
            raise MemoryError("no memory for the packed operands of a product")
