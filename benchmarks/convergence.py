"""What local steps and compression cost in loss, against data-parallel training on the same tokens.

    proofswarm bench convergence [--steps 2000] [--inner 40] [--workers 2] [--choices NAME,...]

Data-parallel is PyTorch's own training on the whole batch of each step, which is what DDP computes. The others are
swarms: each worker takes its part of the same batches and contributes once a round, by the programs of a run. Curves
are held-out losses at equal tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.curves import dress, library
from benchmarks.local_steps import Choice, DataParallel, LocalSteps, Plan, model_of
from benchmarks.record import publish, write_record
from benchmarks.trainers import ADAMW, PLAIN, Recipe, data, held_out_loss
from trainer.commands.console import Console
from trainer.programs.tracing.compression import Dense, TopK
from trainer.programs.tracing.low_rank import LowRank
from trainer.programs.tracing.optimiser import Muon
from trainer.runs.job import DENSITIES, BoundariesSection
from verification.errors import UserError

CHUNK = 1024
BOUNDARIES = 3
"""As for a model in four shards."""
FAST = 1.5
"""Of data-parallel's learning rate: a worker's gradients are of a part of the batch, and moves that are averaged are
shorter than each."""
DDP = "data-parallel"
CHOICES: dict[str, Choice] = {
    "whole": Choice(),
    "muon": Choice(Muon(ADAMW)),
    "average": Choice(outer=(1.0, 0.0)),
    "dense-4": Choice(compression=Dense(4, CHUNK)),
    "dense-2": Choice(compression=Dense(2, CHUNK)),
    "top-k": Choice(compression=TopK(DENSITIES["top-k"], CHUNK)),
    "low-rank": Choice(compression=LowRank(DENSITIES["low-rank"], CHUNK)),
    "low-rank-average": Choice(compression=LowRank(DENSITIES["low-rank"], CHUNK), outer=(1.0, 0.0)),
    "average-fast": Choice(outer=(1.0, 0.0), rate=FAST),
    "overlap": Choice(overlap=True),
    "low-rank-overlap": Choice(compression=LowRank(DENSITIES["low-rank"], CHUNK), overlap=True),
    "low-rank-muon": Choice(Muon(ADAMW), compression=LowRank(DENSITIES["low-rank"], CHUNK)),
    "boundaries-16": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=16)),
    "boundaries-8": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=8)),
    "boundaries-4": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=4)),
    "bottleneck-2-8": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=8), narrowed=2),
    "bottleneck-4-16": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=16), narrowed=4),
    "bottleneck-4-8": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=8), narrowed=4),
    "bottleneck-8-16": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=16), narrowed=8),
    "bottleneck-8-8": Choice(boundaries=BoundariesSection(count=BOUNDARIES, bits=8), narrowed=8),
}
"""Swarms by what differs from the defaults: a job's outer step, AdamW, int8. A bottleneck's first number is how
many times narrower it is than the model, the second one the bits."""
WIDTH, LAYERS = 256, 6
RECORDS, LENGTH = 4, 64
"""Records of a worker's step, and tokens of each: few, so that thousands of steps take minutes."""
LOOKS = 20
"""Points of a curve, about."""
STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """One training: held-out losses, nats a token, after so many steps; bytes of what it sends at a time, and of a
    token's hidden states between blocks."""

    name: str
    parameters: int
    steps: list[int]
    held_out: list[float]
    payload: float
    crossing: int

    @property
    def ratio(self) -> float:
        """How many times smaller that is than the parameters in float32."""
        return 4 * self.parameters / self.payload


def plan_of(steps: int, inner: int, workers: int, width: int = WIDTH, layers: int = LAYERS) -> Plan:
    """Return the plan of so many steps of a Llama; raises UserError where rounds do not fit."""
    if steps % inner:
        raise UserError(f"--steps: {steps} are no whole rounds of {inner} inner steps")
    method = replace(PLAIN, curve="cosine", final_share=0.1)
    return Plan(
        Recipe(width, width * 11 // 4, layers, workers * RECORDS, LENGTH, steps, method), workers, inner
    )


def run(
    plan: Plan, names: Sequence[str], seed: int, threads: int, json: Path | None, plot: Path | None
) -> None:
    """Train each, print and write after each, draw; raises UserError where a file cannot be written."""
    torch.set_num_threads(threads)
    console, curves = Console(), list[Curve]()
    columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    wanted = [DDP, *names]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=plan.rounds * len(wanted))
        for name in wanted:
            progress.update(task, description=name)
            curves.append(train(name, plan, seed, lambda: progress.advance(task)))
            if json is not None:
                write_record(json, rows(curves), summarise(curves, plan))
            if not console.is_terminal:
                console.print(f"{name}: held-out loss {curves[-1].held_out[-1]:.4f}")
    console.print(table(curves))
    publish(rows(curves), summarise(curves, plan), console, json, plot, lambda _, path: draw(curves, path))


def train(name: str, plan: Plan, seed: int, done: Callable[[], object]) -> Curve:
    """Train `DDP` or one of the choices; `done` is called after each round."""
    batches, held_out = data(plan.recipe, seed)
    choice = Choice() if name == DDP else CHOICES[name]
    judge = model_of(plan.recipe, choice, seed, "sdpa")
    trainer = DataParallel(plan, batches, seed) if name == DDP else LocalSteps(plan, choice, batches, seed)
    steps, losses = list[int](), list[float]()
    for number in range(plan.rounds):
        trainer.run(number)
        done()
        if (number + 1) % max(1, plan.rounds // LOOKS) == 0 or number + 1 == plan.rounds:
            steps.append((number + 1) * plan.inner)
            losses.append(held_out_loss(judge, trainer.parameters(), held_out))
    size = sum(tensor.numel() for tensor in trainer.parameters().values())
    return Curve(name, size, steps, losses, mean(trainer.sent), trainer.crossing)


def rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return a row for each curve: its ratio, and the gap to data-parallel's loss, as a fraction, at each point."""
    base = curves[0].held_out
    return [
        asdict(curve)
        | {
            "payload_ratio": round(curve.ratio, 1),
            "gaps": [round(own / ddp - 1, 5) for own, ddp in zip(curve.held_out, base, strict=True)],
        }
        for curve in curves
    ]


def summarise(curves: Sequence[Curve], plan: Plan) -> dict[str, Any]:
    """Return the figures of the smallest payload among the swarms, and what was trained."""
    found = rows(curves)
    smallest = max(found[1:], key=lambda row: row["payload_ratio"], default=None)
    return {
        "parameters": curves[0].parameters,
        "workers": plan.workers,
        "inner_steps": plan.inner,
        "steps": plan.recipe.steps,
        "tokens": plan.recipe.steps * plan.recipe.batch * plan.recipe.length,
        "choice": smallest and smallest["name"],
        "payload_ratio": smallest and smallest["payload_ratio"],
        "loss_gap": smallest and smallest["gaps"][-1],
    }


def table(curves: Sequence[Curve]) -> Table:
    """Return a line for each curve."""
    drawn = Table(
        "",
        "held-out loss",
        "over data-parallel",
        "sent at a time",
        "times smaller than float32",
        "a token between blocks",
    )
    for curve, row in zip(curves, rows(curves), strict=True):
        sent = f"{curve.payload / 1e6:.3f} MB"
        drawn.add_row(
            curve.name, f"{curve.held_out[-1]:.4f}", f"{row['gaps'][-1]:+.2%}", sent, f"{curve.ratio:.1f}",
            f"{curve.crossing} bytes",
        )  # fmt: skip
    return drawn


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw losses, and gaps to data-parallel training, over steps; raises UserError without matplotlib."""
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, gaps = figure.subplots(1, 2)
    for at, (curve, row) in enumerate(zip(curves, rows(curves), strict=True)):
        label = f"{curve.name} ({curve.held_out[-1]:.3f}, {curve.ratio:.0f}x smaller)"
        style = STYLES[at // 7 % len(STYLES)]
        losses.plot(curve.steps, curve.held_out, style, color=f"C{at}", lw=1.2, label=label)
        gaps.plot(curve.steps, [100 * gap for gap in row["gaps"]], style, color=f"C{at}", lw=1.2)
    losses.set_ylabel("held-out loss, nats a token", fontsize=8)
    losses.set_title(f"{curves[0].parameters / 1e6:.1f} million parameters", fontsize=10)
    losses.legend(fontsize=7, frameon=False)
    gaps.set_title("over data-parallel training, %", fontsize=10)
    dress((losses, gaps))
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
