"""Limits, layouts and dtypes of the elementary functions; tests/unit/test_ulp.py has their errors."""

import math
import struct

import mpmath
import pytest
import torch

from tests.ulp.points import DIGITS, TINY, between, worst
from trainer import exact
from trainer.exact import cores
from trainer.exact.rng import uniform_bits


def test_pow_with_tensor_exponent() -> None:
    exponent = between(-20, 20, 300)
    x = between(0.01, 50, 300)
    y = exact.pow(x, exponent)
    with mpmath.workdps(DIGITS):
        pairs = zip(x.tolist(), exponent.tolist(), strict=True)
        assert worst(y.tolist(), [mpmath.mpf(base) ** mpmath.mpf(power) for base, power in pairs]) <= 0.502
    assert exact.pow(torch.tensor(0.9), torch.tensor([0.0, 1.0])).tolist() == [1.0, torch.tensor(0.9).item()]
    assert exact.pow(torch.tensor([0.0, -0.0]), torch.tensor(2.5)).tolist() == [0.0, 0.0]


INF, NAN = math.inf, math.nan
LIMITS = {
    "exp": ([-INF, INF, -104.0, 89.0, -1e38, 1e38, 0.0, -0.0], [0, INF, 0, INF, 0, INF, 1, 1]),
    "log": ([0.0, -0.0, INF, -1.0, -INF, -TINY, 1.0], [-INF, -INF, INF, NAN, NAN, NAN, 0]),
    "tanh": ([INF, -INF, 30.0, -1e38, 0.0, TINY, -TINY], [1, -1, 1, -1, 0, TINY, -TINY]),
    "sigmoid": ([INF, -INF, 0.0, -0.0, 1e38, -1e38], [1, 0, 0.5, 0.5, 1, 0]),
    "erf": ([INF, -INF, 4.0, -1e38, 0.0], [1, -1, 1, -1, 0]),
    "sin": ([0.0, TINY, INF, -INF, 2.0**20 + 1, -1e30], [0, TINY, NAN, NAN, NAN, NAN]),
    "cos": ([0.0, -0.0, TINY, INF, 2.0**20 + 1, -1e30], [1, 1, 1, NAN, NAN, NAN]),
    "sqrt": ([0.0, -0.0, INF, -1.0, 4.0], [0, 0, INF, NAN, 2]),
    "rsqrt": ([0.0, -0.0, INF, -1.0, 4.0], [INF, INF, 0, NAN, 0.5]),
    "reciprocal": ([0.0, -0.0, INF, -INF, TINY, 2.0], [INF, INF, 0, 0, INF, 0.5]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_and_nan(name: str) -> None:
    given, wanted = LIMITS[name]
    found = getattr(exact, name)(torch.tensor([*given, NAN])).tolist()
    for argument, value, true in zip([*given, NAN], found, [*wanted, NAN], strict=True):
        assert value == true or (math.isnan(value) and math.isnan(true)), (argument, value, true)


def test_pow_limits() -> None:
    assert exact.pow(torch.tensor([-2.0, 0.0, -0.0, INF]), 3.0).tolist() == [-8, 0, 0, INF]
    assert exact.pow(torch.tensor([-2.0, 0.0, -0.0, INF]), -1.0).tolist() == [-0.5, INF, INF, 0]
    assert exact.pow(torch.tensor([-2.0, 0.0, NAN]), 0.0).tolist() == [1, 1, 1]
    assert exact.pow(torch.tensor([1e30, 1e-30]), 64.0).tolist() == [INF, 0]
    assert math.isnan(exact.pow(torch.tensor(-2.0), 0.5).item())


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "rsqrt"])
def test_every_element_alone_in_any_layout(name: str) -> None:
    function = getattr(exact, name)
    x = between(0.01, 5, 70_001)
    whole = function(x)
    assert torch.equal(whole[69_000:], function(x[69_000:].clone()))
    assert torch.equal(whole[::7], function(x[::7]))
    grid = x[:60].view(3, 4, 5).transpose(0, 2)
    assert torch.equal(function(grid), whole[:60].view(3, 4, 5).transpose(0, 2))
    assert function(grid).stride() == grid.stride()
    assert function(x[0]).shape == () and function(x[:0].view(0, 3)).shape == (0, 3)
    assert torch.equal(function(x[:1].expand(4)), whole[:1].expand(4))


def test_an_unusual_element_does_not_change_its_neighbours() -> None:
    x = between(0.5, 2, 100)
    for name in ("log", "sin", "cos", "exp"):
        mixed = torch.cat([x, torch.tensor([NAN, INF, -INF, 0.0, -1e30])])
        assert torch.equal(getattr(exact, name)(mixed)[:100], getattr(exact, name)(x))


def test_inputs_stay_unchanged_and_other_dtypes_are_refused() -> None:
    x = torch.tensor([0.5, -0.0, TINY])
    before = [struct.pack("<f", v) for v in x.tolist()]
    for name in LIMITS:
        getattr(exact, name)(x)
        with pytest.raises(TypeError):
            getattr(exact, name)(x.to(torch.float64))
    exact.pow(x, -1.5)
    assert [struct.pack("<f", v) for v in x.tolist()] == before
    with pytest.raises(TypeError):
        exact.divide(x.to(torch.float64), 2.0)


def test_divide_by_tensor_broadcasts_and_by_zero_is_infinite() -> None:
    x = torch.tensor([[1.0], [-2.0]])
    assert torch.equal(exact.divide(x, torch.tensor([3.0, 7.0])), x / torch.tensor([3.0, 7.0]))
    assert exact.divide(x, -0.0).tolist() == [[INF], [-INF]]


def test_square_roots_are_ieee() -> None:
    """Python's own is the processor's; torch's comes from MKL on x86 and misses the nearest number now and then."""
    x = (
        (uniform_bits(b"functions", "sqrt", 5000) & 0x7FFFFFFF)
        .remainder(0x7F800000)
        .to(torch.int32)
        .view(torch.float32)
    )
    wide = x.to(torch.float64)
    nearest = torch.tensor([math.sqrt(value) for value in wide.tolist()], dtype=torch.float64)
    assert torch.equal(cores.sqrt(wide.clone()), nearest)
    assert torch.equal(exact.sqrt(x), nearest.to(torch.float32))
