"""An exact training step against native ones, side by side: step time, tokens per second, peak memory.

Each opponent trains in a process of its own under the same allocator settings; steps alternate between the processes
one by one, so that whatever else the machine does reaches all of them. Ratios are medians over rounds of steps.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.opponent import OPPONENTS, WARM_UP
from benchmarks.trainers import MODELS, SEED, ExactTrainer, data
from trainer.compute.children import ALLOCATOR
from trainer.lifetimes import held, python

SLOW_SECONDS, SLOW_RATIO = 8.0, 4.0
"""A native opponent whose first measured step takes longer than both, in seconds and times the fastest, is out."""
LEAST_ROUNDS, LONG_SECONDS = 3, 90.0
"""After so many rounds no new one begins when they took this long together."""
LOSS_TOLERANCE = 0.02
FLOAT32 = ("float32", "float32-onednn", "float32-compiled")
SLOW = ("float32-compiled", "bfloat16", "alia-carbon")
Tell = Callable[[str], None]
Row = dict[str, Any]


@dataclass
class Opponent:
    """A child process that trains one step whenever asked, and what it answered."""

    name: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    base: int = 0
    peak: int = 0
    first: float = 0.0
    loss: float = 0.0
    failure: str = ""

    def answer(self) -> None:
        """Take one answer in; a process that ended instead has failed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.failure = f"ended with status {self.process.returncode}"
            return
        values = json.loads(line)
        self.peak = values.get("peak", 0)
        if "base" in values:
            self.base, self.first, self.loss = values["base"], values["seconds"], values["loss"]
        else:
            self.seconds.append(values["seconds"])

    def step(self) -> None:
        """Train one step."""
        assert self.process.stdin is not None
        # A process that has ended answers nothing, which `answer` notes.
        with suppress(BrokenPipeError):
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        self.answer()


def compare(
    model: str, threads: int, steps: int, names: Sequence[str], tell: Tell = lambda line: None
) -> list[Row]:
    """Return one row per opponent after up to `steps` alternating rounds of `model` on `threads` threads."""
    recipe = replace(MODELS[model], steps=WARM_UP + steps)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tell("tracing")
        ExactTrainer.dump(recipe.model(SEED, "eager"), data(recipe, SEED)[0], recipe.method, folder)
        tell("starting " + ", ".join(names))
        opponents = [
            stack.enter_context(started(name, model, threads, folder, steps=recipe.steps)) for name in names
        ]
        for opponent in opponents:
            opponent.answer()
        _check_losses(opponents)
        _alternate(opponents, steps, tell)
    tokens = recipe.batch * recipe.length
    return [_row(opponent, model, threads, tokens) for opponent in opponents]


def _alternate(opponents: Sequence[Opponent], steps: int, tell: Tell) -> None:
    """Train up to `steps` rounds, fewer where they are long; who is far behind in the first sits out the others."""
    began = time.perf_counter()
    racing = _running(opponents)
    for number in range(steps):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > LONG_SECONDS:
            return
        for opponent in racing:
            tell(f"round {number + 1} of up to {steps}: {opponent.name}")
            opponent.step()
        racing = [opponent for opponent in _running(racing) if not _far_behind(opponent, racing)]


def _far_behind(opponent: Opponent, racing: Sequence[Opponent]) -> bool:
    fastest = min(other.seconds[0] for other in _running(racing))
    native = not opponent.name.startswith("exact")
    return native and opponent.seconds[0] > max(SLOW_SECONDS, SLOW_RATIO * fastest)


def environment() -> dict[str, str]:
    """Return what every measured process is started with: as a peer's, which keeps freed memory to itself."""
    return {**os.environ, **ALLOCATOR}


def _running(opponents: Sequence[Opponent]) -> list[Opponent]:
    return [opponent for opponent in opponents if not opponent.failure]


def _check_losses(opponents: Sequence[Opponent]) -> None:
    """All start from the same weights and batch: a first loss that differs means other work, not other arithmetic."""
    losses = {opponent.name: opponent.loss for opponent in _running(opponents)}
    middle = statistics.median(losses.values())
    assert all(abs(loss / middle - 1) < LOSS_TOLERANCE for loss in losses.values()), losses


@contextmanager
def started(name: str, model: str, threads: int, folder: Path, **changes: int) -> Iterator[Opponent]:
    """Have an opponent in a process of its own, with `changes` to its model's recipe; `folder` as `make_trainer` says.

    It answers once it is warm.
    """
    words = name, model, json.dumps(changes), str(threads), str(folder)
    command = python("-m", "benchmarks.opponent", *words)
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            held(command),
            env=environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        opponent = Opponent(name, process)
        try:
            yield opponent
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
    if opponent.failure:
        opponent.failure = (log.read_text(encoding="utf-8").strip().splitlines() or [opponent.failure])[-1]


def _row(opponent: Opponent, model: str, threads: int, tokens: int) -> Row:
    row: Row = {"model": model, "threads": threads, "opponent": opponent.name}
    if opponent.failure or not opponent.seconds:
        return row | {"failure": opponent.failure or "no step was measured"}
    low, middle, high = quartiles(opponent.seconds)
    return row | {
        "seconds": opponent.seconds,
        "quartiles": [low, middle, high],
        "tokens_per_second": tokens / middle,
        "peak_memory": opponent.peak,
        "step_memory": opponent.peak - opponent.base,
        "first_step_seconds": opponent.first,
        "first_loss": opponent.loss,
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summarise(rows: Sequence[Row], threads: int, loss_gap: float | None) -> dict[str, float | None]:
    """Return the six named figures, on `threads` threads; None for what was not measured."""
    found = {
        (row["model"], row["opponent"]): row for row in rows if row["threads"] == threads and "seconds" in row
    }

    def over(model: str, others: Sequence[str]) -> float | None:
        exact = exact_row([row for row in rows if row["model"] == model and row["threads"] == threads])
        ratios = [ratio(exact, found[model, name]) for name in others if exact and (model, name) in found]
        return round(max(ratios), 3) if ratios else None

    ours = exact_row([row for row in found.values() if row["model"] == "d512"])
    theirs = found.get(("d512", "float32"))
    memory = round(ours["step_memory"] / theirs["step_memory"], 3) if ours and theirs else None
    return {
        "exact_over_float32_d512": over("d512", ["float32"]),
        "exact_over_float32_d256": over("d256", ["float32"]),
        "exact_over_best_float32_d512": over("d512", FLOAT32),
        "exact_over_bfloat16_d512": over("d512", ["bfloat16"]),
        "memory_over_native": memory,
        "loss_gap_300": loss_gap,
    }


def exact_row(rows: Sequence[Row]) -> Row | None:
    """Return the exact opponent that a peer would run: compiled where that ran, else eager."""
    ran = [row for row in rows if row["opponent"].startswith("exact-") and "seconds" in row]
    return max(ran, key=lambda row: row["opponent"] == "exact-compiled", default=None)


def ratio(one: Row, other: Row) -> float:
    """Return the median over common rounds of one's step time over the other's."""
    pairs: list[tuple[float, float]] = list(zip(one["seconds"], other["seconds"], strict=False))
    return statistics.median(a / b for a, b in pairs)


def opponents_of(models: Sequence[str], quick: bool, only: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return who takes part on each model: `only` these, if any are named.

    A quick run leaves out the slow ones: compiling takes minutes, bfloat16 may too. alia-carbon takes part on the
    smallest model alone.
    """
    if only:
        return {model: tuple(only) for model in models}
    smallest = min(models, key=lambda model: MODELS[model].hidden)
    names = [name for name in OPPONENTS if not quick or name not in SLOW]
    return {
        model: tuple(name for name in names if name != "alia-carbon" or model == smallest) for model in models
    }
