"""Every kind of ledger, for the suite that all of them must pass. A new one is one class and one line of `KINDS`."""

from pathlib import Path
from typing import Protocol

from simulator.memory import Clock, MemoryLedger, MemoryLog
from simulator.toy import ToyLibrary
from verification.ledger.local import LocalLedger, create
from verification.ledger.log import Genesis, Record, founding
from verification.ledger.port import Ledger
from verification.library import Library

LIBRARY = ToyLibrary()
EVERYTHING = 1 << 30
"""More entries than any log has."""


class Run(Protocol):
    """A run that was just founded, at `clock`'s time, on one kind of ledger."""

    clock: Clock
    concurrent: bool
    """Whether participants may write at the same time."""

    def __init__(self, folder: Path, genesis: Genesis, clock: Clock) -> None:
        """Found the run; `folder` is its own."""
        ...

    def opened(self, library: Library = LIBRARY) -> Ledger:
        """Return the view of one more participant, which has folded all there is."""
        ...


class InFile:
    """A run in a SQLite file, with a handle for each participant."""

    concurrent = True

    def __init__(self, folder: Path, genesis: Genesis, clock: Clock) -> None:
        self.clock, self._path = clock, folder / "ledger.sqlite"
        create(self._path, genesis, clock())

    def opened(self, library: Library = LIBRARY) -> Ledger:
        """Open the file once more."""
        return LocalLedger(self._path, library, self.clock)


class InMemory:
    """A run in lists of this process, that participants see one after the other."""

    concurrent = False

    def __init__(self, folder: Path, genesis: Genesis, clock: Clock) -> None:
        self.clock, self._log = clock, MemoryLog(founding(genesis, clock()))

    def opened(self, library: Library = LIBRARY) -> Ledger:
        """Fold the lists once more."""
        return MemoryLedger(self._log, self.clock, library)


KINDS: dict[str, type[Run]] = {"sqlite": InFile, "memory": InMemory}


def log_of(ledger: Ledger) -> list[Record]:
    """Return every entry as it is kept."""
    return list(ledger.records(-1, EVERYTHING))
