"""One step of the optimisers, against the exact value of the same float32 numbers and constants."""

from collections.abc import Callable

import mpmath
import torch
from torch import Tensor

from tests.ulp.points import Real
from tests.ulp.rows import rows
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.optimiser import SGD, AdamW, Gradients, Optimiser, Parameter

RATE = 1e-2
ADAMW = AdamW(beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1)
MOMENTUM = SGD(momentum=0.9, nesterov=True, weight_decay=0.1)


def _single(number: float) -> Real:
    return mpmath.mpf(torch.tensor(number).item())


def _adamw(number: int) -> Callable[..., Real]:
    power1, power2 = (_single(beta) ** number for beta in (ADAMW.beta1, ADAMW.beta2))

    def step(p: Real, g: Real, m: Real, v: Real) -> Real:
        m = m * _single(ADAMW.beta1) + g * _single(1 - ADAMW.beta1)
        v = v * _single(ADAMW.beta2) + g * g * _single(1 - ADAMW.beta2)
        below = mpmath.sqrt(v / (1 - power2)) + _single(ADAMW.eps)
        kept = 1 - _single(RATE) * _single(ADAMW.weight_decay)
        return p * kept - _single(RATE) / (1 - power1) * m / below

    return step


def _sgd(p: Real, g: Real, m: Real) -> Real:
    g = g + p * _single(MOMENTUM.weight_decay)
    speed = m * _single(MOMENTUM.momentum) + g
    return p - (g + speed * _single(MOMENTUM.momentum)) * _single(RATE)


def _powers(number: int) -> list[Tensor]:
    """The powers of the betas after `number` - 1 steps, rounded once per step as the program does."""
    powers = []
    for beta in (ADAMW.beta1, ADAMW.beta2):
        power = torch.tensor(1.0)
        for _ in range(number - 1):
            power = power * torch.tensor(beta)
        powers.append(power)
    return powers


def stepped(optimiser: Optimiser, values: list[Tensor], scalars: list[Tensor]) -> Tensor:
    """The parameter after a step; `values`: parameter, gradient and state of its shape."""
    parameter, b = [Parameter("p", tuple(values[0].shape))], Builder()
    slots = optimiser.slots(parameter)
    value, gradient = (b.port(name, "float32", values[0].shape) for name in ("value", "gradient"))
    state = [b.port(slot.name, "float32", slot.shape) for slot in slots]
    rate = b.port("rate", "float32", ())
    (moved,), _ = optimiser.update(b, parameter, Gradients([value], [gradient], rate), state)
    program = LoadedProgram(b.finish("inner", [("p", moved)]))
    return program.run([*values, *scalars, torch.tensor(RATE)])[0]


def measure(name: str, density: int) -> tuple[list[float], list[Real], list[Real]]:
    """(found, exact, the larger of the parameter before and after) of every element."""
    x = {key: rows(5 * density, 37, 1.0, stream=key) for key in ("p", "g", "m")}
    if name == "sgd":
        values, scalars, reference, optimiser = [x["p"], x["g"], x["m"]], [], _sgd, MOMENTUM
        found = stepped(optimiser, values, scalars)
    else:
        number = int(name.split(" ")[-1])
        values = [x["p"], x["g"], 0.3 * x["m"], 0.1 * x["m"] * x["m"] + 0.01]
        found, reference = stepped(ADAMW, values, _powers(number)), _adamw(number)
    numbers = list(zip(*([mpmath.mpf(v) for v in value.flatten().tolist()] for value in values), strict=True))
    exact = [reference(*row) for row in numbers]
    return (
        found.flatten().tolist(),
        exact,
        [max(abs(row[0]), abs(e)) for row, e in zip(numbers, exact, strict=True)],
    )


STEPS = ("adamw, step 1", "adamw, step 20", "adamw, step 500", "sgd")
