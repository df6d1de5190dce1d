"""Elementary functions on float32, the same bits on every machine.

All take float32 of any shape and give float32 of the same shape and memory layout; they compute in
float64 with the cores of `cores.py` and round once. Subnormal inputs and results are kept. The
sign of a zero input never changes a result beyond the sign of a zero result. NaN gives NaN; its
payload is not specified. All raise TypeError for other dtypes.

Measured against mpmath at 50 digits on seeded inputs in every binade (docs/arithmetic.md has the
table, tests/unit/test_ulp.py the test): at most 0.502 ulp for every function here; sqrt and divide
are correctly rounded.
"""

import math

import torch
from torch import Tensor

from trainer.exact import cores
from trainer.exact.blocks import map_float32
from verification.arithmetic.constants import ERF_LIMIT, LOG2_E, SINE_LIMIT

# exp: e^-104 < 2^-150 rounds to zero, e^89 > 2^128 rounds to infinity.
_EXP_LOW, _EXP_HIGH = -104.0, 89.0


def exp(x: Tensor) -> Tensor:
    """e^x. exp(-inf) = 0, results above float32 are inf, results below 2^-126 are subnormal."""

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t, k, p = work
        torch.clamp(source, _EXP_LOW, _EXP_HIGH, out=target)
        t.copy_(target)
        target.copy_(cores.exp2(t.mul_(LOG2_E), k, p))

    return map_float32(x, kernel, 3)


def log(x: Tensor) -> Tensor:
    """Natural logarithm. log(+-0) = -inf, log(inf) = inf, log of a negative number is NaN."""

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        m, k, y, p = work
        m.copy_(source)
        target.copy_(cores.log(m, k, y, p))
        low, high = torch.aminmax(source)
        if not (low.item() > 0.0 and high.item() < math.inf):
            target.copy_(_log_limits(source, target))

    return map_float32(x, kernel, 4)


def _log_limits(x: Tensor, value: Tensor) -> Tensor:
    """value where x is positive and finite, the limits of the logarithm elsewhere."""
    value = torch.where(x == math.inf, x, value)
    value = torch.where(x == 0.0, -math.inf, value)
    return torch.where(x >= 0.0, value, math.nan)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, with full relative accuracy near zero. tanh(+-inf) = +-1."""

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t, k, q, p = work
        torch.clamp(source, -20.0, 20.0, out=target)
        t.copy_(target)
        cores.exp2_minus_1(t.mul_(2.0 * LOG2_E), k, q, p)
        torch.add(p, 2.0, out=t)
        target.copy_(p.div_(t))

    return map_float32(x, kernel, 4)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x). sigmoid(-inf) = 0, sigmoid(inf) = 1; the lower tail reaches subnormals."""
    one = torch.ones((), dtype=torch.float64, device=x.device)

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t, k, p = work
        torch.clamp(source, -105.0, 105.0, out=target)
        t.copy_(target)
        cores.exp2(t.mul_(-LOG2_E), k, p)
        target.copy_(torch.div(one, p.add_(1.0), out=p))

    return map_float32(x, kernel, 3)


def erf(x: Tensor) -> Tensor:
    """Error function, with full relative accuracy near zero. erf(+-inf) = +-1."""

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t, y, below, p = work
        torch.clamp(source, -ERF_LIMIT, ERF_LIMIT, out=target)
        t.copy_(target)
        target.copy_(cores.erf(t, y, below, p))

    return map_float32(x, kernel, 4)


def sin(x: Tensor) -> Tensor:
    """Sine for |x| <= 2^20; NaN beyond, where this reduction would lose digits."""
    return _sine(x, quarter=False)


def cos(x: Tensor) -> Tensor:
    """Cosine for |x| <= 2^20; NaN beyond, where this reduction would lose digits."""
    return _sine(x, quarter=True)


def _sine(x: Tensor, quarter: bool) -> Tensor:
    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t, k, y, p = work
        low, high = torch.aminmax(source)
        if not (low.item() >= -SINE_LIMIT and high.item() <= SINE_LIMIT):
            source = torch.where(source.abs() <= SINE_LIMIT, source, math.nan)
        t.copy_(source)
        target.copy_(cores.sine(t, k, y, p, quarter))

    return map_float32(x, kernel, 4)


def sqrt(x: Tensor) -> Tensor:
    """Square root, correctly rounded: float64 has more than twice float32's digits plus two."""

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        work[0].copy_(source)
        target.copy_(cores.sqrt(work[0]))

    return map_float32(x, kernel, 1)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x). rsqrt(+-0) = inf, rsqrt(inf) = 0, NaN for negative numbers."""
    one = torch.ones((), dtype=torch.float64, device=x.device)

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t = work[0]
        # -0.0 + 0.0 is +0.0, so both zeros give +inf.
        t.copy_(source).add_(0.0)
        cores.sqrt(t)
        target.copy_(torch.div(one, t, out=t))

    return map_float32(x, kernel, 1)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x. Both zeros give +inf; 1 / +-inf is zero."""
    one = torch.ones((), dtype=torch.float64, device=x.device)

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        t = work[0]
        t.copy_(source).add_(0.0)
        target.copy_(torch.div(one, t, out=t))

    return map_float32(x, kernel, 1)


def divide(x: Tensor, y: Tensor | float) -> Tensor:
    """x / y for float32 x and float32 or scalar y (rounded to float32 first), correctly rounded.

    The divisor becomes a tensor on x's device: given a scalar, torch on CUDA multiplies by its
    rounded reciprocal, which is another number. Both zeros divide alike, as +0.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"expected float32, not {x.dtype}")
    divisor = y if isinstance(y, Tensor) else torch.tensor(y, dtype=torch.float32)
    return torch.div(x, divisor.to(device=x.device, dtype=torch.float32) + 0.0)
