"""Random numbers from a counter: the same bits everywhere, and any element alone.

Two keys k0, k1 are the first 16 bytes (two little-endian integers) of
SHA-256("proofswarm/rng/1" | 8-byte little-endian length of seed | seed | stream as UTF-8).
Word i is mix(mix(k0 + i * 0x9E3779B97F4A7C15) xor k1) with all arithmetic modulo 2^64 and mix the
finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
2014). The second key keeps streams from being shifts of one another. Not a cipher: whoever must
not predict the numbers must not know the seed.
"""

import hashlib
import math

import torch
from torch import Tensor

from trainer.exact import cores

_DOMAIN = b"proofswarm/rng/1"
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_BLOCK = 1 << 16


def _signed(value: int) -> int:
    """The int64 with the low 64 bits of value."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift_right(z: Tensor, places: int) -> Tensor:
    """Logical shift: torch's shift of int64 copies the sign, the mask removes it."""
    return (z >> places).bitwise_and_((1 << (64 - places)) - 1)


def _mix(z: Tensor) -> Tensor:
    for places, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        z = z.bitwise_xor_(_shift_right(z, places)).mul_(_signed(multiplier))
    return z.bitwise_xor_(_shift_right(z, _SHIFTS[2]))


def _keys(seed: bytes, stream: str) -> tuple[int, int]:
    message = _DOMAIN + len(seed).to_bytes(8, "little") + seed + stream.encode()
    digest = hashlib.sha256(message).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def uniform_bits(seed: bytes, stream: str, count: int, start: int = 0) -> Tensor:
    """Words start .. start+count-1 of a stream: int64 [count], all 64 bits uniform."""
    first, second = _keys(seed, stream)
    counter = torch.arange(count, dtype=torch.int64)
    z = counter.mul_(_signed(_GAMMA)).add_(_signed(first + start * _GAMMA))
    return _mix(_mix(z).bitwise_xor_(_signed(second)))


def uniform_f32(seed: bytes, stream: str, shape: tuple[int, ...]) -> Tensor:
    """Multiples of 2^-24 uniform within [0, 1): the top 24 bits of word i; float32 of that shape."""
    words = uniform_bits(seed, stream, math.prod(shape))
    return (_shift_right(words, 40).to(torch.float64) * 2.0**-24).to(torch.float32).view(shape)


def normal_f32(seed: bytes, stream: str, shape: tuple[int, ...], std: float = 1.0) -> Tensor:
    """Normal numbers of mean 0 and standard deviation std; float32 of that shape, |z| <= 8.6 std.

    Box and Muller's cosine form in float64 on words 2i and 2i+1:
    sqrt(-2 ln u) * cos(2 pi v) * std, u = (top 53 bits + 1) * 2^-53, v = top 53 bits * 2^-53.
    """
    total = math.prod(shape)
    result = torch.empty(total, dtype=torch.float32)
    for start in range(0, total, _BLOCK):
        size = min(_BLOCK, total - start)
        words = uniform_bits(seed, stream, 2 * size, 2 * start).view(size, 2)
        fractions = _shift_right(words, 11)
        u = (fractions[:, 0] + 1).to(torch.float64) * 2.0**-53
        angle = fractions[:, 1].to(torch.float64).mul_(2.0**-53).mul_(2.0 * math.pi)
        a, b, c, d = (torch.empty_like(u) for _ in range(4))
        radius = cores.sqrt(cores.log(u, a, b, c).mul_(-2.0))
        cosine = cores.sine(angle, a, b, d, quarter=True)
        result[start : start + size] = radius.mul_(cosine).mul_(std)
    return result.view(shape)
