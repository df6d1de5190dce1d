"""`python -m tests.make_golden`: traces the zoo and writes the golden runs. Needed when operators or models change."""

import json

from benchmarks import golden
from tests import zoo
from trainer.programs.conversion import bundle_of

RUNS = {**{name: (name, 14) for name in zoo.NAMES}, "llama-8": ("llama", 8)}
"""Golden run to model of the zoo and precision in bits."""


def make(name: str) -> golden.Golden:
    """Return a golden run as this machine traces it."""
    model, bits = RUNS[name]
    run = zoo.traced(model, bits)
    data = bundle_of([zoo.records(model), zoo.index(model)])
    return golden.Golden(run.prologue, run.inner, run.epilogue, run.outer, data)


def main() -> None:
    """Write every golden run and the digests that it reaches here."""
    digests = {}
    for name in RUNS:
        made = make(name)
        golden.write(name, made)
        digests[name] = golden.train(made)
        print(f"{name}: {len(made.inner.nodes)} nodes, {digests[name][golden.STEPS]}", flush=True)
    (golden.FOLDER / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
