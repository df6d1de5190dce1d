"""Run by the matrix in a process of its own: trains golden runs under the settings it was started with.

Prints one line of JSON: the settings that took effect, and each run's digests. Imports neither transformers nor the
tracer, as an auditor's machine would not.
"""

import json
import sys
from dataclasses import replace

import torch

from benchmarks import golden
from trainer import exact
from trainer.programs.options import forced_product


def main() -> None:
    """Train the runs named on the command line, after threads, steps, how many make a digest, and eager or compiled."""
    threads, steps, every, mode, *names = sys.argv[1:]
    torch.set_num_threads(int(threads))
    product = forced_product()
    refused = exact.Products().verdict(product) if product else ""
    options = replace(golden.MODES[mode], product="" if refused else product)
    digests = {name: golden.train(golden.read(name), int(steps), options, int(every)) for name in names}
    took = {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "refused": refused,
    }
    loaded = sorted({"transformers", "trainer.programs.tracing.capture"} & set(sys.modules))
    print(json.dumps({"took": took, "digests": digests, "loaded": loaded}))


if __name__ == "__main__":
    main()
