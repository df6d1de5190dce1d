"""Elementary functions in float64, one IEEE operation per step, in place on given buffers.

Every step is one torch operation (add, subtract, multiply, divide, integer shift), so nothing can
contract to a fused multiply-add and no library's exp or log takes part. A core's error is far
below half a unit of float32, to which its caller rounds once.

Coefficients: solved in 60-digit arithmetic (mpmath) by interpolation at Chebyshev nodes of the
reduced interval, then rounded to float64; highest power first. The bound next to each is the
relative error found on 2,001 points with the rounded coefficients.
"""

import numpy as np
import torch
from torch import Tensor

# 1.5 * 2^52: adding it rounds to an integer, half to even, and leaves the integer in the low bits.
MAGIC = 6755399441055744.0
LOG2_E = float.fromhex("0x1.71547652b82fep+0")
LN_2 = float.fromhex("0x1.62e42fefa39efp-1")
INVERSE_PI = float.fromhex("0x1.45f306dc9c883p-2")
# Pi in pieces of 32, 32 and 53 bits: multiples of half integers below 2^20 keep the first two exact.
PI_PIECES = tuple(
    float.fromhex(h) for h in ("0x1.921fb54400000p+1", "0x1.0b4611a600000p-33", "0x1.3198a2e037073p-68")
)

_FRACTION = 52
_ONE_BITS = 0x3FF0000000000000
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


def _hex(*values: str) -> tuple[float, ...]:
    return tuple(float.fromhex(value) for value in values)


# 2^(f/4) on |f| <= 0.5; 2^-35.6, and 2^-33.6 after two squarings.
QUARTER_EXP2 = _hex(
    "0x1.5d9ffcc18aa09p-20",
    "0x1.3b490101901d5p-15",
    "0x1.c6b08c505c254p-11",
    "0x1.ebfbdd2133bfcp-7",
    "0x1.62e42fefa79ebp-3",
    "0x1.000000001431ap+0",
)
# (2^f - 1) / f on |f| <= 0.5; 2^-37.5.
EXP2_MINUS_1 = _hex(
    "0x1.63b2d79d77f7cp-20",
    "0x1.00c0e4e710c40p-16",
    "0x1.4308c718396efp-13",
    "0x1.5d8775982ddefp-10",
    "0x1.3b2ab70ad2578p-7",
    "0x1.c6b08da70cd28p-5",
    "0x1.ebfbdff82a734p-3",
    "0x1.62e42fef9cc69p-1",
)
# (2 atanh(s) / s - 2) / s^2 as a polynomial of s^2 <= 0.0295; 2^-36.4 of the tail, 2^-43 of the log.
LOG_TAIL = _hex(
    "0x1.8c8c138c5880bp-3",
    "0x1.c67ad9ebb7127p-3",
    "0x1.249323e503e1dp-2",
    "0x1.999998cafbbb9p-2",
    "0x1.5555555564e97p-1",
)
# sin(r) / r as a polynomial of r^2, |r| <= pi / 2; 2^-35.1.
SINE = _hex(
    "-0x1.9a68e3ee95c23p-26",
    "0x1.71701042593abp-19",
    "-0x1.a017cfa19a561p-13",
    "0x1.11110bff18345p-7",
    "-0x1.5555554430073p-3",
    "0x1.ffffffffda64dp-1",
)
# erf(x) / x as a ratio of polynomials of x^2, |x| <= 3.95; 2^-37.6. The nodes are Chebyshev's in x.
ERF_LIMIT = 3.95
ERF_ABOVE = _hex(
    "-0x1.30a04a2c7cee5p-36",
    "0x1.333b1cbce2bcep-27",
    "0x1.3c7d4795d9262p-20",
    "0x1.92c69b1e6804dp-16",
    "0x1.22c01baa05b00p-11",
    "0x1.3ee673d4f54d9p-8",
    "0x1.de4b4ceed1177p-5",
    "0x1.8d25b7ff1353fp-3",
    "0x1.20dd750425d2cp+0",
)
ERF_BELOW = _hex(
    "0x1.43344fe00c72fp-23",
    "0x1.7cbd1363f21cap-18",
    "0x1.ffa7750c6084fp-14",
    "0x1.cd34e47c35f5bp-10",
    "0x1.212b0fab1299ep-6",
    "0x1.ec176a1e6a153p-4",
    "0x1.02a846f79a11ep-1",
    "0x1.0000000000000p+0",
)


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
    torch.sub(bits, _SQRT_HALF_BITS, out=exponent)
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
