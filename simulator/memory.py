"""A ledger without a file: the log in a list, the clock set by hand, and money counted after every entry."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from simulator.toy import ToyLibrary
from verification.effects import Effect
from verification.ledger.log import Entry, Fold, Genesis, Record, founding
from verification.ledger.sequencer import Sequencer
from verification.library import Library
from verification.signed import Said
from verification.state import State, total_money
from verification.statements import Body
from verification.units import Millis


@dataclass
class Clock:
    """Virtual time in milliseconds: `now` is whatever was set last."""

    now: Millis

    def __call__(self) -> Millis:
        """Return the time."""
        return self.now


@dataclass
class MemoryLog:
    """The `Storage` in lists. Several ledgers may have it, one after the other."""

    first: Record
    name: str = "the ledger in memory"
    entries: list[Entry] = field(default_factory=list)
    _refused: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries.append(Entry(**vars(self.first), effects=()))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Shut nobody out: there is one thread."""
        yield

    def read(self, after: int, limit: int) -> Sequence[Record]:
        """Return at most `limit` entries with numbers above `after`."""
        return self.entries[after + 1 : after + 1 + limit]

    def append(self, entry: Entry) -> None:
        """Keep a new entry."""
        self.entries.append(entry)

    def keep_refused(self, seq: int, data: bytes) -> None:
        """Keep a statement that contradicts entry `seq`, unless one is kept for it."""
        self._refused.setdefault(seq, data)

    def refused(self, skip: int) -> Sequence[tuple[bytes, bytes]]:
        """Return (the statement in the log, the one refused for it), but for the first `skip`."""
        return [(self.entries[seq].data, data) for seq, data in list(self._refused.items())[skip:]]

    def close(self) -> None:
        """Do nothing: it is garbage when nobody has it any more."""


class MemoryLedger(Sequencer):
    """A ledger of the simulator; checks at every entry that no money was made or lost."""

    def __init__(
        self, log: MemoryLog, clock: Clock, library: Library | None = None, is_checked: bool = True
    ) -> None:
        """Fold a log; `is_checked` counts all money after every entry, which takes a time that grows with it."""
        self.clock, self.log = clock, log.entries
        self._is_checked = is_checked
        super().__init__(log, library or ToyLibrary(), clock)
        self.money = total_money(self.state)

    @classmethod
    def found(cls, genesis: Genesis, clock: Clock, is_checked: bool = True) -> "MemoryLedger":
        """Return the ledger of a new run; raises Refused when the law admits none such."""
        return cls(MemoryLog(founding(genesis, clock.now)), clock, is_checked=is_checked)

    @property
    def effects(self) -> list[Effect]:
        """Return all effects so far, oldest first."""
        return [effect for entry in self.log for effect in entry.effects]

    def replay(self) -> State:
        """Return the state that folding the log from the start gives."""
        fold = Fold()
        for entry in self.log:
            assert fold.follow(entry, self.library) == entry
        return fold.state

    def _append(self, at: Millis, said: Said[Body] | None) -> None:
        super()._append(at, said)
        if self._is_checked:
            assert total_money(self.state) == self.money, f"entry {len(self.log) - 1} makes or loses money"
