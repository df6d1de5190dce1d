"""Worlds with hostile members who drop, alter, delay, double and invent: no honest peer pays, and every run ends.

    proofswarm bench fuzz [--seeds 2600] [--json FILE]

The first seed was fixed before the first run; a seed that fails is printed, and plays the same again anywhere.
"""

from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.processes import pool
from benchmarks.record import publish
from simulator.fuzz import Fuzzed, fuzz
from trainer.commands.console import Console

SEED = 20_261_129


def run(seeds: int, json: Path | None) -> int:
    """Play the seeds on all cores, print what they came to, and return 0 when nothing failed."""
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} seeds")
    rows: list[dict[str, Any]] = []
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        pool() as workers,
    ):
        task = progress.add_task("hostile worlds", total=seeds)
        playing = {seed: workers.submit(fuzz, seed) for seed in range(SEED, SEED + seeds)}
        for seed, played in playing.items():
            row = _row(seed, played)
            rows.append(row)
            progress.advance(task)
            if row["failed"]:
                console.print(f"seed {row['seed']}: {row['failed']}", markup=False)
    summary = summarise(rows)
    publish(rows, summary, console, json)
    return 1 if summary["failed"] else 0


def _row(seed: int, played: Future[Fuzzed]) -> dict[str, Any]:
    """Return what a seed came to; what goes wrong in it is its result, since the others count all the same."""
    error = played.exception()
    if error is not None:
        return {"seed": seed, "failed": f"{type(error).__name__}: {error}"}
    return {"seed": seed, "failed": "", **asdict(played.result())}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over all seeds."""
    played = [row for row in rows if not row["failed"]]
    counted = ("worlds", "again", "entries", "refused", "faults", "disputes")
    rulings: Counter[str] = Counter()
    for row in played:
        rulings.update(row["rulings"])
    return {
        "seeds": len(rows),
        **{name: sum(row[name] for row in played) for name in counted},
        "rulings": dict(sorted(rulings.items())),
        "failed": len(rows) - len(played),
    }
