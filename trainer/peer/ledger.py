"""The node's way to the ledger: it and the law run in a worker thread, one call at a time."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from trainer.folder import RunFolder
from trainer.runs.ledgers import clock_of, open_copy, open_ledger, with_proof
from verification import codec
from verification.errors import Unavailable, UserError
from verification.ledger.follower import Follower, Forked
from verification.ledger.heads import SignedHead
from verification.ledger.log import STATEMENT, Entry, Twice
from verification.ledger.port import Ledger
from verification.ledger.remote import Ask
from verification.library import Library
from verification.signed import open_statement
from verification.signing import checksum
from verification.state import State
from verification.statements import Body
from verification.units import Address, Millis, Round

T = TypeVar("T")
PAGE = 1024
"""Entries of a log that are read at a time."""


class LedgerPort:
    """One ledger behind a lock. Whoever looks at the state holds the lock, since the thread changes it in place.

    While a host is asked, which may take long, others may look: one at a time asks or writes.
    """

    def __init__(self, folder: RunFolder, library: Library) -> None:
        """`open` or `follow` must be awaited before anything but `now`."""
        self._folder, self._library = folder, library
        self._now = clock_of(folder)
        self._writing, self._lock = trio.Lock(), trio.Lock()
        self._ledger: Ledger
        self._follower: Follower | None = None
        self.contradictions: list[Twice] = []
        self.height = 0
        """The number of the newest entry that was seen."""
        self.look_seconds = 0.0
        """How long the last look at the ledger took."""

    async def open(self) -> None:
        """Fold the ledger's log; raises UserError."""
        self._ledger = await self._call(lambda: open_ledger(self._folder, self._library))
        self._now = self._ledger.now

    async def follow(self, ask: Ask, tell: Callable[[str], None]) -> None:
        """Fold the copy of a ledger that a host serves, and go on with it; raises UserError."""
        async with self._writing, self._lock:
            outside = self._outside(ask)
            self._follower = await self._call(lambda: open_copy(self._folder, self._library, outside, tell))
        self._ledger = self._follower
        self._now = self._ledger.now

    async def close(self) -> None:
        """Let go of the ledger's file; nothing else may be called afterwards."""
        async with self._lock:
            await self._call(self._ledger.close)

    def now(self) -> Millis:
        """Return the ledger's time, which everything that a peer says, does or records goes by."""
        return self._now()

    def try_again(self) -> None:
        """Ask a host that was away at the next look: there is news of it."""
        if self._follower is not None:
            self._follower.contact.again()

    def kept_head(self) -> SignedHead | None:
        """Return the newest head that a host signed for this copy; None without a host, or before it is open."""
        return None if self._follower is None else self._follower.kept

    async def compare(self, signed: SignedHead) -> None:
        """Hold a head that another member was told against the copy; raises UserError for a fork, Violation for a head
        that the host did not sign."""
        if (follower := self._follower) is not None:
            async with self._writing, self._lock:
                await self._call(lambda: follower.compare(signed))

    async def refresh(self) -> list[Entry]:
        """Fold what is new, let due deadlines pass, and return the new entries."""
        began = trio.current_time()
        async with self._writing, self._lock:
            await self._call(self._ledger.tick)
            self.contradictions = await self._call(self._ledger.contradictions)
            self.height = self._ledger.height
            self.look_seconds = trio.current_time() - began
            return self._ledger.entries()

    async def submit(self, data: bytes) -> None:
        """Put a signed statement on the ledger; raises a Violation when it is refused."""
        async with self._writing, self._lock:
            await self._call(lambda: self._ledger.submit(data))
            self.height = self._ledger.height

    async def read(self, author: Address, number: Round, slot: str) -> bytes:
        """Return the signed bytes of what an author has said on the ledger; raises Unavailable for nothing."""
        async with self._lock:
            return await self._call(lambda: _said_in(self._ledger, author, number, slot))

    def takes(self, body: Body) -> bool:
        """Return whether a statement of this body is short enough for the ledger. (SPEC.md 8.6)"""
        return self._follower is None or len(codec.encode(body)) <= codec.MAX_MESSAGE

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        """Hold the lock and the newest folded state."""
        async with self._lock:
            yield self._ledger.state

    def _outside(self, ask: Ask) -> Ask:
        """Return `ask` for a worker thread whose caller holds the lock: it is free until the answer has come."""

        def asked(name: str, body: bytes) -> bytes:
            trio.from_thread.run_sync(self._lock.release)
            try:
                return ask(name, body)
            finally:
                trio.from_thread.run(self._take_back)

        return asked

    async def _take_back(self) -> None:
        with trio.CancelScope(shield=True):
            await self._lock.acquire()

    async def _call(self, function: Callable[[], T]) -> T:
        """Run in a worker thread; raises UserError, one line, for a fork and for a disk that takes no more."""
        try:
            return await trio.to_thread.run_sync(function)
        except Forked as fork:
            raise with_proof(self._folder, fork) from fork
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self._folder.ledger}: {error}; free space on its disk and start again: nothing acknowledged is lost"
            ) from error


def _said_in(ledger: Ledger, author: Address, number: Round, slot: str) -> bytes:
    """Return the bytes of a statement in a log, the newest first to be looked at."""
    for end in range(ledger.height + 1, 0, -PAGE):
        begin = max(0, end - PAGE)
        for record in reversed(ledger.records(begin - 1, end - begin)):
            if record.kind == STATEMENT:
                said = open_statement(record.data)
                if (said.sender, said.statement.round, said.statement.slot) == (author, number, slot):
                    return said.data
    raise Unavailable(f"{checksum(author)} has said nothing at {slot} of round {number}")
