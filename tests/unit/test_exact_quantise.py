"""Exponents and integers of rows against Python's own fractions."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from trainer.exact import NonFinite, quantise, row_exponent, uniform_bits
from trainer.exact.quantise import CACHED_ELEMENTS

TINY = 2.0**-149


def numbers(stream: str, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    bits = (uniform_bits(b"quantise", stream, count) >> 16) & 0x7FFFFFFF
    magnitudes = (bits % 0x7F800000).to(torch.int32).view(torch.float32)
    return torch.where(bits & 1 == 0, magnitudes, -magnitudes).view(shape)


def true_exponent(values: list[float]) -> int:
    top = max(abs(Fraction(v)) for v in values)
    e = -148
    while Fraction(2) ** e <= top:
        e += 1
    return e


def true_integer(value: float, e: int, bits: int) -> int:
    limit = 2 ** (bits - 1) - 1
    scaled = round(Fraction(value) * Fraction(2) ** (bits - 1 - e))
    return max(-limit, min(limit, scaled))


def test_exponents_bound_each_row() -> None:
    x = torch.cat([numbers("e", (40, 3)), torch.tensor([[0.0, -0.0, 0.0], [TINY, 0, 0], [1, -2, 0.5]])])
    for row, e in zip(x.tolist(), row_exponent(x, -1)[:, 0].tolist(), strict=True):
        assert e == true_exponent(row)
    assert row_exponent(x, -1).dtype == torch.int16 and row_exponent(x, 0).shape == (1, 3)
    assert torch.equal(row_exponent(x.t(), 0), row_exponent(x, 1).t())


@pytest.mark.parametrize("bits", [2, 8, 14, 15, 16])
def test_integers_are_the_rounded_values(bits: int) -> None:
    x = torch.cat([numbers("q", (30, 7)), numbers("s", (20, 7)) * 2.0**-120, torch.full((1, 7), TINY)])
    e = row_exponent(x, 1)
    found = quantise(x, e, 1, bits)
    assert found.dtype == torch.int16
    for row, exponent, integers in zip(x.tolist(), e[:, 0].tolist(), found.tolist(), strict=True):
        assert integers == [true_integer(v, exponent, bits) for v in row]


def test_every_binade_survives_including_the_least() -> None:
    for power in range(-149, 128):
        x = torch.tensor([[2.0**power, -(2.0**power)]])
        assert quantise(x, row_exponent(x, 1), 1).tolist() == [[4096, -4096]]
    full = torch.tensor([[3.4028234663852886e38, 1.0]])
    assert quantise(full, row_exponent(full, 1), 1).tolist() == [[8191, 0]]


def test_one_factor_and_two_agree() -> None:
    ordinary = numbers("w", (50, 9)) * 2.0**-30
    low = torch.full((1, 9), TINY)
    alone = quantise(ordinary, row_exponent(ordinary, 1), 1)
    both = torch.cat([ordinary, low])
    assert torch.equal(quantise(both, row_exponent(both, 1), 1)[:-1], alone)


def test_any_dimension_and_layout() -> None:
    x = numbers("d", (4, 5, 6))
    for dim in (0, 1, 2, -1, -2):
        e = row_exponent(x, dim)
        moved = x.movedim(dim, -1).contiguous()
        wanted = quantise(moved, row_exponent(moved, -1), -1).movedim(-1, dim)
        assert torch.equal(quantise(x, e, dim), wanted)
        strided = x.transpose(0, 2).contiguous().transpose(0, 2)
        assert torch.equal(row_exponent(strided, dim), e)
        assert torch.equal(quantise(strided, e, dim), wanted)
    large = numbers("large", (1200, 300))
    assert large.numel() > CACHED_ELEMENTS
    assert torch.equal(quantise(large, row_exponent(large, 0), 0)[:, :7], by_column(large[:, :7]))
    assert torch.equal(quantise(large.t(), row_exponent(large, 0).t(), 1)[:7].t(), by_column(large[:, :7]))


def by_column(x: Tensor) -> Tensor:
    return torch.cat([quantise(c, row_exponent(c, 0), 0) for c in x.split(1, dim=1)], dim=1)


def test_empty_tensors() -> None:
    for shape in ((0, 3), (3, 0)):
        x = torch.zeros(shape)
        assert quantise(x, row_exponent(x, -1), -1).shape == shape
        assert row_exponent(x, -1).shape == (shape[0], 1)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_non_finite_input_is_refused(bad: float) -> None:
    x = torch.tensor([[1.0, bad], [1.0, 2.0]])
    with pytest.raises(NonFinite):
        row_exponent(x, 1)


def test_wrong_arguments_are_refused() -> None:
    x = torch.ones(2, 2)
    with pytest.raises(ValueError):
        quantise(x, row_exponent(x, 1), 1, bits=17)
    with pytest.raises(TypeError):
        row_exponent(x.to(torch.float64), 1)
