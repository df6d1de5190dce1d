"""Checks on tensors and on the process."""

import math

import pytest
import torch

from trainer.exact import NonFinite, require_finite, require_subnormals
from verification.errors import UserError


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1, 17, 99_999])
def test_one_bad_element_is_found_anywhere(bad: float, place: int) -> None:
    x = torch.zeros(100_000)
    x[place] = bad
    with pytest.raises(NonFinite):
        require_finite(x)


def test_finite_tensors_pass() -> None:
    require_finite(torch.full((3,), 3.4028234663852886e38))
    require_finite(torch.zeros(0))
    require_finite(torch.tensor([1, 2]))
    require_finite(torch.tensor([True]))


def test_flushed_subnormals_are_refused() -> None:
    require_subnormals()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        with pytest.raises(UserError, match="look at LD_PRELOAD"):
            require_subnormals()
    finally:
        torch.set_flush_denormal(False)
