"""Loss curves: native float32, native bfloat16 autocast, exact-14 and exact-8 on the same data and seeds.

The noise floor is native float32 once more, its start changed by one part in a million. bfloat16 is PyTorch's own
where the processor has its instructions, and the same products by float32 kernels elsewhere. Every (trial, kind, seed)
is a run of its own that leaves one file, so an interrupted command goes on where it stopped.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.bfloat16 import Widened, has_instructions
from benchmarks.trainers import PLAIN, ExactTrainer, NativeTrainer, Recipe, Trainer, data, held_out_loss
from trainer.exact import native
from trainer.programs.options import Loops, RunOptions, forced_product

KINDS = ("float32", "perturbed", "exact-14", "exact-8", "bfloat16")
PERTURBATION = 1e-6
TAIL = 20
"""Last steps whose mean is a run's training loss."""
Tick = Callable[[int, int, float], None]
"""(steps done, steps in all, loss)."""


@dataclass(frozen=True)
class Trial:
    """A recipe, and the kinds of arithmetic and the seeds that it is run with."""

    recipe: Recipe
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]


MAIN = "300 steps"
TRIALS = {
    MAIN: Trial(Recipe(320, 896, 4, 8, 128, 300, PLAIN), KINDS, (0, 1, 2)),
    "deeper": Trial(Recipe(192, 512, 12, 8, 128, 300, PLAIN), KINDS[:4], (0, 1, 2)),
    "longer": Trial(Recipe(192, 512, 4, 8, 128, 1000, PLAIN), KINDS[:4], (0,)),
}


@dataclass(frozen=True)
class Training:
    """One training: the loss of each step, the mean of the last ones, the held-out loss at the end, and how many steps'
    gradients native training clipped."""

    trial: str
    kind: str
    seed: int
    parameters: int
    seconds: float
    losses: list[float]
    tail: float
    held_out: float
    clipped: int = 0


def pending(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str, int, Path]]:
    """Yield (trial, kind, seed, file) of every run of the named trials whose file is not there yet, seeds outermost."""
    for name in names:
        trial = TRIALS[name]
        for seed in trial.seeds:
            for kind in trial.kinds:
                path = _path(folder, name, kind, seed)
                if not path.exists():
                    yield name, kind, seed, path


def train(name: str, recipe: Recipe, kind: str, seed: int, tick: Tick) -> Training:
    """Train one run of the trial that has a name."""
    batches, held_out = data(recipe, seed)
    trainer = make_trainer(kind, recipe, batches, seed)
    began, losses = time.perf_counter(), []
    for number in range(recipe.steps):
        losses.append(trainer.step())
        tick(number + 1, recipe.steps, losses[-1])
    seconds = time.perf_counter() - began
    final = trainer.parameters()
    judged = held_out_loss(recipe.model(seed, "sdpa"), final, held_out)
    count = sum(tensor.numel() for tensor in final.values())
    clipped = trainer.clipped if isinstance(trainer, NativeTrainer) else 0
    return Training(name, kind, seed, count, seconds, losses, mean(losses[-TAIL:]), judged, clipped)


def save(run: Training, path: Path) -> None:
    """Write one run's file, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(run)), encoding="utf-8")
    draft.replace(path)


def make_trainer(kind: str, recipe: Recipe, batches: torch.Tensor, seed: int) -> Trainer:
    """Return the trainer of one of `KINDS`."""
    if kind.startswith("exact-"):
        bits = int(kind.removeprefix("exact-"))
        return ExactTrainer.trace(recipe.model(seed, "eager"), batches, recipe.method, bits, compiling())
    if kind == "bfloat16" and not has_instructions():
        model = recipe.model(seed, "eager")
        return Widened(NativeTrainer(model, batches, recipe.method, autocast=torch.bfloat16))
    model = recipe.model(seed, "sdpa")
    if kind == "perturbed":
        _perturb(model, seed)
    autocast = torch.bfloat16 if kind == "bfloat16" else None
    return NativeTrainer(model, batches, recipe.method, autocast=autocast)


def compiling() -> RunOptions:
    """Return how exact trainings run, which changes no bit: hundreds of steps repay compiling, where it is possible."""
    loops = Loops.NEVER if native.compiler() is None else Loops.ALWAYS
    return RunOptions(loops=loops, product=forced_product())


def _perturb(model: torch.nn.Module, seed: int) -> None:
    """Change every weight by one part in a million, up or down."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + PERTURBATION * signs)


def read_runs(folder: Path, names: Sequence[str]) -> list[Training]:
    """Return the runs of the named trials that have a file, in the order of trials, kinds and seeds."""
    found: list[Training] = []
    for name in names:
        trial = TRIALS[name]
        paths = [_path(folder, name, kind, seed) for kind in trial.kinds for seed in trial.seeds]
        found += [Training(**json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]
    return found


def rows(runs: Sequence[Training]) -> list[dict[str, Any]]:
    """Return one row per trial and kind: means over seeds, the gap to float32 over the same seeds, every run."""
    native = {(run.trial, run.seed): run.held_out for run in runs if run.kind == "float32"}
    grouped: dict[tuple[str, str], list[Training]] = defaultdict(list)
    for run in runs:
        grouped[run.trial, run.kind].append(run)
    made = []
    for (trial, kind), group in grouped.items():
        values = [run.held_out for run in group]
        shared = [(run.held_out, native[trial, run.seed]) for run in group if (trial, run.seed) in native]
        made.append({
            "trial": trial,
            "kind": kind,
            "parameters": group[0].parameters,
            "seeds": [run.seed for run in group],
            "held_out": mean(values),
            "tail": mean(run.tail for run in group),
            "gap": mean(a for a, _ in shared) / mean(b for _, b in shared) - 1 if shared else None,
            "gaps": [a / b - 1 for a, b in shared],
            "spread": (max(values) - min(values)) / mean(values),
            "held_out_by_seed": values,
            "losses": [[round(loss, 5) for loss in run.losses] for run in group],
        })  # fmt: skip
    return made


def summarise(runs: Sequence[Training]) -> dict[str, float | None]:
    """Return the named figures of the first trial: gaps of mean held-out losses and native's spread, as fractions."""
    found = {row["kind"]: row for row in rows(runs) if row["trial"] == MAIN}
    native = found.get("float32")
    gaps = {kind: row["gap"] for kind, row in found.items()}
    return {
        "loss_gap_300": None if gaps.get("exact-14") is None else abs(gaps["exact-14"]),
        "exact_14_gap": gaps.get("exact-14"),
        "exact_8_gap": gaps.get("exact-8"),
        "bfloat16_gap": gaps.get("bfloat16"),
        "perturbed_gap": gaps.get("perturbed"),
        "float32_spread_over_seeds": native["spread"] if native else None,
    }


def known_gap(path: Path) -> float | None:
    """Return `loss_gap_300` of a losses.json; None when there is none."""
    if not path.exists():
        return None
    summary: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))["summary"]
    return summary["loss_gap_300"]


def _path(folder: Path, trial: str, kind: str, seed: int) -> Path:
    return folder / f"{trial.replace(' ', '-')}-{kind}-{seed}.json"
