"""Operators that move numbers and change none: views, parts, joints, and rows by number."""

import math

from verification.arithmetic.definition import Definition, Read, Totals
from verification.arithmetic.numbers import EndsStep, Number
from verification.arithmetic.places import Site


def _view(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The number at the same flat index."""
    return read(0, index)


def _expand(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """Missing and single dimensions repeat."""
    return read(0, site.broadcast[0].at(index))


def _moved(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """Dimensions in another order, or every `step`-th place of one from `start` on."""
    return read(0, site.moved.at(index))


def _concatenate(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """Inputs one after another along `dim`."""
    dim = site.one("dim")
    inner = math.prod(site.result.shape[dim + 1 :])
    outer, rest = divmod(index, site.result.shape[dim] * inner)
    for place, spec in enumerate(site.inputs):
        width = spec.shape[dim] * inner
        if rest < width:
            return read(place, outer * width + rest)
        rest -= width
    raise AssertionError("the inputs are shorter than the result")


def _gather(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """From the row of a table that an index names; an index outside the table ends the step."""
    width = math.prod(site.inputs[0].shape[1:])
    place, rest = divmod(index, width)
    return read(0, named(read(1, place), site.inputs[0].shape[0]) * width + rest)


def _select(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """From the one row that an index names."""
    width = math.prod(site.inputs[0].shape[1:])
    return read(0, named(read(1, 0), site.inputs[0].shape[0]) * width + index)


def _take_along(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """From the place along `dim` that the index at the same place names."""
    dim, shape = site.one("dim"), site.inputs[0].shape
    inner = math.prod(shape[dim + 1 :])
    outer, rest = divmod(index, site.result.shape[dim] * inner)
    row = named(read(1, index), shape[dim])
    return read(0, (outer * shape[dim] + row) * inner + rest % inner)


def named(index: Number, rows: int) -> int:
    """Return the row that an index names; raises EndsStep outside 0 .. rows - 1."""
    if not 0 <= index < rows:
        raise EndsStep(f"an index is outside 0..{rows - 1}")
    return int(index)


VIEW, EXPAND, MOVED = Definition(_view), Definition(_expand), Definition(_moved)
CONCATENATE, GATHER = Definition(_concatenate, reads=1), Definition(_gather)
SELECT, TAKE_ALONG = Definition(_select), Definition(_take_along)
