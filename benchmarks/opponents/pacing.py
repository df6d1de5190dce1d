"""The compute process of a worker in `bench wan`: as `trainer.compute.process`, but a step takes the stated time at
least, also where the machine is measured, and those of its own rounds are reported.

The step really runs, and then waits. `python -m benchmarks.opponents.pacing REPORT STEP_SECONDS`.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.opponents.task import Reporter, moved, wait_until
from trainer.compute import process
from trainer.programs.options import RunOptions
from trainer.rounds.engine import Engine, Job
from trainer.rounds.torch_engine import TorchEngine
from verification.units import Digest

LOSS = "loss_sum"
TWICE = 2.0
"""How much longer a checked step takes than another, where no other has been made."""


class Pace:
    """How long steps take: `step_seconds`, or as long as they run if that is 0."""

    def __init__(self, reporter: Reporter, step_seconds: float) -> None:
        self._reporter, self._step_seconds = reporter, step_seconds
        self._usual, self._has_begun = list[float](), False

    def keep(self, began: float, loss: float, is_checked: bool) -> None:
        """Wait for the end of a step that began then, and report it, if a round has begun.

        A checked one is made in two ways, which takes longer by as much as it really ran longer than others, and is no
        measure of a step: it has no seconds.
        """
        seconds = time.monotonic() - began
        longer = 1.0
        if is_checked:
            longer = max(1.0, seconds / statistics.median(self._usual)) if self._usual else TWICE
        else:
            self._usual.append(seconds)
        wait_until(began + longer * self._step_seconds)
        if self._has_begun:
            self._reporter.tell("step", seconds=0.0 if is_checked else seconds, loss=loss)

    def conduct(self, engine: Engine, job: Job) -> Engine:
        """Report that a round begins, and return the machine's engine."""
        self._has_begun = True
        self._reporter.tell("round", number=int(job.number), **moved())
        return engine


class Paced(TorchEngine):
    """A machine at a pace."""

    def __init__(self, pace: Pace, programs: Mapping[Digest, bytes], options: RunOptions) -> None:
        super().__init__(programs, options)
        self._pace = pace

    def advance(self, digest: Digest, working: list[torch.Tensor], is_checked: bool) -> list[torch.Tensor]:
        """Execute an inner step, at the pace."""
        place = [port.name for port in self.program(digest).inputs].index(LOSS)
        before, began = float(working[place]), time.monotonic()
        made = super().advance(digest, working, is_checked)
        self._pace.keep(began, float(made[place]) - before, is_checked)
        return made


def main() -> None:
    """Serve on the standard streams."""
    report, seconds = sys.argv[1:]
    pace = Pace(Reporter(Path(report)), float(seconds))
    process.main(pace.conduct, partial(Paced, pace))


if __name__ == "__main__":
    main()
