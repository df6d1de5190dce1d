"""Cheap checks on whole tensors and on the machine."""

import math

import torch
from torch import Tensor

from trainer.exact.errors import NonFinite

SMALLEST_SUBNORMAL = 2.0**-149


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
    """Check that this process keeps subnormal float32 numbers (torch's default).

    Raises RuntimeError when they are flushed to zero, as torch.set_flush_denormal(True) does:
    results would then differ from every other machine's.
    """
    tiny = torch.full((9,), SMALLEST_SUBNORMAL, dtype=torch.float32)
    twice = (tiny + tiny).to(torch.float64)
    if not bool((twice == 2 * SMALLEST_SUBNORMAL).all()):
        raise RuntimeError("subnormal float32 numbers are flushed to zero in this process")


def require_float32(x: Tensor, name: str) -> None:
    """Raises TypeError unless x is a float32 tensor."""
    if x.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, not {x.dtype}")
