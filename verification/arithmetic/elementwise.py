"""Operators whose number comes from the numbers at its own place: arithmetic, comparison, choice, conversion."""

import math
from collections.abc import Callable

from verification.arithmetic.definition import Definition, Read, Totals
from verification.arithmetic.numbers import FLOAT, EndsStep, Number, limits, times_power
from verification.arithmetic.places import Site


def elementwise(function: Callable[..., Number]) -> Definition:
    """Return the definition by a function of one number of each input, all broadcast to the result's shape.

    The function computes in integers or doubles; what it returns is rounded once. For one addition, subtraction,
    multiplication, division or square root of float32 that is the float32 operation itself: 53 bits are more than
    twice 24 and two, and a double reaches far below the least float32.
    """

    def value(site: Site, index: int, read: Read, totals: Totals) -> Number:
        return function(*[read(place, way.at(index)) for place, way in enumerate(site.broadcast)])

    value.__doc__ = function.__doc__
    return Definition(value)


def maximum(left: Number, right: Number) -> Number:
    """The larger one; NaN where either is."""
    return left if left > right or left != left else right


def minimum(left: Number, right: Number) -> Number:
    """The smaller one; NaN where either is."""
    return left if left < right or left != left else right


def sign(number: Number) -> Number:
    """-1, 0 or 1; 0 for NaN."""
    return (number > 0) - (number < 0)


def divide(left: float, right: float) -> float:
    """IEEE division. A zero divisor ends the step, since 1 / -0 and 1 / +0 would differ."""
    if right == 0.0:
        raise EndsStep("division by zero")
    return left / right


def sqrt(number: float) -> float:
    """IEEE square root. A negative number ends the step."""
    if number < 0.0:
        raise EndsStep("square root of a negative number")
    return math.sqrt(number)


def nearest(number: float) -> float:
    """The nearest integer, half to even; what is no finite number stays."""
    return float(round(number)) if math.isfinite(number) else number


def floor(number: float) -> float:
    """The greatest integer that is not greater; what is no finite number stays."""
    return float(math.floor(number)) if math.isfinite(number) else number


def _cast(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """To another dtype: a float to an integer by truncation, which must be finite and in range."""
    number, dtype = read(0, index), site.result.dtype
    if site.inputs[0].dtype != FLOAT or dtype in (FLOAT, "bool"):
        return number
    low, high = limits(dtype)
    if not (math.isfinite(number) and low <= math.trunc(number) <= high):
        raise EndsStep("a float does not fit into the integer")
    return math.trunc(number)


def _quantise(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """number * 2^(bits - 1 - e) to the nearest integer, half to even, clamped to +-(2^(bits - 1) - 1).

    e is the number's row's in the second input. A number that is not finite ends the step, as its row's exponent did.
    """
    bits = site.one("bits")
    number, exponent = (read(place, way.at(index)) for place, way in enumerate(site.broadcast))
    if not math.isfinite(number):
        raise EndsStep("an infinity or a NaN")
    limit = (1 << bits - 1) - 1
    scaled = times_power(number, bits - 1 - int(exponent))
    return round(scaled) if abs(scaled) < limit else int(math.copysign(limit, scaled))


CAST, QUANTISE = Definition(_cast), Definition(_quantise)
