"""Tensors as the law sees them: a dtype's name, a shape and little-endian bytes. No torch.

A tensor's digest is a Merkle root over its rows, each row a Merkle root over blocks of 1,024 elements, with shape and
dtype in the top hash: one row or one block opens in a few kB. A bundle is an ordered list of tensors (a state, a
contribution); its digest is a root over theirs. (SPEC.md 2)
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, cast

import msgpack
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

PIECE = 1 << 22
"""Bytes of rows that are hashed together: what their digests are made of takes no more memory than a few of them."""

MAX_TENSORS = 1 << 19
"""Tensors of a bundle at most."""


@dataclass(frozen=True)
class Tensor:
    """`data` holds the elements of `shape` in C order, little-endian; raises ValueError otherwise. (SPEC.md 2.1)

    Where it was read from a file `data` is a bytearray, memory that torch can share; of who reads it anew for himself
    it may become a working state's. Of a file that is mapped it is a memoryview that nobody can write to.
    """

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
        if self.dtype == "bool" and bytes(self.data).translate(None, b"\0\1"):
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
    root = _root_over[0](tensor) if tensor.data else None
    return tensor_of_root(tensor.dtype, tensor.shape, root)


def root_over(tensor: Tensor) -> Digest:
    """Return the root over the rows of a tensor that is not empty. (SPEC.md 2.2)"""
    return merkle.root("row", row_leaves(tensor))


_root_over: list[Callable[[Tensor], Digest]] = [root_over]


def hash_with(root_over: Callable[[Tensor], Digest]) -> None:
    """Have all of this process make digests with what does the same as `root_over`, and faster."""
    _root_over[0] = root_over


def tensor_of_root(dtype: str, shape: tuple[Count, ...], root: Digest | None) -> Digest:
    """Return the digest of a tensor from the root over its rows; None for one without elements. (SPEC.md 2.2)"""
    return tagged("tensor", codec.encode((dtype, shape)), *([] if root is None else [root]))


def row_leaves(tensor: Tensor) -> list[Digest]:
    """Return the leaf of each row of a tensor that is not empty: the root over its blocks."""
    view, width = memoryview(tensor.data), len(tensor.data) // rows_of(tensor.shape)
    piece, leaves = max(1, PIECE // width) * width, list[Digest]()
    for begin in range(0, len(view), piece):
        leaves += _leaves_of(tensor.dtype, view[begin : begin + piece], width)
    return leaves


def _leaves_of(dtype: str, rows: memoryview, width: int) -> list[Digest]:
    data, block = hashed_bytes(dtype, rows), BLOCK * ITEM_BYTES[dtype]
    parts = [data[i : i + width] for i in range(0, len(data), width)]
    if width <= block:
        return merkle.single_roots("block", parts)
    return [merkle.root("block", [row[i : i + block] for i in range(0, width, block)]) for row in parts]


def blocks_of(tensor: Tensor, row: int) -> list[bytes]:
    """Return the blocks of a row of a tensor that is not empty, as its digest sees them. (SPEC.md 2.2)"""
    width, block = len(tensor.data) // rows_of(tensor.shape), BLOCK * ITEM_BYTES[tensor.dtype]
    data = hashed_bytes(tensor.dtype, tensor.data[row * width : (row + 1) * width])
    return [data[i : i + block] for i in range(0, width, block)]


def hashed_bytes(dtype: str, data: bytes | memoryview) -> bytes:
    """Return the bytes of elements as a digest sees them: -0.0 as +0.0. (SPEC.md 2.2)"""
    if dtype == "float32":
        words = np.frombuffer(data, dtype="<u4")
        negative = words == 0x80000000
        if negative.any():
            return np.where(negative, np.uint32(0), words).astype("<u4").tobytes()
    return bytes(data)


def bundle_digest(tensor_digests: Sequence[Digest]) -> Digest:
    """Return the digest of a bundle from the digests of its tensors, in order; raises ValueError for none."""
    return bundle_of_root(len(tensor_digests), merkle.root("bundle", tensor_digests))


def bundle_of_root(count: int, root: Digest) -> Digest:
    """Return the digest of a bundle of `count` tensors from the root over their digests. (SPEC.md 2.3)"""
    return tagged("bundle", integer(count), root)


def digest_of(bundle: Bundle) -> Digest:
    """Return `bundle_digest` over the bundle's own tensors."""
    return bundle_digest([tensor_digest(tensor) for tensor in bundle.tensors])


def encoded(bundle: Bundle) -> Iterator[bytes]:
    """Yield the encoding of a bundle in parts: heads, and the tensors' own bytes, which are not copied."""
    yield _head_of_list(len(bundle.tensors))
    for tensor in bundle.tensors:
        yield _head_of(tensor.dtype, tensor.shape)
        yield tensor.data


def decode_bundle(data: bytes, limit: int) -> Bundle:
    """Return the bundle that `data` encodes canonically; raises Malformed."""
    if len(data) > limit:
        raise Malformed(f"a bundle of {len(data)} bytes is over the limit of {limit}")
    return Bundle(tuple(read_tensors(io.BytesIO(data), len(data))))


def read_tensors(file: BinaryIO, size: int) -> Iterator[Tensor]:
    """Yield the tensors of the bundle that a file of `size` bytes encodes canonically, one after another.

    Their bytes are read once, into memory of their own, and only as far as the caller goes. Raises Malformed.
    """
    begun = file.read(_LONGEST_HEAD)
    count = _count_in(begun)
    left = size - _passed(file, begun, _head_of_list(count))
    for _ in range(count):
        begun = file.read(_LONGEST_HEAD)
        dtype, shape = _form_in(begun)
        wanted = math.prod(shape) * ITEM_BYTES[dtype]
        left -= _passed(file, begun, _head_of(dtype, shape)) + wanted
        data = bytearray(max(0, wanted if left >= 0 else 0))
        if left < 0 or file.readinto(data) != wanted:  # type: ignore[attr-defined]
            raise Malformed("a bundle is cut short")
        yield _tensor(dtype, shape, data)
    if left:
        raise Malformed(f"{left} bytes follow a bundle")


_LONGEST_HEAD = 128
"""More than what precedes the elements of any tensor: a dtype, a shape of at most 8 numbers, a length."""


def _head_of_list(count: int) -> bytes:
    packer = msgpack.Packer()
    return bytes(packer.pack_array_header(1) + packer.pack_array_header(count))


def _head_of(dtype: str, shape: tuple[Count, ...]) -> bytes:
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if size > MAX_BYTES:
        raise ValueError(f"a tensor of {size} bytes has no encoding")
    length = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    return codec.encode((dtype, shape, b""))[:-2] + bytes([0xC4 + length // 2]) + size.to_bytes(length, "big")


def _passed(file: BinaryIO, begun: bytes, head: bytes) -> int:
    """Go back to where a head ends that was read too far, and return its length; raises Malformed for another."""
    if not begun.startswith(head):
        raise Malformed("encoding is not canonical")
    file.seek(len(head) - len(begun), io.SEEK_CUR)
    return len(head)


def _count_in(begun: bytes) -> int:
    """Return the number of tensors that a bundle begins with; raises Malformed."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(begun)
    try:
        fields, count = unpacker.read_array_header(), int(unpacker.read_array_header())
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(f"not msgpack: {type(error).__name__}") from error
    if fields != 1 or not 1 <= count <= MAX_TENSORS:
        raise Malformed(f"a bundle has 1 to {MAX_TENSORS} tensors")
    return count


def _form_in(begun: bytes) -> tuple[str, tuple[Count, ...]]:
    """Return the dtype and shape that a tensor's encoding begins with; raises Malformed."""
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(begun)
    try:
        fields, dtype, shape = unpacker.read_array_header(), unpacker.unpack(), unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(f"not msgpack: {type(error).__name__}") from error
    if fields != 3 or type(dtype) is not str or dtype not in ITEM_BYTES:
        raise Malformed("a tensor has a dtype, a shape and elements")
    sizes = shape if type(shape) is tuple and len(shape) <= MAX_DIMENSIONS else (None,)
    if any(type(size) is not int or not 0 <= size <= MAX_BYTES for size in sizes):
        raise Malformed(f"a shape is at most {MAX_DIMENSIONS} sizes")
    if math.prod(sizes) * ITEM_BYTES[dtype] > MAX_BYTES:
        raise Malformed("a tensor is longer than a byte string")
    return dtype, sizes


def _tensor(dtype: str, shape: tuple[Count, ...], data: bytearray) -> Tensor:
    try:
        return Tensor(dtype, shape, cast(bytes, data))
    except ValueError as error:
        raise Malformed(str(error)) from error
