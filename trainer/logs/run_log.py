"""A run's log: its ledger's entries and the peers' events become rows, and these go to destinations.

Whoever takes part loses nothing by it: what cannot be written is told in one line, and the rest goes on.
"""

import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from trainer.events import Tail
from trainer.folder import RunFolder
from trainer.logs.destination import Destination, destination
from verification.errors import UserError
from verification.ledger.log import FOUND, Entry, genesis_of
from verification.manifest import BundleRef
from verification.report.course import ORDER, Course, Milestone, Row
from verification.report.said import Losses
from verification.units import Address, Digest, Round

CLOSING_SECONDS = 10.0
"""How long a peer that has ended waits for a disk that takes its time."""
EVALUATION = "evaluation/loss"
Watch = Callable[[Sequence[Entry]], None]
"""Hears the entries of a ledger, each once and in order."""


@dataclass(frozen=True)
class Evaluation:
    """What judges the state after every so many rounds; `loss` is None for a state that nobody keeps here any more."""

    every: int
    loss: Callable[[BundleRef], float | None]


@dataclass
class RunLog:
    """Takes a run's entries from the first on. `events` names the event logs that there are, `tell` hears a line for
    people."""

    folder: RunFolder
    events: Callable[[], Iterable[Path]]
    tell: Callable[[str], None]
    evaluation: Evaluation | None = None
    destinations: list[Destination] = field(default_factory=list)
    _losses: Losses = field(default_factory=Losses)
    _tails: dict[Path, Tail] = field(default_factory=dict)
    _course: Course | None = None

    def open(self, names: Sequence[str], run: Digest) -> None:
        """Open destinations by their names; a disk that fails is told.

        Raises UserError for a name of no form, a missing package, a file of something else or in use.
        """
        for each in [destination(name, run) for name in dict.fromkeys(names)]:
            try:
                each.open()
                self.destinations.append(each)
            except OSError as error:
                self._give_up(each, error)
            except UserError:
                self.close()
                raise

    def take(self, entries: Sequence[Entry]) -> None:
        """Log what entries come to."""
        if not self.destinations:
            return
        rows: list[Row] = []
        for entry in entries:
            for reached in self._milestones(entry):
                rows += reached.rows
                if self._is_due(reached):
                    self._write(rows)
                    rows = self._judged(reached)
        self._write(rows)

    def close(self) -> None:
        """Let go of all files."""
        for each in self.destinations:
            each.close()
        self.destinations.clear()

    def _milestones(self, entry: Entry) -> list[Milestone]:
        if entry.kind == FOUND:
            genesis = genesis_of(entry)
            self._course = Course(genesis.manifest, genesis.deposit, self._known)
        assert self._course is not None  # a log begins with the entry that founds its run
        return self._course.take(entry.at, entry.effects)

    def _known(self, number: Round, workers: Sequence[Address]) -> list[float]:
        """Return the losses that peers wrote down here: each did so before it committed."""
        for path in self.events():
            tail = self._tails.setdefault(path, Tail(path))
            with suppress(OSError):  # somebody else's
                self._losses.take(str(path), tail.read())
        return self._losses.known(number, workers)

    def _is_due(self, reached: Milestone) -> bool:
        """Return whether a round's state is to be judged, and some destination lacks what that gives."""
        if self.evaluation is None or reached.state is None or (reached.number + 1) % self.evaluation.every:
            return False
        return any(each.last < (reached.number, ORDER[EVALUATION]) for each in self.destinations)

    def _judged(self, reached: Milestone) -> list[Row]:
        assert self.evaluation is not None
        assert reached.state is not None
        loss = self.evaluation.loss(reached.state)
        return [] if loss is None else [Row(reached.number, EVALUATION, loss, reached.at)]

    def _write(self, rows: Sequence[Row]) -> None:
        for each in list(self.destinations):
            try:
                each.write(rows)
            except OSError as error:
                self.destinations.remove(each)
                each.close()
                self._give_up(each, error)

    def _give_up(self, lost: Destination, error: OSError) -> None:
        again = shlex.join(["proofswarm", "run", "log", str(self.folder.path), "--log-to", lost.name])
        self.tell(
            f"--log-to {lost.name}: {error.strerror or error}: nothing more is logged there; mend it, and '{again}' "
            "adds what is missing"
        )


def event_logs(folder: RunFolder) -> Callable[[], Iterable[Path]]:
    """Return what names the event logs of a run's folder as they appear."""
    return lambda: sorted(folder.events.glob("*.jsonl"))


@contextmanager
def logged(
    folder: RunFolder, run: Digest, names: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Watch]:
    """Log to destinations in a thread of its own, so that who watches a ledger waits for no disk.

    Raises UserError as `RunLog.open` does, before anything is done.
    """
    log = RunLog(folder, event_logs(folder), tell)
    log.open(names, run)
    if not log.destinations:
        yield lambda entries: None
        return
    news: SimpleQueue[Sequence[Entry] | None] = SimpleQueue()
    thread = threading.Thread(target=_drain, args=(news, log), daemon=True)
    thread.start()
    try:
        yield news.put
    finally:
        news.put(None)
        thread.join(CLOSING_SECONDS)


def _drain(news: "SimpleQueue[Sequence[Entry] | None]", log: RunLog) -> None:
    while (entries := news.get()) is not None:
        log.take(entries)
    log.close()
