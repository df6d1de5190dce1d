"""Every kind of ledger, for the suite that all of them must pass. A new one is one class and one line of `KINDS`."""

import threading
from pathlib import Path
from typing import Protocol

from simulator.memory import Clock, MemoryLedger, MemoryLog
from simulator.toy import ToyLibrary
from verification.ledger.follower import Follower
from verification.ledger.local import LocalLedger, SqliteCopy, create, create_copy
from verification.ledger.log import Genesis, Record, founding
from verification.ledger.port import Ledger
from verification.ledger.remote import Remote
from verification.ledger.served import Host
from verification.library import Library

LIBRARY = ToyLibrary()
SECRET = bytes(31) + b"\1"
"""The key of whoever serves a run."""

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


class Served:
    """A run that a host serves in this process, with a follower's copy for each participant; questions and answers
    travel as bytes. A verdict that the host cannot give now waits as long as one of its participants' would."""

    concurrent = True

    def __init__(self, folder: Path, genesis: Genesis, clock: Clock) -> None:
        self.clock, self._folder, self._run = clock, folder, genesis.run
        create(folder / "host.sqlite", genesis, clock())
        self.ledger = LocalLedger(folder / "host.sqlite", LIBRARY, clock)
        self.host, self._lock, self._copies = Host(self.ledger, SECRET), threading.Lock(), 0

    def ask(self, name: str, body: bytes) -> bytes:
        """Carry a question to the host, one at a time."""
        with self._lock:
            return self.host.answer(name, body)

    def opened(self, library: Library = LIBRARY) -> Follower:
        """Begin one more copy."""
        self.ledger.library, self._copies = library, self._copies + 1
        path, remote = (
            self._folder / f"copy-{self._copies}.sqlite",
            Remote(self.ask, self.host.address, self._run),
        )
        create_copy(path, remote.founding(), self.host.address)
        return Follower(SqliteCopy(path), library, self.clock, remote)


KINDS: dict[str, type[Run]] = {"sqlite": InFile, "memory": InMemory, "served": Served}


def log_of(ledger: Ledger) -> list[Record]:
    """Return every entry as it is kept."""
    return list(ledger.records(-1, EVERYTHING))
