"""The log and its fold: every ledger holds this log, and everyone who reads it makes this state of it. (SPEC.md 8)

Pure: whoever keeps, orders or sends entries does so elsewhere. A run is founded by entry 0; the others are statements
and ticks, each with the time that its ledger gave it, and each hashed over all that came before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from verification import codec, law
from verification.digest import integer, tagged
from verification.effects import Effect
from verification.errors import Malformed
from verification.library import Library
from verification.manifest import Manifest, chain_name, run_id
from verification.signed import Said, open_statement
from verification.state import State
from verification.statements import MAX_STATEMENT, Body
from verification.units import MAX_AMOUNT, Address, Amount, Digest, Millis

FOUND, TICK, STATEMENT = "found", "tick", "statement"
"""The kinds of entries."""


class Unchained(Malformed):
    """An entry that does not continue the hash chain."""


@dataclass(frozen=True)
class Genesis:
    """The first entry: what `run create` fixes for good. (SPEC.md 8.1)

    `ledger` is the kind of ledger; `nonce` is drawn when it is founded, so that no two runs are one. (SPEC.md 3.1)
    """

    manifest: Manifest
    ledger: str
    nonce: Digest
    submitter: Address
    balances: tuple[tuple[Address, Amount], ...]
    deposit: Amount

    def __post_init__(self) -> None:
        if len(self.ledger) > 64:
            raise ValueError("the name of a kind of ledger has at most 64 characters")
        if self.deposit + sum(amount for _, amount in self.balances) > MAX_AMOUNT:
            raise ValueError(f"all money together is at most {MAX_AMOUNT}")

    @property
    def chain(self) -> str:
        """The name of this one log."""
        return chain_name(self.ledger, self.nonce)

    @property
    def run(self) -> Digest:
        """The identity of the run."""
        return run_id(self.manifest, self.chain)


@dataclass(frozen=True)
class Record:
    """One entry as it is kept and sent: its number, time, kind, bytes, and the head after it."""

    seq: int
    at: Millis
    kind: str
    data: bytes
    head: Digest


@dataclass(frozen=True)
class Entry(Record):
    """One admitted entry with what the law made of it."""

    effects: tuple[Effect, ...]


Twice = tuple[Address, bytes, bytes]
"""An author and two statements of it for one place: the one in the log, and one that was refused for it."""


def next_head(head: Digest, seq: int, at: int, kind: str, data: bytes) -> Digest:
    """Return the head after an entry: every entry hashes all that came before it. (SPEC.md 8.2)"""
    return tagged("log", head, integer(seq), integer(at), kind.encode(), data)


def founding(genesis: Genesis, now: Millis) -> Record:
    """Return the entry that founds a run; raises Refused when the law admits no such run."""
    _found(genesis, now)
    data = codec.encode(genesis)
    return Record(0, now, FOUND, data, next_head(law.GENESIS_HEAD, 0, now, FOUND, data))


def genesis_of(first: Record) -> Genesis:
    """Return what the first entry fixes; raises Malformed for bytes that found no run."""
    return codec.decode(Genesis, first.data, MAX_STATEMENT)


def verify_chain(records: Iterable[Record]) -> int:
    """Recompute the hash chain of a whole log and return its length; raises Unchained at the first broken link."""
    head, length = law.GENESIS_HEAD, 0
    for record in records:
        _check_link(head, length, record)
        head, length = record.head, length + 1
    return length


class Fold:
    """A run's state, made of its log entry by entry: the same log gives the same state anywhere. (SPEC.md 3.3)"""

    def __init__(self) -> None:
        """There is no state before the first entry."""
        self.state: State
        self.seq = -1
        self.head = law.GENESIS_HEAD
        self.places: dict[Digest, int] = {}
        """The entry of each statement, by the digest that the state keeps of it."""
        self._fresh: list[Entry] = []

    def follow(self, record: Record, library: Library) -> Entry:
        """Fold an entry that somebody else has admitted.

        Raises Unchained when it does not continue the hash chain, the law's Violation when it must not be in the log,
        Unavailable when a verdict cannot be executed now; nothing changes then.
        """
        _check_link(self.head, self.seq + 1, record)
        return self._take(record, _opened(record), library)

    def extend(self, at: Millis, said: Said[Body] | None, library: Library) -> Entry:
        """Admit a statement, or that time has passed (None), and return the new entry.

        Raises as the law does, and nothing changes then.
        """
        kind, data = (TICK, b"") if said is None else (STATEMENT, said.data)
        seq = self.seq + 1
        record = Record(seq, at, kind, data, next_head(self.head, seq, at, kind, data))
        return self._take(record, said, library)

    def fresh(self) -> list[Entry]:
        """Return the entries folded since the last call, oldest first."""
        taken, self._fresh = self._fresh, []
        return taken

    def _take(self, record: Record, said: Said[Body] | None, library: Library) -> Entry:
        if record.seq == 0:
            self.state = _found(genesis_of(record), record.at)
            effects: list[Effect] = []
        else:
            effects = self._apply(record, said, library)
            if said is not None:
                self.places[said.digest] = record.seq
        self.state.head = self.head = record.head
        self.seq = record.seq
        entry = Entry(record.seq, record.at, record.kind, record.data, record.head, tuple(effects))
        self._fresh.append(entry)
        return entry

    def _apply(self, record: Record, said: Said[Body] | None, library: Library) -> list[Effect]:
        """Apply one entry with its own head in force, since a round that it opens is signed over that head."""
        before, self.state.head = self.state.head, record.head
        effects: list[Effect] | None = None
        try:
            if said is None:
                effects = law.advance(self.state, record.at)
            else:
                effects = law.apply(self.state, said, record.at, library)
            return effects
        finally:
            if effects is None:  # whatever it was that failed: a host signs the state's head
                self.state.head = before


def _opened(record: Record) -> Said[Body] | None:
    """Return an entry's statement; None for the one that founds the run and for a tick. Raises Malformed."""
    if (record.kind == FOUND) != (record.seq == 0):
        raise Malformed("only the first entry founds the run")
    if record.kind == STATEMENT:
        return open_statement(record.data)
    if record.kind not in (FOUND, TICK) or (record.kind == TICK and record.data):
        raise Malformed("an entry is a statement or an empty tick")
    return None


def _found(genesis: Genesis, now: Millis) -> State:
    balances = dict(genesis.balances)
    return law.found(genesis.manifest, genesis.chain, genesis.submitter, balances, genesis.deposit, now)


def _check_link(head: Digest, seq: int, record: Record) -> None:
    if record.seq != seq or record.head != next_head(head, seq, record.at, record.kind, record.data):
        raise Unchained(f"entry {seq} does not continue the hash chain")
