"""The compute process of a member in `bench crews`: as `trainer.compute.process`, but it may keep a pace, and reports.

Every leg really runs; at a stated speed it then waits until its work units over that have passed. As a process:
`python -m benchmarks.crew_pace REPORT SPEED`, with work units a second; at 0 legs take as long as they take.
"""

import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.compute import process
from trainer.programs.interpreter import Tap
from trainer.programs.options import RunOptions
from trainer.rounds.engine import Engine, Job
from trainer.rounds.torch_engine import Tensors, TorchEngine
from verification.program import Program, work_units
from verification.units import Digest

LATE_SECONDS = 1e-3
"""What a leg may be late after the one before without losing it: the interpreter's time for a wait that is none."""
INNER, EPILOGUE = "inner", "epilogue"
"""The roles of what a whole worker runs in one piece, and a member where its machine is measured, and of what ends a
round."""


class Pace:
    """How long work takes: its units over `speed`, or as long as it runs where that is 0. Reports are lines of JSON."""

    def __init__(self, report: Path, speed: float) -> None:
        self._file, self._speed = report.open("a", encoding="utf-8", buffering=1), speed
        self._free = 0.0
        self.stated = self.really = 0.0
        """Seconds of the round that legs took, and that they really ran."""

    def keep(self, began: float, units: int) -> None:
        """Wait for the end of a piece of work that began then, by the performance counter."""
        now = time.perf_counter()
        self.really += now - began
        if not self._speed:
            self.stated += now - began
            return
        self._free = (self._free if began - self._free < LATE_SECONDS else began) + units / self._speed
        self.stated += units / self._speed
        if (left := self._free - time.perf_counter()) > 0:
            time.sleep(left)

    def conduct(self, engine: Engine, job: Job) -> Engine:
        """Report that a round begins, and return the machine's engine."""
        self.stated = self.really = 0.0
        self._tell("round", number=int(job.number), steps=job.steps)
        return engine

    def step(self) -> None:
        """Report that so many steps as before and one more are done, none the first time."""
        self._tell("step", stated=self.stated, really=self.really, peak=peak_memory())

    def end(self) -> None:
        """Report that there is a contribution."""
        self._tell("ended")

    def _tell(self, kind: str, **fields: Any) -> None:
        self._file.write(json.dumps({"kind": kind, "at": time.time(), **fields}) + "\n")


class Paced(TorchEngine):
    """A machine at a pace, which tells of every working state that it has a digest of."""

    def __init__(self, pace: Pace, programs: Mapping[Digest, bytes], options: RunOptions) -> None:
        super().__init__(programs, options)
        self._pace, self._units = pace, dict[Digest, int]()

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a leg, and its work."""
        digest = super().learn(program, of, finite)
        self._units.setdefault(digest, work_units(program))
        return digest

    def run(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None = None
    ) -> Tensors:
        """Execute a program, a step or a leg of it at the pace."""
        role = self.program(digest).role
        if digest not in self._units and role != INNER:
            made = super().run(digest, inputs, tap)
            if role == EPILOGUE:
                self._pace.end()
            return made
        began = time.perf_counter()
        made = super().run(digest, inputs, tap)
        self._pace.keep(began, self._work(digest))
        return made

    def advance(self, digest: Digest, working: Tensors, is_checked: bool) -> Tensors:
        """Execute a whole inner step at the pace."""
        began = time.perf_counter()
        made = super().advance(digest, working, is_checked)
        self._pace.keep(began, self._work(digest))
        return made

    def digest(self, handle: Tensors) -> Digest:
        """Return a working state's digest: what is after it is the next step's."""
        found = super().digest(handle)
        self._pace.step()
        return found

    def _work(self, digest: Digest) -> int:
        if digest not in self._units:
            self._units[digest] = work_units(self.program(digest))
        return self._units[digest]


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    """Serve on the standard streams."""
    report, speed = sys.argv[1:]
    pace = Pace(Path(report), float(speed))
    process.main(pace.conduct, partial(Paced, pace))


if __name__ == "__main__":
    main()
