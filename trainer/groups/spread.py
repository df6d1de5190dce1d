"""Where a batch goes in a program: which values hold records along a dimension, and which nodes reduce over them. Pure.

Every dimension of a node's inputs and result gets a label; two dimensions with one label are walked together. A batch
follows its label from an input to the result, or ends where the result has no such label: the node reduces over it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.rounds.batches import batches_of
from verification.arithmetic.places import Attributes
from verification.errors import UserError
from verification.operators import OPERATORS
from verification.program import Node, Program, Sized, first_node, place_of, values
from verification.units import Count


@dataclass(frozen=True)
class Batch:
    """Records along dimension `axis`: `outer` times all of them in order, each with `rows` places one after another."""

    axis: int
    rows: int = 1
    outer: int = 1


@dataclass(frozen=True)
class Spread:
    """How a program's values hold `records` records: `batches` by the value's number, None for one without.

    `reads` is, per node, how it reads each input: with a batch, of which a member reads its records, or whole.
    `reduces` are the numbers of the nodes whose result is over all records.
    """

    records: int
    batches: tuple[Batch | None, ...]
    reads: tuple[tuple[Batch | None, ...], ...]
    reduces: frozenset[int]


Label = str | None
"""Of one dimension of a tensor; None for a single place that repeats."""

Walked = tuple[list[list[Label]], list[Label]]
"""The labels of a node's inputs and of its result."""

Rule = Callable[[Node, Sequence[tuple[int, ...]]], Walked]
"""Gives the labels of a node, of whose inputs it gets the shapes."""

RIGID = "rigid"
"""The label of places that are not independent of each other: no batch may stand there."""


def spread_of(program: Program) -> Spread:
    """Return how the batch of an inner step goes through its program.

    Raises UserError for a program without batches, and with the node's number and operator where records mix.
    """
    known, first = values(program), first_node(program)
    chain, origins = batches_of(program)
    records = {int(known[number].shape[0]) for number in origins}
    if len(records) != 1:
        raise UserError("the inner program takes no batch of records, so a group cannot split it")
    (count,) = records
    batches: list[Batch | None] = [None] * first
    reads, reduces = [], set()
    for number, node in enumerate(program.nodes, first):
        given = [
            Batch(0) if source in origins and number not in chain else batches[source]
            for source in node.inputs
        ]
        shapes = [tuple(map(int, known[source].shape)) for source in node.inputs]
        try:
            made, read, is_reduced = _through(node, given, shapes, count)
        except _Mixed as error:
            raise UserError(
                f"a group cannot split node {number} ({node.operator}, at {place_of(program, number) or 'no name'}): "
                f"{error}; train this model without --group"
            ) from error
        batches.append(made)
        reads.append(read)
        reduces |= {number} if is_reduced else set()
    _require_whole_outputs(program, batches)
    return Spread(count, tuple(batches), tuple(reads), frozenset(reduces))


class _Mixed(ValueError):
    """A node's numbers come from several records in a way that no total gives."""


def _require_whole_outputs(program: Program, batches: Sequence[Batch | None]) -> None:
    for output in program.outputs:
        if batches[output.source] is not None:
            raise UserError(
                f"a group cannot split the inner program: its output {output.name!r} holds single records; "
                "train this model without --group"
            )


def _attributes(node: Node) -> Attributes:
    return dict(node.attributes)


def _through(
    node: Node, given: Sequence[Batch | None], shapes: Sequence[tuple[int, ...]], records: int
) -> tuple[Batch | None, tuple[Batch | None, ...], bool]:
    """Return the batch of a node's result, how it reads its inputs, and whether it reduces; raises _Mixed."""
    if all(batch is None for batch in given):
        return None, tuple(given), False
    if node.operator == "view":
        assert given[0] is not None
        return _viewed(given[0], shapes[0], node, records), tuple(given), False
    inputs, result = _labels(node, shapes)
    found = {
        (labels[b.axis], b.rows, b.outer) for labels, b in zip(inputs, given, strict=True) if b is not None
    }
    if len(found) > 1:
        raise _Mixed("it pairs records with one another")
    ((label, rows, outer),) = found
    if label in (None, RIGID):
        raise _Mixed("it mixes the records of a batch")
    reads = tuple(Batch(labels.index(label), rows, outer) if label in labels else None for labels in inputs)
    if label in result:
        return Batch(result.index(label), rows, outer), reads, False
    return None, reads, True


def _labels(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    if OPERATORS[node.operator].by_place:
        return _broadcast(node, shapes)
    if node.operator not in LABELS:
        raise _Mixed("nothing says how it treats the records of a batch")
    return LABELS[node.operator](node, shapes)


def _viewed(batch: Batch, shape: Sequence[int], node: Node, records: int) -> Batch:
    """Return the batch under another shape: the places of all records must lie in one dimension again."""
    before = math.prod(shape[: batch.axis]) * batch.outer
    for axis, size in enumerate(node.shape):
        outer, cut = divmod(before, max(1, math.prod(node.shape[:axis])))
        if outer and not cut and size and size % (outer * records) == 0:
            return Batch(axis, size // (outer * records), outer)
    raise _Mixed(f"its new shape {list(node.shape)} cuts through the records of {list(shape)}")


def _aligned(shape: Sequence[int], to: Sequence[int]) -> list[Label]:
    """Labels of a shape that broadcasts to another one, whose dimensions are named by their places."""
    missing = len(to) - len(shape)
    return [str(place) if size == to[place] else None for place, size in enumerate(shape, missing)]


def _own(shape: Sequence[int], prefix: str = "") -> list[Label]:
    return [f"{prefix}{place}" for place in range(len(shape))]


def _broadcast(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    return [_aligned(shape, node.shape) for shape in shapes], _own(node.shape)


def _permute(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    own = _own(shapes[0])
    return [own], [own[dim] for dim in _attributes(node)["dims"]]


def _along(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    """Slices, joints and ranks: every dimension but one is walked place by place."""
    own = _own(shapes[0])
    dim = _attributes(node).get("dim", (len(own) - 1,))[0]
    own[dim] = RIGID
    return [own] * len(shapes), own


def _reduced(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    own, attributes = _own(shapes[0]), _attributes(node)
    dims = attributes.get("dims") or attributes["dim"]
    if len(node.shape) == len(own):
        return [own], [None if place in dims else label for place, label in enumerate(own)]
    return [own], [label for place, label in enumerate(own) if place not in dims]


def _select(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    rest = _own(shapes[0][1:])
    return [[RIGID, *rest], []], rest


def _gather(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    rest, index = _own(shapes[0][1:]), _own(shapes[1], "i")
    return [[RIGID, *rest], index], [*index, *rest]


def _take_along(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    own, table = _own(node.shape), _own(node.shape)
    table[_attributes(node)["dim"][0]] = RIGID
    return [table, own], own


def _scatter_sum(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    index, rest = _own(shapes[0], "i"), _own(shapes[1][len(shapes[0]) :])
    return [index, [*index, *rest]], [RIGID, *rest]


def _product(node: Node, shapes: Sequence[tuple[int, ...]]) -> Walked:
    outer = _own(shapes[0][:-2])
    left, right = [*outer, "row", "term"], [*outer, "term", "column"]
    return [left, [*outer, "row", None], right, [*outer, None, "column"]], [*outer, "row", "column"]


LABELS: Mapping[str, Rule] = {
    "permute": _permute,
    "slice": _along,
    "concatenate": _along,
    "rank": _along,
    "sum": _reduced,
    "mean": _reduced,
    "amax": _reduced,
    "row_exponent": _reduced,
    "select": _select,
    "gather": _gather,
    "take_along": _take_along,
    "scatter_sum": _scatter_sum,
    "product": _product,
}
"""The rules of operators that are not `by_place`, but for `view`, whose dimensions become others."""


def local_shape(value: Sized, batch: Batch | None, count: int) -> tuple[Count, ...]:
    """Return the shape that a value has for `count` records."""
    shape = list(value.shape)
    if batch is not None:
        shape[batch.axis] = Count(batch.outer * count * batch.rows)
    return tuple(shape)
