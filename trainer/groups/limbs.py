"""Sums of int64 as averages of float32, exactly: what an averager that knows no integers can do for a group. Pure.

A number goes as four limbs of 16 bits. With at most `MAX_MEMBERS` members every limb's sum is an integer below 2^24,
which float32 holds, and with a total weight that is a power of two so is every average: any order of addition gives it.
Where the members are no power of two some count twice, with halved limbs.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LIMBS, LIMB_BITS = 4, 16
MAX_MEMBERS = 64
MODULUS = (1 << 31) - 1
_CHUNK = 1 << 20


def weight_of(place: int, members: int) -> int:
    """Return how often a member counts; the weights of all add up to `total_weight`."""
    return 2 if place < total_weight(members) - members else 1


def total_weight(members: int) -> int:
    """Return the least power of two that is not below the number of members."""
    return 1 << (members - 1).bit_length()


def to_limbs(numbers: Array) -> Array:
    """Return int64 [n] as float32 [4 n], the low limbs of all numbers first."""
    words = numbers.astype("<i8").view("<u2").reshape(-1, LIMBS)
    return np.ascontiguousarray(words.T).reshape(-1).astype(np.float32)


def of_limbs(sums: Array) -> Array:
    """Return the int64 [n] whose limbs' sums over all members are float [4 n]; sums wrap around."""
    limbs = sums.reshape(LIMBS, -1).astype(np.uint64)
    total = np.zeros(limbs.shape[1], dtype=np.uint64)
    for place in range(LIMBS):
        total += limbs[place] << np.uint64(LIMB_BITS * place)
    return total.view(np.int64)


def checksum(limbs: Array) -> int:
    """Return a sum of limbs (or of limbs' sums), each times a factor of its place, modulo 2^31 - 1.

    It is linear: members' checksums add up to that of their sum, and do not where a part of it is another one's.
    """
    total = 0
    for start in range(0, limbs.size, _CHUNK):
        part = limbs[start : start + _CHUNK].astype(np.int64)
        factors = np.random.Generator(np.random.Philox(key=start)).integers(1, MODULUS, part.size)
        total += int((part * factors % MODULUS).sum())
    return total % MODULUS
