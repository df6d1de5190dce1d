"""Exact products against Python's integers, the certificate of backends, and the choice between them."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor

from trainer.exact import (
    BACKENDS,
    BackendFault,
    Products,
    certify,
    choice,
    int16,
    integer_product,
    normal_f32,
    product,
    quantise,
    row_exponent,
    scaled,
    uniform_bits,
)
from trainer.exact.backends import REFERENCE, TRUSTED, Backend, int8_matmul, slices
from trainer.exact.native import CannotCompile

TOP = {8: 127, 14: 8191, 15: 16383}
CPU = torch.device("cpu")
exact_product = sys.modules["trainer.exact.product"]  # the package's name of it is the function
PRODUCTS = Products()


def zeros(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(rows, 1, dtype=torch.int16), torch.zeros(1, columns, dtype=torch.int16)


def integers(seed: str, shape: tuple[int, ...], bits: int) -> Tensor:
    words = uniform_bits(b"product", seed, torch.Size(shape).numel())
    return ((words >> 16) % (2 * TOP[bits] + 1) - TOP[bits]).to(torch.int16).view(shape)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_passes_its_certificate(name: str) -> None:
    if refusal := BACKENDS[name].refusal(CPU, 8, 1):
        pytest.skip(refusal)
    if name == "int8" and PRODUCTS.verdict(name):
        pytest.skip(
            "this machine's int8 kernel saturates; test_exact_isa shows that the certificate finds it"
        )
    certify(name)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_short_certificate_is_part_of_the_full_one(name: str) -> None:
    if not BACKENDS[name].refusal(CPU, 8, 1):
        certify(name, full=False)
        assert PRODUCTS.verdict(name) == ""


def wrong(change: Callable[[Tensor], Tensor]) -> Backend:
    """A backend that spoils exact integers."""
    return Backend(
        lambda device, bits, depth: "",
        lambda right, bits: lambda left: change(BACKENDS[TRUSTED].against(right, bits)(left)),
    )


def saturating_pairs(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
    """What int8 kernels do without VNNI: the sum of two neighbouring products is kept in 16 bits."""

    def multiply(left: Tensor) -> Tensor:
        total = torch.zeros(left.shape[0], left.shape[1], right.shape[2], dtype=torch.float64)
        for k in range(0, left.shape[2], 2):
            pair = torch.matmul(left[..., k : k + 2].to(torch.float64), right[:, k : k + 2].to(torch.float64))
            total += pair.clamp_(-(2.0**15), 2.0**15 - 1) if bits > 8 else pair.clamp_(-32000, 32000)
        return total

    return multiply


def one_off(total: Tensor) -> Tensor:
    total = total.clone()
    total[..., -1:, -1:] += 1
    return total


FAULTY = {
    "int32 overflows": wrong(lambda total: total.to(torch.int32).to(torch.float64)),
    "float32 rounds": wrong(lambda total: total.to(torch.float32).to(torch.float64)),
    "int32 saturates": wrong(lambda total: total.clamp(-(2.0**31), 2.0**31 - 1)),
    "one element is off": wrong(one_off),
    "wrong dtype": wrong(lambda total: total.to(torch.float32)),
    "pairs saturate": Backend(lambda device, bits, depth: "", saturating_pairs),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("full", [True, False])
def test_faulty_backends_are_refused(fault: str, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "faulty", FAULTY[fault])
    with pytest.raises(BackendFault, match="backend faulty is wrong on"):
        certify("faulty", full=full)
    with pytest.raises(BackendFault):
        Products(forced="faulty")


def test_a_backend_that_rounds_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bits: int) -> Tensor:
        exact = BACKENDS[TRUSTED].against(right, bits)(left)
        return exact.to(torch.float32) * left_scale[..., None].float() * right_scale[:, None].float()

    whole = BACKENDS[TRUSTED]
    monkeypatch.setitem(BACKENDS, "faulty", Backend(whole.refusal, whole.against, twice))
    with pytest.raises(BackendFault, match="rounds wrongly"):
        certify("faulty")


def test_a_backend_that_serves_nothing_says_why() -> None:
    with pytest.raises(BackendFault, match="numpy64: runs on the CPU only"):
        certify("numpy64", "meta")
    with pytest.raises(KeyError):
        certify("no such backend")


def test_selection_passes_over_a_saturating_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """First in the table and fast, but wrong: the product is right all the same, and nothing measures it."""
    faulty = {"faulty": FAULTY["pairs saturate"], TRUSTED: BACKENDS[TRUSTED]}
    monkeypatch.setattr(choice, "BACKENDS", faulty)
    monkeypatch.setitem(BACKENDS, "faulty", FAULTY["pairs saturate"])
    products = Products()
    for size in (8, 100):
        full = torch.full((size, size), TOP[14], dtype=torch.int16)
        assert (integer_product(full, full, 14, products) == size * TOP[14] ** 2).all()
    assert "wrong on" in products.verdict("faulty")
    assert set(products.chosen.values()) == {TRUSTED} == products.used


def test_a_backend_that_is_wrong_on_one_shape_only_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificate knows every shape: candidates are compared on the operands that they are measured on."""

    def sly(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
        whole = BACKENDS[TRUSTED].against(right, bits)
        return lambda left: whole(left) + (1 if left.shape[1] == 77 else 0)

    two = {"sly": Backend(lambda device, bits, depth: "", sly), TRUSTED: BACKENDS[TRUSTED]}
    monkeypatch.setattr(choice, "BACKENDS", two)
    monkeypatch.setitem(BACKENDS, "sly", two["sly"])
    a, b = integers("a", (1, 77, 90), 14), integers("b", (1, 90, 91), 14)
    seconds = itertools.count()
    products = Products(clock=lambda: float(next(seconds)))

    def multiplied(left: Tensor, name: str) -> Tensor:
        return two[name].against(b, 14)(left)

    def chosen(left: Tensor) -> str:
        """The choice between two that take equally long, so that neither is left out."""
        return products.choose(left, b, 14, partial(multiplied, left))

    assert chosen(torch.cat([a, a], 1)) == "sly"
    assert chosen(a) == TRUSTED
    assert "disagrees with float64" in products.verdict("sly")
    assert list(products.chosen.values()) == ["sly", TRUSTED]
    assert torch.equal(integer_product(a[0], b[0], 14, products), integer_product(a[0], b[0], 14, REFERENCE))
    other = Products()
    assert other.verdict("sly") == "" and not other.chosen and not other.used


def test_what_disturbs_for_a_while_reaches_all_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """One twice as fast is chosen, though as many of the first measurements as it gets take five times as long."""
    seconds, whole = {"fast": 1.0, "slow": 2.0}, Backend(lambda *_: "", BACKENDS[TRUSTED].against)
    monkeypatch.setattr(choice, "BACKENDS", dict.fromkeys(seconds, whole))
    for name in seconds:
        monkeypatch.setitem(BACKENDS, name, whole)
    now, measured = 0.0, itertools.count()

    def run(name: str) -> Tensor:
        nonlocal now
        now += seconds[name] * (5.0 if next(measured) < choice.REPEATS else 1.0)
        return torch.zeros(())

    one = torch.ones(1, 100, 100, dtype=torch.int16)
    assert Products(clock=lambda: now).choose(one, one, 14, run) == "fast"
    assert next(measured) == 2 * choice.REPEATS


def test_the_choice_is_made_once_per_class_of_shapes() -> None:
    products = Products()
    for rows in (65, 100, 128, 129):
        (ea, eb), left = zeros(rows, 60), integers("a", (rows, 80), 14)
        product(left, ea, integers("b", (80, 60), 14), eb, 14, products)
    places = products.chosen
    assert sorted(place.rows for place in places) == [7, 8]
    assert all((place.bits, place.depth, place.columns, place.batch) == (14, 7, 6, 0) for place in places)
    assert all(products.verdict(name) == "" for name in places.values())


def test_a_forced_backend_runs_wherever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
        calls.append(bits)
        return BACKENDS[REFERENCE].against(right, bits)

    monkeypatch.setitem(
        BACKENDS, "counting", Backend(lambda device, bits, depth: "no" if bits == 8 else "", counting)
    )
    products = Products(forced="counting")
    calls.clear()
    one = torch.ones(2, 2, dtype=torch.int16)
    for bits in (14, 8):
        assert (
            product(one, zeros(2, 2)[0], one, zeros(2, 2)[1], bits, products).tolist()
            == [[2 * 4.0 ** (1 - bits)] * 2] * 2
        )
    assert calls == [14]
    assert not products.chosen


def test_batches_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        integer_product(
            torch.ones(2, 1, 3, dtype=torch.int16), torch.ones(4, 3, 1, dtype=torch.int16), 14, REFERENCE
        )


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(BackendFault, match="there is no product backend 'fastest'; choose from int16, int8"):
        Products(forced="fastest")


def test_backends_multiply_on_the_device_that_they_were_certified_on() -> None:
    one = torch.ones(2, 2, dtype=torch.int16)
    products = Products("meta")
    with pytest.raises(BackendFault, match="certified on meta do not multiply on cpu"):
        integer_product(one, one, 14, products)
    assert products.refused_kernels() == ()
    assert not products.prepares(14, 4)


@pytest.mark.parametrize("depth", [1, 3, 1000, 65536])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", TOP)
def test_full_magnitude(depth: int, sign: int, bits: int) -> None:
    a = torch.full((3, depth), TOP[bits], dtype=torch.int16)
    b = torch.full((depth, 5), sign * TOP[bits], dtype=torch.int16)
    wanted = rounded(Fraction(sign * depth * TOP[bits] ** 2, 2 ** (2 * bits - 2)))
    for name in PRODUCTS.serving(bits, depth):
        found = product(a, zeros(3, 5)[0], b, zeros(3, 5)[1], bits, name)
        assert found.dtype == torch.float32 and found.tolist() == [[wanted] * 5] * 3


def test_every_limit_is_the_last_exact_depth() -> None:
    """Refusals follow from the number types, not from habit: one product more could overflow."""
    refuses = {name: BACKENDS[name].refusal for name in BACKENDS}
    for bits, depth in ((8, 2**18), (14, 2**18)):
        assert refuses["int8"](CPU, bits, depth) and refuses["int8-slices"](CPU, bits, depth)
    assert not refuses["int8"](CPU, 14, 2**17 - 1)
    assert 2**14 * (2**17 - 1) < 2**31 <= 2**14 * 2**17
    assert "7-bit" in refuses["int8"](CPU, 15, 4)
    assert refuses["float32"](CPU, 14, 1000) and not refuses["float32"](CPU, 8, 2000)
    assert not refuses[TRUSTED](CPU, 16, 2**22) and refuses[TRUSTED](CPU, 16, 2**24)
    for bits in range(2, 17):
        pairs, top = int16.least_pairs(bits), 2 ** (bits - 1) - 1
        assert pairs >= 1 and pairs * 2 * top**2 < 2**31 <= (pairs + 1) * 2 * top**2


def test_slices_hold_every_number_and_never_saturate() -> None:
    q = torch.arange(-8191, 8192, dtype=torch.int16)
    high, low = slices(q)
    assert torch.equal(high.to(torch.int32) * 128 + low, q.to(torch.int32))
    for part in (high, low):
        assert part.dtype == torch.int8 and int(part.min()) >= -64 and int(part.max()) <= 64
    both = high.to(torch.int16) + low
    assert int(both.min()) >= -128 and int(both.max()) <= 127


def test_int8_products_have_the_right_shape_when_empty() -> None:
    for batch, m, k, n in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0), (2, 3, 4, 5)):
        left, right = torch.ones(batch, m, k, dtype=torch.int8), torch.ones(batch, k, n, dtype=torch.int8)
        found = int8_matmul(left, right)
        assert found.shape == (batch, m, n) and found.dtype == torch.int32 and (found == k).all()


@pytest.mark.parametrize("ea", [-148, -70, -20, 0, 64, 128])
@pytest.mark.parametrize("eb", [-148, -100, 0, 65, 128])
def test_one_rounding_over_all_scales(ea: int, eb: int) -> None:
    a = torch.tensor([[8191, 8190, -5, 1]], dtype=torch.int16)
    b = torch.tensor([[8191, -8191, 1], [8191, 8190, -1], [3, 7, 1], [1, 0, 5]], dtype=torch.int16)
    for name in PRODUCTS.serving(14, 4):
        found = product(a, torch.tensor([[ea]]), b, torch.tensor([[eb] * 3]), 14, name)
        for column in range(3):
            total = sum(int(a[0, k]) * int(b[k, column]) for k in range(4))
            assert found[0, column].item() == rounded(Fraction(total) * Fraction(2) ** (ea + eb - 26))


@pytest.mark.parametrize("name", BACKENDS)
def test_batches_broadcast_and_layouts_agree(name: str) -> None:
    if BACKENDS[name].refusal(CPU, 14, 33) or PRODUCTS.verdict(name):
        pytest.skip("cannot serve here")
    x, y = normal_f32(b"p", "x", (2, 3, 17, 33)), normal_f32(b"p", "y", (33, 21))
    ex, ey = row_exponent(x, -1), row_exponent(y, -2)
    qx, qy = quantise(x, ex, -1), quantise(y, ey, -2)
    whole = product(qx, ex, qy, ey, 14, REFERENCE)
    for i in range(2):
        for j in range(3):
            assert torch.equal(whole[i, j], product(qx[i, j], ex[i, j], qy, ey, 14, name))
    for left in (qx, qx.mT.contiguous().mT, qx.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)):
        for right in (qy, qy.t().contiguous().t(), qy.expand(2, 3, 33, 21), qy[None]):
            exponent = ey if right.dim() < 3 else ey[None]
            assert torch.equal(whole, product(left, ex, right, exponent, 14, name))
    assert torch.equal(whole.mT, product(qy.mT, ey.mT, qx.mT, ex.mT, 14, name))
    relative = (whole - torch.matmul(x, y)).norm() / whole.norm()
    assert relative < 1e-3


@pytest.mark.parametrize("name", BACKENDS)
def test_tall_products_in_blocks_equal_their_rows(name: str) -> None:
    if BACKENDS[name].refusal(CPU, 14, 40) or PRODUCTS.verdict(name):
        pytest.skip("cannot serve here")
    x, y = normal_f32(b"p", "tall", (3000, 40)), normal_f32(b"p", "wide", (40, 600))
    ex, ey = row_exponent(x, -1), row_exponent(y, -2)
    qx, qy = quantise(x, ex, -1), quantise(y, ey, -2)
    whole = product(qx, ex, qy, ey, 14, name)
    assert torch.equal(whole[1723:1730], product(qx[1723:1730], ex[1723:1730], qy, ey, 14, REFERENCE))
    batch = product(qx.view(30, 100, 40), ex.view(30, 100, 1), qy[None], ey[None], 14, name)
    assert torch.equal(whole.view(30, 100, 600), batch)


def test_empty_dimensions() -> None:
    for name in PRODUCTS.serving(14, 4):
        for m, k, n in ((0, 4, 3), (2, 0, 3), (2, 4, 0)):
            ea, eb = zeros(m, n)
            a, b = torch.ones(m, k, dtype=torch.int16), torch.ones(k, n, dtype=torch.int16)
            found = product(a, ea, b, eb, 14, name)
            assert found.shape == (m, n) and not found.any()


def test_integer_products_are_the_products_before_scaling() -> None:
    a, b = integers("a", (2, 70, 90), 14), integers("b", (2, 90, 50), 14)
    wanted = torch.matmul(a.to(torch.int64), b.to(torch.int64))
    for by in (*PRODUCTS.serving(14, 90), PRODUCTS):
        found = integer_product(a, b, 14, by)
        ea, eb = integers("ea", (2, 70, 1), 8), integers("eb", (2, 1, 50), 8)
        assert torch.equal(scaled(found, ea, eb, 14), product(a, ea, b, eb, 14, by))
        assert found.dtype == torch.float64 and torch.equal(found.to(torch.int64), wanted)


def test_sums_that_float64_cannot_hold_are_refused() -> None:
    one = torch.ones(1, 1, dtype=torch.int16)
    a, b = one.expand(1, 2**24), one.expand(2**24, 1)
    with pytest.raises(ValueError):
        product(a, zeros(1, 1)[0], b, zeros(1, 1)[1], 16, PRODUCTS)
    with pytest.raises(TypeError):
        product(a.to(torch.int32), zeros(1, 1)[0], b, zeros(1, 1)[1], 14, PRODUCTS)


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CannotCompile("no C compiler was found")
    monkeypatch.setattr(int16.INT16, "library", refused)
    assert int16.refusal(CPU, 14, 10) == "no C compiler was found"
    assert "int16" not in Products().serving(14, 10)
    with pytest.raises(CannotCompile):
        integer_product(*(torch.ones(2, 2, dtype=torch.int16),) * 2, 14, "int16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA device")
@pytest.mark.parametrize("name", ["float64", "int8", "int8-slices", "float32"])
def test_certificates_on_cuda(name: str) -> None:
    certify(name, "cuda:0")


@pytest.mark.parametrize("name", ["float64", "numpy64", "int8-slices"])
def test_a_wide_operand_is_converted_some_columns_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = (normal_f32(b"wide", each, (5, 96)) for each in "ab")
    right = right.repeat(600, 1).mul(torch.arange(1.0, 3001.0)[:, None]).T
    sides = [
        part
        for x, dim in ((left, -1), (right, -2))
        for part in (quantise(x, row_exponent(x, dim), dim), row_exponent(x, dim))
    ]
    whole, seen, backend = product(*sides, 14, name), list[int](), BACKENDS[name]

    def against(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
        seen.append(right.shape[2])
        return backend.against(right, bits)

    monkeypatch.setattr(exact_product, "block_elements", lambda device: 1000)
    monkeypatch.setattr(exact_product, "COPIED", 96 * 700)
    monkeypatch.setitem(BACKENDS, name, replace(backend, against=against))
    assert torch.equal(product(*sides, 14, name), whole)
    assert seen == [700] * 4 + [200]
