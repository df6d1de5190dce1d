"""Elementary functions against mpmath at 50 digits, and their limits."""

import math
import struct
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from trainer import exact
from trainer.exact.rng import uniform_bits, uniform_f32

BOUND = 0.502
Reference = Callable[[mpmath.mpf], mpmath.mpf]
TINY, LARGEST = 2.0**-149, 3.4028234663852886e38


def spread(stream: str, count: int, signed: bool = True, top: int = 0x7F800000) -> Tensor:
    """Finite float32 numbers uniform over bit patterns below top: every binade and subnormals."""
    words = uniform_bits(b"functions", stream, count)
    bits = ((words >> 20) & 0x7FFFFFFF) % top
    values = bits.to(torch.int32).view(torch.float32)
    edges = [0.0, TINY, 3 * TINY, 2.0**-126, 2.0**-126 - TINY, 1.0, 1.0 - 2.0**-24, 1.0 + 2.0**-23]
    values = torch.cat([values, torch.tensor(edges)])
    return torch.where((words[0] ^ torch.arange(len(values))) & 1 == 0, values, -values) if signed else values


def between(stream: str, low: float, high: float, count: int) -> Tensor:
    unit = uniform_f32(b"functions", stream, (count,)).to(torch.float64)
    return (unit * (high - low) + low).to(torch.float32)


def worst_ulp(x: Tensor, y: Tensor, reference: Reference) -> float:
    """The largest error in units of the last place of float32, subnormals included."""
    worst = mpmath.mpf(0)
    with mpmath.workdps(50):
        for argument, value in zip(x.tolist(), y.tolist(), strict=True):
            true = reference(mpmath.mpf(argument))
            if abs(true) >= mpmath.mpf(LARGEST) + mpmath.mpf(2) ** 103:
                assert value == math.copysign(math.inf, true), argument
                continue
            unit = mpmath.mpf(2) ** max(mpmath.frexp(true)[1] - 24, -149)
            worst = max(worst, abs(value - true) / unit)
    return float(worst)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Reference, list[Tensor]]] = {
    "exp": (exact.exp, mpmath.exp, [spread("e", 300), between("e", -104, 89, 900)]),
    "log": (exact.log, mpmath.log, [spread("l", 900, signed=False)[:-8], between("l", 0.5, 2, 400)]),
    "tanh": (exact.tanh, mpmath.tanh, [spread("t", 500), between("t", -10, 10, 700)]),
    "sigmoid": (
        exact.sigmoid,
        lambda x: 1 / (1 + mpmath.exp(-x)),
        [spread("s", 300), between("s", -104, 20, 900)],
    ),
    "erf": (exact.erf, mpmath.erf, [spread("f", 500, top=0x42000000), between("f", -4, 4, 700)]),
    "sin": (exact.sin, mpmath.sin, [spread("n", 900, top=0x49800000), between("n", -(2**20), 2**20, 400)]),
    "cos": (exact.cos, mpmath.cos, [spread("c", 900, top=0x49800000), between("c", -(2**20), 2**20, 400)]),
    "sqrt": (exact.sqrt, mpmath.sqrt, [spread("q", 900, signed=False)]),
    "rsqrt": (exact.rsqrt, lambda x: 1 / mpmath.sqrt(x), [spread("r", 900, signed=False)[:900]]),
    "reciprocal": (exact.reciprocal, lambda x: 1 / x, [spread("i", 900)[:900]]),
    "divide": (lambda x: exact.divide(x, 3.0), lambda x: x / 3, [spread("d", 900)]),
}


@pytest.mark.parametrize("name", CASES)
def test_within_bound_of_true_value(name: str) -> None:
    function, reference, inputs = CASES[name]
    x = torch.cat(inputs)
    assert worst_ulp(x, function(x), reference) <= BOUND


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 7.0, -1.0, -2.0, 0.5, -0.5, 1.5, 0.3, -1.7])
def test_pow_within_bound(exponent: float) -> None:
    x = torch.cat([spread("p", 300, signed=False)[:300], between("p", 0.1, 9, 100)])
    true = mpmath.mpf(exponent)
    assert worst_ulp(x, exact.pow(x, exponent), lambda v: v**true) <= BOUND


def test_pow_with_tensor_exponent() -> None:
    exponent = between("x", -20, 20, 300)
    x = between("y", 0.01, 50, 300)
    y = exact.pow(x, exponent)
    for base, power, value in zip(x.tolist(), exponent.tolist(), y.tolist(), strict=True):
        single = torch.tensor([value])
        assert worst_ulp(torch.tensor([base]), single, lambda v, p=power: v ** mpmath.mpf(p)) <= BOUND
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
    x = between(name, 0.01, 5, 70_001)
    whole = function(x)
    assert torch.equal(whole[69_000:], function(x[69_000:].clone()))
    assert torch.equal(whole[::7], function(x[::7]))
    grid = x[:60].view(3, 4, 5).transpose(0, 2)
    assert torch.equal(function(grid), whole[:60].view(3, 4, 5).transpose(0, 2))
    assert function(grid).stride() == grid.stride()
    assert function(x[0]).shape == () and function(x[:0].view(0, 3)).shape == (0, 3)
    assert torch.equal(function(x[:1].expand(4)), whole[:1].expand(4))


def test_an_unusual_element_does_not_change_its_neighbours() -> None:
    x = between("mixed", 0.5, 2, 100)
    for name in ("log", "sin", "cos", "exp"):
        mixed = torch.cat([x, torch.tensor([NAN, INF, -INF, 0.0, -1e30])])
        assert torch.equal(getattr(exact, name)(mixed)[:100], getattr(exact, name)(x))


def test_inputs_stay_unchanged_and_other_dtypes_are_refused() -> None:
    x = torch.tensor([0.5, -0.0, TINY])
    before = [struct.pack("<f", v) for v in x.tolist()]
    for name in CASES:
        if name != "divide":
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
