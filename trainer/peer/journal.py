"""What an account has signed, on disk before it is sent: after a crash it repeats itself, and contradicts itself never.

The journal is the account's: it lies beside the key and is named by the address, so that neither another run's folder
nor another name of the key file begins an empty one. It holds all runs of the account.
"""

import os
import sqlite3
from pathlib import Path

from verification.errors import UserError
from verification.signed import Statement, make_statement, open_statement, sign_statement
from verification.signing import address_of, checksum
from verification.state import State
from verification.statements import Body
from verification.units import Address, Digest

BUSY_SECONDS = 60.0
SCHEMA = "CREATE TABLE IF NOT EXISTS said (place TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT"


def journal_of(key: Path, account: Address) -> Path:
    """Return where the journal of an account lies whose key is in the file `key`."""
    return key.parent / f"{checksum(account)}.said.sqlite"


class Journal:
    """Signed statements by their place (chain, run, round, slot, head). (SPEC.md 3.2)"""

    def __init__(self, path: Path, secret: bytes, chain: str, run: Digest) -> None:
        """Open or create the journal of one key in one run; raises UserError for a file that is none, or another's."""
        self._path, self._secret, self._chain, self._run = path, secret, chain, run
        self.account = address_of(secret)
        try:
            _make_private(path)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: cannot be opened ({error}); a peer writes what it signs beside its key: keep the key in a "
                "folder of your own"
            ) from error
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise UserError(
                f"{path}: cannot be used ({error}); restore it, or join with another key, since without it this one "
                "could contradict itself"
            ) from error
        self._check_author(path)

    def _check_author(self, path: Path) -> None:
        """Refuse a journal of another key, which would speak for that one. Raises UserError."""
        row = self._connection.execute("SELECT data FROM said LIMIT 1").fetchone()
        if row is None or open_statement(bytes(row[0])).sender == self.account:
            return
        self.close()
        raise UserError(f"{path}: is the journal of another key; restore the one of this account")

    def sign(self, head: Digest, body: Body) -> bytes:
        """Return the signed statement of this place: the one said before if there is one, whatever `body` says now.

        Raises UserError where it cannot be written down: what is not on the disk is not said.
        """
        statement = make_statement(self._chain, self._run, head, body)
        place = _place(statement)
        said = self._said(place)
        if said is not None:
            return said
        # Of two processes that hold one key by mistake, the first to write speaks for both.
        try:
            self._connection.execute(
                "INSERT OR IGNORE INTO said VALUES (?, ?)", (place, sign_statement(self._secret, statement))
            )
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self._path}: {error}; free space on its disk and start again: nothing is lost"
            ) from error
        said = self._said(place)
        assert said is not None
        return said

    def signed(self, head: Digest, body: Body) -> Body | None:
        """Return what was said at the place of `body`, which is all that will ever be said there; None for nothing."""
        said = self._said(_place(make_statement(self._chain, self._run, head, body)))
        return None if said is None else open_statement(said).body

    def require_own(self, state: State) -> None:
        """Raise UserError where the account is a member and has said nothing here: somebody else speaks for it.

        Two that speak for one account contradict each other, and are convicted.
        """
        prefix = f"{self._chain}/{self._run.hex()}/"
        row = self._connection.execute(
            "SELECT 1 FROM said WHERE substr(place, 1, ?) = ? LIMIT 1", (len(prefix), prefix)
        ).fetchone()
        if row is None and self.account in state.members:
            raise UserError(
                f"account {checksum(self.account)} takes part in the run already, from another folder or machine: "
                f"go on there, bring {journal_of(Path(), self.account)} along, or take another account"
            )

    def _said(self, place: str) -> bytes | None:
        row = self._connection.execute("SELECT data FROM said WHERE place = ?", (place,)).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _make_private(path: Path) -> None:
    """Make the file before SQLite does: what is signed here is not said yet. Its companions get the file's mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def _place(statement: Statement) -> str:
    parts = (statement.chain, statement.run.hex(), str(statement.round), statement.slot, statement.head.hex())
    return "/".join(parts)
