"""What a challenger brings: a disputed node's inputs with their paths, and outputs that are not what they should be.

The other side of `verification.referee`. Paths run in the accused's trace: below the first difference the challenger's
own results are the accused's too, and above it the accused's lists give every sibling. (SPEC.md 6.5)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verification import merkle
from verification.digest import tagged_each
from verification.layout import Home, origin_of
from verification.manifest import Place
from verification.narrowing import segments
from verification.operators import operator_of
from verification.program import Node, ProgramHead
from verification.referee import selection
from verification.statements import MAX_ENTRIES, NodeInput
from verification.tensors import Tensor, row_paths
from verification.units import Count, Digest

TraceList = tuple[int, int, tuple[Digest, ...]]
"""(low, high, entries) of one list of a trace."""


@dataclass(frozen=True)
class Values:
    """What one execution held, by value number: `results` of its nodes in order, digests of ports, and tensors."""

    results: Sequence[Digest]
    port: Callable[[int], Digest]
    tensor: Callable[[int], Tensor]


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
    place: Place, head: ProgramHead, trail: Sequence[TraceList], values: Values, number: int
) -> tuple[Digest, ...]:
    """Return the path that proves a value's digest: in the trace, or in the bundle that its port belongs to."""
    if number >= head.first:
        return trace_path(trail, values.results, number - head.first)
    port = origin_of(place, head, number)
    if port.home not in (Home.START, Home.WORKING, Home.CONTRIBUTION):
        return ()
    first = number - port.index
    return merkle.path("bundle", [values.port(first + i) for i in range(port.count)], port.index)


def open_inputs(
    place: Place,
    head: ProgramHead,
    trail: Sequence[TraceList],
    values: Values,
    node: Node,
    sources: Sequence[int],
) -> tuple[NodeInput, ...]:
    """Return the evidence for a node: `sources` are its inputs that must be opened. (SPEC.md 6.5)

    A gather's table opens by the rows that its index selects, when these are fewer than all.
    """
    opened = []
    for source in sources:
        tensor, path = values.tensor(source), prove(place, head, trail, values, source)
        by_rows = operator_of(node.operator).takes_rows and source == node.inputs[0] != node.inputs[1]
        if by_rows and len(tensor.shape) > 1:
            opened.append(_by_rows(tensor, values.tensor(int(node.inputs[1])), path))
        else:
            opened.append(NodeInput(tensor, path, Count(0), ()))
    return tuple(opened)


def _by_rows(table: Tensor, index: Tensor, path: tuple[Digest, ...]) -> NodeInput:
    if not table.data:
        return NodeInput(table, path, Count(0), ())
    total = table.shape[0]
    places, _, _ = selection(index, total)
    if len(places) >= total:
        return NodeInput(table, path, Count(0), ())
    width = len(table.data) // total
    data = b"".join(table.data[place * width : (place + 1) * width] for place in places)
    some = Tensor(table.dtype, (Count(len(places)), *table.shape[1:]), data)
    return NodeInput(some, path, total, row_paths(table, places))
