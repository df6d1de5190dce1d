"""The grid that contributions are rounded to: what fits, and what is told where one does not."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import job_text, make_run
from trainer.programs.tracing.compression import LARGEST_PACKED
from trainer.runs.grids import HIGHEST, LOWEST, UNMOVED, fit_of, fitting
from trainer.runs.job import parse_job


@given(exponent=st.integers(-25, 20), seed=st.integers(0, 99), largest=st.sampled_from([127, LARGEST_PACKED]))
def test_a_grid_fits_numbers_of_any_size(exponent: int, seed: int, largest: int) -> None:
    """Of normal numbers little is lost; those of a tensor that rests in most rows count as much as any."""
    delta = torch.randn(64, 32, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    resting = torch.zeros(4000, 32)
    resting[:64] = delta
    resting[64:128] = delta * 2.0**-14  # weight decay alone
    grids = fitting([delta, resting], largest)
    assert grids[0] == grids[1]
    fit = fit_of([delta], grids[:1], largest, 1)
    assert fit.zero < 0.1
    assert fit.cut == 0


def test_what_does_not_move_or_is_extreme() -> None:
    tiny, huge = torch.full((4,), 1e-38), torch.full((4,), 1e38)
    deltas = [torch.zeros(3), tiny, huge, torch.zeros(0)]
    assert fitting([torch.zeros(3)], LARGEST_PACKED) == (UNMOVED + 8,)
    assert fitting(deltas, 127) == (UNMOVED, HIGHEST, LOWEST, UNMOVED)


@pytest.mark.parametrize(("size", "zero", "cut"), [(1e-5, 1.0, 0.0), (1.0, 0.0, 1.0), (2.0**-8, 0.0, 0.0)])
def test_shares_of_what_a_grid_loses(size: float, zero: float, cut: float) -> None:
    fit = fit_of([torch.full((5,), size), torch.zeros(9)], [12, 12], 127, 3)
    assert (fit.zero, fit.cut) == (zero, cut)
    assert fit.sentence([12, 9], 8).startswith(
        "contributions count in units of 2^-12 to 2^-9 by tensor: after 3 of 8"
    )


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-6, 3e-3])
def test_a_run_at_any_rate_loses_little(rate: float, tmp_path: Path) -> None:
    """At a rate of 1e-6 every entry became zero on the grid of 2^-12, and everyone was paid for it."""
    told: list[str] = []
    make_run(tmp_path, {"training.learning_rate": rate}, tell=told.append)
    (line,) = (line for line in told if line.startswith("contributions count in units"))
    assert float(line.split("after a round ")[1].split("%")[0]) < 20
    assert "0.00% is cut off" in line


@pytest.mark.slow
def test_a_grid_that_does_not_fit_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    make_run(tmp_path, {"training.learning_rate": 1e-6, "training.grid": 12}, tell=told.append)
    assert any("units of 2^-12: after a round 100.0% of what moved becomes zero" in line for line in told)


def test_a_grid_is_a_number_or_auto() -> None:
    assert parse_job(job_text({"training.grid": 20}), "x").training.grid == 20
    assert parse_job(job_text(), "x").training.grid == "auto"
