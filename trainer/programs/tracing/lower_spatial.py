"""Lowerings of what slides over space: convolutions, pooling and padding, in any number of spatial dimensions.

A convolution is an unfold and one exact product (Chellapilla, Puri and Simard, "High performance convolutional neural
networks for document processing", 2006). Both of its gradients are too: the weight's reads the same unfolded input, the
input's unfolds the output's gradient by the inverse table. So each number is one exact sum, rounded once.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.programs.tracing.builder import Value
from trainer.programs.tracing.lower import Argument, Lowering, cover, rule
from trainer.programs.tracing.lower_math import reduce
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import Spec

LOWEST = torch.finfo(torch.float32).min
"""What a maximum sees beyond the edge; every window holds a number of the input."""


@dataclass(frozen=True)
class Windows:
    """Windows over `space` (spatial sizes), one per place of `out`: L windows of K taps each."""

    space: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def count(self) -> int:
        """L."""
        return math.prod(self.out)

    @property
    def taps(self) -> int:
        """K."""
        return math.prod(self.kernel)

    @property
    def tile(self) -> bool:
        """Whether the windows cut the space into equal tiles, so that unfolding is a permutation."""
        whole = all(o * k == s for o, k, s in zip(self.out, self.kernel, self.space, strict=True))
        return whole and self.kernel == self.stride and not any(self.padding) and set(self.dilation) == {1}

    def table(self) -> torch.Tensor:
        """int64 [L, K]: the place in the flattened space of each tap; its size for a tap beyond the edge."""
        size = math.prod(self.space)
        total = torch.zeros((*self.out, *self.kernel), dtype=torch.int64)
        inside = torch.ones_like(total, dtype=torch.bool)
        rank = len(self.space)
        for dim in range(rank):
            start = torch.arange(self.out[dim]) * self.stride[dim] - self.padding[dim]
            place = start[:, None] + torch.arange(self.kernel[dim]) * self.dilation[dim]
            shape = [1] * (2 * rank)
            shape[dim], shape[rank + dim] = place.shape
            place = place.view(shape)
            total = total * self.space[dim] + place
            inside &= (place >= 0) & (place < self.space[dim])
        return torch.where(inside, total, size).view(self.count, self.taps)

    def inverse(self) -> torch.Tensor:
        """int64 [size of space, K]: the window whose tap k lies on a place; L where none does."""
        table, size = self.table(), math.prod(self.space)
        back = torch.full((size + 1, self.taps), self.count)
        for tap in range(self.taps):
            back[table[:, tap], tap] = torch.arange(self.count)
        return back[:size]


def windows(space: Sequence[int], out: Sequence[int], *settings: Sequence[int]) -> Windows:
    """Return the windows for kernel, stride, padding and dilation, each one number or one per dimension."""
    wide = [tuple(s) if len(s) == len(space) else tuple(s) * len(space) for s in settings]
    return Windows(tuple(space), tuple(out), *wide)


def unfold(low: Lowering, value: Value, over: Windows, beyond: float = 0.0) -> Value:
    """[N, C, *space] to the taps of every window, [L, K, N, C]; `beyond` is read beyond the edge."""
    b, (batch, channels) = low.builder, value.shape[:2]
    if over.tile:
        rank = len(over.space)
        pairs = itertools.chain.from_iterable(zip(over.out, over.kernel, strict=True))
        cut = b.view(value, (batch, channels, *pairs))
        order = [*range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2), 0, 1]
        return b.view(b.permute(cut, order), (over.count, over.taps, batch, channels))
    return _rows(low, _flat(low, value), over.table(), beyond)


def fold(low: Lowering, taps: Value, over: Windows) -> Value:
    """The adjoint of `unfold`: [L, K, N, C] summed where windows overlap, to [N, C, *space]."""
    b, (batch, channels) = low.builder, taps.shape[2:]
    if over.tile:
        rank = len(over.space)
        grid = b.view(taps, (*over.out, *over.kernel, batch, channels))
        pairs = [place for dim in range(rank) for place in (dim, rank + dim)]
        return b.view(b.permute(grid, [2 * rank, 2 * rank + 1, *pairs]), (batch, channels, *over.space))
    back, steps = over.inverse(), torch.arange(over.taps)
    end = over.count * over.taps
    table = torch.where(back < over.count, back * over.taps + steps, end)
    rows = _rows(low, b.view(taps, (end, batch, channels)), table, 0.0)
    return _unflat(low, reduce(low, "sum", rows, [1], False), over.space)


def _flat(low: Lowering, value: Value) -> Value:
    """[N, C, *space] to [size of space, N, C]."""
    flat = low.builder.view(value, (*value.shape[:2], math.prod(value.shape[2:])))
    return low.builder.permute(flat, [2, 0, 1])


def _unflat(low: Lowering, value: Value, space: Sequence[int]) -> Value:
    return low.builder.view(low.builder.permute(value, [1, 2, 0]), (*value.shape[1:], *space))


def _rows(low: Lowering, table: Value, index: torch.Tensor, beyond: float) -> Value:
    """Rows of [R, N, C] by number; number R is a row of `beyond`."""
    b = low.builder
    if int(index.max()) == table.shape[0]:
        row = b.expand(b.scalar(beyond), (1, *table.shape[1:]))
        table = b.emit("concatenate", table, row, dim=0)
    return b.emit("gather", table, b.constant(index))


def _grouped(low: Lowering, taps: Value, groups: int) -> Value:
    """[L, K, N, C] as matrices [G, N * L, K * C / G]."""
    b, (count, steps, batch, channels) = low.builder, taps.shape
    parts = b.view(taps, (count, steps, batch, groups, channels // groups))
    return b.view(b.permute(parts, [3, 2, 0, 1, 4]), (groups, batch * count, steps * channels // groups))


def _places(low: Lowering, value: Value, groups: int) -> Value:
    """[N, C, *space] as matrices [G, N * L, C / G]."""
    b, (batch, channels, *space) = low.builder, value.shape
    count = math.prod(space)
    parts = b.view(value, (batch, groups, channels // groups, count))
    return b.view(b.permute(parts, [1, 0, 3, 2]), (groups, batch * count, channels // groups))


def _from_places(low: Lowering, value: Value, shape: Sequence[int]) -> Value:
    """The inverse of `_places`, to `shape` [N, C, *space]."""
    b, groups = low.builder, value.shape[0]
    parts = b.view(value, (groups, shape[0], math.prod(shape[2:]), shape[1] // groups))
    return b.view(b.permute(parts, [1, 0, 3, 2]), shape)


def _filters(low: Lowering, weight: Value, groups: int, order: Sequence[int]) -> Value:
    """[O, C / G, *kernel] as [G, O / G, C / G, K]; `order` permutes the last three, whose first two are joined."""
    b, (outputs, inputs, *kernel) = low.builder, weight.shape
    parts = b.view(weight, (groups, outputs // groups, inputs, math.prod(kernel)))
    parts = b.permute(parts, [0, *order])
    return b.view(parts, (groups, parts.shape[1] * parts.shape[2], parts.shape[3]))


def _matmul(low: Lowering, left: Value, right: Value) -> Value:
    """Matrices [G, M, K] by [G, K, N]; one group is a product of two matrices."""
    b = low.builder
    if left.shape[0] > 1:
        return b.matmul(left, right)
    made = b.matmul(b.view(left, left.shape[1:]), b.view(right, right.shape[1:]))
    return b.view(made, (1, *made.shape))


@rule("convolution")
def _convolution(
    low: Lowering, out: Spec, value: Argument, weight: Argument, bias: Argument, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    cover(not transposed, "a transposed convolution")
    b, x, filters = low.builder, low.value(value, FLOAT), low.value(weight, FLOAT)
    over = windows(x.shape[2:], out.shape[2:], filters.shape[2:], stride, padding, dilation)
    taps = _grouped(low, unfold(low, x, over), groups)
    made = _matmul(low, taps, _filters(low, filters, groups, (3, 2, 1)))
    result = _from_places(low, made, out.shape)
    if bias is None:
        return result
    return b.add(result, b.view(low.value(bias), (out.shape[1], *[1] * len(over.space))))


@rule("convolution_backward")
def _convolution_backward(
    low: Lowering, out: Any, gradient: Argument, value: Argument, weight: Argument, bias_sizes: Any, stride: Any,
    padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int, wanted: Sequence[bool],
) -> tuple[Value | None, Value | None, Value | None]:  # fmt: skip
    cover(not transposed, "a transposed convolution")
    g, x, filters = (low.value(item, FLOAT) for item in (gradient, value, weight))
    over = windows(x.shape[2:], g.shape[2:], filters.shape[2:], stride, padding, dilation)
    into_bias = reduce(low, "sum", g, [0, *range(2, len(g.shape))], False) if wanted[2] else None
    return (
        _input_gradient(low, g, filters, over, groups) if wanted[0] else None,
        _weight_gradient(low, g, x, filters.shape, over, groups) if wanted[1] else None,
        into_bias,
    )


def _input_gradient(low: Lowering, gradient: Value, filters: Value, over: Windows, groups: int) -> Value:
    shape = (gradient.shape[0], filters.shape[1] * groups, *over.space)
    if over.tile:
        # No two windows meet: the taps' gradients are the input's.
        b, per_group = low.builder, filters.shape[1]
        flat = _filters(low, filters, groups, (3, 2, 1))
        made = _matmul(low, _places(low, gradient, groups), b.permute(flat, [0, 2, 1]))
        parts = b.view(made, (groups, shape[0], over.count, over.taps, per_group))
        taps = b.view(b.permute(parts, [2, 3, 1, 0, 4]), (over.count, over.taps, *shape[:2]))
        return fold(low, taps, over)
    taps = _grouped(low, _rows(low, _flat(low, gradient), over.inverse(), 0.0), groups)
    made = _matmul(low, taps, _filters(low, filters, groups, (3, 1, 2)))
    return _from_places(low, made, shape)


def _weight_gradient(
    low: Lowering, gradient: Value, value: Value, shape: Sequence[int], over: Windows, groups: int
) -> Value:
    b, taps = low.builder, _grouped(low, unfold(low, value, over), groups)
    made = _matmul(low, b.permute(_places(low, gradient, groups), [0, 2, 1]), taps)
    parts = b.view(made, (groups, shape[0] // groups, over.taps, shape[1]))
    return b.view(b.permute(parts, [0, 1, 3, 2]), shape)


def _pool(value: Value, out: Sequence[int], kernel: Any, stride: Any, *rest: Any) -> Windows:
    """The windows of a pooling; without a stride they lie side by side."""
    rank = len(kernel)
    return windows(value.shape[-rank:], out[-rank:], kernel, stride or kernel, *rest)


def _images(low: Lowering, value: Value, over: Windows, beyond: float) -> Value:
    """[..., *space] to its taps [L, K, 1, B]: pooling takes every one of the leading dimensions alone."""
    images = math.prod(value.shape[: len(value.shape) - len(over.space)])
    return unfold(low, low.builder.view(value, (1, images, *over.space)), over, beyond)


def _windowed(low: Lowering, value: Value, over: Windows) -> Value:
    """[..., *out] to [L, 1, 1, B]."""
    flat = low.builder.view(value, (math.prod(value.shape) // over.count, over.count))
    return low.builder.view(low.builder.permute(flat, [1, 0]), (over.count, 1, 1, flat.shape[0]))


def _from_windows(low: Lowering, value: Value, shape: Sequence[int]) -> Value:
    """[L, 1, B] to `shape`, [..., *out]."""
    flat = low.builder.view(value, (value.shape[0], value.shape[-1]))
    return low.builder.view(low.builder.permute(flat, [1, 0]), shape)


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(
    low: Lowering, out: Any, value: Argument, kernel: Any, stride: Any = (), padding: Any = (0,),
    dilation: Any = (1,), ceil_mode: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    """The largest taps, and the place in space of the first of them, as in PyTorch."""
    b, x, shape = low.builder, low.value(value, FLOAT), out[0].shape
    over = _pool(x, shape, kernel, stride, padding, dilation)
    taps = _images(low, x, over, LOWEST)
    largest = reduce(low, "amax", taps, [1], True)
    ranks = b.constant(torch.arange(over.taps, 0, -1).view(1, -1, 1, 1))
    rank = b.emit("where", b.emit("equal", taps, largest), ranks, b.scalar(0, INDEX))
    first = b.emit("equal", rank, reduce(low, "amax", rank, [1], True))
    places = b.emit("where", first, _places_of(low, over), b.scalar(-1, INDEX))
    return _from_windows(low, largest, shape), _from_windows(
        low, reduce(low, "amax", places, [1], True), shape
    )


@rule("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def _max_pool_backward(
    low: Lowering, out: Spec, gradient: Argument, value: Argument, kernel: Any, stride: Any, padding: Any,
    dilation: Any, ceil_mode: bool, indices: Argument,
) -> Value:  # fmt: skip
    b, g = low.builder, low.value(gradient, FLOAT)
    over = _pool(low.value(value), g.shape, kernel, stride, padding, dilation)
    chosen = b.emit("equal", _places_of(low, over), _windowed(low, low.value(indices), over))
    return b.view(fold(low, b.emit("where", chosen, _windowed(low, g, over), b.scalar(0.0)), over), out.shape)


def _places_of(low: Lowering, over: Windows) -> Value:
    return low.builder.constant(over.table().view(over.count, over.taps, 1, 1))


def _average(low: Lowering, value: Value, over: Windows, include: bool, divisor: Any) -> Value:
    """[L, ...] divided by the number of taps that each window averages."""
    counts = torch.full((over.count,), float(divisor or over.taps))
    if not include and not divisor:
        counts = (over.table() < math.prod(over.space)).sum(1).to(torch.float32)
    return low.builder.divide(value, low.builder.constant(counts.view(-1, *[1] * (len(value.shape) - 1))))


@rule("avg_pool2d", "avg_pool3d")
def _average_pool(
    low: Lowering, out: Spec, value: Argument, kernel: Any, stride: Any = (), padding: Any = (0,),
    ceil_mode: bool = False, include: bool = True, divisor: Any = None,
) -> Value:  # fmt: skip
    cover(not ceil_mode, "ceil_mode")
    x = low.value(value, FLOAT)
    over = _pool(x, out.shape, kernel, stride, padding, (1,))
    total = reduce(low, "sum", _images(low, x, over, 0.0), [1], False)
    return _from_windows(low, _average(low, total, over, include, divisor), out.shape)


@rule("avg_pool2d_backward", "avg_pool3d_backward")
def _average_pool_backward(
    low: Lowering, out: Spec, gradient: Argument, value: Argument, kernel: Any, stride: Any, padding: Any,
    ceil_mode: bool, include: bool, divisor: Any,
) -> Value:  # fmt: skip
    cover(not ceil_mode, "ceil_mode")
    g = low.value(gradient, FLOAT)
    over = _pool(low.value(value), g.shape, kernel, stride, padding, (1,))
    share = _average(low, _windowed(low, g, over), over, include, divisor)
    images = share.shape[-1]
    return low.builder.view(
        fold(low, low.builder.expand(share, (over.count, over.taps, 1, images)), over), out.shape
    )


def _parts(value: Value, out: Sequence[int]) -> tuple[Value, list[int]]:
    """The value and the sizes of the equal parts into which adaptive pooling cuts its space."""
    space = value.shape[-2:]
    cover(all(size % count == 0 for size, count in zip(space, out, strict=True)), "parts of unequal size")
    return value, [size // count for size, count in zip(space, out, strict=True)]


@rule("_adaptive_avg_pool2d")
def _adaptive_pool(low: Lowering, out: Spec, value: Argument, sizes: Any) -> Value:
    made: Value = _average_pool(low, out, *_parts(low.value(value, FLOAT), out.shape[-2:]))
    return made


@rule("_adaptive_avg_pool2d_backward")
def _adaptive_pool_backward(low: Lowering, out: Spec, gradient: Argument, value: Argument) -> Value:
    g = low.value(gradient, FLOAT)
    x, kernel = _parts(low.value(value), g.shape[-2:])
    made: Value = _average_pool_backward(low, out, g, x, kernel, kernel, (0,), False, True, None)
    return made


@rule("constant_pad_nd")
def _pad(low: Lowering, out: Spec, value: Argument, pads: Sequence[int], number: float = 0) -> Value:
    """Pads, last dimension first: (before, after) each; a negative one cuts."""
    b, made = low.builder, low.value(value, out.dtype)
    for place, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = len(out.shape) - 1 - place
        made = b.slice(made, dim, max(-before, 0), made.shape[dim] - max(-after, 0))
        sides = [(*made.shape[:dim], max(size, 0), *made.shape[dim + 1 :]) for size in (before, after)]
        edges = [b.expand(b.scalar(number, out.dtype), side) for side in sides]
        parts = [part for part in (edges[0], made, edges[1]) if part.shape[dim]]
        made = parts[0] if len(parts) == 1 else b.emit("concatenate", *parts, dim=dim)
    return made
