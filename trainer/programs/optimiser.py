"""What surrounds loss and gradients, built from operators: AdamW, compression to a grid, and the outer step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.programs.builder import Builder, Value
from trainer.programs.shapes import FLOAT, INDEX


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, 2019), none on 1-d tensors; linear warm-up over `warmup` steps.

    `clip_norm` bounds the norm of all gradients together; 0 leaves them.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    warmup: int
    clip_norm: float = 0.0


@dataclass(frozen=True)
class Working:
    """A working bundle: float32 tensors per parameter, 0-d float32 powers and loss, int64 step, uint8 tokens."""

    parameters: list[Value]
    m: list[Value]
    v: list[Value]
    beta1_power: Value
    beta2_power: Value
    loss_sum: Value
    step: Value
    tokens: Value


def adamw_step(b: Builder, old: Working, gradients: Sequence[Value], loss: Value, adamw: AdamW) -> Working:
    """Return the working bundle after one step, as `torch.optim.AdamW` defines it, one rounding per operation."""
    gradients = _clipped(b, gradients, adamw.clip_norm) if adamw.clip_norm else gradients
    beta1, beta2 = b.scalar(adamw.beta1), b.scalar(adamw.beta2)
    power1, power2 = b.multiply(old.beta1_power, beta1), b.multiply(old.beta2_power, beta2)
    step = b.add(old.step, b.scalar(1, INDEX))
    rate = b.scalar(adamw.lr)
    if adamw.warmup > 1:
        share = b.divide(b.cast(step, FLOAT), b.scalar(float(adamw.warmup)))
        rate = b.multiply(rate, b.emit("minimum", share, b.scalar(1.0)))
    one = b.scalar(1.0)
    length = b.divide(rate, b.subtract(one, power1))
    spread = b.emit("sqrt", b.subtract(one, power2))
    kept = b.subtract(one, b.multiply(rate, b.scalar(adamw.weight_decay)))
    parameters, first, second = [], [], []
    for parameter, m, v, gradient in zip(old.parameters, old.m, old.v, gradients, strict=True):
        m = b.add(b.multiply(m, beta1), b.multiply(gradient, b.scalar(1.0 - adamw.beta1)))
        square = b.multiply(gradient, gradient)
        v = b.add(b.multiply(v, beta2), b.multiply(square, b.scalar(1.0 - adamw.beta2)))
        below = b.add(b.divide(b.emit("sqrt", v), spread), b.scalar(adamw.eps))
        if adamw.weight_decay and len(parameter.shape) > 1:
            parameter = b.multiply(parameter, kept)
        parameters.append(b.subtract(parameter, b.multiply(b.divide(m, below), length)))
        first.append(m)
        second.append(v)
    return Working(parameters, first, second, power1, power2, b.add(old.loss_sum, loss), step, old.tokens)


def _clipped(b: Builder, gradients: Sequence[Value], limit: float) -> list[Value]:
    total = b.scalar(0.0)
    for gradient in gradients:
        total = b.add(total, _sum(b, b.multiply(gradient, gradient)))
    below = b.add(b.emit("sqrt", total), b.scalar(1e-6))
    factor = b.emit("minimum", b.divide(b.scalar(limit), below), b.scalar(1.0))
    return [b.multiply(gradient, factor) for gradient in gradients]


def compress(
    b: Builder, start: Sequence[Value], working: Working, grid_exponent: int
) -> tuple[list[Value], Value, Value]:
    """Return (int8 integers per parameter, int64 0-d sum of their squares, float32 0-d mean loss).

    An integer is (start - end) * 2**grid_exponent, rounded half to even and clipped to -127..127.
    """
    scale, integers, norm = b.scalar(math.ldexp(1.0, grid_exponent)), [], b.scalar(0, INDEX)
    for before, after in zip(start, working.parameters, strict=True):
        rounded = b.emit("round", b.multiply(b.subtract(before, after), scale))
        clipped = b.emit("minimum", b.emit("maximum", rounded, b.scalar(-127.0)), b.scalar(127.0))
        integers.append(b.cast(clipped, "int8"))
        wide = b.cast(clipped, INDEX)
        norm = b.add(norm, _sum(b, b.multiply(wide, wide)))
    steps = b.emit("maximum", working.step, b.scalar(1, INDEX))
    return integers, norm, b.divide(working.loss_sum, b.cast(steps, FLOAT))


def outer_step(
    b: Builder,
    parameters: Sequence[Value],
    momentum: Sequence[Value],
    contributions: Sequence[Sequence[Value]],
    weights: Value,
    rates: tuple[float, float, float],
) -> tuple[list[Value], list[Value]]:
    """Return (parameters, momentum) after Nesterov's step on the weighted mean of the contributions.

    `weights`: int64 [slots]; `rates`: (units of the grid, learning rate, momentum). The weighted sum is exact in
    int64; weights that are all zero give a mean of zero.
    """
    scale, lr, momentum_rate = (b.scalar(rate) for rate in rates)
    total = b.emit("maximum", _sum(b, weights), b.scalar(1, INDEX))
    divisor = b.cast(total, FLOAT)
    factors = [b.view(b.slice(weights, 0, slot, slot + 1), ()) for slot in range(len(contributions))]
    new, moved = [], []
    for place, (parameter, speed) in enumerate(zip(parameters, momentum, strict=True)):
        parts = [
            b.multiply(b.cast(slot[place], INDEX), factor)
            for slot, factor in zip(contributions, factors, strict=True)
        ]
        summed = parts[0]
        for part in parts[1:]:
            summed = b.add(summed, part)
        delta = b.multiply(b.divide(b.cast(summed, FLOAT), divisor), scale)
        speed = b.add(b.multiply(speed, momentum_rate), delta)
        look = b.add(delta, b.multiply(speed, momentum_rate))
        new.append(b.subtract(parameter, b.multiply(look, lr)))
        moved.append(speed)
    return new, moved


def _sum(b: Builder, value: Value) -> Value:
    if not value.shape:
        return value
    return b.emit("sum", value, dims=list(range(len(value.shape))), keepdim=0)
