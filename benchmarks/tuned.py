"""Training as it is done: a cosine schedule with warm-up, clipped gradients and accumulation, natively and exactly.

    proofswarm bench tuned [--seeds 5] [--steps 300] [--json FILE] [--plot FILE]

Native is PyTorch's own: `torch.optim.lr_scheduler`, `clip_grad_norm_`, two backward passes a step. Exact is the traced
step of a run, one round long, so that the optimizer begins once. For each seed both start from the same bits and see
the same bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import curves, losses
from benchmarks.losses import Training
from benchmarks.record import publish
from benchmarks.report import loss_table, trained
from benchmarks.trainers import ADAMW, Method, Recipe
from trainer.commands.console import Console

NAME, KINDS = "tuned", ("float32", "exact-14")
METHOD = Method(replace(ADAMW, clip_norm=1.0), "cosine", final_share=0.1, accumulate=2)
RECIPE = Recipe(192, 512, 3, 8, 64, 300, METHOD)


def run(seeds: int, steps: int, threads: int, json: Path | None, plot: Path | None) -> None:
    """Train, print, write and draw; raises UserError where a file cannot be written."""
    torch.set_num_threads(threads)
    console, recipe = Console(), replace(RECIPE, steps=steps)
    wanted = [(NAME, recipe, kind, seed) for seed in range(seeds) for kind in KINDS]
    runs = list(trained(wanted, console))
    console.print(loss_table(runs))
    publish(
        losses.rows(runs), summarise(runs), console, json, plot, lambda _, path: curves.draw_bands(runs, path)
    )


def summarise(runs: Sequence[Training]) -> dict[str, Any]:
    """Return the gap of mean held-out losses and native's spread over seeds, as fractions, and whether it is within.

    A single seed has no spread: None. `clipped` is the share of native's steps whose gradient was clipped.
    """
    rows = {row["kind"]: row for row in losses.rows(runs)}
    gap, spread = rows["exact-14"]["gap"], rows["float32"]["spread"]
    native = [run for run in runs if run.kind == "float32"]
    return {
        "parameters": runs[0].parameters,
        "seeds": len(native),
        "exact_14_gap": gap,
        "float32_spread_over_seeds": spread,
        "is_within_spread": abs(gap) <= spread if len(native) > 1 else None,
        "clipped": sum(run.clipped for run in native) / sum(len(run.losses) for run in native),
    }
