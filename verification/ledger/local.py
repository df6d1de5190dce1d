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
from typing import NamedTuple

from verification.errors import Malformed, ProofswarmError, Unavailable, UserError
from verification.ledger.log import Entry, Genesis, Record, Unchained, founding, genesis_of, verify_chain
from verification.ledger.sequencer import Sequencer
from verification.ledger.view import RUNS_ON
from verification.library import Library
from verification.signing import checksum
from verification.units import Address, Digest, Millis

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

FOLLOWED = """
CREATE TABLE followed (
    id   INTEGER PRIMARY KEY CHECK (id = 0),
    host BLOB NOT NULL,
    head BLOB
) STRICT;
"""
"""What makes a file the copy of a log that somebody else serves: its host's account, and the newest head it signed."""

SERVED = """
CREATE TABLE IF NOT EXISTS served (
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    behind INTEGER NOT NULL,
    until  INTEGER NOT NULL
) STRICT;
"""
"""Beside the log of a ledger that is served, its `Served`: `ServedTime` writes it."""

APPEND = "INSERT INTO log (seq, at, kind, data, head) VALUES (?, ?, ?, ?, ?)"
READ = "SELECT seq, at, kind, data, head FROM log WHERE seq > ? ORDER BY seq LIMIT ?"
REFUSED = "SELECT l.data, c.data FROM contradiction c JOIN log l USING (seq) WHERE c.id > ? ORDER BY c.id"


def system_clock() -> Millis:
    """Return this machine's time in milliseconds since 1970."""
    return Millis(time.time_ns() // 1_000_000)


def steady_clock() -> Millis:
    """Return milliseconds since some moment; it goes on evenly whatever is done to this machine's time."""
    return Millis(time.monotonic_ns() // 1_000_000)


def create(path: Path, genesis: Genesis, now: Millis) -> None:
    """Write a new ledger file; raises UserError when one exists, Refused when the law admits no such run."""
    _write(path, founding(genesis, now))


def create_copy(path: Path, first: Record, host: Address) -> None:
    """Write the file of whoever follows a log from its first entry on; raises UserError when one exists."""
    _write(path, first, host)


def _write(path: Path, first: Record, host: Address | None = None) -> None:
    """Write a file with one entry, complete or not at all."""
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
        if host is not None:
            connection.executescript(FOLLOWED)
            connection.execute("INSERT INTO followed (id, host, head) VALUES (0, ?, NULL)", (host,))
    finally:
        connection.close()
    draft.rename(path)


class Served(NamedTuple):
    """By how many milliseconds a ledger's time is behind its machine's, and until when of it it was served."""

    behind: int
    until: Millis


class LocalLedger(Sequencer):
    """A process's view of one ledger file. Not shared between threads."""

    def __init__(self, path: Path, library: Library, clock: Callable[[], Millis] = system_clock) -> None:
        """Open an existing file and fold its log; raises UserError for a missing, foreign or older file."""
        self._log = SqliteLog(path)
        self._served = self._log.served()
        super().__init__(self._log, library, lambda: _time(clock(), self._served))

    def catch_up(self) -> None:
        """Fold what others have appended since, and learn until when its time was served. (SPEC.md 8.9)"""
        self._served = self._log.served()
        super().catch_up()


class SqliteLog:
    """The `Storage` in a file, shared by the processes that have it open."""

    def __init__(self, path: Path) -> None:
        """Open an existing file; raises UserError for a missing, foreign or older one, and for another's copy."""
        self.name = str(path)
        self._connection = _open(path)
        self._check_owner()

    def _check_owner(self) -> None:
        if (host := _host(self._connection)) is not None:
            self.close()
            raise UserError(
                f"{self.name} is a copy of a ledger that {checksum(host)} serves: only its host adds to it"
            )

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

    def served(self) -> Served | None:
        """Return what of the ledger's time was served; None if it never was."""
        return _served(self._connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class SqliteCopy(SqliteLog):
    """The `Copy` in a file, shared by the processes that follow the same host into it."""

    def keep_head(self, signed: bytes) -> None:
        """Keep a signed head in the place of the one before. Only while `writing`."""
        self._connection.execute("UPDATE followed SET head = ?", (signed,))

    def kept_head(self) -> bytes | None:
        """Return the signed head that was kept last."""
        (head,) = self._connection.execute("SELECT head FROM followed").fetchone()
        return None if head is None else bytes(head)

    def _check_owner(self) -> None:
        if _host(self._connection) is None:
            self.close()
            raise UserError(
                f"{self.name} is the ledger itself, no copy of one that is served: open it without a host"
            )


class ServedTime:
    """What of a ledger's time its host has served, kept in the ledger's file by a handle of its own. (SPEC.md 8.9)"""

    def __init__(self, path: Path, clock: Callable[[], Millis] = system_clock) -> None:
        """Begin to serve: the time goes on where it was last served, or at the newest entry. Raises UserError."""
        self._clock, self._connection = clock, _open(path)
        self._connection.executescript(SERVED)
        (newest,) = self._connection.execute("SELECT max(at) FROM log").fetchone()
        served = _served(self._connection)
        self._write(newest if served is None else max(newest, served.until))

    def note(self) -> None:
        """Write down that it was served until now: what a kill cuts off since then is served once more.

        Raises Unavailable when another writer does not let go of the file.
        """
        try:
            self._write(_time(self._clock(), _served(self._connection)))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise Unavailable(f"the ledger is locked by another process ({error})") from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write(self, now: Millis) -> None:
        row = "INSERT OR REPLACE INTO served (id, behind, until) VALUES (0, ?, ?)"
        self._connection.execute(row, (self._clock() - now, now))


def _served(connection: sqlite3.Connection) -> Served | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'served'").fetchone():
        return None
    row = connection.execute("SELECT behind, until FROM served").fetchone()
    return None if row is None else Served(*row)


def _time(machine: Millis, served: Served | None) -> Millis:
    """Return a ledger's time at a machine's: of one that is served, never before what was served, nor far beyond."""
    if served is None:
        return machine
    return Millis(min(max(machine - served.behind, served.until), served.until + RUNS_ON))


def _host(connection: sqlite3.Connection) -> Address | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'followed'").fetchone():
        return None
    (host,) = connection.execute("SELECT host FROM followed").fetchone()
    return Address(host)


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


def take_over(path: Path, host: Address) -> None:
    """Make a copy the ledger itself, for the host whose log it is: how it mends the loss of its own file.

    The host must not serve the other file again: two that go on from one log are a fork. Nothing happens to a file that
    is the ledger itself; raises UserError for the copy of another host's.
    """
    connection = _open(path)
    try:
        followed = _host(connection)
        if followed is None:
            return
        if followed != host:
            raise UserError(
                f"{path} is a copy of what {checksum(followed)} serves: only that key may serve it"
            )
        connection.execute("DROP TABLE followed")
    finally:
        connection.close()


def host_of(path: Path) -> Address | None:
    """Return whose ledger a file is a copy of, None for one that belongs to this machine; raises UserError."""
    connection = _open(path)
    try:
        return _host(connection)
    finally:
        connection.close()


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
