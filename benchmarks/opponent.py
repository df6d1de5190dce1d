"""One opponent in a process of its own, which trains a step whenever it is told to: `python -m benchmarks.opponent`.

A process each, because peak memory cannot be told apart within one. Reads lines from standard input, one step each,
and answers each with a line of JSON; ends with its input.
"""

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import golden
from benchmarks.trainers import MODELS, SEED, ExactTrainer, NativeTrainer, Trainer, data
from trainer.programs.options import forced_product
from trainer.runs.tasks import causal_lm_loss
from verification.errors import UserError

NATIVE = ("float32", "float32-onednn", "float32-compiled", "bfloat16", "alia-carbon")
"""Native as PyTorch comes; with oneDNN's products; compiled, with oneDNN's products; autocast; float64 by Kahan."""
OPPONENTS = (*NATIVE, *(f"exact-{mode}" for mode in golden.MODES))


def make_trainer(opponent: str, model: str, folder: Path) -> Trainer:
    """Return an opponent; `folder` holds the exact ones' programs (see `benchmarks.exact`)."""
    if opponent not in NATIVE:
        options = golden.MODES[opponent.removeprefix("exact-")]
        return ExactTrainer.load(folder, replace(options, product=forced_product()))
    from benchmarks.kahan import through_kahan
    from benchmarks.onednn import through_onednn

    recipe = MODELS[model]
    built, (batches, _) = recipe.model(SEED, "sdpa"), data(recipe, SEED)
    if opponent == "float32":
        return NativeTrainer(built, batches, recipe.adamw)
    if opponent == "alia-carbon":
        return NativeTrainer(through_kahan(built), batches, recipe.adamw)
    if opponent == "bfloat16":
        return NativeTrainer(built, batches, recipe.adamw, autocast=torch.bfloat16, fused=True)
    loss = torch.compile(causal_lm_loss) if opponent == "float32-compiled" else causal_lm_loss
    return NativeTrainer(through_onednn(built), batches, recipe.adamw, loss=loss, fused=True)


def main() -> None:
    """Build the opponent named on the command line, warm it up, then step on demand."""
    opponent, model, threads, folder = sys.argv[1:]
    answers = sys.stdout
    # What libraries print must not come between the answers.
    sys.stdout = sys.stderr
    torch.set_num_threads(int(threads))
    _import_all(opponent)
    base = _memory("VmRSS")
    try:
        trainer = make_trainer(opponent, model, Path(folder))
    except UserError as error:
        sys.exit(str(error))
    seconds, loss = _timed(trainer)
    if opponent == "exact-compiled" and isinstance(trainer, ExactTrainer) and not trainer.inner.is_compiled:
        sys.exit("compiled loops gave other numbers than the kernels and were dropped")
    trainer.step()  # results lie in two blocks of memory in turn, so the second step takes new pages, too
    _forget_peak()
    _answer(answers, {"seconds": seconds, "loss": loss, "base": base})
    for _ in sys.stdin:
        seconds, loss = _timed(trainer)
        _answer(answers, {"seconds": seconds, "loss": loss, "peak": _memory("VmHWM")})


def _import_all(opponent: str) -> None:
    """Import what the opponent needs, so that its memory is what its training takes."""
    if opponent in NATIVE:
        import transformers.models.llama.modeling_llama  # noqa: F401
    if opponent.endswith("compiled"):
        import torch._inductor.compile_fx  # noqa: F401


def _timed(trainer: Trainer) -> tuple[float, float]:
    began = time.perf_counter()
    loss = trainer.step()
    return time.perf_counter() - began, loss


def _answer(answers: Any, values: dict[str, float]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


def _memory(field: str) -> int:
    """Return resident memory in bytes, now (VmRSS) or at its peak (VmHWM); always the peak where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _forget_peak() -> None:
    """Let VmHWM start again from now, where Linux allows it: building and warming up are not the step."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        sys.stderr.write(
            "the peak of memory includes building the model: /proc/self/clear_refs is not writable\n"
        )


if __name__ == "__main__":
    main()
