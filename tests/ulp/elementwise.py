"""The elementary functions of `trainer.exact`: what each is measured against, and where."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import torch
from torch import Tensor

from tests.ulp.points import Reference, between, binades, near
from trainer import exact

PI, LN2 = math.pi, math.log(2.0)


@dataclass(frozen=True)
class Elementwise:
    """A function of one number: its reference, its points by density per binade, and where it is defined."""

    function: Callable[[Tensor], Tensor]
    reference: Reference
    points: Callable[[int], Tensor]
    where: str = "all finite"


def _everywhere(*hard: float, low: float = -1.0, high: float = 1.0) -> Callable[[int], Tensor]:
    return lambda density: torch.cat([binades(density), between(low, high, 100 * density), near(hard)])


def _positive(*hard: float) -> Callable[[int], Tensor]:
    return lambda density: torch.cat([binades(density), between(0.5, 2.0, 100 * density), near(hard)]).abs()


def _up_to(limit: float, *hard: float) -> Callable[[int], Tensor]:
    exponent = math.frexp(limit)[1] + 125

    def points(density: int) -> Tensor:
        return torch.cat([binades(density, high=exponent), between(-limit, limit, 100 * density), near(hard)])

    return points


_STEPS = [k * LN2 / 2 for k in range(1, 250, 4)]
"""Multiples of ln 2 / 2: where the reduction of exp changes its integer."""
_QUARTERS = [k * PI / 2 for k in (*range(1, 60), *range(61, 667_544, 9_973))]
"""Multiples of pi / 2 below 2^20: where sine or cosine is tiny and its reduction hardest."""
_ROOTS = [2.0**k * r for k in range(-126, 127, 9) for r in (1.0, math.sqrt(0.5), 1.5)]

ELEMENTWISE: dict[str, Elementwise] = {
    "exp": Elementwise(
        exact.exp,
        mpmath.exp,
        _everywhere(*_STEPS, 88.722839, 87.336544, 103.27893, 103.972084, low=-104, high=89),
    ),
    "log": Elementwise(exact.log, mpmath.log, _positive(*_ROOTS, 1.0), "positive"),
    "sin": Elementwise(exact.sin, mpmath.sin, _up_to(exact.functions.SINE_LIMIT, *_QUARTERS), "up to 2^20"),
    "cos": Elementwise(exact.cos, mpmath.cos, _up_to(exact.functions.SINE_LIMIT, *_QUARTERS), "up to 2^20"),
    "tanh": Elementwise(exact.tanh, mpmath.tanh, _everywhere(0.5 * LN2, 9.01, 20.0, low=-10, high=10)),
    "erf": Elementwise(exact.erf, mpmath.erf, _everywhere(3.95, 3.92, low=-4, high=4)),
    "sigmoid": Elementwise(
        exact.sigmoid,
        lambda x: 1 / (1 + mpmath.exp(-x)),
        _everywhere(*_STEPS, 103.97, 88.72, low=-104, high=20),
    ),
    "sqrt": Elementwise(exact.sqrt, mpmath.sqrt, _positive(*_ROOTS), "not negative"),
    "rsqrt": Elementwise(exact.rsqrt, lambda x: 1 / mpmath.sqrt(x), _positive(*_ROOTS), "positive"),
    "reciprocal": Elementwise(exact.reciprocal, lambda x: 1 / x, _everywhere(*_ROOTS), "not zero"),
    "divide, by 3": Elementwise(lambda x: exact.divide(x, 3.0), lambda x: x / 3, _everywhere(*_ROOTS)),
}
for _power in (2.0, 3.0, 7.0, -1.0, -2.0, 0.5, -0.5, 1.5, 0.3, -1.7, 100.5):
    ELEMENTWISE[f"pow, {_power:g}"] = Elementwise(
        lambda x, power=_power: exact.pow(x, power),  # type: ignore[misc]
        lambda x, power=_power: x ** mpmath.mpf(power),  # type: ignore[misc]
        _positive(*_ROOTS),
        "positive",
    )


def inputs(name: str, density: int) -> Tensor:
    """The points of a function within its domain: no zeros where it has a pole, nothing beyond its limits."""
    case = ELEMENTWISE[name]
    x = case.points(density)
    x = x[x.isfinite()]
    if case.where in ("positive", "not zero"):
        x = x[x != 0]
    return x[x.abs() <= exact.functions.SINE_LIMIT] if case.where == "up to 2^20" else x
