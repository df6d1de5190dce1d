"""Tensor digests at the speed of SHA-256: the law's tree in C, over the libcrypto that Python itself hashes with.

A tensor has a hash for each block of 1,024 numbers and three for each row, so in Python most of the time goes into
calls. Where there is no compiler, or no such library, `verification.tensors` makes the same digests.
"""

import _hashlib
import ctypes
import functools
import math
import warnings
from collections.abc import Callable
from importlib import resources

import numpy as np
import torch

from trainer.exact.native import CannotCompile, build
from verification.arithmetic.places import BLOCK, rows_of
from verification.digest import beginning
from verification.tensors import ITEM_BYTES, Tensor, hash_with, root_over
from verification.units import Count, Digest

PURPOSES = ("block/leaf", "block/node", "block/root", "row/leaf", "row/node", "row/root")
"""In the order of hashing.c."""
SYMBOLS = ("SHA256_Init", "SHA256_Update", "SHA256_Final")
DIGEST = 32


class SlowDigests(UserWarning):
    """Digests are made in Python, several times slower."""


class _Numbers(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("is_float", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


@functools.cache
def hash_natively() -> None:
    """Have this process hash tensors in C, on torch's threads; warns where that cannot be."""
    made = _made()
    if isinstance(made, CannotCompile):
        warnings.warn(refusal(), SlowDigests, stacklevel=2)
    else:
        hash_with(made)


def refusal() -> str:
    """Say in a line why digests are slow here, or nothing."""
    made = _made()
    is_slow = isinstance(made, CannotCompile)
    return f"tensors are hashed in Python, several times slower: {made}" if is_slow else ""


@functools.cache
def _made() -> Callable[[Tensor], Digest] | CannotCompile:
    """Return what gives the root over a tensor's rows, tried on tensors of all kinds, or why there is none."""
    try:
        roots = Roots()
    except CannotCompile as error:
        return CannotCompile(str(error))
    wrong = next((each for each in _trials() if roots(each) != root_over(each)), None)
    return (
        roots
        if wrong is None
        else CannotCompile(f"the compiled one errs on {wrong.dtype} {list(wrong.shape)}")
    )


class Roots:
    """Gives the root over the rows of tensors that are not empty."""

    def __init__(self) -> None:
        """Build the library; raises CannotCompile, also where Python hashes without libcrypto."""
        self._library = build(resources.files("trainer.exact").joinpath("hashing.c").read_text("utf-8"))
        try:
            crypto = ctypes.CDLL(_hashlib.__file__)
            found = [ctypes.cast(getattr(crypto, name), ctypes.c_void_p).value for name in SYMBOLS]
        except (AttributeError, OSError) as error:
            raise CannotCompile(f"Python's own libcrypto gives no SHA-256 to others: {error}") from error
        self._library.size_of_hashes.restype = ctypes.c_int64
        size = self._library.size_of_hashes()
        self._room = ctypes.create_string_buffer(size + 64)
        start = ctypes.addressof(self._room)
        self._hashes = ctypes.c_void_p(start + -start % 64)
        assert self._hashes.value is not None
        functions = (ctypes.c_void_p * len(found)).from_address(self._hashes.value)
        for place, function in enumerate(found):
            functions[place] = function
        for place, purpose in enumerate(PURPOSES):
            prefix = beginning(purpose)
            self._library.begin(self._hashes, place, prefix, ctypes.c_int64(len(prefix)))

    def __call__(self, tensor: Tensor) -> Digest:
        """Return the root over a tensor's rows."""
        data = np.frombuffer(tensor.data, dtype=np.uint8)
        rows, item = rows_of(tensor.shape), ITEM_BYTES[tensor.dtype]
        width, block, threads = len(data) // rows, BLOCK * item, min(torch.get_num_threads(), rows)
        is_float = tensor.dtype == "float32"
        numbers = _Numbers(data.ctypes.data, rows, width, block, is_float, threads)
        leaves = ctypes.create_string_buffer(rows * DIGEST)
        nodes = ctypes.create_string_buffer(threads * -(-width // block) * DIGEST)
        root = ctypes.create_string_buffer(DIGEST)
        self._library.root_over(self._hashes, ctypes.byref(numbers), leaves, nodes, root)
        return Digest(root.raw)


def _trials() -> list[Tensor]:
    """Return tensors of every dtype, in rows of one block, of several and of part of one, -0.0 among the floats."""
    made = []
    for dtype, size in ITEM_BYTES.items():
        for shape in ((), (3,), (5, 7), (3, 2500), (1, 1024), (2, 3, 400)):
            count = size * math.prod(shape)
            data = bytes(place * 7 % 251 if dtype != "bool" else place % 2 for place in range(count))
            if dtype == "float32":
                data = bytes.fromhex("00000080") + data[4:]
            made.append(Tensor(dtype, tuple(map(Count, shape)), data))
    return made
