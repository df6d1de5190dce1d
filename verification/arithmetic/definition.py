"""What defines an operator: how one number of its result comes from numbers of its inputs.

A definition asks for what it needs through `read`, so the places that it asks for are the number's footprint, and no
list of them can differ from what is computed. It asks for at most one number of each input at a time.

A number over a whole axis (a sum, a largest number, a product) is made of *totals*: integers over numbered terms, each
term of a few numbers again. An operator may need several, in order, and the terms of a later one may need the earlier
totals: a sum of float32 first takes the largest exponent, then adds integers on that scale. Totals are integers modulo
2^64 or maxima, so those of any ranges of terms combine to the whole. (SPEC.md 2.6)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from verification.arithmetic.numbers import INDEX, EndsStep, Number, settled, wrapped
from verification.arithmetic.places import Site

Read = Callable[[int, int], Number]
"""Gives the number at a flat index of the input with a place."""

Totals = tuple[int, ...]
"""The totals that a number has so far, in the order of its operator's."""

Part = int | None
"""The total of some terms; None where one of them ends the step."""

LEAST = -(1 << 63)
"""The least int64: what a maximum starts from."""


class Combine(StrEnum):
    """How the totals of two ranges become one: added as int64 that wrap around, or the greater of them."""

    ADD = "add"
    MAX = "max"

    def of(self, parts: Sequence[Part], start: int) -> Part:
        """Return the total of `start` and some parts, in any order."""
        numbers = [part for part in parts if part is not None]
        if len(numbers) < len(parts):
            return None
        return max([start, *numbers]) if self is Combine.MAX else wrapped(INDEX, start + sum(numbers))


@dataclass(frozen=True)
class Total:
    """An integer over the terms 0 .. `count` - 1 of a number: `term(site, index, k, read, totals)` is the k-th.

    `start` is the total of no terms. A term may raise EndsStep: no range with it has a total.
    """

    combine: Combine
    start: int
    count: Callable[[Site], int]
    term: Callable[[Site, int, int, Read, Totals], int]


@dataclass(frozen=True)
class Definition:
    """`value(site, index, read, totals)` is number `index` of the result, before it is rounded to the result's dtype.

    `totals` are what it needs; it may raise EndsStep. At a time it reads `reads` numbers, None: one of each input.
    """

    value: Callable[[Site, int, Read, Totals], Number]
    totals: tuple[Total, ...] = ()
    reads: int | None = None


def finish(definition: Definition, site: Site, index: int, read: Read, totals: Totals) -> Number:
    """Return a number of a result from its totals; raises EndsStep where it has none."""
    return settled(site.result.dtype, definition.value(site, index, read, totals))


def range_total(
    total: Total, site: Site, index: int, read: Read, totals: Totals, low: int, high: int
) -> Part:
    """Return the total of the terms low .. high - 1, given the `totals` before it; None where one ends the step."""
    term = total.term
    try:
        parts = [term(site, index, k, read, totals) for k in range(low, high)]
    except EndsStep:
        return None
    return total.combine.of(parts, total.start)


def totals_of(definition: Definition, site: Site, index: int, read: Read) -> Totals:
    """Return all totals of a number; raises EndsStep."""
    totals: Totals = ()
    for total in definition.totals:
        made = range_total(total, site, index, read, totals, 0, total.count(site))
        if made is None:
            raise EndsStep("a term has no value")
        totals += (made,)
    return totals


def number_of(definition: Definition, site: Site, index: int, read: Read) -> Number:
    """Return a number of a result, all its terms included; raises EndsStep where it has none."""
    return finish(definition, site, index, read, totals_of(definition, site, index, read))


def numbers_in(site: Site) -> int:
    """Return how many numbers a result has."""
    return math.prod(site.result.shape)
