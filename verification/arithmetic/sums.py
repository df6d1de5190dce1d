"""Operators whose number goes over a whole axis: sums, means, maxima, exponents, ranks and products, made of totals.

Sums of float32 are sums of integers, in any order. For n numbers with max|x| < 2^e each becomes the integer nearest to
x * 2^(bits - e), half to even, with bits = min(50, 62 - ceil(log2 n)); their sum is rounded to a double, scaled back,
and rounded to float32. So e is a total of its own, a maximum over the same terms, and comes first.
"""

import math

from verification.arithmetic.definition import LEAST, Combine, Definition, Read, Total, Totals
from verification.arithmetic.moves import named
from verification.arithmetic.numbers import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    EndsStep,
    Number,
    at_order,
    exponent_of,
    order_of,
    single_of,
    times_power,
)
from verification.arithmetic.places import Site

SUM_BITS, NUMBER_BITS = 62, 50


def fixed_point_bits(count: int) -> int:
    """Return the bits of each of `count` numbers in a sum of them."""
    return min(NUMBER_BITS, SUM_BITS - (count - 1).bit_length())


def fixed_point(number: Number, exponent: int, bits: int) -> int:
    """Return number * 2^(bits - exponent) to the nearest integer, half to even; raises EndsStep for no number."""
    if not (math.isfinite(number) and LOWEST_EXPONENT <= exponent <= HIGHEST_EXPONENT):
        raise EndsStep("an infinity or a NaN")
    return round(math.ldexp(number, bits - exponent))


def _scaled_back(total: int, exponent: int, bits: int) -> float:
    return times_power(float(total), exponent - bits)


def _reduced_terms(site: Site) -> int:
    return site.reduced[2]


def _reduced_term(site: Site, index: int, k: int, read: Read) -> Number:
    rows, terms, _ = site.reduced
    return read(0, rows.at(index) + terms.at(k))


def _exponent_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """The e with 2^(e-1) <= |x| < 2^e of the k-th number, -148 for zero."""
    return exponent_of(_reduced_term(site, index, k, read))


def _fixed_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """The k-th number of n times 2^(min(50, 62 - ceil(log2 n)) - e), to the nearest integer; e is the first total."""
    bits = fixed_point_bits(_reduced_terms(site))
    return fixed_point(_reduced_term(site, index, k, read), totals[0], bits)


def _integer_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """The k-th number."""
    return int(_reduced_term(site, index, k, read))


def _order_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """An integer that orders numbers as they are: of a float32 its bits, negated below zero; NaN is above all."""
    return order_of(site.inputs[0].dtype, _reduced_term(site, index, k, read))


def _integer_sum(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The sum of integers or bools as int64, which wraps around."""
    return totals[0]


def _float_sum(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The second total times 2^(e - min(50, 62 - ceil(log2 n))), rounded once; e is the first total, n counts terms."""
    return _scaled_back(totals[1], totals[0], fixed_point_bits(_reduced_terms(site)))


def _mean(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The second total times 2^(e - min(50, 62 - ceil(log2 n))) as a double, divided by n; e is the first total."""
    return _scaled_back(totals[1], totals[0], fixed_point_bits(_reduced_terms(site))) / _reduced_terms(site)


def _amax(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The largest number; NaN where there is one."""
    return at_order(site.inputs[0].dtype, totals[0])


def _row_exponent(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The e with 2^(e-1) <= max|x| < 2^e, -148 for zeros."""
    return totals[0]


def _row_terms(site: Site) -> int:
    return site.inputs[0].shape[-1]


def _own_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """An integer that orders the number itself among others, as in `amax`."""
    return order_of(site.inputs[0].dtype, read(0, index))


def _ahead_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """1 where the k-th number of the row stands before the number: it is larger, or as large and earlier; else 0."""
    row, place = divmod(index, _row_terms(site))
    other = order_of(site.inputs[0].dtype, read(0, row * _row_terms(site) + k))
    return int(other > totals[0] or (other == totals[0] and k < place))


def _rank(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The second total: how many numbers of its row stand before a number, the largest first, equal ones by place."""
    return totals[1]


def _product_terms(site: Site) -> int:
    return site.inputs[0].shape[-1]


def _product_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """The product of the k-th numbers of a row and of a column."""
    rows, depth = site.inputs[0].shape[-2:]
    columns = site.result.shape[-1]
    row, column = divmod(index, columns)
    return int(read(0, row * depth + k) * read(2, (row // rows * depth + k) * columns + column))


def _product(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The integer sum times 2^(left exponent + right exponent - 2 (bits - 1)), rounded once."""
    row, column = divmod(index, site.result.shape[-1])
    batch = row // site.inputs[0].shape[-2]
    exponent = read(1, row) + read(3, batch * site.result.shape[-1] + column)
    return single_of(totals[0], int(exponent) - 2 * (site.one("bits") - 1))


def _scatter_terms(site: Site) -> int:
    return math.prod(site.inputs[0].shape)


def _scatter_numbers(site: Site) -> int:
    return math.prod(site.inputs[1].shape)


def _scatter_exponent_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """One exponent serves all values, whatever row they go to."""
    return exponent_of(read(1, k))


def _scatter_term(site: Site, index: int, k: int, read: Read, totals: Totals) -> int:
    """The k-th value where the k-th index names the number's row, else 0; an index outside the rows ends the step."""
    rows = site.one("rows")
    width = math.prod(site.result.shape[1:])
    row, column = divmod(index, width)
    if named(read(0, k), rows) != row:
        return 0
    return fixed_point(read(1, k * width + column), totals[0], fixed_point_bits(_scatter_terms(site)))


def _scatter_sum(site: Site, index: int, read: Read, totals: Totals) -> Number:
    """The sum of the values whose index names the number's row; 0 for a row that none names."""
    return _scaled_back(totals[1], totals[0], fixed_point_bits(_scatter_terms(site)))


_EXPONENT = Total(Combine.MAX, LOWEST_EXPONENT, _reduced_terms, _exponent_term)
_FIXED = Total(Combine.ADD, 0, _reduced_terms, _fixed_term)

INTEGER_SUM = Definition(_integer_sum, (Total(Combine.ADD, 0, _reduced_terms, _integer_term),))
FLOAT_SUM = Definition(_float_sum, (_EXPONENT, _FIXED))
MEAN = Definition(_mean, (_EXPONENT, _FIXED))
AMAX = Definition(_amax, (Total(Combine.MAX, LEAST, _reduced_terms, _order_term),))
ROW_EXPONENT = Definition(_row_exponent, (_EXPONENT,))
RANK = Definition(
    _rank,
    (Total(Combine.MAX, LEAST, lambda site: 1, _own_term), Total(Combine.ADD, 0, _row_terms, _ahead_term)),
)
PRODUCT = Definition(_product, (Total(Combine.ADD, 0, _product_terms, _product_term),), reads=2)
SCATTER_SUM = Definition(
    _scatter_sum,
    (
        Total(Combine.MAX, LOWEST_EXPONENT, _scatter_numbers, _scatter_exponent_term),
        Total(Combine.ADD, 0, _scatter_terms, _scatter_term),
    ),
)
