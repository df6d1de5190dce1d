"""Elementary functions of a float32 in doubles, one IEEE operation per step; their caller rounds to float32 once.

Arguments are reduced, then polynomials are taken by Horner's rule, multiplication and addition apart. NaN gives NaN,
and both zeros count as +0. docs/arithmetic.md says how near to the truth each is.
"""

import math
import struct

from verification.arithmetic import constants
from verification.arithmetic.constants import ERF_LIMIT, INVERSE_PI, LN_2, LOG2_E, SINE_LIMIT, SQRT_HALF_BITS
from verification.arithmetic.numbers import MAGIC

_DOUBLE, _WORD = struct.Struct("<d"), struct.Struct("<q")
_FRACTION = 52


def exp(x: float) -> float:
    """e^x: at most 2^-150 rounds to 0, at least 2^128 to infinity."""
    return _exp2(_clamped(x, -104.0, 89.0) * LOG2_E)


def log(x: float) -> float:
    """Natural logarithm: -inf for zero, inf for inf, NaN for a negative number."""
    if not x > 0.0:
        return -math.inf if x == 0.0 else math.nan
    return x if x == math.inf else _log(x)


def tanh(x: float) -> float:
    """Hyperbolic tangent, with full relative accuracy near zero."""
    p = _exp2_minus_1(_clamped(x, -20.0, 20.0) * (2.0 * LOG2_E))
    return p / (p + 2.0)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1.0 / (_exp2(_clamped(x, -105.0, 105.0) * -LOG2_E) + 1.0)


def erf(x: float) -> float:
    """Error function, with full relative accuracy near zero."""
    t = _clamped(x, -ERF_LIMIT, ERF_LIMIT)
    y = t * t
    return _horner(y, constants.ERF_ABOVE) * t / _horner(y, constants.ERF_BELOW)


def sin(x: float) -> float:
    """Sine of at most 2^20 in magnitude, NaN beyond."""
    return _sine(x, 0.0, MAGIC) if abs(x) <= SINE_LIMIT else math.nan


def cos(x: float) -> float:
    """Cosine of at most 2^20 in magnitude, NaN beyond."""
    # One more than for sine, since cos(n pi + pi/2 + r) = -(-1)^n sin(r): it flips the parity that is read.
    return _sine(x, 0.5, MAGIC + 1.0) if abs(x) <= SINE_LIMIT else math.nan


def rsqrt(x: float) -> float:
    """1 / sqrt(x): inf for zero, NaN for a negative number."""
    if not x > 0.0:
        return math.inf if x == 0.0 else math.nan
    return 1.0 / math.sqrt(x)


def power(base: float, exponent: float) -> float:
    """base^exponent as e^(exponent ln base): NaN for a negative base, for 0^0 and for inf^0."""
    if not base >= 0.0:
        return math.nan
    return _exp2(_clamped(log(base) * exponent, -105.0, 90.0) * LOG2_E)


def _clamped(x: float, low: float, high: float) -> float:
    """x within low..high; NaN stays."""
    return low if x < low else high if x > high else x


def _horner(x: float, coefficients: tuple[float, ...]) -> float:
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _reduced(t: float) -> tuple[float, int]:
    """t as a rest of at most 1/2 and an integer."""
    whole = (t + MAGIC) - MAGIC
    return t - whole, int(whole)


def _exp2(t: float) -> float:
    """2^t for |t| <= 1000; relative error below 2^-33 plus |t| * 2^-53."""
    if t != t:
        return t
    rest, whole = _reduced(t)
    p = _horner(rest, constants.QUARTER_EXP2)
    p *= p
    return math.ldexp(p * p, whole)


def _exp2_minus_1(t: float) -> float:
    """2^t - 1 for |t| <= 1000, relative error below 2^-36 near zero too."""
    if t != t:
        return t
    rest, whole = _reduced(t)
    two = math.ldexp(1.0, whole)
    return _horner(rest, constants.EXP2_MINUS_1) * rest * two + (two - 1.0)


def _log(x: float) -> float:
    """ln(x) of a positive finite number; relative error below 2^-42."""
    bits: int = _WORD.unpack(_DOUBLE.pack(x))[0]
    whole = bits - SQRT_HALF_BITS >> _FRACTION
    # m lies in [sqrt(1/2), sqrt(2)), where m - 1 is exact.
    m: float = _DOUBLE.unpack(_WORD.pack(bits - (whole << _FRACTION)))[0]
    s = (m - 1.0) / (m + 1.0)
    y = s * s
    return (_horner(y, constants.LOG_TAIL) * y + 2.0) * s + float(whole) * LN_2


def _sine(x: float, shift: float, magic: float) -> float:
    """sin(x), or cos(x), where x = h pi + r with h - shift an integer: sin(r) with the sign of h's parity.

    Relative error below 2^-34, near the zeros too.
    """
    k = (x * INVERSE_PI - shift) + magic
    h = (k - magic) + shift
    for piece in constants.PI_PIECES:
        x -= h * piece
    y = x * x
    value = _horner(y, constants.SINE) * x
    return -value if int(k) & 1 else value
