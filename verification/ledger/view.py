"""One participant's view of a log that is kept in a storage of its own: what is read, and what is made of it.

Where the log lies is a `Storage`; who may add to it, and on whose word, is for the classes that build on this one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from verification import codec, law
from verification.errors import UserError, Violation
from verification.ledger.log import Entry, Fold, Record, Twice, Unchained
from verification.library import Library
from verification.signed import Said, open_statement
from verification.state import State
from verification.statements import Body
from verification.units import Millis

BATCH = 256
"""Entries that are read at once."""

RUNS_ON = 10_000
"""Milliseconds by which the time of a served ledger runs on, at most, beyond what its host said last. (SPEC.md 8.9)"""

MAX_CONTRADICTION = codec.MAX_MESSAGE // 3
"""Bytes of the largest statement that is kept to report that it contradicts another. (SPEC.md 10)"""


class Storage(Protocol):
    """Keeps a log's entries, and beside them what was refused as a contradiction. `name` is for messages."""

    name: str

    def writing(self) -> AbstractContextManager[None]:
        """Shut other writers out; raises Unavailable when one does not let go.

        A ProofswarmError inside keeps what was appended before it (a tick); any other failure keeps nothing, and closes
        the storage, since whoever folded ahead of it must begin anew. (SPEC.md 8.5)
        """
        ...

    def read(self, after: int, limit: int) -> Sequence[Record]:
        """Return at most `limit` entries with numbers above `after`, in order."""
        ...

    def append(self, entry: Entry) -> None:
        """Keep a new entry. Only while `writing`."""
        ...

    def keep_refused(self, seq: int, data: bytes) -> None:
        """Keep a statement that contradicts entry `seq`, unless one is kept for it. Only while `writing`."""
        ...

    def refused(self, skip: int) -> Sequence[tuple[bytes, bytes]]:
        """Return (the statement in the log, the one refused for it), but for the first `skip`."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class View:
    """The reading half of a `Ledger`: the fold over a storage, and a clock."""

    def __init__(self, storage: Storage, library: Library, clock: Callable[[], Millis]) -> None:
        """Fold the storage's log; raises UserError when it is broken. `library` is the law's, and may be replaced."""
        self.library = library
        self._storage, self._clock = storage, clock
        self._fold = Fold()
        self._twice: list[Twice] = []
        try:
            self.catch_up()
            if self._fold.seq < 0:
                raise UserError(f"{storage.name} lacks its first entry; it was altered")
        except UserError:
            storage.close()
            raise

    @property
    def state(self) -> State:
        """The state after the newest entry that was folded here."""
        return self._fold.state

    @property
    def height(self) -> int:
        """The number of that entry."""
        return self._fold.seq

    def now(self) -> Millis:
        """Return the clock's time, or the newest entry's where the clock went back behind it."""
        return Millis(max(self._clock(), self.state.now))

    def catch_up(self) -> None:
        """Fold what others have appended since; raises UserError for a log that breaks chain or law. (SPEC.md 8.4)"""
        while records := self._storage.read(self._fold.seq, BATCH):
            for record in records:
                self._follow(record)

    def _follow(self, record: Record) -> None:
        name = self._storage.name
        try:
            self._fold.follow(record, self.library)
        except Unchained as error:
            raise UserError(f"{name}: {error}; it was altered") from error
        except Violation as violation:
            message = f"{name}: the law refuses entry {record.seq} ({violation}); was it altered?"
            raise UserError(message) from violation

    def entries(self) -> list[Entry]:
        """Return the entries folded since the last call, oldest first."""
        return self._fold.fresh()

    def records(self, after: int, limit: int) -> Sequence[Record]:
        """Return at most `limit` entries with numbers above `after`."""
        return self._storage.read(after, limit)

    def contradictions(self) -> list[Twice]:
        """See `Ledger.contradictions`."""
        for first, second in self._storage.refused(len(self._twice)):
            self._twice.append((open_statement(first).sender, first, second))
        return list(self._twice)

    def _keep_contradiction(self, said: Said[Body]) -> None:
        """Keep a refused statement if its author has said something else in its place."""
        before = law.said_instead(self.state, said)
        if before is None or len(said.data) > MAX_CONTRADICTION:
            return
        (first,) = self._storage.read(self._fold.places[before] - 1, 1)
        if len(first.data) <= MAX_CONTRADICTION and open_statement(first.data).statement != said.statement:
            self._storage.keep_refused(first.seq, said.data)

    def _is_due(self, now: Millis) -> bool:
        deadline = law.next_deadline(self.state)
        return deadline is not None and deadline <= now

    def close(self) -> None:
        """Let go of the log."""
        self._storage.close()
