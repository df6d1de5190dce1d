"""Cheap checks on whole tensors and on the machine."""

import math

import torch
from torch import Tensor

from trainer.exact.errors import NonFinite
from verification.errors import UserError

SMALLEST_SUBNORMAL = 2.0**-149
LARGE = 1 << 20
"""Elements that torch shares among its threads: 32 times what it gives to one."""


def require_finite(x: Tensor) -> None:
    """Check that no element is an infinity or a NaN, in one pass and without a temporary.

    x: any shape; integer and boolean tensors are finite by nature and pass.
    Raises NonFinite. The minimum and maximum of a tensor are NaN as soon as one element is
    (documented for torch.aminmax), and do not depend on the order of comparison.
    """
    if not x.is_floating_point() or x.numel() == 0:
        return
    low, high = torch.aminmax(x.detach())
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        raise NonFinite(f"a tensor of shape {tuple(x.shape)} holds an infinity or a NaN")


def require_subnormals() -> None:
    """Check that every thread of this process that computes keeps subnormal float32 numbers (torch's default).

    Raises UserError when they are flushed to zero, as torch.set_flush_denormal(True) does, or the start-up code of a
    library that was built with -ffast-math: results would then differ from every other machine's.
    """
    tiny = torch.full((LARGE,), SMALLEST_SUBNORMAL, dtype=torch.float32)
    for some in (tiny, tiny[:9]):  # on all of torch's threads, and on this one
        twice = (some + some).to(torch.float64)
        if not bool((twice == 2 * SMALLEST_SUBNORMAL).all()):
            raise UserError(
                "subnormal numbers are flushed to zero in this process, so its results would differ from all others': "
                "a library that is loaded here was built with -ffast-math; look at LD_PRELOAD and leave it out"
            )


def require_float32(x: Tensor, name: str) -> None:
    """Raises TypeError unless x is a float32 tensor."""
    if x.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, not {x.dtype}")
