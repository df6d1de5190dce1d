"""What models are made of, as lowered from a traced graph, against the exact value of the same float32 inputs.

A composite rounds after each of its nodes, so its error is several units, and where it subtracts equal numbers no bound
relative to the result exists (PyTorch's own forms have the same limits). Each case names the number whose last place
is its unit: the result, or what the result is small against.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mpmath
import torch
from torch import Tensor
from torch.nn import functional

from tests.lowered import Function, lowered, vjp
from tests.ulp.points import Real, between, binades

Truth = Iterator[tuple[Real, Real]]
"""(exact value, number whose last place is the unit) per element."""


@dataclass(frozen=True)
class Composite:
    """A composite: inputs by density, what is run on them, and the truth of each element of the first result."""

    inputs: Callable[[int], tuple[Tensor, ...]]
    function: Callable[..., object]
    truth: Callable[..., Truth]


def run(case: Composite, density: int) -> tuple[list[float], list[Real], list[Real]]:
    """(found, exact, scale) of every element."""
    inputs = case.inputs(density)
    found = lowered(case.function, *inputs)[0].flatten().tolist()
    exact, scale = zip(*case.truth(*inputs), strict=True)
    return found, list(exact), list(scale)


def alone(function: Function) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *values: (function(*values),)


def reals(values: Tensor) -> list[Real]:
    return [mpmath.mpf(value) for value in values.flatten().tolist()]


# Functions of one number, and their derivatives (the backward form with a gradient of 1).


def _sigmoid(x: Real) -> Real:
    return 1 / (1 + mpmath.exp(-x))


def _gelu(x: Real) -> Real:
    return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _gelu_slope(x: Real) -> Real:
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _tanh_inner(x: Real) -> Real:
    return mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)


def _gelu_tanh(x: Real) -> Real:
    return x * _sigmoid(2 * _tanh_inner(x))


def _gelu_tanh_slope(x: Real) -> Real:
    share = _sigmoid(2 * _tanh_inner(x))
    inner = mpmath.sqrt(2 / mpmath.pi) * (1 + 3 * mpmath.mpf("0.044715") * x * x)
    return share + x * share * (1 - share) * 2 * inner


def _pointwise(
    reference: Callable[[Real], Real], scale: Callable[[Real, Real], Real]
) -> Callable[..., Truth]:
    def truth(x: Tensor, *_: Tensor) -> Truth:
        for value in reals(x):
            exact = reference(value)
            yield exact, scale(value, exact)

    return truth


def _result_above_subnormal(x: Real, exact: Real) -> Real:
    return max(abs(exact), mpmath.mpf(2) ** -119)


def _argument(x: Real, exact: Real) -> Real:
    return max(abs(x), abs(exact))


def _one(x: Real, exact: Real) -> Real:
    return max(mpmath.mpf(1), abs(exact))


def _everywhere(low: float, high: float, top: int = 254) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda density: (torch.cat([binades(density, high=top), between(low, high, 200 * density)]),)


def _with_ones(inputs: Callable[[int], tuple[Tensor, ...]]) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda density: (inputs(density)[0], torch.ones_like(inputs(density)[0]))


def _slope(function: Function) -> Callable[..., object]:
    return vjp(function, 1)


POINTWISE: dict[str, Composite] = {
    "silu": Composite(
        _everywhere(-100, 20),
        alone(functional.silu),
        _pointwise(lambda x: x * _sigmoid(x), _result_above_subnormal),
    ),
    "silu backward": Composite(
        _with_ones(_everywhere(-100, 20)),
        _slope(functional.silu),
        _pointwise(lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))), _one),
    ),
    "gelu": Composite(
        _everywhere(-8, 8),
        alone(functional.gelu),
        _pointwise(_gelu, _argument),
    ),
    "gelu backward": Composite(
        _with_ones(_everywhere(-8, 8)),
        _slope(functional.gelu),
        _pointwise(_gelu_slope, _one),
    ),
    "gelu by tanh": Composite(
        _everywhere(-8, 8),
        alone(lambda x: functional.gelu(x, approximate="tanh")),
        _pointwise(_gelu_tanh, _argument),
    ),
    "gelu by tanh backward": Composite(
        _with_ones(_everywhere(-8, 8, 187)),
        _slope(lambda x: functional.gelu(x, approximate="tanh")),
        _pointwise(_gelu_tanh_slope, _one),
    ),
    "sigmoid backward": Composite(
        _with_ones(_everywhere(-100, 20)),
        _slope(torch.sigmoid),
        _pointwise(lambda x: _sigmoid(x) * _sigmoid(-x), _one),
    ),
    "tanh backward": Composite(
        _with_ones(_everywhere(-10, 10)),
        _slope(torch.tanh),
        _pointwise(lambda x: mpmath.sech(x) ** 2, _one),
    ),
}
