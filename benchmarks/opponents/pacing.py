"""The compute process of a worker in `bench wan`: as `trainer.compute.process`, but a step of its own rounds takes the
stated time at least, and is reported.

The step really runs, and then waits. `python -m benchmarks.opponents.pacing REPORT STEP_SECONDS`.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.opponents.task import Reporter, moved, wait_until
from trainer.compute import process
from trainer.rounds.engine import Conduct, Engine, Handle, Job
from verification.units import Digest

LOSS = "loss_sum"
TWICE = 2.0
"""How much longer a checked step takes than another, where no other has been made."""


class Pace:
    """How long steps take: `step_seconds`, or as long as they run if that is 0."""

    def __init__(self, reporter: Reporter, step_seconds: float) -> None:
        self._reporter, self._step_seconds = reporter, step_seconds
        self._usual = list[float]()

    def keep(self, began: float, loss: float, is_checked: bool) -> None:
        """Wait for the end of a step that began then, and report it.

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
        self._reporter.tell("step", seconds=0.0 if is_checked else seconds, loss=loss)

    def conduct(self, engine: Engine, job: Job) -> Engine:
        """Return the machine's engine at this pace, for a round that begins."""
        self._reporter.tell("round", number=int(job.number), **moved())
        made: Engine = Paced(engine, self)
        return made


class Paced:
    """An engine for which another one computes, at a pace."""

    def __init__(self, engine: Any, pace: Pace) -> None:
        self._engine, self._pace = engine, pace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def advance(self, digest: Digest, working: Handle, is_checked: bool) -> Handle:
        """Do as the engine does, at the pace."""
        place = [port.name for port in self._engine.program(digest).inputs].index(LOSS)
        before, began = float(working[place]), time.monotonic()
        made = self._engine.advance(digest, working, is_checked)
        self._pace.keep(began, float(made[place]) - before, is_checked)
        return made


def main() -> None:
    """Serve on the standard streams."""
    report, seconds = sys.argv[1:]
    conduct: Conduct = Pace(Reporter(Path(report)), float(seconds)).conduct
    process.main(conduct)


if __name__ == "__main__":
    main()
