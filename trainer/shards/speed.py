"""How fast a machine is in work units a second: what shards are sized by before any of them has run."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from trainer import exact
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import RunOptions
from verification.operators import ARITHMETIC
from verification.program import VERSION, Attributes, Node, Output, Port, Program, work_units
from verification.units import Count

MEASURED_STEPS = 10
ROWS, WIDTH = 256, 512
"""Of the product that is timed: tokens by a matrix, as in a small layer."""


def speed_of(
    options: RunOptions, products: exact.Products, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Return the work units of a layer's product, with all that it takes, that this machine does in a second.

    The best of some times counts: whatever else the machine does takes time from one or the other.
    """
    program = _layer()
    loaded = LoadedProgram(program, replace(options, memory=None), products, is_part=True)
    inputs = [torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)]
    loaded.run(inputs)  # which also chooses kernels
    seconds = []
    for _ in range(MEASURED_STEPS):
        began = clock()
        loaded.run(inputs)
        seconds.append(clock() - began)
    return max(1, round(work_units(program) / max(1e-9, min(seconds))))


def _layer() -> Program:
    """Return y = relu-free x w: both quantised, their exact product, and a sum with what came in."""
    tall, wide = (ROWS, WIDTH), (WIDTH, WIDTH)
    ports = (Port("x", "float32", _counts(tall)), Port("w", "float32", _counts(wide)))
    bits, across, down = ("bits", (14,)), ("dim", (1,)), ("dim", (0,))
    nodes = (
        _node("row_exponent", (0,), "int16", (ROWS, 1), across),
        _node("quantise", (0, 2), "int16", tall, bits, across),
        _node("row_exponent", (1,), "int16", (1, WIDTH), down),
        _node("quantise", (1, 4), "int16", wide, bits, down),
        _node("product", (3, 2, 5, 4), "float32", tall, bits),
        _node("add", (0, 6), "float32", tall),
    )
    return Program(VERSION, ARITHMETIC, "inner", ports, (), nodes, (Output("y", Count(7)),))


def _node(
    operator: str,
    inputs: tuple[int, ...],
    dtype: str,
    shape: tuple[int, ...],
    *facts: tuple[str, tuple[int, ...]],
) -> Node:
    attributes: Attributes = facts
    return Node(operator, tuple(map(Count, inputs)), attributes, dtype, _counts(shape))


def _counts(shape: tuple[int, ...]) -> tuple[Count, ...]:
    return tuple(map(Count, shape))
