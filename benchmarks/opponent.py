"""One opponent in a process of its own, which trains a step whenever it is told to: `python -m benchmarks.opponent`.

A process each, because peak memory cannot be told apart within one. Reads lines from standard input, one step each,
and answers each with a line of JSON; ends with its input.
"""

import importlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.loading import loading

with loading():
    import torch

    from benchmarks import golden
    from benchmarks.processes import forget_peak, own_bytes, own_peak_bytes
    from benchmarks.trainers import MODELS, SEED, ExactTrainer, NativeTrainer, Recipe, Trainer, data
    from trainer.programs.options import forced_product
    from trainer.runs.tasks import causal_lm_loss
    from verification.errors import UserError

NATIVE = ("float32", "float32-onednn", "float32-compiled", "bfloat16", "alia-carbon")
"""Native as PyTorch comes; with oneDNN's products; compiled, with oneDNN's products; autocast; float64 by Kahan."""
WARM_UP = 2
"""Steps before those that are measured."""
OPPONENTS = (*NATIVE, *(f"exact-{mode}" for mode in golden.MODES))


def make_trainer(opponent: str, recipe: Recipe, folder: Path) -> Trainer:
    """Return an opponent; `folder` holds the exact ones' programs (see `benchmarks.exact`)."""
    if opponent not in NATIVE:
        options = golden.MODES[opponent.removeprefix("exact-")]
        return ExactTrainer.load(folder, replace(options, product=forced_product()))
    from benchmarks.kahan import through_kahan
    from benchmarks.onednn import through_onednn

    built, (batches, _) = recipe.model(SEED, "sdpa"), data(recipe, SEED)
    if opponent == "float32":
        return NativeTrainer(built, batches, recipe.method)
    if opponent == "alia-carbon":
        return NativeTrainer(through_kahan(built), batches, recipe.method)
    if opponent == "bfloat16":
        return NativeTrainer(built, batches, recipe.method, autocast=torch.bfloat16, fused=True)
    loss = torch.compile(causal_lm_loss) if opponent == "float32-compiled" else causal_lm_loss
    return NativeTrainer(through_onednn(built), batches, recipe.method, loss=loss, fused=True)


def main() -> None:
    """Build the opponent named on the command line, warm it up, then step on demand.

    After it come a model's name, what is changed of its recipe as JSON, the number of threads and a folder.
    """
    opponent, model, changes, threads, folder = sys.argv[1:]
    recipe = replace(MODELS[model], **json.loads(changes))
    answers = sys.stdout
    # What libraries print must not come between the answers.
    sys.stdout = sys.stderr
    torch.set_num_threads(int(threads))
    _import_all(opponent, recipe)
    base = own_bytes()
    try:
        trainer = make_trainer(opponent, recipe, Path(folder))
    except UserError as error:
        sys.exit(str(error))
    seconds, loss = _timed(trainer)
    if opponent == "exact-compiled" and isinstance(trainer, ExactTrainer) and not trainer.inner.is_compiled:
        sys.exit("compiled loops gave other numbers than the kernels and were dropped")
    for _ in range(WARM_UP - 1):
        trainer.step()
    if not forget_peak(os.getpid()):
        sys.stderr.write("the peak of memory includes building the model: it cannot be forgotten here\n")
    _answer(answers, {"seconds": seconds, "loss": loss, "base": base})
    for _ in sys.stdin:
        seconds, loss = _timed(trainer)
        _answer(answers, {"seconds": seconds, "loss": loss, "peak": own_peak_bytes()})


def _import_all(opponent: str, recipe: Recipe) -> None:
    """Import what the opponent needs, so that its memory is what its training takes."""
    if opponent in NATIVE:
        kind = recipe.config["model_type"]
        importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    if opponent.endswith("compiled"):
        import torch._inductor.compile_fx  # noqa: F401


def _timed(trainer: Trainer) -> tuple[float, float]:
    began = time.perf_counter()
    loss = trainer.step()
    return time.perf_counter() - began, loss


def _answer(answers: Any, values: dict[str, float]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
