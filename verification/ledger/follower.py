"""The ledger of whoever follows somebody else's: a copy of its own, and the host's word for order and time only.

Chain and law of each entry are checked here as everywhere. What the host acknowledged is in its log; when it is gone,
what was folded stays, the time stands still, and it is asked again ever more seldom. (SPEC.md 8.6)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from verification import codec
from verification.errors import Malformed, Refused, Unavailable, UserError, Violation
from verification.ledger.heads import Head, SignedHead, head_of_host, open_head, pack_fork
from verification.ledger.log import TICK, Entry, Record, Unchained
from verification.ledger.remote import Batch, Remote
from verification.ledger.served import MAX_SAID, REFUSALS
from verification.ledger.view import RUNS_ON, Storage, View
from verification.library import Library
from verification.signed import open_statement
from verification.units import Millis

FIRST_WAIT, LONGEST_WAIT = 250, 30_000
"""Least and most milliseconds before a host that did not answer is asked again: a quarter of how long it has been away
between them, so that its followers are back soon after a host that was away for a moment."""


class Forked(UserError):
    """The host's log is not the one that was followed; `proof` is the file of a fork, None where it signed none."""

    proof: bytes | None = None


class Copy(Storage, Protocol):
    """A storage that also keeps the newest head that its host signed for an entry that is in it."""

    def keep_head(self, signed: bytes) -> None:
        """Keep a signed head in the place of the one before. Only while `writing`."""
        ...

    def kept_head(self) -> bytes | None:
        """Return the signed head that was kept last."""
        ...


class Contact:
    """Whether the host answers, and when it is asked again. `tell` hears one line when that changes."""

    def __init__(self, clock: Callable[[], Millis], tell: Callable[[str], None]) -> None:
        self._clock, self._tell = clock, tell
        self._wait, self._next, self._lost = 0, 0, 0
        self._reason = ""

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Ask within this; raises Unavailable, at once while it is too early to try again.

        An answer that breaks the protocol counts as none: the host may be mended, and nothing of it was taken.
        """
        if self._wait and self._clock() < self._next:
            raise Unavailable(f"the ledger's host does not answer ({self._reason})")
        began = self._clock()
        try:
            yield
        except (Unavailable, Violation) as error:
            self._lose(error, self._clock() - began)
            raise Unavailable(f"the ledger's host does not answer ({self._reason})") from error
        if self._wait:
            self._tell("the ledger's host answers again")
        self._wait = 0

    def again(self) -> None:
        """Try at once: there is news of the host."""
        self._next = 0

    def _lose(self, error: Unavailable | Violation, asked: int) -> None:
        """Begin to wait: no shorter than it was asked, since who asks holds the ledger."""
        self._reason = " ".join(str(error).split())
        now = self._clock()
        if not self._wait:
            self._lost = now - asked
            self._tell(
                f"the ledger's host does not answer ({self._reason}): what is known stays, it is asked again"
            )
        self._wait = min(LONGEST_WAIT, max(asked, (now - self._lost) // 4, FIRST_WAIT))
        self._next = now + self._wait


class Follower(View):
    """A `Ledger` over a copy of a log that a host serves."""

    def __init__(
        self,
        copy: Copy,
        library: Library,
        clock: Callable[[], Millis],
        remote: Remote,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Fold the copy and what the host has beyond it; a host that is away is no failure. `clock` need only go on.

        Raises UserError for a copy that is broken or ahead of its host, Forked for a host with another log.
        """
        self.contact = Contact(clock, tell)
        self._remote, self._copy = remote, copy
        self.kept = self._read_kept()
        """The newest head that the host signed for an entry of the copy."""
        self._told: Head | None = None
        self._told_at = Millis(0)
        super().__init__(copy, library, clock)

    def now(self) -> Millis:
        """Return the host's time: what it said last, and as much as has passed since, up to `RUNS_ON`."""
        if self._told is None:
            return self.state.now
        passed = min(max(0, self._clock() - self._told_at), RUNS_ON)
        return Millis(max(self._told.at + passed, self.state.now))

    def catch_up(self) -> None:
        """Fold what the host's log has beyond the copy, and write it down; while the host is away, nothing.

        Raises UserError and Forked as opening does, Unavailable for a verdict that cannot be executed now.
        """
        super().catch_up()
        is_behind = True
        while is_behind and (batch := self._asked()) is not None:
            try:
                is_behind = self._take(batch)
            except Forked as fork:
                if self.kept is not None:
                    fork.proof = self._proof(self.kept)
                raise

    def submit(self, data: bytes) -> bool:
        """Have the host admit a signed statement; False for one that is in its log already.

        Raises as the host's ledger does, and Unavailable while the host is away. Returning means that the host has
        acknowledged it: it stands in the log by the head that the host signed then.
        """
        if len(data) > MAX_SAID:
            raise Refused(f"a served ledger takes statements of at most {MAX_SAID} bytes")
        open_statement(data)
        with self.contact.trying():
            answer, newest = self._remote.submit(data)
        self._hear(newest)
        self.catch_up()
        if answer.refusal:
            raise REFUSALS[answer.refusal](answer.reason)
        return answer.is_new

    def tick(self) -> bool:
        """Have the host let due deadlines pass; returns whether there were any, False while the host is away."""
        self.catch_up()
        if not self._is_due(self.now()):
            return False
        before = self._fold.seq
        with suppress(Unavailable), self.contact.trying():
            self._hear(self._remote.head(None)[1])
        self.catch_up()
        return self._fold.seq > before

    def compare(self, signed: SignedHead) -> None:
        """Hold a head that somebody else says the host signed against the copy.

        Raises Forked when the host has signed for another log, a Violation for a head that it did not sign.
        """
        head = head_of_host(signed, self._remote.host, self._remote.run)
        for record in self.records(head.seq - 1, 1):
            if record.head != head.head:
                fork = self._forked(head.seq)
                fork.proof = self._proof(signed)
                raise fork

    def _asked(self) -> Batch | None:
        """Return what is new; None while the host is away."""
        start, skip = self._fold.seq + 1, len(self.contradictions())
        try:
            with self.contact.trying():
                batch = self._remote.follow(start, skip)
        except Unavailable:
            return None
        self._hear(batch.newest)
        if batch.newest.seq < start - 1:
            raise UserError(
                f"{self._storage.name} is ahead of its host's log, which ends at entry {batch.newest.seq} instead of "
                f"{start - 1}: the host lost what it had acknowledged, as by restoring a backup; have its owner serve "
                "the longest copy instead, or delete this one to follow the shorter log"
            )
        return batch

    def _hear(self, newest: Head) -> None:
        self._told, self._told_at = newest, self._clock()

    def _take(self, batch: Batch) -> bool:
        """Fold and keep what came; return whether there is more."""
        before = self._fold.seq, len(self.contradictions())
        with self._copy.writing():
            super().catch_up()
            for record in batch.records:
                if record.seq > self._fold.seq:
                    self._copy.append(self._admitted(record))
            if self._fold.seq == batch.newest.seq:
                if self._fold.head != batch.newest.head:
                    raise self._forked(batch.newest.seq)
                self._keep(batch)
        went_on = batch.is_cut or before != (self._fold.seq, len(self.contradictions()))
        return went_on and (self._fold.seq < batch.newest.seq or bool(batch.refused))

    def _admitted(self, record: Record) -> Entry:
        if record.kind == TICK and not self._is_due(record.at):
            raise UserError(
                f"{self._storage.name}: entry {record.seq} is a tick that no deadline asked for: the host fills its "
                "followers' disks; leave the run"
            )
        try:
            return self._fold.follow(record, self.library)
        except Unchained as error:
            raise self._forked(record.seq) from error
        except Violation as violation:
            raise UserError(
                f"{self._storage.name}: the law refuses entry {record.seq} that its host ordered ({violation}): the "
                "host is of another version, or lies; update this program, or leave the run"
            ) from violation

    def _keep(self, batch: Batch) -> None:
        """Keep contradictions of what is in the log, and the head if it is of a new entry."""
        for data in batch.refused:
            self._keep_contradiction(open_statement(data))
        if batch.records:
            self._copy.keep_head(codec.encode(batch.signed))
            self.kept = batch.signed

    def _read_kept(self) -> SignedHead | None:
        kept = self._copy.kept_head()
        try:
            return None if kept is None else codec.decode(SignedHead, kept)
        except Malformed as error:
            self._copy.close()
            raise UserError(f"{self._copy.name}: its host's head is damaged; it was altered") from error

    def _forked(self, seq: int) -> Forked:
        return Forked(
            f"{self._storage.name}: its host now tells another log, from entry {seq} on or earlier: it lies, or went "
            "on from a backup; ask other members for their heads, and delete this copy to follow the host as it is now"
        )

    def _proof(self, signed: SignedHead) -> bytes | None:
        """Return the file that proves a fork, if the host now signs another head for the number of one it signed."""
        try:
            return pack_fork(signed, self._remote.head(open_head(signed)[1].seq)[0])
        except (Unavailable, Violation):
            return None
