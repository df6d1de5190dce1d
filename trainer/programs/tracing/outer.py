"""The outer step, built from operators: Nesterov's step on the weighted mean of the contributions."""

import math
from collections.abc import Sequence

from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.compression import Compression
from verification.arithmetic.numbers import FLOAT, INDEX


def outer_step(
    b: Builder,
    parameters: Sequence[Value],
    momentum: Sequence[Value],
    contributions: Sequence[Sequence[Value]],
    weights: Value,
    grids: Sequence[int],
    rates: tuple[float, float],
    way: Compression,
) -> tuple[list[Value], list[Value]]:
    """Return (parameters, momentum) after Nesterov's step on the weighted mean of the contributions.

    `weights`: int64 [slots]; a unit of a parameter's integers is 2**-grid; `rates`: (learning rate, momentum); `way` is
    how the contributions hold a parameter's integers. The weighted sum is exact in int64; weights that are all zero
    give a mean of zero.
    """
    lr, momentum_rate = (b.scalar(rate) for rate in rates)
    total = b.emit("maximum", b.total(weights), b.scalar(1, INDEX))
    divisor = b.cast(total, FLOAT)
    factors = [b.view(b.slice(weights, 0, slot, slot + 1), ()) for slot in range(len(contributions))]
    new, moved = [], []
    for place, (parameter, speed) in enumerate(zip(parameters, momentum, strict=True)):
        parts = [
            b.multiply(way.unpack(b, slot[place], parameter.shape), factor)
            for slot, factor in zip(contributions, factors, strict=True)
        ]
        summed = parts[0]
        for part in parts[1:]:
            summed = b.add(summed, part)
        unit = b.scalar(math.ldexp(1.0, -grids[place]))
        delta = b.multiply(b.divide(b.cast(summed, FLOAT), divisor), unit)
        speed = b.add(b.multiply(speed, momentum_rate), delta)
        look = b.add(delta, b.multiply(speed, momentum_rate))
        new.append(b.subtract(parameter, b.multiply(look, lr)))
        moved.append(speed)
    return new, moved
