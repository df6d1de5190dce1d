"""Which numbers of a node may have no value, looked for with numpy: where to look for the place at which it fails.

For honest peers. The law's definition says of each whether it fails; none that fails is left out.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainer.rounds.totals import Array, ReadMany, along, chunks
from verification.arithmetic.numbers import FLOAT, limits
from verification.arithmetic.places import Site
from verification.claims import Result


def suspects(result: Result, read_many: ReadMany) -> Iterator[int]:
    """Yield the numbers of a result, in order, that end the step, and perhaps others."""
    look = _LOOKS.get(result.operator)
    for numbers in chunks(0, result.grid.numbers):
        yield from (numbers if look is None else numbers[look(result.site, numbers, read_many)]).tolist()


def _divide(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    return np.asarray(_at(site, 1, numbers, read_many) == 0)


def _sqrt(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    return np.asarray(_at(site, 0, numbers, read_many) < 0)


def _cast(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    if site.inputs[0].dtype != FLOAT or site.result.dtype in (FLOAT, "bool"):
        return np.zeros(len(numbers), dtype=bool)
    low, high = limits(site.result.dtype)
    values = read_many(0, numbers).astype(np.float64)
    return ~((values > low) & (values < high))


def _quantise(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    return ~np.isfinite(_at(site, 0, numbers, read_many))


def _gather(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    width = int(np.prod(site.inputs[0].shape[1:], dtype=np.int64))
    return _outside(read_many(1, numbers // width), site.inputs[0].shape[0])


def _select(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    return _outside(read_many(1, np.zeros_like(numbers)), site.inputs[0].shape[0])


def _take_along(site: Site, numbers: Array, read_many: ReadMany) -> Array:
    return _outside(read_many(1, numbers), site.inputs[0].shape[site.one("dim")])


def _at(site: Site, place: int, numbers: Array, read_many: ReadMany) -> Array:
    return read_many(place, along(site.broadcast[place].at, numbers))


def _outside(indices: Array, rows: int) -> Array:
    found: Any = (indices < 0) | (indices >= rows)
    return np.asarray(found)


_LOOKS: dict[str, Callable[[Site, Array, ReadMany], Array]] = {
    "divide": _divide, "sqrt": _sqrt, "cast": _cast, "quantise": _quantise, "gather": _gather, "select": _select,
    "take_along": _take_along,
}  # fmt: skip
"""The operators of one number at a place that may have none; all numbers over an axis are suspects."""
