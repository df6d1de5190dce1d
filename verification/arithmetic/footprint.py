"""Footprints: which blocks of which inputs hold what a number is made of.

A tensor opens by rows over its first dimension and by blocks of a row (SPEC.md 2.2), so whoever shows a number shows
its block and the digests from there to the tensor's own.
"""

import math
from typing import NamedTuple

from verification.arithmetic.definition import Read
from verification.arithmetic.numbers import Number
from verification.arithmetic.places import BLOCK, Site, rows_of


class Block(NamedTuple):
    """A block of an input: of which row, and which of that row's."""

    input: int
    row: int
    block: int


def block_of(shape: tuple[int, ...], index: int) -> tuple[int, int, int]:
    """Return the row of a number, its block in that row, and its place in that block."""
    row, rest = divmod(index, math.prod(shape) // rows_of(shape))
    return row, *divmod(rest, BLOCK)


def noting(site: Site, read: Read, blocks: dict[Block, None]) -> Read:
    """Return a reader that notes the block of each number that it is asked for, once, in the order of their first use.

    What a definition asks it for is the footprint of the number, or of the terms, that it computes.
    """

    def noted(place: int, index: int) -> Number:
        row, block, _ = block_of(site.inputs[place].shape, index)
        blocks[Block(place, row, block)] = None
        return read(place, index)

    return noted
