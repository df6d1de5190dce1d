"""What a model's size costs: time and memory of a step beside native float32, and all that a peer does around it.

    proofswarm bench size [--parameters 10,30,124,350] [--json FILE]

Each size is a GPT-2, and a run of it that `run create` makes. Whatever is measured runs in processes of its own, and so
peaks of memory are its alone: PyTorch's step, a peer's compute process through small rounds, a state's digest, its way
over loopback, a dispute, and a newcomer. What needs more memory than there is is left out, and told.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.status import Status
from rich.table import Table
from rich.text import Text

from benchmarks import costs
from benchmarks.costs import Plan, Row
from benchmarks.processes import available_memory
from benchmarks.record import publish
from benchmarks.trainers import MODELS, Recipe
from trainer.commands.console import Console
from verification.errors import ProofswarmError

NAME = "gpt2-"
"""What the sizes' models are called before their millions of parameters."""
BASE = 400 << 20
"""Bytes of a process that has loaded everything and computes next to nothing."""
A_PARAMETER = {"create": 24, "native": 20, "compute": 26, "digest": 20, "fetch": 1, "dispute": 120}
"""Bytes for each parameter that a part's process needs: what 10 to 124 million took, of short records, rounded up."""
A_LOGIT = 36
"""Bytes for each logit of a batch that a process which trains needs."""
PEERS = 3
"""Compute processes while a newcomer joins: its own, a worker's and a verifier's."""
MAKING = "run create"
"""The part that all others need."""
Work = Callable[[Plan, Path], Row]


def run(sizes: Sequence[str], batch: int, length: int, threads: int, rounds: int, json: Path | None) -> None:
    """Measure every size, print and write; raises UserError where a file cannot be written."""
    console, rows = Console(), []
    for size in sizes:
        recipe = replace(MODELS[NAME + size], batch=batch, length=length)
        with console.status(Text("")) as status:
            rows.append(measure(Plan(NAME + size, recipe, threads, rounds), Progress(console, status, size)))
    console.print(table_of(rows))
    publish(rows, summarise(rows), console, json)


class Progress:
    """Tells of one size what goes on, and leaves a line of each part."""

    def __init__(self, console: Console, status: Status, size: str) -> None:
        self._console, self._status, self._size = console, status, size
        self._began = time.monotonic()

    def begin(self, part: str) -> None:
        """Tell that a part begins."""
        self._status.update(Text(f"{self._size} million parameters: {part}"))

    def end(self, line: str) -> None:
        """Leave a line about a part."""
        seconds = time.monotonic() - self._began
        self._console.print(f"{seconds:6.0f} s  {self._size}: {line}", highlight=False, soft_wrap=True)


def measure(plan: Plan, progress: Progress) -> Row:
    """Return all figures of a size; `left_out` says of each part that has none why."""
    parameters, row = parameters_of(plan.recipe), dict[str, Any]()
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="proofswarm-size-") as place:
        for part, (need, work) in parts_of(needs_of(plan.recipe, parameters)).items():
            progress.begin(part)
            reason = lacks(need, available_memory())
            try:
                row |= {} if reason else work(plan, Path(place) / "run")
            except ProofswarmError as error:
                reason = str(error)
            progress.end(f"{part} left out: {reason}" if reason else part)
            if reason:
                left_out[part] = reason
                if part == MAKING:
                    break
    chosen = {"batch": plan.recipe.batch, "length": plan.recipe.length, "threads": plan.threads}
    return {"model": plan.model, "parameters": parameters} | chosen | row | {"left_out": left_out}


def parts_of(needs: Mapping[str, int]) -> dict[str, tuple[int, Work]]:
    """Return by name each part, the bytes that it needs and what does it; all others go on from the first."""

    def stepping(plan: Plan, folder: Path) -> Row:
        return costs.stepping(plan, folder, needs["native"] + needs["compute"] <= available_memory())

    return {
        MAKING: (max(needs["create"], needs["compute"]), costs.creating),
        "steps": (needs["compute"], stepping),
        "digest": (needs["digest"], costs.digesting),
        "fetch": (needs["fetch"], costs.fetching),
        "dispute": (needs["dispute"], costs.disputing),
        "join": (PEERS * needs["compute"], costs.joining),
    }


def needs_of(recipe: Recipe, parameters: int) -> dict[str, int]:
    """Return about how many bytes each kind of process needs."""
    logits = recipe.batch * recipe.length * recipe.vocabulary
    return {kind: BASE + each * parameters + A_LOGIT * logits for kind, each in A_PARAMETER.items()}


def lacks(need: int, left: int) -> str:
    """Say that memory is short, or nothing where it is not."""
    return f"needs some {need / 1e9:.1f} GB of memory, {left / 1e9:.1f} are left" if need > left else ""


def parameters_of(recipe: Recipe) -> int:
    """Return the number of a recipe's parameters, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in recipe.model(0, "eager").parameters())


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the largest size that ran, and ours over native's, at most and by size: memory and time of a step."""
    ran = [row for row in rows if "seconds" in row]
    ratios = [(row["model"].removeprefix(NAME), memory_ratio(row), time_ratio(row)) for row in ran]
    return {
        "parameters": max((row["parameters"] for row in ran), default=None),
        "memory_over_native": max((memory for _, memory, _ in ratios), default=None),
        "time_over_native": max((seconds for _, _, seconds in ratios), default=None),
        **{f"memory_over_native_{size}": memory for size, memory, _ in ratios},
        **{f"time_over_native_{size}": seconds for size, _, seconds in ratios},
    }


def memory_ratio(row: Row) -> float:
    """Return the peak of a peer's compute process, from its first order on, over that of PyTorch's steps."""
    ours = max(row["prepare_peak_memory"], row["round_peak_memory"])
    return float(round(ours / row["native_peak_memory"], 3))


def time_ratio(row: Row) -> float:
    """Return the median exact step over the median native one."""
    return float(round(statistics.median(row["seconds"]) / statistics.median(row["native_seconds"]), 3))


def table_of(rows: Sequence[Row]) -> Table:
    """Return all sizes for people, a column each; what was left out is a dash."""
    table = Table("", *(f"{row['parameters'] / 1e6:,.1f} M" for row in rows), box=None)
    for name, tell in LINES.items():
        table.add_row(name, *(_told(row, tell) for row in rows))
    return table


def _told(row: Row, tell: Callable[[Row], str]) -> str:
    try:
        return tell(row)
    except KeyError:
        return "-"


def _seconds(name: str) -> Callable[[Row], str]:
    return lambda row: f"{statistics.median(each) if isinstance(each := row[name], list) else each:.3g}"


def _gigabytes(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name] / 1e9:.3g}"


LINES: dict[str, Callable[[Row], str]] = {
    "compiled loops": lambda row: "yes" if row["is_compiled"] else "no",
    "native step, s": _seconds("native_seconds"),
    "exact step, s": _seconds("seconds"),
    "over native": lambda row: f"{time_ratio(row):.2f}",
    "native peak, GB": _gigabytes("native_peak_memory"),
    "compute process: first order, GB": _gigabytes("prepare_peak_memory"),
    "compute process: rounds, GB": _gigabytes("round_peak_memory"),
    "larger one over native": lambda row: f"{memory_ratio(row):.2f}",
    "first order, s": _seconds("prepare_seconds"),
    "round of two steps, s": _seconds("round_seconds"),
    "run create, s": _seconds("create_seconds"),
    "run create, GB": _gigabytes("create_peak_memory"),
    "state, GB": _gigabytes("state_bytes"),
    "its digest, s": _seconds("digest_seconds"),
    "fetched over loopback, s": _seconds("fetch_seconds"),
    "bytes received, GB": _gigabytes("fetch_received_bytes"),
    "member after, s": _seconds("joined_seconds"),
    "first commitment after, s": _seconds("committed_seconds"),
    "received by then, GB": _gigabytes("committed_received"),
    "dispute, s": _seconds("dispute_seconds"),
    "dispute, GB": _gigabytes("dispute_peak_memory"),
}
"""The table's lines, each with what it says of a row."""
