"""Where the time of an exact step goes: seconds by operator, and products by shape.

`python -m benchmarks.profile MODEL THREADS`, which `bench exact --profile` starts under the allocator settings of all.
"""

import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks.trainers import MODELS, ExactTrainer, data
from trainer.commands.console import Console
from trainer.programs.options import RunOptions, forced_product
from verification.program import first_node, values

STEPS = 3
SHOWN = 12


@dataclass
class Share:
    """Seconds and nodes of one operator, or of products of one shape; `flops` of one such product."""

    seconds: float = 0.0
    nodes: int = 0
    flops: int = 0


def profile(model: str, threads: int) -> tuple[dict[str, Share], dict[str, Share]]:
    """Return shares by operator and, for products, by shape; medians are not needed where one node runs often."""
    torch.set_num_threads(threads)
    recipe = MODELS[model]
    options = RunOptions(product=forced_product())
    trainer = ExactTrainer.trace(recipe.model(0, "eager"), data(recipe, 0)[0], recipe.method, options=options)
    trainer.step()
    program, first = trainer.inner.program, first_node(trainer.inner.program)
    known = values(program)
    operators: dict[str, Share] = defaultdict(Share)
    products: dict[str, Share] = defaultdict(Share)
    clock = time.perf_counter()

    def tap(number: int, made: torch.Tensor) -> None:
        nonlocal clock
        now = time.perf_counter()
        node = program.nodes[number - first]
        _add(operators[node.operator], now - clock)
        if node.operator == "product":
            *batch, rows, columns = node.shape
            depth = known[node.inputs[0]].shape[-1]
            share = products[f"{math.prod(batch)} x [{rows} x {depth} x {columns}]"]
            share.flops = 2 * math.prod(node.shape) * depth
            _add(share, now - clock)
        clock = time.perf_counter()

    for _ in range(STEPS):
        clock = time.perf_counter()
        trainer.state = trainer.inner.run(trainer.state, tap)
    return dict(operators), dict(products)


def tables(model: str, operators: dict[str, Share], products: dict[str, Share]) -> list[Table]:
    """Return both profiles for a terminal, the most expensive first."""
    total = sum(share.seconds for share in operators.values())
    title = f"exact step of {model}, node by node: {1000 * total / STEPS:.0f} ms"
    by_operator = Table("operator", "nodes", "ms a step", "share", title=title)
    for name, share in _ranked(operators):
        row = (
            str(share.nodes // STEPS),
            f"{1000 * share.seconds / STEPS:.1f}",
            f"{share.seconds / total:.1%}",
        )
        by_operator.add_row(name, *row)
    by_shape = Table("product", "nodes", "ms a step", "GFLOP/s", title="products by shape")
    for name, share in _ranked(products):
        speed = share.flops * share.nodes / share.seconds / 1e9
        by_shape.add_row(
            name, str(share.nodes // STEPS), f"{1000 * share.seconds / STEPS:.1f}", f"{speed:.0f}"
        )
    return [by_operator, by_shape]


def _ranked(shares: dict[str, Share]) -> list[tuple[str, Share]]:
    return sorted(shares.items(), key=lambda pair: -pair[1].seconds)[:SHOWN]


def _add(share: Share, seconds: float) -> None:
    share.seconds += seconds
    share.nodes += 1


if __name__ == "__main__":
    for table in tables(sys.argv[1], *profile(sys.argv[1], int(sys.argv[2]))):
        Console().print(table)
