"""What a round's contribution holds, built from operators: how far the parameters went, as integers of a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.programs.tracing.builder import Builder, Value
from verification.arithmetic.numbers import FLOAT, INDEX


@dataclass(frozen=True)
class Working:
    """A working bundle: float32 parameters and optimiser's state, 0-d float32 loss, int64 step, float32 learning rates
    of the round's steps, tokens of any integer dtype, and of a model that drops the int64 0-d seed."""

    parameters: list[Value]
    state: list[Value]
    loss_sum: Value
    step: Value
    rates: Value
    tokens: Value
    seed: Value | None = None


def compress(
    b: Builder, start: Sequence[Value], working: Working, grids: Sequence[int]
) -> tuple[list[Value], Value, Value]:
    """Return (int8 integers per parameter, int64 0-d sum of their squares, float32 0-d mean loss).

    An integer is (start - end) * 2**grid, with a grid for each parameter, rounded half to even and clipped to
    -127..127.
    """
    integers, norm = [], b.scalar(0, INDEX)
    for before, after, grid in zip(start, working.parameters, grids, strict=True):
        scale = b.scalar(math.ldexp(1.0, grid))
        rounded = b.emit("round", b.multiply(b.subtract(before, after), scale))
        clipped = b.emit("minimum", b.emit("maximum", rounded, b.scalar(-127.0)), b.scalar(127.0))
        integers.append(b.cast(clipped, "int8"))
        wide = b.cast(clipped, INDEX)
        norm = b.add(norm, b.total(b.multiply(wide, wide)))
    steps = b.emit("maximum", working.step, b.scalar(1, INDEX))
    return integers, norm, b.divide(working.loss_sum, b.cast(steps, FLOAT))
