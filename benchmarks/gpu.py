"""On a GPU: the golden digests, and an exact step against native ones, alternating in one process.

Native float32 is timed with TF32 off (IEEE products) and on; exact arithmetic uses no TF32 whatever the flags say.
`device="cpu"` tries the plumbing where there is no GPU.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks import golden
from benchmarks.exact import Row, exact_row, quartiles, ratio
from benchmarks.opponent import WARM_UP
from benchmarks.trainers import MODELS, SEED, ExactTrainer, NativeTrainer, Recipe, Trainer, data
from trainer.programs.options import RunOptions, forced_product


def digests(device: str) -> Iterator[dict[str, Any]]:
    """Yield per golden run whether the device reaches its digests, and the first place where it does not."""
    for name, expected in golden.expected().items():
        began = time.perf_counter()
        found = golden.train(golden.read(name), options=RunOptions(device, product=forced_product()))
        wrong = [place for place, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]]
        yield {
            "run": name,
            "equal": not wrong,
            "first_wrong": wrong[0] if wrong else None,
            "digest": found[golden.STEPS],
            "seconds": time.perf_counter() - began,
        }


def compare(model: str, device: str, steps: int) -> list[Row]:
    """Return one row per opponent after `steps` alternating steps of `model`."""
    recipe = replace(MODELS[model], steps=WARM_UP + steps)
    trainers: dict[str, tuple[Trainer, int]] = {}
    for name, make in _opponents(recipe, device).items():
        before = _allocated(device)
        trainers[name] = make(), 0
        trainers[name] = trainers[name][0], _allocated(device) - before
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    peaks = dict.fromkeys(trainers, 0)
    for number in range(WARM_UP + steps):
        for name, (trainer, own) in trainers.items():
            taken, extra = _timed(name, trainer, device)
            if number >= WARM_UP:
                seconds[name].append(taken)
                peaks[name] = max(peaks[name], own + extra)
    tokens = recipe.batch * recipe.length
    return [_row(name, model, device, seconds[name], peaks[name], tokens) for name in trainers]


def _opponents(recipe: Recipe, device: str) -> dict[str, Callable[[], Trainer]]:
    batches, options = data(recipe, SEED)[0], RunOptions(device, product=forced_product())

    def native(autocast: torch.dtype | None = None) -> NativeTrainer:
        model = recipe.model(SEED, "sdpa").to(device)
        return NativeTrainer(model, batches.to(device), recipe.method, autocast=autocast, fused=True)

    def exact() -> ExactTrainer:
        return ExactTrainer.trace(recipe.model(SEED, "eager"), batches, recipe.method, options=options)

    found: dict[str, Callable[[], Trainer]] = {"float32": native, "bfloat16": lambda: native(torch.bfloat16)}
    if device != "cpu":
        found["tf32"] = native
    return found | {"exact-eager": exact}


def _timed(name: str, trainer: Trainer, device: str) -> tuple[float, int]:
    """Return a step's seconds and how many bytes it held at most beyond those that were there before."""
    before = _allocated(device)
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    # The loss that a step returns waits for the device.
    trainer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    torch.set_float32_matmul_precision("highest")
    return seconds, 0 if device == "cpu" else torch.cuda.max_memory_allocated() - before


def _allocated(device: str) -> int:
    return 0 if device == "cpu" else torch.cuda.memory_allocated()


def _row(name: str, model: str, device: str, seconds: list[float], peak: int, tokens: int) -> Row:
    middles = quartiles(seconds)
    return {
        "model": model,
        "device": device,
        "opponent": name,
        "seconds": seconds,
        "quartiles": list(middles),
        "tokens_per_second": tokens / middles[1],
        "peak_memory": peak,
        "step_memory": peak,
    }


def summarise(digests: Sequence[dict[str, Any]], rows: Sequence[Row]) -> dict[str, float | bool]:
    """Return whether every digest is the golden one, and the exact step's ratio to each opponent, by model."""
    summary: dict[str, float | bool] = {"digests_equal": all(row["equal"] for row in digests)}
    for row in rows:
        if not row["opponent"].startswith("exact"):
            ours = exact_row([other for other in rows if other["model"] == row["model"]])
            assert ours is not None
            summary[f"exact_over_{row['opponent']}_{row['model']}"] = round(ratio(ours, row), 3)
    return summary
