"""What the best of many rings earns over honest work, at the edge of what `run create` accepts, in simulation.

    proofswarm bench rings [--json FILE] [--plot FILE]

The seed was fixed before the first run and is never changed; the same command gives the same figures anywhere.
"""

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.curves import library
from benchmarks.processes import pool
from benchmarks.record import publish
from simulator.rings import STRATEGIES, Point, Strategy, play
from trainer.commands.console import Console
from verification.manifest import reward_of
from verification.units import MILLION, PPM

SEED = 20_261_129
ALWAYS = 5
"""So many strategies are tried at every point; of the others, one at each in turn."""

AGAIN = 3
"""Where a mean is above zero, so many times the runs are played afresh, and their mean and interval count."""

CONFIDENCE = 0.999
"""Of all points' intervals together (Bonferroni)."""

RATES = (PPM(200_000), PPM(350_000), PPM(500_000), PPM(800_000))
SWARMS = (
    (1, 1, PPM(0)),
    (2, 2, PPM(340_000)),
    (2, 3, PPM(340_000)),
    (3, 3, PPM(300_000)),
    (3, 3, PPM(500_000)),
)
"""(verifiers promised, places, share assumed to collude)."""

ESCROWS, SABOTAGES = (1, 2, 4, 8), (0, 300, 1_000)
GRADES = (PPM(200_000), PPM(500_000), PPM(MILLION))

FORMERLY = tuple(
    (Point(rate, 2, 2, PPM(340_000), escrow, 1_000, PPM(MILLION), is_long), stake)
    for rate, escrow, stake in ((PPM(500_000), 1, 4_273), (PPM(350_000), 1, 6_145), (PPM(200_000), 1, 10_821))
    for is_long in (False, True)
)
"""What was accepted while rounds in flight were not counted, with the stake that was enough."""


def points(count: int) -> list[Point]:
    """Return so many points of the grid, drawn once and for all, each with a stake that `require_sound` accepts."""
    grid = [
        Point(rate, promised, places, colluding, escrow, sabotage, grade, is_long)
        for rate, (promised, places, colluding), escrow, sabotage, grade, is_long in product(
            RATES, SWARMS, ESCROWS, SABOTAGES, GRADES, (False, True)
        )
    ]
    random.Random(SEED).shuffle(grid)
    accepted = (point for point in grid if point.edge() is not None)
    return [point for point, _ in zip(accepted, range(count), strict=False)]


def run(count: int, runs: int, json: Path | None, plot: Path | None) -> None:
    """Play the rings of every point and of those that were accepted before; print, write the record and the plot."""
    console = Console()
    rows = measure(count, runs, console)
    console.print(_table(rows))
    publish(rows, summarise(rows), console, json, plot, draw)


def measure(count: int, runs: int, console: Console) -> list[dict[str, Any]]:
    """Return a row for each point, in the points' order, and show how far it is."""
    edges = [(point, point.edge() or 0) for point in points(count)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} points"),
    )
    rows = []
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        pool() as workers,
    ):
        wanted = [*edges, *FORMERLY]
        task = progress.add_task("rings", total=len(wanted))
        error = (1 - CONFIDENCE) / len(wanted)
        playing = [
            workers.submit(play_point, point, stake, number, runs, error)
            for number, (point, stake) in enumerate(wanted)
        ]
        for future in playing:
            rows.append(future.result())
            progress.advance(task)
    return rows


def play_point(point: Point, stake: int, number: int, runs: int, error: float) -> dict[str, Any]:
    """Let a ring try its strategies once, and play the best of them `runs` times with other seeds.

    `error` is the interval's chance of missing the true mean.
    """
    seed = SEED + 1_000 * number
    tried = [*STRATEGIES[:ALWAYS], STRATEGIES[ALWAYS + number % (len(STRATEGIES) - ALWAYS)]]
    trials = {strategy.name: play(point, stake, strategy, seed).profit for strategy in tried}
    best = max(tried, key=lambda strategy: trials[strategy.name])
    profits = _profits(point, stake, best, range(seed + 1, seed + 1 + runs))
    if statistics.mean(profits) > 0:
        profits = _profits(point, stake, best, range(seed + 1 + runs, seed + 1 + (1 + AGAIN) * runs))
    mean, half = _interval(profits, error)
    manifest = point.manifest(stake)
    return {
        **asdict(point),
        "partners": point.partners,
        "stake": stake,
        "accepted": point.is_accepted(stake),
        "worth": reward_of(manifest, manifest.work.max_steps) + point.sabotage,
        "strategy": best.name,
        "runs": len(profits),
        "profit": round(mean, 1),
        "low": round(mean - half, 1),
        "high": round(mean + half, 1),
        "trials": {name: round(profit, 1) for name, profit in trials.items()},
    }


def _profits(point: Point, stake: int, strategy: Strategy, seeds: Sequence[int]) -> list[float]:
    return [play(point, stake, strategy, seed).profit for seed in seeds]


def _interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """Return a mean and half of its interval, which misses the true one with chance `error`."""
    if len(values) < 2:
        return values[0], 0.0
    z = statistics.NormalDist().inv_cdf(1 - error / 2)
    return statistics.mean(values), z * statistics.stdev(values) / len(values) ** 0.5


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the documents give; profits in wrong rounds, each worth its reward and sabotage."""
    edge, former = ([row for row in rows if row["accepted"] is accepted] for accepted in (True, False))
    mean, half = _interval([row["profit"] / row["worth"] for row in edge], 1 - CONFIDENCE)
    return {
        "points": len(edge),
        "runs": sum(row["runs"] + len(row["trials"]) for row in rows),
        "rings_above_zero": sum(row["profit"] > 0 for row in edge),
        "rings_above_zero_outside_interval": sum(row["low"] > 0 for row in edge),
        "mean_profit_in_wrong_rounds": round(mean, 2),
        "half_interval": round(half, 2),
        "formerly_accepted": len(former),
        "formerly_accepted_profit": round(statistics.mean(row["profit"] for row in former), 1)
        if former
        else None,
        "best_strategies": dict(Counter(row["strategy"] for row in edge).most_common()),
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "rewards wait", "rings", "best profit", "mean profit", "above zero", "outside",
        title="profit of the best ring over honest work, in wrong rounds", title_justify="left",
    )  # fmt: skip
    for escrow in ESCROWS:
        group = [row for row in rows if row["escrow"] == escrow and row["accepted"]]
        if group:
            worths = [row["profit"] / row["worth"] for row in group]
            above = sum(row["profit"] > 0 for row in group)
            outside = sum(row["low"] > 0 for row in group)
            cells = (f"{max(worths):.2f}", f"{statistics.mean(worths):.2f}", str(above), str(outside))
            table.add_row(f"{escrow} rounds", str(len(group)), *cells)
    return table


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw every ring's profit beside its audit chance, the accepted ones and those that were accepted before.

    Raises UserError without matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    colours = ("#1f4e9c", "#c8501e", "#2e8b57", "#7b5ea7")
    for axes, is_long in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        for place, (escrow, colour) in enumerate(zip(ESCROWS, colours, strict=True)):
            group = [r for r in rows if (r["escrow"], r["is_long"], r["accepted"]) == (escrow, is_long, True)]
            xs = [row["rate"] / MILLION + 0.008 * (place - 1.5) for row in group]
            ys = [row["profit"] / row["worth"] for row in group]
            errors = [(row["high"] - row["profit"]) / row["worth"] for row in group]
            axes.errorbar(
                xs, ys, errors, fmt="o", color=colour, ms=3, lw=0.8, label=f"rewards wait {escrow} rounds"
            )
        former = [r for r in rows if not r["accepted"] and r["is_long"] == is_long]
        axes.plot(
            [r["rate"] / MILLION for r in former], [r["profit"] / r["worth"] for r in former], "x", color="black",
            label="formerly accepted",
        )  # fmt: skip
        axes.axhline(0, color="black", lw=1)
        axes.set_title("windows of several rounds" if is_long else "windows of about a round", fontsize=10)
        axes.set_xlabel("audit rate a verifier")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.supylabel("profit over honest work,\nin wrong rounds", fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})
