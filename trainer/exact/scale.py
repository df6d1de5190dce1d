"""Powers of two built from their bits, and binary exponents read from bits."""

import torch
from torch import Tensor

from trainer.exact.errors import NonFinite

# Exponents e with max|x| < 2^e for finite float32: 2^-149 is the least positive number, so a row
# of zeros gets the exponent that the least positive row would have.
EXPONENT_MIN = -148
EXPONENT_MAX = 128

_BIAS32, _FRACTION32 = 127, 23
_BIAS64, _FRACTION64 = 1023, 52


def power_of_two64(exponent: Tensor) -> Tensor:
    """2^exponent as float64. exponent: integer tensor within -1022..1023, any shape."""
    return ((exponent.to(torch.int64) + _BIAS64) << _FRACTION64).view(torch.float64)


def power_of_two32(exponent: Tensor) -> Tensor:
    """2^exponent as float32. exponent: integer tensor within -126..127, any shape."""
    return ((exponent.to(torch.int32) + _BIAS32) << _FRACTION32).view(torch.float32)


def binary_exponent(magnitude: Tensor) -> Tensor:
    """The e with 2^(e-1) <= magnitude < 2^e, or EXPONENT_MIN for zero; int64, same shape.

    magnitude: non-negative float32. Raises NonFinite on an infinity or a NaN.
    The detour through float64 is exact and turns subnormals into normal numbers, so that the
    exponent field alone is the answer.
    """
    bits = magnitude.to(torch.float64).view(torch.int64)
    exponent = ((bits >> _FRACTION64) & 0x7FF) - (_BIAS64 - 1)
    if exponent.numel() and int(exponent.max()) > EXPONENT_MAX:
        raise NonFinite(f"a group of shape {tuple(magnitude.shape)} holds an infinity or a NaN")
    return exponent.clamp_(min=EXPONENT_MIN)
