"""No order of accumulation shows: products and sums under permutations, against exact integers."""

import math
from collections.abc import Iterator
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.exact import (
    Products,
    exact_mean,
    exact_sum,
    integer_product,
    product,
    quantise,
    row_exponent,
    scatter_sum,
    uniform_bits,
)
from trainer.exact.backends import REFERENCE

PRODUCTS = Products()
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FAST = settings(max_examples=60, deadline=None, derandomize=True)

Case = tuple[int, list[list[int]], list[list[int]], list[int], int]


@st.composite
def operands(draw: st.DrawFn) -> Case:
    """Bits, both operands, an order of K, and a place to cut K."""
    bits = draw(st.sampled_from([8, 14, 15]))
    top = 2 ** (bits - 1) - 1
    entry = st.one_of(st.sampled_from([top, -top, 0, 1, -1, 64, -65]), st.integers(-top, top))
    m, k, n = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    a = draw(st.lists(st.lists(entry, min_size=k, max_size=k), min_size=m, max_size=m))
    b = draw(st.lists(st.lists(entry, min_size=n, max_size=n), min_size=k, max_size=k))
    return bits, a, b, draw(st.permutations(range(k))), draw(st.integers(0, k))


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@FAST
@given(operands(), st.integers(1, 4))
def test_integer_products_in_any_order_blocks_and_threads(case: Case, threads: int) -> None:
    bits, a, b, order, cut = case
    wanted = [[sum(x * b[k][j] for k, x in enumerate(row)) for j in range(len(b[0]))] for row in a]
    qa, qb = torch.tensor(a, dtype=torch.int16), torch.tensor(b, dtype=torch.int16)
    torch.set_num_threads(threads)
    for name in (*PRODUCTS.serving(bits, len(b)), REFERENCE):
        assert integer_product(qa, qb, bits, name).tolist() == wanted
        assert integer_product(qa[:, order], qb[order], bits, name).tolist() == wanted
        parts = [integer_product(qa[:, k], qb[k], bits, name) for k in (slice(cut), slice(cut, None))]
        assert (parts[0] + parts[1]).tolist() == wanted


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 150), st.integers(1, 300), st.integers(1, 150), st.integers(1, 3), st.sampled_from([8, 14])
)
def test_large_products_agree_under_any_thread_count(m: int, k: int, n: int, batch: int, bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    words = uniform_bits(b"orders", f"{m} {k} {n} {batch}", batch * k * (m + n)) >> 16
    values = (words % (2 * top + 1) - top).to(torch.int16)
    qa, qb = values[: batch * m * k].view(batch, m, k), values[batch * m * k :].view(batch, k, n)
    wanted = torch.matmul(qa.to(torch.int64), qb.to(torch.int64))
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        for name in PRODUCTS.serving(bits, k):
            assert torch.equal(integer_product(qa, qb, bits, name).to(torch.int64), wanted)


@FAST
@given(st.lists(FLOAT32, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_float_products_in_any_order(values: list[float], random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    a = torch.tensor([values])
    b = torch.tensor([[v] for v in reversed(values)])

    def whole(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ex, ey = row_exponent(x, -1), row_exponent(y, -2)
        return product(quantise(x, ex, -1), ex, quantise(y, ey, -2), ey, 14, PRODUCTS)

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
