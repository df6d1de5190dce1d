"""Small integers packed into bytes and taken out again, built from operators that are exact on float32.

An integer of so many bits is cut into digits of 8, 4, 2 and 1 bits; digits of one width lie together. Byte j of n bytes
holds the digits of integers j, j + n, j + 2n ..., the first in its lowest bits, so that packing is elementwise.
"""

import math
from collections.abc import Sequence

from trainer.programs.tracing.builder import Builder, Value
from verification.arithmetic.numbers import FLOAT

WIDTHS = (8, 4, 2, 1)
MAX_BITS = 24
"""Bits of the largest integers that float32 holds all of."""


def digits_of(bits: int) -> tuple[int, ...]:
    """Return the widths of the digits of an integer of so many bits, the lowest digit first."""
    found = []
    for width in WIDTHS:
        while bits >= width:
            found.append(width)
            bits -= width
    return tuple(found)


def packed_size(count: int, bits: int) -> int:
    """Return how many bytes hold `count` integers of so many bits."""
    return sum(_bytes(count, width) for width in digits_of(bits))


def pack(b: Builder, numbers: Value, bits: int) -> Value:
    """Return uint8 [packed_size] of float32 [n], integers from 0 to 2**bits - 1; bits that are left over are 0."""
    parts, rest, left = [], numbers, bits
    for width in digits_of(bits):
        left -= width
        above = _shifted(b, rest, width) if left else None
        digit = rest if above is None else b.subtract(rest, b.multiply(above, b.scalar(2.0**width)))
        parts.append(_bytes_of(b, digit, width))
        rest = rest if above is None else above
    return joined(b, parts)


def unpack(b: Builder, data: Value, count: int, bits: int) -> Value:
    """Return float32 [count] of uint8 [packed_size]; bits that are left over say nothing."""
    made, start, weight = None, 0, 1.0
    for width in digits_of(bits):
        stop = start + _bytes(count, width)
        digit = _digits_in(b, b.cast(b.slice(data, 0, start, stop), FLOAT), count, width)
        worth = digit if weight == 1.0 else b.multiply(digit, b.scalar(weight))
        made = worth if made is None else b.add(made, worth)
        start, weight = stop, weight * 2.0**width
    assert made is not None
    return made


def joined(b: Builder, parts: Sequence[Value]) -> Value:
    """Return vectors one after another."""
    return parts[0] if len(parts) == 1 else b.emit("concatenate", *parts, dim=0)


def padded(b: Builder, numbers: Value, size: int) -> Value:
    """Return a float32 vector filled up to `size` numbers with zeros."""
    missing = size - numbers.shape[0]
    return joined(b, [numbers, b.expand(b.scalar(0.0), (missing,))]) if missing else numbers


def _bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def _shifted(b: Builder, numbers: Value, bits: int) -> Value:
    """Return whole numbers without their lowest bits."""
    return b.emit("floor", b.multiply(numbers, b.scalar(math.ldexp(1.0, -bits))))


def _bytes_of(b: Builder, digits: Value, width: int) -> Value:
    size, per = _bytes(digits.shape[0], width), 8 // width
    filled = padded(b, digits, size * per)
    made = b.slice(filled, 0, 0, size)
    for place in range(1, per):
        part = b.slice(filled, 0, place * size, (place + 1) * size)
        made = b.add(made, b.multiply(part, b.scalar(2.0 ** (width * place))))
    return b.cast(made, "uint8")


def _digits_in(b: Builder, data: Value, count: int, width: int) -> Value:
    """Return the digits in bytes, float32 [count]."""
    parts, rest = [], data
    for _ in range(8 // width - 1):
        above = _shifted(b, rest, width)
        parts.append(b.subtract(rest, b.multiply(above, b.scalar(2.0**width))))
        rest = above
    return b.slice(joined(b, [*parts, rest]), 0, 0, count)
