"""How soon each cheat is caught by the real law in simulation, beside 1-(1-q)^rounds.

    proofswarm bench detection [--json FILE] [--plot FILE]

The seed was fixed before the first run and is never changed; the same command gives the same figures anywhere.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.curves import library
from benchmarks.processes import pool
from benchmarks.record import publish
from simulator.detection import ADVERSARIES, VERIFIERS, Cell, Played, Setting, play
from trainer.commands.console import Console
from verification.units import MILLION, PPM

SEED = 20_261_122
RATES = (PPM(20_000), PPM(50_000), PPM(150_000))
COLLUDING = (0, 1)
"""Of three verifiers: shares of 0 and 1/3."""

ROUNDS, CHEATS = 6, 12
CONFIDENCE = 0.999
"""Of all intervals together (Bonferroni)."""

TYPICAL = PPM(50_000)
"""The rate at which the summary gives the overhead, with nobody colluding."""


def run(runs: int, json: Path | None, plot: Path | None) -> None:
    """Play every adversary at every audit rate, print the tables, write the record and the plot."""
    console = Console()
    cells = measure(runs, console)
    error = (1 - CONFIDENCE) / len(cells)
    rows = [cell.row(error) for cell in cells]
    for colluding in COLLUDING:
        console.print(_table([row for row in rows if row["colluding"] == colluding], colluding))
    outside = [row for row in rows if not row["inside"]]
    for row in outside:
        console.print(
            f"outside its interval: {row['adversary']} at {row['rate']:.0%}, {row['colluding']} colluding"
        )
    publish(rows, summarise(rows), console, json, plot, draw)


def settings() -> list[Setting]:
    """Return every cell of the table."""
    return [
        Setting(adversary, rate, colluding, ROUNDS, CHEATS)
        for colluding, adversary, rate in product(COLLUDING, ADVERSARIES, RATES)
    ]


def measure(runs: int, console: Console) -> list[Cell]:
    """Play every setting `runs` times on all cores, each run with a seed of its own, and show how far it is."""
    wanted = settings()
    seeds = [[SEED + 1_000 * number + run for run in range(runs)] for number in range(len(wanted))]
    cells = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} runs"),
    )
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        pool() as workers,
    ):
        task = progress.add_task("starting", total=len(wanted) * runs)
        playing = [[workers.submit(_play, number, seed) for seed in row] for number, row in enumerate(seeds)]
        for setting, futures in zip(wanted, playing, strict=True):
            progress.update(task, description=f"{setting.adversary.name} at {setting.rate / MILLION:.0%}")
            played = []
            for future in futures:
                played.append(future.result())
                progress.advance(task)
            cells.append(Cell(setting, tuple(played)))
    return cells


def _play(number: int, seed: int) -> Played:
    """Play in another process: a setting travels as its number, because behaviours do not."""
    return play(settings()[number], seed)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the README gives."""
    typical = [row for row in rows if row["rate"] == TYPICAL / MILLION and not row["colluding"]]
    return {
        "false_accusations": sum(row["false_accusations"] for row in rows),
        "adversaries": len({row["adversary"] for row in rows}),
        "adversaries_outside_interval": len({row["adversary"] for row in rows if not row["inside"]}),
        "audit_overhead": round(_overhead(typical), 4),
        "cheats": sum(row["cheats"] for row in rows),
        "cells": len(rows),
    }


def _overhead(rows: Sequence[dict[str, Any]]) -> float:
    trained: int = sum(row["trained_steps"] for row in rows)
    audited: int = sum(row["audited_steps"] for row in rows)
    return audited / trained


def _table(rows: Sequence[dict[str, Any]], colluding: int) -> Table:
    rates = sorted({row["rate"] for row in rows})
    title = f"caught within {ROUNDS} rounds / expected (mean rounds), {colluding} of {VERIFIERS} verifiers colluding"
    table = Table("adversary", *(f"rate {rate:.0%}" for rate in rates), title=title, title_justify="left")
    for name in dict.fromkeys(row["adversary"] for row in rows):
        cells = [
            next(row for row in rows if (row["adversary"], row["rate"]) == (name, rate)) for rate in rates
        ]
        table.add_row(name, *map(_cell, cells))
    overheads = [_overhead([row for row in rows if row["rate"] == rate]) for rate in rates]
    table.add_row("audit work / training work", *(f"{overhead:.1%}" for overhead in overheads))
    return table


def _cell(row: dict[str, Any]) -> str:
    until = row["rounds_until_caught"]
    mean = "never" if until is None else f"{until:.1f}"
    flag = "" if row["inside"] else " !"
    return f"{row['detection']:.1%} / {row['expected']:.1%} ({mean}){flag}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw detection over rounds, pooled over adversaries that cheat in every round, with the theory's line.

    Raises UserError without matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, colluding in zip(figure.subplots(1, 2, sharey=True), COLLUDING, strict=True):
        for colour, rate, found, expected in _curves(rows, colluding):
            xs = range(1, len(found) + 1)
            axes.plot(xs, expected, color=colour, lw=1, ls="--")
            axes.plot(xs, found, "o", color=colour, ms=4, label=f"audit rate {rate:.0%} a verifier")
        axes.set_title(f"{colluding} of {VERIFIERS} verifiers colluding", fontsize=10)
        axes.set_xlabel("rounds of cheating")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left")
    figure.supylabel("share of cheats caught (dots), 1-(1-q)^rounds (dashed)", fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _curves(
    rows: Sequence[dict[str, Any]], colluding: int
) -> Iterator[tuple[str, float, list[float], list[float]]]:
    colours = ("#1f4e9c", "#c8501e", "#2e8b57")
    for colour, rate in zip(colours, sorted({row["rate"] for row in rows}), strict=True):
        group = [r for r in rows if (r["rate"], r["colluding"], r["rounds"]) == (rate, colluding, ROUNDS)]
        weights = sum(row["cheats"] for row in group)
        found = [sum(r["cheats"] * r["curve"][i] for r in group) / weights for i in range(ROUNDS)]
        yield colour, rate, found, group[0]["expected_curve"]
