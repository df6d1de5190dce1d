"""Elementary functions in float64, one IEEE operation per step, in place on given buffers.

Every step is one torch operation (add, subtract, multiply, divide, integer shift), so nothing can
contract to a fused multiply-add and no library's exp or log takes part. A core's error is far
below half a unit of float32, to which its caller rounds once. The coefficients are the law's.
"""

import numpy as np
import torch
from torch import Tensor

from verification.arithmetic.constants import (
    ERF_ABOVE,
    ERF_BELOW,
    EXP2_MINUS_1,
    INVERSE_PI,
    LN_2,
    LOG_TAIL,
    PI_PIECES,
    QUARTER_EXP2,
    SINE,
    SQRT_HALF_BITS,
)
from verification.arithmetic.numbers import MAGIC

_FRACTION = 52
_ONE_BITS = 0x3FF0000000000000


def horner(out: Tensor, x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """out = the polynomial at x, multiplication and addition apart; out must not alias x."""
    torch.mul(x, coefficients[0], out=out)
    for coefficient in coefficients[1:-1]:
        out.add_(coefficient).mul_(x)
    return out.add_(coefficients[-1])


def exp2(t: Tensor, k: Tensor, out: Tensor) -> Tensor:
    """out = 2^t for |t| <= 1000; relative error below 2^-33 plus |t| * 2^-53. t and k are used up."""
    torch.add(t, MAGIC, out=k)
    torch.sub(k, MAGIC, out=out)
    t.sub_(out)
    horner(out, t, QUARTER_EXP2)
    out.mul_(out).mul_(out)
    # The low bits of k hold the integer: add it to the exponent field.
    out.view(torch.int64).add_(k.view(torch.int64).bitwise_left_shift_(_FRACTION))
    return out


def exp2_minus_1(t: Tensor, k: Tensor, q: Tensor, out: Tensor) -> Tensor:
    """out = 2^t - 1 for |t| <= 1000, relative error below 2^-36 near zero too. t, k, q are used up."""
    torch.add(t, MAGIC, out=k)
    torch.sub(k, MAGIC, out=out)
    t.sub_(out)
    horner(out, t, EXP2_MINUS_1).mul_(t)
    k.view(torch.int64).bitwise_left_shift_(_FRACTION).add_(_ONE_BITS)
    torch.sub(k, 1.0, out=q)
    return out.mul_(k).add_(q)


def sqrt(t: Tensor) -> Tensor:
    """t = sqrt(t), as IEEE 754 rounds it; in place.

    On the CPU by NumPy, which uses the processor's instruction. PyTorch's wheels for x86 call MKL's
    vector library, whose last bit is wrong in 1 of 70 float64 numbers (in 1 of 5 for float32).
    """
    if t.device.type == "cpu":
        array = t.numpy()
        with np.errstate(invalid="ignore"):
            np.sqrt(array, out=array)
        return t
    return t.sqrt_()


def log(m: Tensor, k: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """out = ln(m) for positive normal m; relative error below 2^-42. m, k, y are used up."""
    bits, exponent, shifted = m.view(torch.int64), k.view(torch.int64), y.view(torch.int64)
    torch.sub(bits, SQRT_HALF_BITS, out=exponent)
    exponent.bitwise_right_shift_(_FRACTION)
    torch.bitwise_left_shift(exponent, _FRACTION, out=shifted)
    bits.sub_(shifted)
    # Now m lies in [sqrt(1/2), sqrt(2)), where m - 1 is exact: s = (m - 1) / (m + 1).
    torch.add(m, 1.0, out=y)
    s = m.sub_(1.0).div_(y)
    torch.mul(s, s, out=y)
    horner(out, y, LOG_TAIL).mul_(y).add_(2.0).mul_(s)
    y.copy_(exponent)
    return out.add_(y.mul_(LN_2))


def sine(x: Tensor, k: Tensor, y: Tensor, out: Tensor, quarter: bool) -> Tensor:
    """out = sin(x), or cos(x) with quarter, for |x| <= 2^20. x, k, y are used up.

    x = h * pi + r with h an integer for sin and an integer plus a half for cos; then the result is
    sin(r) with the sign of h's parity. Relative error below 2^-34, near the zeros too.
    """
    shift = 0.5 if quarter else 0.0
    # One more for cos, since cos(n*pi + pi/2 + r) = -(-1)^n sin(r): it flips the parity read below.
    magic = MAGIC + 1.0 if quarter else MAGIC
    torch.mul(x, INVERSE_PI, out=k)
    k.sub_(shift).add_(magic)
    torch.sub(k, magic, out=y).add_(shift)
    for piece in PI_PIECES:
        torch.mul(y, piece, out=out)
        x.sub_(out)
    torch.mul(x, x, out=y)
    horner(out, y, SINE).mul_(x)
    out.view(torch.int64).bitwise_xor_(k.view(torch.int64).bitwise_left_shift_(63))
    return out


def erf(x: Tensor, y: Tensor, below: Tensor, out: Tensor) -> Tensor:
    """out = erf(x) for |x| <= ERF_LIMIT; relative error below 2^-37. y and below are used up."""
    torch.mul(x, x, out=y)
    horner(below, y, ERF_BELOW)
    return horner(out, y, ERF_ABOVE).mul_(x).div_(below)
