"""Nodes that need too much memory, a band of rows at a time: each number comes from those at its own place. Pure.

Rows are the places along the first dimension. So an update of the largest parameter, or its part of an outer step, fits
where a few of its rows do, with the bits of the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from trainer.shards.memory import need_of
from verification.operators import OPERATORS
from verification.program import Node, Port, Program, Sized, first_node, values
from verification.units import Count

Value = TypeVar("Value", Port, Node)


@dataclass(frozen=True)
class Bands:
    """How a program of so many `rows` runs: `heights` are the rows of each band, from the first on.

    `is_cut` says of which inputs a band reads its own rows alone.
    """

    rows: int
    heights: tuple[int, ...]
    programs: dict[int, Program]
    """The program of a band, by its height."""
    is_cut: tuple[bool, ...]

    def spans(self) -> Iterator[tuple[Program, int, int]]:
        """Yield each band's program, its first row and that after its last."""
        begin = 0
        for height in self.heights:
            yield self.programs[height], begin, begin + height
            begin += height


def bands_of(program: Program, begin: int, memory: int) -> Bands | None:
    """Return the bands, as few as can be, in which a program runs in `memory` bytes, its constants left out.

    Its nodes from number `begin` on have rows, those before may be views that it makes again. None where some number
    comes from others than those at its own place, or not even one row fits.
    """
    first, has_rows = first_node(program), _with_rows(program, begin)
    if has_rows is None:
        return None
    rows = int(program.nodes[begin - first].shape[0])
    height, fits = 0, 1 << rows.bit_length()
    while fits > 1:  # the greatest height that fits, bit by bit
        fits //= 2
        if height + fits <= rows and need_of(_of_height(program, has_rows, height + fits)) <= memory:
            height += fits
    if not height:
        return None
    count = -(-rows // height)
    heights = tuple((rows + place) // count for place in range(count))
    programs = {each: _of_height(program, has_rows, each) for each in sorted(set(heights))}
    return Bands(rows, heights, programs, tuple(has_rows[: len(program.inputs)]))


def _with_rows(program: Program, begin: int) -> list[bool] | None:
    """Return which values a band has its own rows of; None where a program is none that runs in bands."""
    known, first = values(program), first_node(program)
    like = known[begin].shape
    if not like or like[0] < 2:
        return None
    found = [_has_rows(value, like) for value in known]
    if any(found[len(program.inputs) : first]):
        return None
    for number, node in enumerate(program.nodes, first):
        reads_rows = any(found[source] for source in node.inputs)
        if not found[number] and (number >= begin or reads_rows):
            return None
        if found[number] and not OPERATORS[node.operator].by_place:
            return None
    return found


def _has_rows(value: Sized, like: Sequence[Count]) -> bool:
    return len(value.shape) == len(like) and value.shape[0] == like[0]


def _of_height(program: Program, has_rows: Sequence[bool], height: int) -> Program:
    """Return a program of fewer rows."""

    def lower(value: Value, is_cut: bool) -> Value:
        return replace(value, shape=(Count(height), *value.shape[1:])) if is_cut else value

    first = first_node(program)
    inputs = tuple(map(lower, program.inputs, has_rows))
    return replace(program, inputs=inputs, nodes=tuple(map(lower, program.nodes, has_rows[first:])))
