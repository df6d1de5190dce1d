"""Inputs over the whole range of float32, and errors against 50 digits in units of the last place.

The unit of a number is the distance between float32 numbers of its binade, never below 2**-149.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import mpmath
import torch
from torch import Tensor

from trainer.exact.rng import uniform_bits, uniform_f32

DIGITS = 50
TINY, LARGEST = 2.0**-149, 3.4028234663852886e38
Real = mpmath.mpf
Reference = Callable[[Real], Real]


def binades(per_binade: int, low: int = 0, high: int = 254) -> Tensor:
    """`per_binade` seeded numbers of each sign in every binade of biased exponents low..high (0: subnormals).

    The first and the last number of every binade are among them.
    """
    exponents = torch.arange(low, high + 1).repeat_interleave(2 * per_binade)
    words = uniform_bits(b"ulp", f"binades {per_binade}", len(exponents))
    fractions = (words >> 16) & 0x7FFFFF
    place = torch.arange(len(exponents)) % (2 * per_binade)
    fractions = torch.where(place < 2, 0, torch.where(place < 4, 0x7FFFFF, fractions))
    values = ((exponents << 23) | fractions).to(torch.int32).view(torch.float32)
    return torch.where(place % 2 == 0, values, -values)


def between(low: float, high: float, count: int) -> Tensor:
    """Seeded numbers within low..high."""
    unit = uniform_f32(b"ulp", f"{low} {high}", (count,)).to(torch.float64)
    return (unit * (high - low) + low).to(torch.float32)


def near(values: Iterable[float], steps: int = 3) -> Tensor:
    """The float32 numbers nearest to `values` and `steps` neighbours on both sides, of both signs."""
    centre = torch.tensor(list(values), dtype=torch.float64).to(torch.float32).abs()
    bits = centre.view(torch.int32)[:, None] + torch.arange(-steps, steps + 1, dtype=torch.int32)
    around = bits.clamp(min=0).view(torch.float32).flatten()
    return torch.cat([around, -around])


def unit(size: Real) -> Real:
    """The distance of float32 numbers at `size`."""
    return mpmath.mpf(2) ** max(mpmath.frexp(size)[1] - 24 if size else -149, -149)


def worst(found: Sequence[float], true: Iterable[Real], scale: Iterable[Real] | None = None) -> float:
    """The largest error in units of `scale`, by default of the true value itself; an overflow must be infinite."""
    largest = mpmath.mpf(0)
    true = list(true)
    for value, exact, size in zip(found, true, true if scale is None else scale, strict=True):
        if abs(exact) >= mpmath.mpf(LARGEST) + mpmath.mpf(2) ** 103:
            assert value == math.copysign(math.inf, exact)
        else:
            largest = max(largest, abs(mpmath.mpf(value) - exact) / unit(size))
    return float(largest)


def worst_of(function: Callable[[Tensor], Tensor], reference: Reference, x: Tensor) -> float:
    """The largest error of a function of one number over x."""
    with mpmath.workdps(DIGITS):
        return worst(function(x).tolist(), [reference(mpmath.mpf(v)) for v in x.tolist()])
