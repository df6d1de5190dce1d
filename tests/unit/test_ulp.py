"""Errors against 50 digits, function by function: the bounds are those that docs/arithmetic.md states."""

import math
import re
from pathlib import Path

import mpmath
import pytest
import torch
from torch.nn import functional

from tests.lowered import lowered, vjp
from tests.ulp import composite, elementwise, points
from tests.ulp.measure import NAMES, error
from verification.library import StepFailed

PAGE = Path(__file__).parents[2] / "docs" / "arithmetic.md"


def stated() -> dict[str, float]:
    """The bounds in the page's tables that have a column for them, by the name in the first column."""
    tables = re.findall(r"^\| .*\| bound \|.*\n\|[-|]*\n((?:\|.*\n)*)", PAGE.read_text("utf-8"), re.MULTILINE)
    rows = [line.split("|") for table in tables for line in table.splitlines()]
    return {cells[1].strip(): float(cells[3]) for cells in rows}


def row_of(name: str) -> str:
    """The row that states a case's bound: its own, or that of what it is a case of."""
    return name if name in stated() else name.split(",")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_within_what_is_stated(name: str) -> None:
    assert error(name, 2)[0] <= stated()[row_of(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_within_what_is_stated_on_more_points(name: str) -> None:
    worst, count = error(name, 25)
    assert worst <= stated()[row_of(name)]
    assert count >= 25


def test_every_row_of_the_page_is_measured() -> None:
    assert {row_of(name) for name in NAMES} == set(stated())


def test_a_wrong_result_is_noticed() -> None:
    """A guard of the measure: the neighbour of a correct result is one unit away."""
    x = elementwise.inputs("exp", 2)
    x = x[(x.abs() < 80)]
    off = points.worst_of(
        lambda v: torch.nextafter(v.double().exp().float(), torch.tensor(math.inf)), mpmath.exp, x
    )
    assert off > 1.0


INF, NAN = math.inf, math.nan
ROW = torch.tensor([[1.0, -2.0, 0.5]])


@pytest.mark.parametrize("strange", [INF, NAN])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm", "sum", "cross_entropy", "matmul"])
def test_a_row_with_a_nan_or_infinity_ends_the_step(name: str, strange: float) -> None:
    functions = {
        "softmax": lambda x: x.softmax(-1),
        "log_softmax": lambda x: x.log_softmax(-1),
        "layer_norm": lambda x: functional.layer_norm(x, (3,)),
        "sum": lambda x: x.sum(-1),
        "cross_entropy": lambda x: functional.cross_entropy(x, torch.tensor([1])),
        "matmul": lambda x: x @ torch.ones(3, 2),
    }
    row = ROW.clone()
    row[0, 1] = strange
    with pytest.raises(StepFailed):
        lowered(lambda x: (functions[name](x),), row)


def test_a_mask_of_minus_infinity_hides_its_place() -> None:
    row = torch.tensor([[1.0, -INF, 0.5]])
    (found,) = lowered(lambda x: (x.softmax(-1),), row)
    assert found[0, 1] == 0.0
    assert found.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["silu", "gelu"])
@pytest.mark.parametrize("strange", [-INF, NAN])
def test_an_activation_of_nan_or_minus_infinity_ends_the_step_as_an_output(name: str, strange: float) -> None:
    with pytest.raises(StepFailed, match="NaN or infinity"):
        lowered(lambda x: (getattr(functional, name)(x),), torch.tensor([1.0, strange]))


def test_activations_at_both_zeros_and_the_ends_of_the_range() -> None:
    ends = torch.tensor([0.0, -0.0, points.TINY, -points.TINY, points.LARGEST, -points.LARGEST])
    for name in ("silu", "gelu", "relu", "tanh", "sigmoid"):
        function = getattr(torch, name, None) or getattr(functional, name)
        (found,) = lowered(composite.alone(function), ends)
        assert found[0] == found[1]
        torch.testing.assert_close(found.double(), function(ends.double()), rtol=1e-6, atol=2e-45)


def test_the_slope_of_gelu_by_tanh_is_nan_where_its_square_overflows() -> None:
    """As the page says; PyTorch's own form gives NaN there too."""
    slope = vjp(lambda x: functional.gelu(x, approximate="tanh"), 1)
    assert torch.isfinite(lowered(slope, torch.tensor([2.0**61]), torch.ones(1))[0]).all()
    with pytest.raises(StepFailed):
        lowered(slope, torch.tensor([2.0**64]), torch.ones(1))
    assert torch.isnan(slope(torch.tensor([2.0**64]), torch.ones(1))[0]).all()
