"""Powers of float32 tensors."""

import math

import torch
from torch import Tensor

from trainer.exact import cores
from trainer.exact.blocks import map_float32
from verification.arithmetic.constants import LOG2_E

POWER_LIMIT = 64


def pow(x: Tensor, exponent: float | Tensor) -> Tensor:
    """x^exponent for float32 x of any shape, as float32.

    A number that is an integer or a half of at most 64 in magnitude: repeated multiplication in
    float64, times sqrt(x) for a half, one division when negative; negative x is fine with integers
    and NaN with halves; x^0 = 1 for every x; both zeros count as +0.
    Any other number, and a float32 tensor (shapes broadcast): e^(exponent * ln x) in float64 for
    x >= 0, NaN for negative x and for 0^0. Its relative error before rounding is below 2^-32.
    Both forms are within 0.502 ulp (docs/arithmetic.md).
    Raises TypeError for other dtypes.
    """
    if isinstance(exponent, Tensor):
        return _general(x, exponent)
    twice = abs(exponent) * 2.0
    if twice <= 2 * POWER_LIMIT and twice == math.floor(twice):
        return _repeated(x, int(twice), exponent < 0)
    return _general(x, torch.tensor(exponent, dtype=torch.float64, device=x.device))


def _repeated(x: Tensor, twice: int, negative: bool) -> Tensor:
    whole, half = divmod(twice, 2)
    one = torch.ones((), dtype=torch.float64, device=x.device)

    def kernel(source: Tensor, target: Tensor, work: list[Tensor]) -> None:
        base, power = work
        base.copy_(source).add_(0.0)
        if half:
            cores.sqrt(power.copy_(base))
        else:
            power.fill_(1.0)
        rest = whole
        while rest:
            if rest & 1:
                power.mul_(base)
            rest >>= 1
            if rest:
                base.mul_(base)
        if negative:
            torch.div(one, power, out=power)
        target.copy_(power)

    return map_float32(x, kernel, 2)


def _general(x: Tensor, exponent: Tensor) -> Tensor:
    """e^(exponent * ln x), elementwise and unblocked: it serves small tensors."""
    if x.dtype != torch.float32 or exponent.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected float32 base and exponent, not {x.dtype} and {exponent.dtype}")
    base, power = x.detach().to(torch.float64), exponent.detach().to(torch.float64)
    ordinary = (base > 0.0) & (base < math.inf)
    safe = torch.where(ordinary, base, 1.0)
    logarithm = cores.log(safe, torch.empty_like(safe), torch.empty_like(safe), torch.empty_like(safe))
    logarithm = torch.where(ordinary, logarithm, base)
    logarithm = torch.where(base == 0.0, -math.inf, logarithm)
    # e^-105 and e^90 are beyond float32 on both sides; NaN passes through clamp.
    t = torch.clamp(logarithm * power, -105.0, 90.0).mul_(LOG2_E)
    result = cores.exp2(t, torch.empty_like(t), torch.empty_like(t)).to(torch.float32)
    return torch.where(base >= 0.0, result, math.nan)
