"""How a tensor's numbers stand in the tree under its digest: rows over the first dimension, blocks of 1,024 in a row.

(SPEC.md 2.2)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from verification import merkle
from verification.arithmetic.footprint import block_of
from verification.arithmetic.places import BLOCK, rows_of
from verification.statements import OpenedBlock
from verification.tensors import ITEM_BYTES, Tensor, tensor_of_root
from verification.units import Count, Digest


@dataclass(frozen=True)
class Grid:
    """Rows and blocks of a tensor of a dtype and a shape; numbers are counted in C order."""

    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def numbers(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many rows: one below two dimensions."""
        return rows_of(self.shape)

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.numbers // self.rows

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.width // BLOCK)

    def place(self, index: int) -> tuple[int, int, int]:
        """Return the row of a number, the block in it, and the number's place in that."""
        return block_of(self.shape, index)

    def first_in(self, row: int, block: int = 0) -> int:
        """Return the first number of a block."""
        return row * self.width + block * BLOCK

    def length_of(self, block: int) -> int:
        """Return how many numbers a block has."""
        return min(BLOCK, self.width - block * BLOCK)

    def leaf_of_row(self, top: Digest) -> Digest:
        """Return the lowest node over a row from the top over its blocks."""
        return merkle.leaf_of("row", merkle.crown("block", self.blocks, top))

    def digest(self, top: Digest) -> Digest:
        """Return the tensor's digest from the top over its rows."""
        return tensor_of_root(self.dtype, self._counts, merkle.crown("row", self.rows, top))

    @property
    def empty(self) -> Digest:
        """The digest of a tensor without numbers."""
        return tensor_of_root(self.dtype, self._counts, None)

    @property
    def of_zeros(self) -> Digest:
        """The digest of a tensor of zeros, of which no more than a row is made."""
        if not self.numbers:
            return self.empty
        row = Tensor(self.dtype, (Count(self.width),), bytes(self.width * ITEM_BYTES[self.dtype]))
        (leaf,) = row.leaves
        return tensor_of_root(self.dtype, self._counts, merkle.root("row", [leaf] * self.rows))

    def digest_of_block(
        self, place: tuple[int, int], data: bytes, in_row: Sequence[Digest], in_tensor: Sequence[Digest]
    ) -> Digest:
        """Return the tensor's digest from a block at (row, block) and its paths; raises BadEvidence for wrong ones."""
        row = merkle.root_of_path("block", data, place[1], self.blocks, in_row)
        root = merkle.root_of_path("row", row, place[0], self.rows, in_tensor)
        return tensor_of_root(self.dtype, self._counts, root)

    @property
    def _counts(self) -> tuple[Count, ...]:
        return tuple(map(Count, self.shape))


class Rows(Protocol):
    """A tensor that is not empty, as its digest sees it: a `Tensor`, or one that is made row by row when asked for."""

    @property
    def leaves(self) -> Sequence[Digest]:
        """The leaf of each row."""
        ...

    def blocks(self, row: int) -> Sequence[bytes]:
        """Return the blocks of a row. (SPEC.md 2.2)"""
        ...


def open_blocks(tensor: Rows, wanted: Sequence[tuple[int, int]]) -> tuple[OpenedBlock, ...]:
    """Return blocks (row, block) of a tensor with their paths."""
    in_tensor = merkle.paths("row", tensor.leaves, [row for row, _ in wanted])
    opened = []
    for (row, block), path in zip(wanted, in_tensor, strict=True):
        blocks = tensor.blocks(row)
        in_row = merkle.path("block", blocks, block)
        opened.append(OpenedBlock(Count(row), Count(block), blocks[block], in_row, path))
    return tuple(opened)
