"""The log in a SQLite file: the embedded default, for peers on machines of one owner. (SPEC.md 8)

The log is all there is: state is the fold over it, made again by every process. An entry is appended and the law
applied inside one database transaction, so several processes may write at once and a killed one loses nothing
acknowledged. The owner of the machine is trusted for time and balances, and nobody for anything else.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from verification.errors import Malformed, ProofswarmError, Unavailable, UserError
from verification.ledger.log import Entry, Genesis, Record, Unchained, founding, genesis_of, verify_chain
from verification.ledger.sequencer import Sequencer
from verification.library import Library
from verification.units import Digest, Millis

FORMAT = 3
"""Version of the file, kept in SQLite's user_version."""

APPLICATION = 0x50535741
BUSY_SECONDS = 60.0

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

APPEND = "INSERT INTO log (seq, at, kind, data, head) VALUES (?, ?, ?, ?, ?)"
READ = "SELECT seq, at, kind, data, head FROM log WHERE seq > ? ORDER BY seq LIMIT ?"
REFUSED = "SELECT l.data, c.data FROM contradiction c JOIN log l USING (seq) WHERE c.id > ? ORDER BY c.id"


def system_clock() -> Millis:
    """Return this machine's time in milliseconds since 1970."""
    return Millis(time.time_ns() // 1_000_000)


def create(path: Path, genesis: Genesis, now: Millis) -> None:
    """Write a new ledger file; raises UserError when one exists, Refused when the law admits no such run."""
    first = founding(genesis, now)
    if path.exists():
        raise UserError(f"{path} exists already: choose another folder or delete the old run")
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.executescript(SCHEMA)
        connection.execute(APPEND, _row(first))
    finally:
        connection.close()
    draft.rename(path)


class LocalLedger(Sequencer):
    """A process's view of one ledger file. Not shared between threads."""

    def __init__(self, path: Path, library: Library, clock: Callable[[], Millis] = system_clock) -> None:
        """Open an existing file and fold its log; raises UserError for a missing, foreign or older file."""
        super().__init__(SqliteLog(path), library, clock)


class SqliteLog:
    """The `Storage` in a file, shared by the processes that have it open."""

    def __init__(self, path: Path) -> None:
        """Open an existing file; raises UserError for a missing, foreign or older one."""
        self.name = str(path)
        self._connection = _open(path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock; what was appended is on disk afterwards."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self.name} is locked by another process ({error})") from error
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

    def read(self, after: int, limit: int) -> Sequence[Record]:
        """Return at most `limit` entries with numbers above `after`, in order."""
        return list(_records(self._connection.execute(READ, (after, limit))))

    def append(self, entry: Entry) -> None:
        """Keep a new entry."""
        self._connection.execute(APPEND, _row(entry))

    def keep_refused(self, seq: int, data: bytes) -> None:
        """Keep a statement that contradicts entry `seq`, unless one is kept for it."""
        row = "INSERT OR IGNORE INTO contradiction (seq, data) VALUES (?, ?)"
        self._connection.execute(row, (seq, data))

    def refused(self, skip: int) -> Sequence[tuple[bytes, bytes]]:
        """Return (the statement in the log, the one refused for it), but for the first `skip`."""
        return self._connection.execute(REFUSED, (skip,)).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _row(record: Record) -> tuple[int, int, str, bytes, bytes]:
    return record.seq, record.at, record.kind, record.data, record.head


def _records(rows: Iterable[tuple[int, int, str, bytes, bytes]]) -> Iterator[Record]:
    return (Record(seq, Millis(at), kind, data, Digest(head)) for seq, at, kind, data, head in rows)


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
        first = next(_records(connection.execute(READ, (-1, 1))), None)
        if first is None or first.seq != 0:
            raise UserError(f"{path} lacks its first entry; the file was altered")
        return genesis_of(first)
    except Malformed as error:
        raise UserError(f"{path}: its first entry founds no run ({error})") from error
    finally:
        connection.close()


def verify_log(path: Path) -> int:
    """Recompute the hash chain of a ledger file; returns its length, raises UserError at the first broken link."""
    connection = _open(path)
    try:
        length = verify_chain(_records(connection.execute(READ, (-1, -1))))
    except Unchained as error:
        raise UserError(f"{path}: {error}; the file was altered") from error
    finally:
        connection.close()
    if not length:
        raise UserError(f"{path} lacks its first entry; the file was altered")
    return length
