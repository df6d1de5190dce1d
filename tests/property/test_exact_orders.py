"""No order of accumulation shows: products and sums under permutations, against exact integers."""

import math
from fractions import Fraction
from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.exact import BACKENDS, exact_mean, exact_sum, product, quantise, row_exponent, scatter_sum

TOP = 8191
ENTRY = st.one_of(st.sampled_from([TOP, -TOP, 0, 1, -1, 64, -65]), st.integers(-TOP, TOP))
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FAST = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def operands(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[int]]:
    m, k, n = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    a = draw(st.lists(st.lists(ENTRY, min_size=k, max_size=k), min_size=m, max_size=m))
    b = draw(st.lists(st.lists(ENTRY, min_size=n, max_size=n), min_size=k, max_size=k))
    return a, b, draw(st.permutations(range(k)))


@FAST
@given(operands())
def test_integer_products_in_any_order(case: tuple[list[list[int]], list[list[int]], list[int]]) -> None:
    a, b, order = case
    wanted = [[sum(x * b[k][j] for k, x in enumerate(row)) for j in range(len(b[0]))] for row in a]
    qa, qb = torch.tensor(a, dtype=torch.int16), torch.tensor(b, dtype=torch.int16)
    for backend in BACKENDS.values():
        assert backend(qa, qb).tolist() == wanted
        assert backend(qa[:, order], qb[order]).tolist() == wanted


@FAST
@given(st.lists(FLOAT32, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_float_products_in_any_order(values: list[float], random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    a = torch.tensor([values])
    b = torch.tensor([[v] for v in reversed(values)])

    def whole(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ex, ey = row_exponent(x, -1), row_exponent(y, -2)
        return product(quantise(x, ex, -1), ex, quantise(y, ey, -2), ey)

    assert torch.equal(whole(a, b), whole(a[:, order], b[order]))


@FAST
@given(st.lists(FLOAT32, min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_sums_in_any_order_near_the_truth(values: list[float], random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    x, y = torch.tensor(values), torch.tensor(shuffled)
    total = exact_sum(x, (0,), False)
    assert torch.equal(total, exact_sum(y, (0,), False))
    assert torch.equal(exact_mean(x, (0,), False), exact_mean(y, (0,), False))
    true = sum(Fraction(v) for v in values)
    largest = max(abs(Fraction(v)) for v in values)
    if math.isfinite(total.item()):
        error = abs(Fraction(total.item()) - true)
        ulp = Fraction(2) ** -24 * abs(true) * (1 + Fraction(1, 2**20)) + Fraction(2) ** -150
        assert error <= ulp + len(values) * largest * Fraction(2) ** -49
    else:
        assert abs(true) > Fraction(3.4e38)


@FAST
@given(
    st.lists(st.tuples(st.integers(0, 4), FLOAT32), min_size=1, max_size=50),
    st.randoms(use_true_random=False),
)
def test_scatter_sums_in_any_order(entries: list[tuple[int, float]], random: Random) -> None:
    def scattered(rows: list[tuple[int, float]]) -> torch.Tensor:
        index = torch.tensor([i for i, _ in rows])
        return scatter_sum(index, torch.tensor([[v] for _, v in rows]), 5)

    shuffled = list(entries)
    random.shuffle(shuffled)
    assert torch.equal(scattered(entries), scattered(shuffled))
