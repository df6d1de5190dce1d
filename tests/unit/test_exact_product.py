"""Exact products against Python's integers, and the certificate of backends."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from trainer.exact import (
    BACKENDS,
    BackendFault,
    IntegerProduct,
    certify,
    normal_f32,
    product,
    quantise,
    row_exponent,
    select_backend,
    selected_backend,
)

TOP = 8191


def zeros(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(rows, 1, dtype=torch.int16), torch.zeros(1, columns, dtype=torch.int16)


def rounded(value: Fraction) -> float:
    """One rounding to float32, half to even, through integers."""
    if value == 0:
        return 0.0
    power = 0
    while abs(value) >= Fraction(2) ** (power + 1):
        power += 1
    while abs(value) < Fraction(2) ** power:
        power -= 1
    unit = Fraction(2) ** max(power - 23, -149)
    result = round(value / unit) * unit
    return float(result) if abs(result) < 2**128 else float("inf") * (1 if result > 0 else -1)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_passes_its_certificate(name: str) -> None:
    certify(name)


def saturating(qa: Tensor, qb: Tensor) -> Tensor:
    return torch.matmul(qa.to(torch.float64), qb.to(torch.float64)).clamp_(-(2.0**31), 2.0**31 - 1)


def single(qa: Tensor, qb: Tensor) -> Tensor:
    return torch.matmul(qa.to(torch.float32), qb.to(torch.float32)).to(torch.float64)


@pytest.mark.parametrize("faulty", [saturating, single])
def test_faulty_backends_are_refused(faulty: IntegerProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "faulty", faulty)
    with pytest.raises(BackendFault):
        select_backend("faulty")
    assert selected_backend() == "float64"


def test_selected_backend_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(qa: Tensor, qb: Tensor) -> Tensor:
        calls.append(1)
        return BACKENDS["int64"](qa, qb)

    monkeypatch.setitem(BACKENDS, "counting", counting)
    try:
        select_backend("counting")
        assert selected_backend() == "counting"
        calls.clear()
        q = torch.ones(2, 2, dtype=torch.int16)
        product(q, *zeros(2, 2)[:1], q, zeros(2, 2)[1])
        assert calls
    finally:
        select_backend("float64")


@pytest.mark.parametrize("depth", [1, 3, 1000, 65536])
@pytest.mark.parametrize("sign", [1, -1])
def test_full_magnitude(depth: int, sign: int) -> None:
    a = torch.full((3, depth), TOP, dtype=torch.int16)
    b = torch.full((depth, 5), sign * TOP, dtype=torch.int16)
    wanted = rounded(Fraction(sign * depth * TOP * TOP, 2**26))
    for backend in BACKENDS.values():
        found = product(a, zeros(3, 5)[0], b, zeros(3, 5)[1], backend=backend)
        assert found.dtype == torch.float32 and found.tolist() == [[wanted] * 5] * 3


@pytest.mark.parametrize("ea", [-148, -70, -20, 0, 64, 128])
@pytest.mark.parametrize("eb", [-148, -100, 0, 65, 128])
def test_one_rounding_over_all_scales(ea: int, eb: int) -> None:
    a = torch.tensor([[8191, 8190, -5, 1]], dtype=torch.int16)
    b = torch.tensor([[8191, -8191, 1], [8191, 8190, -1], [3, 7, 1], [1, 0, 5]], dtype=torch.int16)
    found = product(a, torch.tensor([[ea]]), b, torch.tensor([[eb] * 3]))
    for column in range(3):
        total = sum(int(a[0, k]) * int(b[k, column]) for k in range(4))
        assert found[0, column].item() == rounded(Fraction(total) * Fraction(2) ** (ea + eb - 26))


def test_batches_broadcast_and_layouts_agree() -> None:
    x, y = normal_f32(b"p", "x", (2, 3, 17, 33)), normal_f32(b"p", "y", (33, 21))
    ex, ey = row_exponent(x, -1), row_exponent(y, -2)
    qx, qy = quantise(x, ex, -1), quantise(y, ey, -2)
    whole = product(qx, ex, qy, ey)
    for i in range(2):
        for j in range(3):
            assert torch.equal(whole[i, j], product(qx[i, j], ex[i, j], qy, ey))
    assert torch.equal(whole, product(qx, ex, qy.t().contiguous().t(), ey))
    assert torch.equal(whole, product(qx, ex, qy.expand(2, 3, 33, 21), ey))
    assert torch.equal(whole, product(qx, ex, qy, ey, backend=BACKENDS["int64"]))
    relative = (whole - torch.matmul(x, y)).norm() / whole.norm()
    assert relative < 1e-3


def test_tall_products_in_blocks_equal_their_rows() -> None:
    x, y = normal_f32(b"p", "tall", (900, 40)), normal_f32(b"p", "wide", (40, 600))
    ex, ey = row_exponent(x, -1), row_exponent(y, -2)
    qx, qy = quantise(x, ex, -1), quantise(y, ey, -2)
    whole = product(qx, ex, qy, ey)
    assert torch.equal(whole[123:130], product(qx[123:130], ex[123:130], qy, ey))


def test_empty_dimensions() -> None:
    for m, k, n in ((0, 4, 3), (2, 0, 3), (2, 4, 0)):
        ea, eb = zeros(m, n)
        found = product(torch.ones(m, k, dtype=torch.int16), ea, torch.ones(k, n, dtype=torch.int16), eb)
        assert found.shape == (m, n) and not found.any()


def test_sums_that_float64_cannot_hold_are_refused() -> None:
    one = torch.ones(1, 1, dtype=torch.int16)
    a, b = one.expand(1, 2**24), one.expand(2**24, 1)
    with pytest.raises(ValueError):
        product(a, zeros(1, 1)[0], b, zeros(1, 1)[1], bits=16)
    with pytest.raises(TypeError):
        product(a.to(torch.int32), zeros(1, 1)[0], b, zeros(1, 1)[1])
