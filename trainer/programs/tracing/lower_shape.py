"""Lowerings of movement: views, slices, indexing, embeddings, and what ATen only calls an operator."""

import math
from typing import Any

import torch

from trainer.programs.conversion import to_torch
from trainer.programs.tracing.builder import Value
from trainer.programs.tracing.lower import Argument, Lowering, cover, positive, rule
from verification.arithmetic.numbers import INDEX
from verification.arithmetic.places import Spec


@rule("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten")
def _view(low: Lowering, out: Spec, value: Argument, *_: Any) -> Value:
    return low.builder.view(low.value(value), out.shape)


@rule("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh")
def _same(low: Lowering, out: Spec, value: Argument, **_: Any) -> Value:
    return low.value(value)


@rule("_to_copy", "to", "_conj")
def _convert(low: Lowering, out: Spec, value: Argument, **_: Any) -> Value:
    return low.value(value, out.dtype)


def _refusal(reason: str) -> Any:
    def lower(low: Lowering, out: Any, *_: Any, **__: Any) -> None:
        cover(False, reason)

    return lower


rule("copy_")(_refusal("the model changes a parameter in its forward pass"))
rule("_local_scalar_dense")(_refusal("what the model does next depends on data"))


@rule("copy")
def _copy(low: Lowering, out: Spec, old: Argument, new: Argument, *_: Any) -> Value:
    return low.builder.expand(low.value(new, out.dtype), out.shape)


@rule("permute", "transpose", "t", "numpy_T")
def _permute(low: Lowering, out: Spec, value: Argument, *dims: Any) -> Value:
    source = low.value(value)
    rank = len(source.shape)
    if len(dims) == 1:
        order = [positive(dim, rank) for dim in dims[0]]
    else:
        order = list(range(rank))
        first, second = (positive(dim, rank) for dim in dims) if dims else (0, rank - 1)
        order[first], order[second] = order[second], order[first]
    return low.builder.permute(source, order)


@rule("expand")
def _expand(low: Lowering, out: Spec, value: Argument, *_: Any, **__: Any) -> Value:
    return low.builder.expand(low.value(value), out.shape)


@rule("repeat")
def _repeat(low: Lowering, out: Spec, value: Argument, times: list[int]) -> Value:
    b, source = low.builder, low.value(value)
    sizes = [1] * (len(times) - len(source.shape)) + list(source.shape)
    spread = b.view(source, [part for size in sizes for part in (1, size)])
    pairs = [part for count, size in zip(times, sizes, strict=True) for part in (count, size)]
    return b.view(b.expand(spread, pairs), out.shape)


def _filler(number: Any) -> Any:
    def lower(low: Lowering, out: Spec, value: Argument, *arguments: Any, **_: Any) -> Value:
        fill = arguments[-1] if number is None else number
        return low.builder.expand(low.value(fill, out.dtype), out.shape)

    return lower


for _name in ("zeros_like", "new_zeros", "empty_like", "new_empty", "new_empty_strided"):
    rule(_name)(_filler(0))
for _name in ("ones_like", "new_ones"):
    rule(_name)(_filler(1))
for _name in ("full_like", "new_full", "fill"):
    rule(_name)(_filler(None))


@rule("slice")
def _slice(
    low: Lowering,
    out: Spec,
    value: Argument,
    dim: int = 0,
    start: Any = None,
    stop: Any = None,
    step: int = 1,
) -> Value:
    source = low.value(value)
    place = positive(dim, len(source.shape))
    first, last, stride = slice(start, stop, step).indices(source.shape[place])
    return low.builder.slice(source, place, first, max(first, last), stride)


@rule("select.int")
def _select(low: Lowering, out: Spec, value: Argument, dim: int, index: int) -> Value:
    source = low.value(value)
    place = positive(dim, len(source.shape))
    first = index % source.shape[place]
    return low.builder.view(low.builder.slice(source, place, first, first + 1), out.shape)


@rule("split_with_sizes", "split.sizes")
def _split(low: Lowering, out: Any, value: Argument, sizes: list[int], dim: int = 0) -> list[Value]:
    source, start, parts = low.value(value), 0, []
    for size in sizes:
        parts.append(low.builder.slice(source, positive(dim, len(source.shape)), start, start + size))
        start += size
    return parts


@rule("cat")
def _concatenate(low: Lowering, out: Spec, values: list[Argument], dim: int = 0) -> Value:
    parts = [low.value(value, out.dtype) for value in values]
    parts = [part for part in parts if math.prod(part.shape)]
    return (
        parts[0]
        if len(parts) == 1
        else low.builder.emit("concatenate", *parts, dim=positive(dim, len(out.shape)))
    )


@rule("slice_scatter")
def _slice_scatter(
    low: Lowering, out: Spec, value: Argument, source: Argument, dim: int = 0, start: Any = None, stop: Any = None,
    step: int = 1,
) -> Value:  # fmt: skip
    old, place = low.value(value), positive(dim, len(out.shape))
    first, last, _ = slice(start, stop, step).indices(out.shape[place])
    if step > 1:
        return _strided_scatter(low, old, low.value(source, out.dtype), place, (first, last, step))
    ends = [(0, first), (last, out.shape[place])]
    before, after = (_piece(low, old, place, *end) for end in ends)
    parts = [*before, low.value(source, out.dtype), *after]
    return parts[0] if len(parts) == 1 else low.builder.emit("concatenate", *parts, dim=place)


def _strided_scatter(
    low: Lowering, old: Value, source: Value, dim: int, places: tuple[int, int, int]
) -> Value:
    """Every step-th place along `dim`: as a matrix with one column per place of a period, one column is replaced."""
    first, last, step = places
    size, b = old.shape[dim], low.builder
    cover(first < step and size % step == 0 and last > size - step + first, "only whole periods")
    columns = (*old.shape[:dim], size // step, step, *old.shape[dim + 1 :])
    column = (*source.shape[: dim + 1], 1, *source.shape[dim + 1 :])
    grid = b.view(old, columns)
    before, after = _piece(low, grid, dim + 1, 0, first), _piece(low, grid, dim + 1, first + 1, step)
    return b.view(b.emit("concatenate", *before, b.view(source, column), *after, dim=dim + 1), old.shape)


@rule("select_scatter")
def _select_scatter(
    low: Lowering, out: Spec, value: Argument, source: Argument, dim: int, index: int
) -> Value:
    place = positive(dim, len(out.shape))
    first = index % out.shape[place]
    row = low.builder.view(low.value(source), (*out.shape[:place], 1, *out.shape[place + 1 :]))
    result: Value = _slice_scatter(low, out, value, row, place, first, first + 1)
    return result


def _piece(low: Lowering, value: Value, dim: int, start: int, stop: int) -> list[Value]:
    if start == stop:
        return []
    shape = (*value.shape[:dim], stop - start, *value.shape[dim + 1 :])
    if made := low.builder.made_by(value, "expand"):
        (source,) = made[1]
        if not source.shape:
            return [low.builder.expand(source, shape)]
    return [low.builder.slice(value, dim, start, stop)]


@rule("embedding")
def _embedding(low: Lowering, out: Spec, table: Argument, index: Argument, *_: Any, **__: Any) -> Value:
    return low.builder.emit("gather", low.value(table), low.value(index, INDEX))


@rule("embedding_dense_backward")
def _embedding_backward(
    low: Lowering, out: Spec, gradient: Argument, index: Argument, rows: int, padding: int, by_frequency: bool
) -> Value:
    cover(not by_frequency, "scale_grad_by_freq is not supported")
    b, where, value = low.builder, low.value(index, INDEX), low.value(gradient)
    if padding >= 0:
        padded = b.emit("equal", where, b.scalar(padding, INDEX))
        value = b.emit("where", b.view(padded, (*padded.shape, 1)), b.scalar(0.0), value)
    return b.emit("scatter_sum", where, value, rows=rows)


def joined(low: Lowering, shape: tuple[int, ...], indices: list[Argument]) -> tuple[int, int, Value]:
    """(first indexed dimension, number of them, one index into these dimensions taken as one)."""
    b = low.builder
    places = [place for place, index in enumerate(indices) if index is not None]
    first, count = places[0], len(places)
    cover(places == list(range(first, first + count)), "indices of dimensions that are not neighbours")
    joined: Value | None = None
    for place in places:
        index = low.value(indices[place])
        cover(index.dtype != "bool", "a mask gives a shape that depends on data")
        index = wrapped(low, b.cast(index, INDEX), shape[place])
        size = b.scalar(shape[place], INDEX)
        joined = index if joined is None else b.add(b.multiply(joined, size), index)
    assert joined is not None
    return first, count, joined


@rule("index.Tensor")
def _index(low: Lowering, out: Spec, value: Argument, indices: list[Argument]) -> Value:
    b, source = low.builder, low.value(value)
    place, count, index = joined(low, source.shape, indices)
    size = math.prod(source.shape[place : place + count])
    source = b.view(source, (*source.shape[:place], size, *source.shape[place + count :]))
    order = [place, *(dim for dim in range(len(source.shape)) if dim != place)]
    rows = b.emit("gather", b.permute(source, order), index)
    rank = len(index.shape)
    # The index's dimensions come first now; they belong where the indexed dimension was.
    back = [*range(rank, rank + place), *range(rank), *range(rank + place, len(rows.shape))]
    return b.permute(rows, back)


@rule("flip")
def _flip(low: Lowering, out: Spec, value: Argument, dims: list[int]) -> Value:
    made = low.value(value)
    for dim in dims:
        place = positive(dim, len(out.shape))
        reverse = torch.arange(out.shape[place] - 1, -1, -1)
        made = _index(low, out, made, [None] * place + [reverse])
    return made


@rule("index_select")
def _index_select(low: Lowering, out: Spec, value: Argument, dim: int, index: Argument) -> Value:
    result: Value = _index(low, out, value, [None] * positive(dim, len(out.shape)) + [index])
    return result


@rule("unfold")
def _unfold(low: Lowering, out: Spec, value: Argument, dim: int, size: int, step: int) -> Value:
    """Windows of `size` along `dim`, one each `step`; a window's places are the last dimension."""
    place, count = positive(dim, len(out.shape) - 1), len(out.shape)
    table = torch.arange(out.shape[place])[:, None] * step + torch.arange(size)
    made: Value = _index(low, out, value, [None] * place + [table])
    order = [other for other in range(count) if other != place + 1]
    return low.builder.permute(made, [*order, place + 1])


@rule("gather")
def _gather(low: Lowering, out: Spec, value: Argument, dim: int, index: Argument, **_: Any) -> Value:
    place = positive(dim, len(out.shape))
    return low.builder.emit("take_along", low.value(value), low.value(index, INDEX), dim=place)


def wrapped(low: Lowering, index: Value, size: int) -> Value:
    """Negative indices count from the end, as in PyTorch; constant ones are wrapped here, once."""
    b = low.builder
    if index.serial in b.constants:
        constant = to_torch(b.constants[index.serial])
        return b.constant(torch.where(constant < 0, constant + size, constant))
    negative = b.emit("less", index, b.scalar(0, INDEX))
    return b.emit("where", negative, b.add(index, b.scalar(size, INDEX)), index)


def is_zero(low: Lowering, value: Value) -> bool:
    made = low.builder.made_by(value, "expand")
    root = made[1][0] if made else value
    constant = low.builder.constants.get(root.serial)
    return constant is not None and not any(constant.data)
