"""Totals over millions of terms, with numpy: what `verification.arithmetic.sums` defines term by term.

For honest peers; the law never asks it: a range that it judges has 64 terms at most.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from verification.arithmetic.definition import Part, Read, Totals, range_total
from verification.arithmetic.numbers import FLOAT, HIGHEST_EXPONENT, INDEX, LOWEST_EXPONENT, EndsStep, wrapped
from verification.arithmetic.sums import fixed_point_bits
from verification.claims import Result

Array = np.ndarray[Any, Any]
ReadMany = Callable[[int, Array], Array]
"""Gives the numbers at flat indices of the input with a place."""

NUMPY_DTYPES = {
    "float32": "<f4", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|u1",
}  # fmt: skip
"""How numpy reads each dtype's bytes; a bool is 0 or 1."""

CHUNK = 1 << 20
"""Terms that are looked at together."""

_LARGEST = 2.0**62
_SIGN = np.int64(0x80000000)


class _Undecided(Exception):
    """Numbers in which this way could differ from the definition."""


@dataclass(frozen=True)
class FastTotals:
    """Total number `which` of number `index` of a node's result, over some terms; None where one ends the step.

    `read` and `read_many` give the same numbers of the node's inputs.
    """

    result: Result
    read: Read
    read_many: ReadMany

    def __call__(self, which: int, index: int, totals: Totals, low: int, high: int) -> Part:
        """Return what `range_total` does."""
        total = self.result.definition.totals[which]
        try:
            parts = [self._part(which, index, totals, terms) for terms in chunks(low, high)]
        except _Undecided:
            return range_total(total, self.result.site, index, self.read, totals, low, high)
        except EndsStep:
            return None
        return total.combine.of(parts, total.start)

    def _part(self, which: int, index: int, totals: Totals, terms: Array) -> int:
        match self.result.operator, which:
            case "product", 0:
                return self._products(index, terms)
            case "scatter_sum", 0:
                return _exponent(self.read_many(1, terms))
            case "scatter_sum", 1:
                return self._scattered(index, totals[0], terms)
            case "rank", 0:
                return int(self._own_order(index)[0])
            case "rank", 1:
                return self._ahead(index, totals[0], terms)
            case "sum" | "mean" | "amax" | "row_exponent", _:
                return self._reduced(which, totals, self._terms_of(index, terms))
        raise _Undecided

    def _reduced(self, which: int, totals: Totals, numbers: Array) -> int:
        site = self.result.site
        if self.result.operator == "amax":
            return _order(site.inputs[0].dtype, numbers)
        if site.inputs[0].dtype != FLOAT:
            return _added(numbers.astype(np.int64))
        return _fixed(numbers, totals[0], fixed_point_bits(site.reduced[2])) if which else _exponent(numbers)

    def _terms_of(self, index: int, terms: Array) -> Array:
        rows, places, _ = self.result.site.reduced
        return self.read_many(0, rows.at(index) + along(places.at, terms))

    def _own_order(self, index: int) -> Array:
        return _orders(self.result.site.inputs[0].dtype, self.read_many(0, np.array([index])))

    def _ahead(self, index: int, order: int, terms: Array) -> int:
        site = self.result.site
        row, place = divmod(index, site.inputs[0].shape[-1])
        others = _orders(site.inputs[0].dtype, self.read_many(0, row * site.inputs[0].shape[-1] + terms))
        return int(((others > order) | ((others == order) & (terms < place))).sum())

    def _products(self, index: int, terms: Array) -> int:
        left, right = self.result.site.inputs[0], self.result.site.result
        rows, depth, columns = *left.shape[-2:], right.shape[-1]
        row, column = divmod(index, columns)
        ours = self.read_many(0, row * depth + terms).astype(np.int64)
        theirs = self.read_many(2, (row // rows * depth + terms) * columns + column).astype(np.int64)
        return _added(ours * theirs)

    def _scattered(self, index: int, exponent: int, terms: Array) -> int:
        site = self.result.site
        width = self.result.grid.numbers // site.one("rows")
        row, column = divmod(index, width)
        named = self.read_many(0, terms)
        if ((named < 0) | (named >= site.one("rows"))).any():
            raise EndsStep(f"an index is outside 0..{site.one('rows') - 1}")
        chosen = terms[named == row]
        bits = fixed_point_bits(int(np.prod(site.inputs[0].shape, dtype=np.int64)))
        return _fixed(self.read_many(1, chosen * width + column), exponent, bits)


def chunks(low: int, high: int) -> Iterator[Array]:
    """Yield the integers low .. high - 1, CHUNK at a time."""
    for start in range(low, high, CHUNK):
        yield np.arange(start, min(start + CHUNK, high), dtype=np.int64)


def along(way: Callable[[Any], Any], terms: Array) -> Array:
    """Return where a way leads: its integer arithmetic is an array's too, and gives one integer if it never moves."""
    places: Array = np.zeros_like(terms) + way(terms)
    return places


def _added(integers: Array) -> int:
    """Integers of int64 wrap around."""
    return wrapped(INDEX, int(integers.sum(dtype=np.int64)))


def _exponent(numbers: Array) -> int:
    """Return the largest exponent."""
    if not np.isfinite(numbers).all():
        raise EndsStep("an infinity or a NaN")
    largest = np.abs(numbers).max(initial=0)
    return int(np.frexp(np.float64(largest))[1]) if largest else LOWEST_EXPONENT


def _fixed(numbers: Array, exponent: int, bits: int) -> int:
    """Return the sum of the numbers as integers on a scale."""
    if not (np.isfinite(numbers).all() and LOWEST_EXPONENT <= exponent <= HIGHEST_EXPONENT):
        raise _Undecided
    scaled = np.rint(np.ldexp(numbers.astype(np.float64), bits - exponent))
    if scaled.size and np.abs(scaled).max() >= _LARGEST:
        raise _Undecided
    return _added(scaled.astype(np.int64))


def _order(dtype: str, numbers: Array) -> int:
    """Return the greatest of the integers that order numbers."""
    return int(_orders(dtype, numbers).max())


def _orders(dtype: str, numbers: Array) -> Array:
    """Return the integers that order numbers, NaN above all."""
    if dtype != FLOAT:
        return numbers.astype(np.int64)
    if np.isnan(numbers).any():
        raise _Undecided
    words = (numbers.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(words & _SIGN, _SIGN - words, words)
