"""The law over a SQLite log: the embedded default, for peers on machines of one owner. (SPEC.md 8)

The log is all there is: state is the fold over it, made again by every process. An entry is appended and the law
applied inside one database transaction, so several processes may write at once and a killed one loses nothing
acknowledged. The owner of the machine is trusted for time and balances, and nobody for anything else.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verification import codec, law
from verification.digest import integer, tagged
from verification.effects import Effect
from verification.errors import Malformed, ProofswarmError, Refused, Unavailable, UserError, Violation
from verification.executor import Executor
from verification.manifest import Manifest
from verification.state import State
from verification.statements import MAX_STATEMENT, Body, Said, open_statement
from verification.units import Address, Amount, Digest, Millis

FORMAT = 2
"""Version of the file, kept in SQLite's user_version."""

APPLICATION = 0x50535741
BUSY_SECONDS = 60.0
MAX_CONTRADICTION = codec.MAX_MESSAGE // 3
"""Bytes of the largest statement that is kept to report that it contradicts another. (SPEC.md 10)"""

SCHEMA = """
CREATE TABLE log (
    seq  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('found', 'tick', 'statement')),
    data BLOB NOT NULL,
    head BLOB NOT NULL
) STRICT;
CREATE TABLE contradiction (
    id   INTEGER PRIMARY KEY,
    seq  INTEGER NOT NULL UNIQUE REFERENCES log,
    data BLOB NOT NULL
) STRICT;
"""
"""`contradiction` keeps what was refused because its author had said something else in its place, in entry `seq`."""


@dataclass(frozen=True)
class Genesis:
    """The first entry: what `run create` fixes for good. (SPEC.md 8.1)"""

    manifest: Manifest
    chain: str
    submitter: Address
    balances: tuple[tuple[Address, Amount], ...]
    deposit: Amount


Twice = tuple[Address, bytes, bytes]
"""An author and two statements of it for one place: the one in the log, and one that was refused for it."""


@dataclass(frozen=True)
class Entry:
    """One admitted entry with what the law made of it."""

    seq: int
    at: Millis
    kind: str
    data: bytes
    effects: tuple[Effect, ...]


def system_clock() -> Millis:
    """Return this machine's time in milliseconds since 1970."""
    return Millis(time.time_ns() // 1_000_000)


def create(path: Path, genesis: Genesis, now: Millis) -> None:
    """Write a new ledger file; raises UserError when one exists, Refused when the law admits no such run."""
    law.found(
        genesis.manifest, genesis.chain, genesis.submitter, dict(genesis.balances), genesis.deposit, now
    )
    if path.exists():
        raise UserError(f"{path} exists already: choose another folder or delete the old run")
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    data = codec.encode(genesis)
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.executescript(SCHEMA)
        head = next_head(law.GENESIS_HEAD, 0, now, "found", data)
        connection.execute("INSERT INTO log VALUES (0, ?, 'found', ?, ?)", (now, data, head))
    finally:
        connection.close()
    draft.rename(path)


class LocalLedger:
    """A process's view of one ledger file. Not shared between threads."""

    def __init__(self, path: Path, executor: Executor, clock: Callable[[], Millis] = system_clock) -> None:
        """Open an existing file and fold its log; raises UserError for a missing, foreign or older file."""
        self._executor = executor
        self._clock = clock
        self._path = path
        self._connection = _open(path)
        self._seq = -1
        self._head = law.GENESIS_HEAD
        self.state: State
        self._backlog: list[Entry] = []
        self._twice: list[Twice] = []
        self._places: dict[Digest, int] = {}  # the entry of each statement, by what the state keeps of it
        self.catch_up()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def catch_up(self) -> None:
        """Fold what other processes have appended since; raises UserError where the chain is broken. (SPEC.md 8.4)"""
        query = "SELECT seq, at, kind, data, head FROM log WHERE seq > ? ORDER BY seq"
        for seq, at, kind, data, head in self._connection.execute(query, (self._seq,)).fetchall():
            if seq != self._seq + 1 or head != next_head(self._head, seq, at, kind, data):
                raise UserError(
                    f"{self._path}: entry {seq} does not continue the hash chain; the file was altered"
                )
            try:
                self._fold(seq, Millis(at), kind, data, Digest(head))
            except Violation as violation:
                message = f"{self._path}: the law refuses entry {seq} ({violation}); was the file altered?"
                raise UserError(message) from violation
        if self._seq < 0:
            raise UserError(f"{self._path} lacks its first entry; the file was altered")

    def entries(self) -> list[Entry]:
        """Return the entries folded since the last call, oldest first."""
        taken, self._backlog = self._backlog, []
        return taken

    def contradictions(self) -> list[Twice]:
        """Return all that was refused as a second statement for one place, whoever submitted it. (SPEC.md 6.9)"""
        query = (
            "SELECT l.data, c.data FROM contradiction c JOIN log l USING (seq) WHERE c.id > ? ORDER BY c.id"
        )
        for first, second in self._connection.execute(query, (len(self._twice),)).fetchall():
            self._twice.append((open_statement(first).sender, first, second))
        return list(self._twice)

    def submit(self, data: bytes) -> None:
        """Admit a signed statement; one that is in the log already is acknowledged again. (SPEC.md 8.3)

        Raises a Violation when the law refuses it, and then nothing of it is kept but a contradiction; Unavailable when
        another process does not let go of the file.
        """
        self.catch_up()
        with self._transaction():
            self.catch_up()
            said = open_statement(data)
            if law.is_known(self.state, said):
                return
            now = self._tick_if_due()
            try:
                self._append(now, "statement", data, said)
            except Refused:
                self._keep_contradiction(said)
                raise

    def _keep_contradiction(self, said: Said[Body]) -> None:
        """Keep a refused statement if its author has said something else in its place; one for each place."""
        before = law.said_instead(self.state, said)
        if before is None or len(said.data) > MAX_CONTRADICTION:
            return
        seq = self._places[before]
        query = "SELECT data FROM log WHERE seq = ? AND length(data) <= ?"
        first = self._connection.execute(query, (seq, MAX_CONTRADICTION)).fetchone()
        if first is not None and open_statement(first[0]).statement != said.statement:
            row = "INSERT OR IGNORE INTO contradiction (seq, data) VALUES (?, ?)"
            self._connection.execute(row, (seq, said.data))

    def tick(self) -> bool:
        """Let due deadlines pass; returns whether there were any. Raises Unavailable as `submit` does."""
        self.catch_up()
        if not self._is_due(self._clock()):
            return False
        with self._transaction():
            self.catch_up()
            before = self._seq
            self._tick_if_due()
            return self._seq > before

    def _is_due(self, now: Millis) -> bool:
        deadline = law.next_deadline(self.state)
        return deadline is not None and deadline <= now

    def _tick_if_due(self) -> Millis:
        now = Millis(max(self._clock(), self.state.now))
        if self._is_due(now):
            self._append(now, "tick", b"")
        return now

    def _append(self, at: Millis, kind: str, data: bytes, said: Said[Body] | None = None) -> None:
        seq = self._seq + 1
        head = next_head(self._head, seq, at, kind, data)
        self._fold(seq, at, kind, data, head, said)
        self._connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (seq, at, kind, data, head))

    def _fold(
        self, seq: int, at: Millis, kind: str, data: bytes, head: Digest, said: Said[Body] | None = None
    ) -> None:
        """Fold one entry in; `said` is the statement in `data` where it has been opened already."""
        if (kind == "found") != (seq == 0):
            raise Malformed("only the first entry founds the run")
        if kind == "found":
            genesis = codec.decode(Genesis, data, MAX_STATEMENT)
            balances = dict(genesis.balances)
            self.state = law.found(
                genesis.manifest, genesis.chain, genesis.submitter, balances, genesis.deposit, at
            )
            effects: list[Effect] = []
        else:
            if kind == "statement" and said is None:
                said = open_statement(data)
            effects = self._apply(at, said, head)
            if said is not None:
                self._places[said.digest] = seq
        self.state.head = self._head = head
        self._seq = seq
        self._backlog.append(Entry(seq, at, kind, data, tuple(effects)))

    def _apply(self, at: Millis, said: Said[Body] | None, head: Digest) -> list[Effect]:
        """Apply one entry (a tick has no statement), its own head in force: a round that it opens is signed over it."""
        before, self.state.head = self.state.head, head
        try:
            if said is None:
                return law.advance(self.state, at)
            return law.apply(self.state, said, at, self._executor)
        except ProofswarmError:
            self.state.head = before
            raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the write lock; a refusal keeps what was admitted before it (a tick), any other failure nothing.

        After such a failure memory may hold what the file does not: the handle closes and must be opened again.
        (SPEC.md 8.5)
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self._path} is locked by another process ({error})") from error
        committed = False
        try:
            refusal: ProofswarmError | None = None
            try:
                yield
            except ProofswarmError as error:
                refusal = error
            self._connection.execute("COMMIT")
            committed = True
            if refusal is not None:
                raise refusal
        finally:
            if not committed:
                self._connection.close()  # rolls back


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise UserError(f"{path} is no ledger: create a run first with 'proofswarm run create JOB.toml'")
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        connection.execute("PRAGMA synchronous=FULL")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UserError(f"{path} is not a ledger file ({error})") from error
    if application != APPLICATION or (version == FORMAT and "log" not in tables):
        connection.close()
        raise UserError(f"{path} is not a ledger file")
    if version != FORMAT:
        connection.close()
        raise UserError(f"{path} is a ledger of version {version}, this program reads version {FORMAT}")
    return connection


def read_genesis(path: Path) -> Genesis:
    """Return what `run create` fixed; raises UserError."""
    connection = _open(path)
    try:
        row = connection.execute("SELECT data FROM log WHERE seq = 0").fetchone()
        if row is None:
            raise UserError(f"{path} lacks its first entry; the file was altered")
        return codec.decode(Genesis, row[0], MAX_STATEMENT)
    except Malformed as error:
        raise UserError(f"{path}: its first entry founds no run ({error})") from error
    finally:
        connection.close()


def verify_log(path: Path) -> int:
    """Recompute the hash chain of a ledger file; returns its length, raises UserError at the first broken link."""
    connection = _open(path)
    head = law.GENESIS_HEAD
    length = 0
    try:
        for seq, at, kind, data, stored in connection.execute("SELECT * FROM log ORDER BY seq"):
            head = next_head(head, seq, at, kind, data)
            if seq != length or head != stored:
                raise UserError(
                    f"{path}: entry {length} does not continue the hash chain; the file was altered"
                )
            length += 1
    finally:
        connection.close()
    if not length:
        raise UserError(f"{path} lacks its first entry; the file was altered")
    return length


def next_head(head: Digest, seq: int, at: int, kind: str, data: bytes) -> Digest:
    """Return the head after an entry: every entry hashes all that came before it. (SPEC.md 8.2)"""
    return tagged("log", head, integer(seq), integer(at), kind.encode(), data)
