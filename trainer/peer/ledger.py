"""The node's way to the ledger: it and the law run in a worker thread, one call at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trainer.folder import RunFolder
from trainer.runs.ledgers import clock_of, open_ledger
from verification.ledger.log import Entry, Twice
from verification.ledger.port import Ledger
from verification.library import Library
from verification.state import State
from verification.units import Millis


class LedgerPort:
    """One ledger behind a lock. Whoever looks at the state holds the lock, since the thread changes it in place."""

    def __init__(self, folder: RunFolder, library: Library) -> None:
        """`open` must be awaited before anything but `now`."""
        self._folder, self._library = folder, library
        self._now = clock_of(folder)
        self._lock = trio.Lock()
        self._ledger: Ledger
        self.contradictions: list[Twice] = []
        self.height = 0
        """The number of the newest entry."""

    async def open(self) -> None:
        """Fold the ledger's log; raises UserError."""
        self._ledger = await trio.to_thread.run_sync(open_ledger, self._folder, self._library)
        self._now = self._ledger.now

    def now(self) -> Millis:
        """Return the ledger's time, which everything that a peer says, does or records goes by."""
        return self._now()

    async def refresh(self) -> list[Entry]:
        """Fold what is new, let due deadlines pass, and return the new entries."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.tick)
            self.contradictions = await trio.to_thread.run_sync(self._ledger.contradictions)
            entries = self._ledger.entries()
            if entries:
                self.height = entries[-1].seq
            return entries

    async def submit(self, data: bytes) -> None:
        """Put a signed statement on the ledger; raises a Violation when it is refused."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.submit, data)

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        """Hold the lock and the newest folded state."""
        async with self._lock:
            yield self._ledger.state
