"""`python -m tests.make_golden`: traces the zoo and writes the golden runs. Needed when operators or models change."""

import json
from dataclasses import replace
from typing import Any

import torch

from benchmarks import golden
from tests import zoo
from trainer.programs.conversion import bundle_of
from trainer.programs.options import RunOptions
from trainer.programs.tracing.capture import trace_run
from trainer.programs.tracing.optimiser import SGD, Muon

ROUND = 1
REFERENCE = "int64"
"""The product's backend that needs no library's word: integers added one by one."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in zoo.NAMES},
    "llama-8": ("llama", {"bits": 8}),
    "llama-sgd": ("llama", {"optimiser": SGD(0.9, True, 0.0), "schedule": replace(zoo.SCHEDULE, lr=0.3)}),
    "llama-muon": ("llama", {"optimiser": Muon(zoo.ADAMW)}),
    "llama-tuned": (
        "llama",
        {
            "accumulate": 4,
            "optimiser": replace(zoo.ADAMW, clip_norm=0.5),
            "schedule": replace(zoo.SCHEDULE, steps=60, curve="cosine", warmup=30, final_share=0.1),
        },
    ),
}
"""Golden run to model of the zoo, and what its job changes."""


def make(name: str) -> golden.Golden:
    """Return a golden run as this machine traces it."""
    model, changes = RUNS[name]
    module = zoo.model(model)
    run = trace_run(module, zoo.loss_of(model, module), replace(zoo.job(model), **changes))
    data = bundle_of([zoo.records(model), zoo.index(model), torch.tensor(ROUND)])
    return golden.Golden(run.prologue, run.inner, run.epilogue, run.outer, data)


def main() -> None:
    """Write every golden run and the digests that it reaches here, by the reference."""
    digests = {}
    for name in RUNS:
        made = make(name)
        golden.write(name, made)
        digests[name] = golden.train(made, options=RunOptions(product=REFERENCE))
        print(f"{name}: {len(made.inner.nodes)} nodes, {digests[name][golden.STEPS]}", flush=True)
    (golden.FOLDER / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
