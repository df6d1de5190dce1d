"""Lowerings of order and place: running sums, the largest k, sorting, scattering, and solving by substitution.

They stand on operators that exist: comparisons give every number its rank or mark the place that it goes to, and a
sum or a maximum over the marks is exact in any order. Among equal numbers the one with the lower index comes first; of
several numbers for one place the last counts.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from trainer.programs.tracing.builder import Value
from trainer.programs.tracing.lower import RULES, Argument, Lowering, cover, positive, rule
from trainer.programs.tracing.lower_math import reduce
from trainer.programs.tracing.lower_shape import is_zero, joined
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import Spec


def _count(low: Lowering, size: int, dim: int, rank: int, start: int = 0) -> Value:
    """start, start + 1, ... along dimension `dim` of `rank`."""
    shape = [1] * rank
    shape[dim] = size
    return low.builder.constant(torch.arange(start, start + size).view(shape))


def _running(operator: str, neutral: int) -> Any:
    """The lowering that combines each number with all before it, in log2(n) steps that double the reach."""

    def lower(low: Lowering, out: Spec, value: Argument, dim: int, **_: Any) -> Value:
        b, made = low.builder, low.value(value, FLOAT if out.dtype == FLOAT else INDEX)
        if not made.shape:
            return made
        place, reach = positive(dim, len(made.shape)), 1
        size = made.shape[place]
        while reach < size:
            before = (*made.shape[:place], reach, *made.shape[place + 1 :])
            start = b.expand(b.scalar(neutral, made.dtype), before)
            earlier = b.slice(made, place, 0, size - reach)
            made = b.emit(operator, b.emit("concatenate", start, earlier, dim=place), made)
            reach *= 2
        return b.cast(made, out.dtype)

    return lower


RULES["cumsum"] = _running("add", 0)
RULES["cumprod"] = _running("multiply", 1)


def _ranks(low: Lowering, value: Value, dim: int, largest: bool) -> Value:
    """int64 like `value`: the place of each number when they stand in order along `dim`, equal ones by index."""
    b, rank, size = low.builder, len(value.shape), value.shape[dim]
    mine = b.view(value, (*value.shape[: dim + 1], 1, *value.shape[dim + 1 :]))
    other = b.view(value, (*value.shape[:dim], 1, *value.shape[dim:]))
    before = b.emit("less", *((mine, other) if largest else (other, mine)))
    earlier = b.emit("less", _count(low, size, dim + 1, rank + 1), _count(low, size, dim, rank + 1))
    ahead = b.emit("or", before, b.emit("and", b.emit("equal", mine, other), earlier))
    return reduce(low, "sum", ahead, [dim + 1], False)


def _ordered(low: Lowering, value: Value, dim: int, count: int, largest: bool) -> tuple[Value, Value]:
    """(the first `count` numbers in order along `dim`, their indices)."""
    b, rank, size = low.builder, len(value.shape), value.shape[dim]
    ranks = _ranks(low, value, dim, largest)
    ranks = b.view(ranks, (*ranks.shape[:dim], 1, *ranks.shape[dim:]))
    chosen = b.emit("equal", ranks, _count(low, count, dim, rank + 1))
    names = b.emit("where", chosen, _count(low, size, dim + 1, rank + 1), b.scalar(0, INDEX))
    index = reduce(low, "sum", names, [dim + 1], False)
    return b.emit("take_along", value, index, dim=dim), index


@rule("topk")
def _topk(
    low: Lowering, out: Any, value: Argument, count: int, dim: int = -1, largest: bool = True, ordered: bool = True
) -> tuple[Value, Value]:  # fmt: skip
    source = low.value(value)
    return _ordered(low, source, positive(dim, len(source.shape)), count, largest)


@rule("sort.default")
def _sort(
    low: Lowering, out: Any, value: Argument, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    source = low.value(value)
    place = positive(dim, len(source.shape))
    return _ordered(low, source, place, source.shape[place], descending)


@rule("sort.stable")
def _stable_sort(
    low: Lowering, out: Any, value: Argument, *, stable: Any = True, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    made: tuple[Value, Value] = _sort(low, out, value, dim, descending)
    return made


@rule("argsort")
def _argsort(
    low: Lowering, out: Any, value: Argument, dim: int = -1, descending: bool = False, **_: Any
) -> Value:
    return _sort(low, out, value, dim, descending)[1]  # type: ignore[no-any-return]


def _last_writer(low: Lowering, index: Value, dim: int, size: int) -> tuple[Value, Value]:
    """(bool, int64), `index` with `size` along `dim`: whether a number goes to that place, and which one, the last."""
    b, rank, count = low.builder, len(index.shape), index.shape[dim]
    goes = b.view(index, (*index.shape[:dim], 1, *index.shape[dim:]))
    marks = b.emit("equal", goes, _count(low, size, dim, rank + 1))
    writers = b.emit("where", marks, _count(low, count, dim + 1, rank + 1), b.scalar(-1, INDEX))
    last = reduce(low, "amax", writers, [dim + 1], False)
    return b.emit("less_equal", b.scalar(0, INDEX), last), b.emit("maximum", last, b.scalar(0, INDEX))


def _covering(low: Lowering, index: Value, shape: Sequence[int], dim: int) -> None:
    same = all(a == c for other, (a, c) in enumerate(zip(index.shape, shape, strict=True)) if other != dim)
    cover(same, "the index does not cover every row")


@rule("scatter.value", "scatter.src")
def _scatter(low: Lowering, out: Spec, value: Argument, dim: int, index: Argument, source: Argument) -> Value:
    b, place, where = low.builder, positive(dim, len(out.shape)), low.value(index, INDEX)
    _covering(low, where, out.shape, place)
    if where.shape[place] == 1:
        # One number a row: comparing its place with 0, 1, 2 ... marks the one that changes.
        written = b.emit("equal", where, _count(low, out.shape[place], place, len(out.shape)))
        given = _within(low, low.value(source, out.dtype), where.shape)
    else:
        written, writer = _last_writer(low, where, place, out.shape[place])
        given = _within(low, low.value(source, out.dtype), where.shape)
        given = b.emit("take_along", given, writer, dim=place) if given.shape else given
    return b.emit("where", written, given, low.value(value, out.dtype))


def _within(low: Lowering, value: Value, shape: Sequence[int]) -> Value:
    """The first `shape` places of a value in each dimension; a single number stays one."""
    for dim, size in enumerate(shape if value.shape else ()):
        value = low.builder.slice(value, dim, 0, size)
    return value


@rule("scatter_add")
def _scatter_add(
    low: Lowering, out: Spec, value: Argument, dim: int, index: Argument, source: Argument
) -> Value:
    """One exact sum for each place, by its number in C order."""
    cover(out.dtype == FLOAT, "only sums of float32")
    b, place, where = low.builder, positive(dim, len(out.shape)), low.value(index, INDEX)
    given = _within(low, low.value(source, FLOAT), where.shape)
    flat = b.scalar(0, INDEX)
    for other, _size in enumerate(out.shape):
        at = where if other == place else _count(low, where.shape[other], other, len(out.shape))
        flat = b.add(flat, b.multiply(at, b.scalar(math.prod(out.shape[other + 1 :]), INDEX)))
    flat = b.expand(flat, where.shape)
    total = b.view(b.emit("scatter_sum", flat, given, rows=math.prod(out.shape)), out.shape)
    old = low.value(value)
    return total if is_zero(low, old) else b.add(old, total)


@rule("index_put", "_unsafe_index_put")
def _index_put(
    low: Lowering, out: Spec, value: Argument, indices: list[Argument], source: Argument, accumulate: bool = False
) -> Value:  # fmt: skip
    b, old, new = low.builder, low.value(value), low.value(source, out.dtype)
    mask = indices[0]
    if len(indices) == 1 and _is_bool(mask):
        cover(not new.shape and not accumulate, "a mask gives a shape that depends on data")
        marks = low.value(mask)
        return b.emit(
            "where", b.view(marks, (*marks.shape, *[1] * (len(out.shape) - len(marks.shape)))), new, old
        )
    place, count, index = joined(low, out.shape, indices)
    before, inside, after = out.shape[:place], out.shape[place : place + count], out.shape[place + count :]
    spread = b.expand(new, (*before, *index.shape, *after))
    rank = len(index.shape)
    order = [*range(place, place + rank), *range(place), *range(place + rank, len(spread.shape))]
    rows = b.permute(spread, order)
    back = [*range(count, count + place), *range(count), *range(count + place, len(out.shape))]
    if accumulate:
        cover(out.dtype == FLOAT, "only sums of float32")
        total = b.emit("scatter_sum", index, rows, rows=math.prod(inside))
        total = b.permute(b.view(total, (*inside, *before, *after)), back)
        return total if is_zero(low, old) else b.add(old, total)
    written, writer = _last_writer(low, b.view(index, (math.prod(index.shape),)), 0, math.prod(inside))
    made = b.emit("gather", b.view(rows, (math.prod(index.shape), *before, *after)), writer)
    made = b.permute(b.view(made, (*inside, *before, *after)), back)
    written = b.view(written, (*[1] * place, *inside, *[1] * len(after)))
    return b.emit("where", written, made, old)


def _is_bool(index: Argument) -> bool:
    return index is not None and index.dtype in ("bool", torch.bool)


def _numbered(low: Lowering, mask: Argument, shape: Sequence[int]) -> tuple[Value, Value]:
    """(mask, number of the true places before each), flat, of a mask broadcast to `shape`."""
    b = low.builder
    flat = b.view(b.expand(low.value(mask, "bool"), shape), (math.prod(shape),))
    count = _running("add", 0)(low, Spec(INDEX, flat.shape), flat, 0)
    return flat, b.emit("maximum", b.subtract(count, b.scalar(1, INDEX)), b.scalar(0, INDEX))


@rule("masked_scatter")
def _masked_scatter(low: Lowering, out: Spec, value: Argument, mask: Argument, source: Argument) -> Value:
    """The true places take the source's numbers one after another; one too many ends the step."""
    b, given = low.builder, low.value(source, out.dtype)
    marks, number = _numbered(low, mask, out.shape)
    made = b.emit("gather", b.view(given, (math.prod(given.shape),)), number)
    old = b.expand(low.value(value, out.dtype), out.shape)
    return b.emit("where", b.view(marks, out.shape), b.view(made, out.shape), old)


@rule("masked_scatter_backward")
def _masked_scatter_backward(
    low: Lowering, out: Spec, gradient: Argument, mask: Argument, sizes: Sequence[int]
) -> Value:
    b, g = low.builder, low.value(gradient, FLOAT)
    marks, number = _numbered(low, mask, g.shape)
    taken = b.emit("where", marks, b.view(g, marks.shape), b.scalar(0.0))
    return b.view(b.emit("scatter_sum", number, taken, rows=math.prod(out.shape)), out.shape)


@rule("linalg_solve_triangular")
def _solve(
    low: Lowering, out: Spec, matrix: Argument, right: Argument, *, upper: bool, left: bool = True,
    unitriangular: bool = False,
) -> Value:  # fmt: skip
    """X of A X = B row by row: what the rows before explain is one exact sum."""
    cover(left, "only with the matrix on the left")
    b, a, given = low.builder, low.value(matrix, FLOAT), low.value(right, FLOAT)
    rank, size = len(out.shape), out.shape[-2]
    a, given = b.expand(a, (*out.shape[:-2], size, size)), b.expand(given, out.shape)
    solved: list[Value] = []
    for number in reversed(range(size)) if upper else range(size):
        row = b.slice(given, rank - 2, number, number + 1)
        line = b.slice(a, rank - 2, number, number + 1)
        if solved:
            known = solved[0] if len(solved) == 1 else b.emit("concatenate", *solved, dim=rank - 2)
            first = number + 1 if upper else 0
            factors = b.permute(
                b.slice(line, rank - 1, first, first + len(solved)), [*range(rank - 2), rank - 1, rank - 2]
            )
            row = b.subtract(row, reduce(low, "sum", b.multiply(factors, known), [rank - 2], True))
        if not unitriangular:
            row = b.divide(row, b.slice(line, rank - 1, number, number + 1))
        solved.insert(0 if upper else len(solved), row)
    return solved[0] if size == 1 else b.emit("concatenate", *solved, dim=rank - 2)
