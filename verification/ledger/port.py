"""What a ledger is to whoever takes part in a run: an order and a clock. It judges nothing: everyone folds the law."""

from collections.abc import Sequence
from typing import Protocol

from verification.ledger.log import Entry, Record, Twice
from verification.state import State
from verification.units import Millis


class Ledger(Protocol):
    """One participant's view of a run's log. Not shared between threads, but for `now`.

    `verification.ledger.local` keeps the log in a file, `simulator.memory` in a list; `tests/contract` is what they
    have in common, and what another one must do.
    """

    @property
    def state(self) -> State:
        """The state after the newest entry that was folded here; its `head` names that entry."""
        ...

    @property
    def height(self) -> int:
        """The number of that entry."""
        ...

    def now(self) -> Millis:
        """Return the ledger's time: what the law is given for what is said now. It never goes back."""
        ...

    def catch_up(self) -> None:
        """Fold what others have appended since; raises UserError for a log that breaks chain or law. (SPEC.md 8.4)"""
        ...

    def entries(self) -> list[Entry]:
        """Return the entries folded since the last call, oldest first, whoever wrote them."""
        ...

    def records(self, after: int, limit: int) -> Sequence[Record]:
        """Return at most `limit` entries with numbers above `after`, as they are kept: what a follower folds itself."""
        ...

    def submit(self, data: bytes) -> bool:
        """Put a signed statement on the log; False for one that is there already, which is acknowledged again.

        Raises a Violation when the law refuses it, and then nothing of it is kept but a contradiction; Unavailable when
        the ledger cannot be reached now. Returning means that the entry will not be lost. (SPEC.md 8.3)
        """
        ...

    def tick(self) -> bool:
        """Let due deadlines pass; returns whether there were any. Raises Unavailable as `submit` does."""
        ...

    def contradictions(self) -> list[Twice]:
        """Return what was refused as a second statement for one place, once for each author, whoever submitted it.
        (SPEC.md 6.9)"""
        ...

    def close(self) -> None:
        """Let go of the log; nothing else may be called afterwards."""
        ...
