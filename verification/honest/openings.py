"""What a challenger brings: blocks of a node's inputs with their paths, and outputs that are not what they should be.

The other side of `verification.referee`. Paths run in the accused's trace: below the first difference the challenger's
own results are the accused's too, and above it the accused's lists give every sibling. (SPEC.md 6.5)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verification import merkle
from verification.digest import tagged_each
from verification.grid import Rows, open_blocks
from verification.layout import Held, Home, origin_of
from verification.manifest import Place
from verification.narrowing import segments
from verification.program import ProgramHead
from verification.statements import MAX_ENTRIES, OpenedInput
from verification.units import Count, Digest

TraceList = tuple[int, int, tuple[Digest, ...]]
"""(low, high, entries) of one list of a trace."""


@dataclass(frozen=True)
class Values:
    """What one execution held, by value number: `results` of its nodes in order, digests of ports, and tensors.

    `bundle` gives for a port the digests of all tensors of the bundle that it is of, and its place there. `made` gives
    None for a node that the execution did not come to.
    """

    results: Sequence[Digest]
    port: Callable[[int], Digest]
    bundle: Callable[[int], tuple[Sequence[Digest], int]]
    tensor: Callable[[int], Rows]
    made: Callable[[int], Rows | None]


def trace_path(trail: Sequence[TraceList], results: Sequence[Digest], leaf: int) -> tuple[Digest, ...]:
    """Return the path of an agreed leaf in the accused's trace; `trail` holds its lists, from the whole one down."""
    low, high, entries = trail[0]
    parts = segments(low, high)
    index = next(i for i, (start, end) in enumerate(parts) if start <= leaf < end)
    if high - low <= MAX_ENTRIES:
        nodes = tagged_each("trace/leaf", b"", entries)
        return merkle.paths_above("trace", nodes, [index])[0]
    start, end = parts[index]
    if len(trail) > 1 and trail[1][:2] == (start, end):
        below = trace_path(trail[1:], results, leaf)
    else:
        below = merkle.path("trace", results[start:end], leaf - start)
    return below + merkle.paths_above("trace", entries, [index])[0]


def prove(
    place: Place,
    head: ProgramHead,
    trail: Sequence[TraceList],
    values: Values,
    number: int,
    held: Held | None = None,
) -> tuple[Digest, ...]:
    """Return the path that proves a value's digest: in the trace, or in the bundle that its port belongs to."""
    if number >= head.first:
        return trace_path(trail, values.results, number - head.first)
    if origin_of(place, head, number, held).home not in (Home.START, Home.WORKING, Home.CONTRIBUTION):
        return ()
    digests, index = values.bundle(number)
    return merkle.path("bundle", digests, index)


def open_inputs(
    place: Place,
    head: ProgramHead,
    trail: Sequence[TraceList],
    values: Values,
    blocks: Sequence[tuple[int, int, int]],
    held: Held | None = None,
) -> tuple[OpenedInput, ...]:
    """Return the evidence that opens `blocks` (value, row, block) of a node's inputs. (SPEC.md 6.5)"""
    opened = []
    for source in dict.fromkeys(value for value, _, _ in blocks):
        wanted = [(row, block) for value, row, block in blocks if value == source]
        path = prove(place, head, trail, values, source, held)
        opened.append(OpenedInput(Count(source), path, open_blocks(values.tensor(source), wanted)))
    return tuple(opened)
