"""Where a value's elements lie in a buffer, so that views, permutations, slices and expansions cost nothing.

A layout gives each dimension as runs (size, stride) in elements, most significant first. A view that joins permuted
dimensions keeps them as several runs of one dimension; only a view that cuts a run unevenly has no layout.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

StrideRun = tuple[int, int]
"""(size, stride): size other than 1; stride 0 repeats an element."""


@dataclass(frozen=True)
class Layout:
    """Element `offset`, and per dimension its runs; a dimension of size 1 has none."""

    offset: int
    dims: tuple[tuple[StrideRun, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""
        return tuple(math.prod(size for size, _ in runs) for runs in self.dims)

    @property
    def runs(self) -> tuple[StrideRun, ...]:
        """All runs in the order of the elements, joined where neighbours continue each other."""
        return _joined(run for runs in self.dims for run in runs)


@dataclass(frozen=True)
class Access:
    """How rows of C elements are read: `offset` plus the outer runs' place of the row, then `stride` per element."""

    offset: int
    outer: tuple[StrideRun, ...]
    stride: int

    def is_full(self, rows: int, columns: int) -> bool:
        """Return whether element (r, c) is number r * columns + c of the buffer."""
        if self.offset or (columns > 1 and self.stride != 1):
            return False
        return rows == 1 or self.outer == ((rows, columns),)

    def is_row(self, rows: int, columns: int) -> bool:
        """Return whether every element of row r is number r of the buffer."""
        if self.offset or (columns > 1 and self.stride != 0):
            return False
        return rows == 1 or self.outer == ((rows, 1),)


def contiguous(shape: Sequence[int]) -> Layout:
    """Return the layout of a dense buffer in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    pairs = zip(shape, reversed(strides), strict=True)
    return Layout(0, tuple(((size, stride),) if size != 1 else () for size, stride in pairs))


def permute(layout: Layout, dims: Sequence[int]) -> Layout:
    """Return the layout whose dimension i is dimension `dims[i]`."""
    return Layout(layout.offset, tuple(layout.dims[dim] for dim in dims))


def expand(layout: Layout, shape: Sequence[int]) -> Layout:
    """Return the layout repeated to `shape`, aligned at the right as broadcasting is."""
    missing = len(shape) - len(layout.dims)
    dims: list[tuple[StrideRun, ...]] = [()] * missing + list(layout.dims)
    sizes = (1,) * missing + layout.shape
    repeated = [
        ((size, 0),) if size != own else runs for runs, own, size in zip(dims, sizes, shape, strict=True)
    ]
    return Layout(layout.offset, tuple(repeated))


def cut(layout: Layout, dim: int, start: int, stop: int, step: int) -> Layout | None:
    """Return the layout of a slice, or None where the dimension is no single run."""
    runs = _joined(layout.dims[dim])
    count = len(range(start, stop, step))
    if len(runs) > 1:
        return None
    stride = runs[0][1] if runs else 0
    part: tuple[StrideRun, ...] = ((count, stride * step),) if count != 1 else ()
    return Layout(layout.offset + start * stride, (*layout.dims[:dim], part, *layout.dims[dim + 1 :]))


def view(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """Return the layout of the same elements under `shape`, or None where a run would be cut unevenly."""
    if 0 in shape:
        return contiguous(shape)
    waiting = [run for runs in layout.dims for run in runs]
    dims: list[tuple[StrideRun, ...]] = []
    for size in reversed(shape):
        taken = _take(waiting, size)
        if taken is None:
            return None
        dims.append(taken)
    return Layout(layout.offset, tuple(reversed(dims)))


def access(layout: Layout, columns: int) -> Access | None:
    """Return how the layout is read in rows of `columns`, or None where a row is no single run."""
    waiting = [run for runs in layout.dims for run in runs]
    taken = _take(waiting, columns)
    inner = None if taken is None else _joined(taken)
    if inner is None or len(inner) > 1:
        return None
    return Access(layout.offset, _joined(waiting), inner[0][1] if inner else 0)


def column_access(layout: Layout, depth: int, inner: int) -> tuple[Access, int] | None:
    """Return how [outer, depth, inner] is read: an access per outer place and the stride of depth; None if unevenly."""
    waiting = [run for runs in layout.dims for run in runs]
    taken = [_take(waiting, inner), _take(waiting, depth)]
    joined = [None if runs is None else _joined(runs) for runs in taken]
    if any(runs is None or len(runs) > 1 for runs in joined):
        return None
    row, column = ((runs or ((1, 0),))[0][1] for runs in joined)
    return Access(layout.offset, _joined(waiting), row), column


def walking_order(layout: Layout) -> tuple[int, ...]:
    """Return the dimensions in the order in which the buffer is best walked: its own where the layout is dense in it.

    Otherwise the order is the layout's own, with the dimension of neighbouring elements last.
    """
    runs = [_joined(dim) for dim in layout.dims]
    if not layout.offset and all(len(dim) <= 1 for dim in runs):
        # A dimension of size 1 stays beside its neighbour.
        steps: list[float] = []
        for dim in runs:
            steps.append(dim[0][1] if dim else (steps[-1] if steps else math.inf))
        order = sorted(range(len(runs)), key=lambda dim: -steps[dim])
        if permute(layout, order) == contiguous([layout.shape[dim] for dim in order]):
            return tuple(order)
    return tuple(sorted(range(len(runs)), key=lambda dim: bool(runs[dim]) and runs[dim][-1][1] == 1))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes `order`."""
    return tuple(order.index(dim) for dim in range(len(order)))


def _take(waiting: list[StrideRun], size: int) -> tuple[StrideRun, ...] | None:
    """Remove runs of `size` elements from the end of `waiting`, splitting one where it divides."""
    taken: list[StrideRun] = []
    while size > 1:
        own, stride = waiting.pop()
        if size % own == 0:
            taken.append((own, stride))
            size //= own
        elif own % size == 0:
            taken.append((size, stride))
            waiting.append((own // size, stride * size))
            size = 1
        else:
            return None
    return tuple(reversed(taken))


def _joined(runs: Iterable[StrideRun]) -> tuple[StrideRun, ...]:
    joined: list[StrideRun] = []
    for size, stride in runs:
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return tuple(joined)
