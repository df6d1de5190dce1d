"""The numbers of the elementary functions: coefficients of polynomials, and constants of argument reduction.

Coefficients were solved in 60-digit arithmetic (mpmath) by interpolation at Chebyshev nodes of the reduced interval,
then rounded to doubles; highest power first. The bound beside each is the relative error found on 2,001 points with the
rounded coefficients.
"""

LOG2_E = float.fromhex("0x1.71547652b82fep+0")
LN_2 = float.fromhex("0x1.62e42fefa39efp-1")
INVERSE_PI = float.fromhex("0x1.45f306dc9c883p-2")
PI_PIECES = tuple(
    float.fromhex(piece)
    for piece in ("0x1.921fb54400000p+1", "0x1.0b4611a600000p-33", "0x1.3198a2e037073p-68")
)
"""Pi in pieces of 32, 32 and 53 bits: multiples of half integers below 2^20 keep the first two exact."""
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
"""The bits of the double nearest to sqrt(1/2), where the logarithm's reduced interval begins."""
SINE_LIMIT = float(1 << 20)
"""Beyond it the reduction of sine and cosine would lose digits."""
ERF_LIMIT = float.fromhex("0x1.f9999ap+1")
"""The float32 nearest to 3.95: from here on erf rounds to 1."""


def _hex(*numbers: str) -> tuple[float, ...]:
    return tuple(float.fromhex(number) for number in numbers)


QUARTER_EXP2 = _hex(
    "0x1.5d9ffcc18aa09p-20",
    "0x1.3b490101901d5p-15",
    "0x1.c6b08c505c254p-11",
    "0x1.ebfbdd2133bfcp-7",
    "0x1.62e42fefa79ebp-3",
    "0x1.000000001431ap+0",
)
"""2^(f/4) on |f| <= 0.5; 2^-35.6, and 2^-33.6 after two squarings."""
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
"""(2^f - 1) / f on |f| <= 0.5; 2^-37.5."""
LOG_TAIL = _hex(
    "0x1.8c8c138c5880bp-3",
    "0x1.c67ad9ebb7127p-3",
    "0x1.249323e503e1dp-2",
    "0x1.999998cafbbb9p-2",
    "0x1.5555555564e97p-1",
)
"""(2 atanh(s) / s - 2) / s^2 as a polynomial of s^2 <= 0.0295; 2^-36.4 of the tail, 2^-43 of the logarithm."""
SINE = _hex(
    "-0x1.9a68e3ee95c23p-26",
    "0x1.71701042593abp-19",
    "-0x1.a017cfa19a561p-13",
    "0x1.11110bff18345p-7",
    "-0x1.5555554430073p-3",
    "0x1.ffffffffda64dp-1",
)
"""sin(r) / r as a polynomial of r^2, |r| <= pi / 2; 2^-35.1."""
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
"""erf(x) / x as a ratio of this polynomial of x^2 and the next, |x| <= 3.95; 2^-37.6. Nodes are Chebyshev's in x."""
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
