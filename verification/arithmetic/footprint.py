"""Footprints: which blocks of which inputs hold what a number is made of, and how many bytes these can be.

A tensor opens by rows over its first dimension and by blocks of a row (SPEC.md 2.2), so whoever shows a number shows
its block and the digests from there to the tensor's own.
"""

import math
from typing import NamedTuple

from verification.arithmetic.definition import Definition, Read
from verification.arithmetic.numbers import FORMATS, Number
from verification.arithmetic.places import BLOCK, Site, Spec

LAST_TERMS = 64
"""Terms of a total that are shown at once, at the end of a dispute."""

DIGEST_BYTES = 32


class Block(NamedTuple):
    """A block of an input: of which row, and which of that row's."""

    input: int
    row: int
    block: int


def rows_of(shape: tuple[int, ...]) -> int:
    """Return how many rows a tensor has: one for each place of its first dimension, or one in all."""
    return shape[0] if len(shape) > 1 else 1


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


def most_bytes(definition: Definition, site: Site) -> int:
    """Return the most bytes of blocks and paths that a number's last step can need: its value's, or 64 terms'."""
    one = sum(sorted((_block_bytes(spec) for spec in site.inputs), reverse=True)[: definition.reads])
    return one * (LAST_TERMS if definition.totals else 1)


def _block_bytes(spec: Spec) -> int:
    rows = rows_of(spec.shape)
    width = math.prod(spec.shape) // max(rows, 1)
    path = _depth(rows) + _depth(-(-width // BLOCK))
    return min(width, BLOCK) * FORMATS[spec.dtype].size + path * DIGEST_BYTES


def _depth(leaves: int) -> int:
    return max(0, leaves - 1).bit_length()
