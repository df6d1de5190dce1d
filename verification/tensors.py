"""Tensors as the law sees them: a dtype's name, a shape and little-endian bytes. No torch.

A tensor's digest is a Merkle root over its rows, each row a Merkle root over blocks of 1,024 elements, with shape and
dtype in the top hash: one row or one block opens in a few kB. A bundle is an ordered list of tensors (a state, a
contribution); its digest is a root over theirs. (SPEC.md 2)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from verification import codec, merkle
from verification.arithmetic.numbers import FORMATS
from verification.arithmetic.places import BLOCK, MAX_DIMENSIONS, rows_of
from verification.digest import integer, tagged
from verification.errors import Malformed
from verification.units import Count, Digest

ITEM_BYTES = {dtype: form.size for dtype, form in FORMATS.items()}
"""Bytes of an element, by dtype."""

MAX_BYTES = (1 << 32) - 1
"""Bytes of the longest tensor: an encoding holds no longer byte string."""


@dataclass(frozen=True)
class Tensor:
    """`data` holds the elements of `shape` in C order, little-endian; raises ValueError otherwise. (SPEC.md 2.1)"""

    dtype: str
    shape: tuple[Count, ...]
    data: bytes

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"unknown dtype {self.dtype!r}")
        if len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(f"more than {MAX_DIMENSIONS} dimensions")
        if len(self.data) != math.prod(self.shape) * ITEM_BYTES[self.dtype]:
            raise ValueError("data does not have the length that dtype and shape give")
        if self.dtype == "bool" and self.data.translate(None, b"\0\1"):
            raise ValueError("a bool is a byte 0 or 1")

    @cached_property
    def leaves(self) -> list[Digest]:
        """`row_leaves`, computed once: who narrows a dispute about a tensor asks again and again."""
        return row_leaves(self)

    def blocks(self, row: int) -> list[bytes]:
        """`blocks_of`."""
        return blocks_of(self, row)


@dataclass(frozen=True)
class Bundle:
    """Tensors in the order that a program declares."""

    tensors: tuple[Tensor, ...]


def tensor_digest(tensor: Tensor) -> Digest:
    """Return the digest of a tensor; -0.0 counts as +0.0. A scalar is one row; rows run over the first dimension.

    (SPEC.md 2.2)
    """
    root = merkle.root("row", row_leaves(tensor)) if tensor.data else None
    return tensor_of_root(tensor.dtype, tensor.shape, root)


def digest_of_parts(dtype: str, shape: tuple[Count, Count], parts: Iterable[bytes]) -> Digest:
    """Return `tensor_digest` of rows that come some at a time; no part is empty. Raises ValueError for no rows."""
    width = shape[1]
    rows = (
        leaf
        for part in parts
        for leaf in row_leaves(Tensor(dtype, (Count(len(part) // (width * ITEM_BYTES[dtype])), width), part))
    )
    return tensor_of_root(dtype, shape, merkle.root_of_each("row", rows))


def tensor_of_root(dtype: str, shape: tuple[Count, ...], root: Digest | None) -> Digest:
    """Return the digest of a tensor from the root over its rows; None for one without elements. (SPEC.md 2.2)"""
    return tagged("tensor", codec.encode((dtype, shape)), *([] if root is None else [root]))


def row_leaves(tensor: Tensor) -> list[Digest]:
    """Return the leaf of each row of a tensor that is not empty: the root over its blocks."""
    data = hashed_bytes(tensor)
    rows = rows_of(tensor.shape)
    width = len(data) // rows
    parts = [data[i * width : (i + 1) * width] for i in range(rows)]
    block = BLOCK * ITEM_BYTES[tensor.dtype]
    if width <= block:
        return merkle.single_roots("block", parts)
    return [merkle.root("block", [row[i : i + block] for i in range(0, width, block)]) for row in parts]


def blocks_of(tensor: Tensor, row: int) -> list[bytes]:
    """Return the blocks of a row of a tensor that is not empty, as its digest sees them. (SPEC.md 2.2)"""
    width, block = len(tensor.data) // rows_of(tensor.shape), BLOCK * ITEM_BYTES[tensor.dtype]
    part = tensor.data[row * width : (row + 1) * width]
    one = Tensor(tensor.dtype, (Count(len(part) // ITEM_BYTES[tensor.dtype]),), part)
    data = hashed_bytes(one)
    return [data[i : i + block] for i in range(0, width, block)]


def hashed_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's bytes as its digest sees them: -0.0 as +0.0. (SPEC.md 2.2)"""
    if tensor.dtype != "float32":
        return tensor.data
    words = np.frombuffer(tensor.data, dtype="<u4")
    negative = words == 0x80000000
    return np.where(negative, np.uint32(0), words).astype("<u4").tobytes() if negative.any() else tensor.data


def bundle_digest(tensor_digests: Sequence[Digest]) -> Digest:
    """Return the digest of a bundle from the digests of its tensors, in order; raises ValueError for none."""
    return bundle_of_root(len(tensor_digests), merkle.root("bundle", tensor_digests))


def bundle_of_root(count: int, root: Digest) -> Digest:
    """Return the digest of a bundle of `count` tensors from the root over their digests. (SPEC.md 2.3)"""
    return tagged("bundle", integer(count), root)


def digest_of(bundle: Bundle) -> Digest:
    """Return `bundle_digest` over the bundle's own tensors."""
    return bundle_digest([tensor_digest(tensor) for tensor in bundle.tensors])


def head_of_one(dtype: str, shape: tuple[Count, ...]) -> bytes:
    """Return what precedes the elements, which come last, in the encoding of a bundle of one tensor.

    Raises ValueError for more than a byte string holds.
    """
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if size > MAX_BYTES:
        raise ValueError(f"a tensor of {size} bytes has no encoding")
    length = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    empty = codec.encode((((dtype, shape, b""),),))
    return empty[:-2] + bytes([0xC4 + length // 2]) + size.to_bytes(length, "big")


def decode_bundle(data: bytes, limit: int) -> Bundle:
    """Return the bundle that `data` encodes canonically; raises Malformed."""
    bundle = codec.decode(Bundle, data, limit)
    if not bundle.tensors:
        raise Malformed("a bundle needs a tensor")
    return bundle
