"""Numbers of tensors as Python holds them: what each dtype keeps, how its bytes are read, and how it rounds.

A float32 is a Python float (every float32 is a double), anything else an int; a bool is 0 or 1. The sign of a zero and
the bits of a NaN are no part of a number: a tensor's digest does not see them, and no operator may. (SPEC.md 2.2)
"""

import math
import struct

FLOAT = "float32"
INDEX = "int64"

FORMATS = {
    "float32": struct.Struct("<f"),
    "int64": struct.Struct("<q"),
    "int32": struct.Struct("<i"),
    "int16": struct.Struct("<h"),
    "int8": struct.Struct("<b"),
    "uint8": struct.Struct("<B"),
    "bool": struct.Struct("<B"),
}
"""How each dtype stands in bytes: every dtype that a tensor may have."""

LOWEST_EXPONENT, HIGHEST_EXPONENT = -148, 128
"""The e with 2^(e-1) <= |x| < 2^e of the least and of the greatest float32."""

MAGIC = 6755399441055744.0
"""1.5 * 2^52: a double of less than 2^51 that it is added to is rounded to an integer, half to even."""

_KEPT_BITS = 40
_NAN = 0x7FC00000
_SIGN = 0x80000000

Number = int | float
"""One element of a tensor."""


class EndsStep(ArithmeticError):
    """By its operator's rule a number has no value (a zero divisor, a NaN in a sum): its node fails. (SPEC.md 6.5)"""


def read_number(dtype: str, data: bytes, index: int) -> Number:
    """Return element `index` of elements in bytes."""
    form = FORMATS[dtype]
    number: Number = form.unpack_from(data, index * form.size)[0]
    return number


def bits_of(dtype: str, number: Number) -> int:
    """Return a number's bits as a digest sees them, unsigned: -0 as +0, and one NaN."""
    if dtype != FLOAT:
        return int(number) & ((1 << 8 * FORMATS[dtype].size) - 1)
    if number != number:
        return _NAN
    return _float_bits(number + 0.0)


def of_bits(dtype: str, bits: int) -> Number:
    """Return the number that unsigned bits stand for."""
    return read_number(dtype, bits.to_bytes(FORMATS[dtype].size, "little"), 0)


def settled(dtype: str, number: Number) -> Number:
    """Return a number as its dtype holds it: rounded once, half to even, or wrapped around; a bool is whether not 0."""
    if dtype == FLOAT:
        return single(number) if isinstance(number, float) else single_of(number, 0)
    if dtype == "bool":
        return int(number != 0)
    return wrapped(dtype, int(number))


def wrapped(dtype: str, integer: int) -> int:
    """Return an integer modulo its dtype's range."""
    bits = 8 * FORMATS[dtype].size
    low = 0 if dtype == "uint8" else -(1 << bits - 1)
    return (integer - low & (1 << bits) - 1) + low


def limits(dtype: str) -> tuple[int, int]:
    """Return the least and the greatest integer of a dtype."""
    bits = 8 * FORMATS[dtype].size
    return (0, (1 << bits) - 1) if dtype == "uint8" else (-(1 << bits - 1), (1 << bits - 1) - 1)


def single(number: float) -> float:
    """Return a double rounded to float32, half to even; beyond float32 it is an infinity."""
    try:
        rounded: float = FORMATS[FLOAT].unpack(FORMATS[FLOAT].pack(number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def single_of(integer: int, shift: int) -> float:
    """Return integer * 2^shift rounded to float32 once, half to even."""
    magnitude = abs(integer)
    if (excess := magnitude.bit_length() - _KEPT_BITS) > 0:
        # The last kept bit remembers whether anything below it was cut off, so that no tie is made or lost.
        magnitude = magnitude >> excess | (magnitude & (1 << excess) - 1 != 0)
        shift += excess
    rounded = single(times_power(float(magnitude), shift))
    return -rounded if integer < 0 else rounded


def times_power(number: float, shift: int) -> float:
    """Return number * 2^shift as a double; beyond doubles it is an infinity."""
    try:
        return math.ldexp(number, shift)
    except OverflowError:
        return math.copysign(math.inf, number)


def exponent_of(number: float) -> int:
    """Return the e with 2^(e-1) <= |number| < 2^e of a float32, -148 for zero; raises EndsStep unless it is finite."""
    if not math.isfinite(number):
        raise EndsStep("an infinity or a NaN")
    return math.frexp(number)[1] if number else LOWEST_EXPONENT


def order_of(dtype: str, number: Number) -> int:
    """Return an integer that orders a dtype's numbers, NaN above all."""
    if dtype != FLOAT:
        return int(number)
    bits = bits_of(FLOAT, number)
    return _SIGN - bits if bits & _SIGN else bits


def at_order(dtype: str, order: int) -> Number:
    """Return the number that `order_of` gives an integer for."""
    if dtype != FLOAT:
        return order
    return of_bits(FLOAT, (_SIGN - order if order < 0 else order) & 0xFFFFFFFF)


def _float_bits(number: float) -> int:
    return int.from_bytes(FORMATS[FLOAT].pack(number), "little")
