"""The ledger of whoever keeps the log itself: it gives every entry its number and its time.

Where the log lies is a `Storage`; everything about admitting statements is here, once.
"""

from verification import law
from verification.errors import Refused
from verification.ledger.view import View
from verification.signed import Said, open_statement
from verification.statements import Body
from verification.units import Millis


class Sequencer(View):
    """A `Ledger` over a storage that it may write to, and a clock."""

    def submit(self, data: bytes) -> bool:
        """Admit a signed statement; False for one that is in the log already. (SPEC.md 8.3)

        Raises a Violation when the law refuses it, and then nothing of it is kept but a contradiction; Unavailable when
        another writer does not let go of the storage.
        """
        said = open_statement(data)
        self.catch_up()
        with self._storage.writing():
            self.catch_up()
            now = self._tick_if_due()
            if law.is_known(self.state, said):
                return False
            try:
                self._append(now, said)
            except Refused:
                # One excludes its author, so that more would only fill disks.
                if all(author != said.sender for author, _, _ in self.contradictions()):
                    self._keep_contradiction(said)
                raise
        return True

    def tick(self) -> bool:
        """Let due deadlines pass; returns whether there were any. Raises Unavailable as `submit` does."""
        self.catch_up()
        if not self._is_due(self.now()):
            return False
        with self._storage.writing():
            self.catch_up()
            before = self._fold.seq
            self._tick_if_due()
            return self._fold.seq > before

    def _tick_if_due(self) -> Millis:
        now = self.now()
        if self._is_due(now):
            self._append(now, None)
        return now

    def _append(self, at: Millis, said: Said[Body] | None) -> None:
        self._storage.append(self._fold.extend(at, said, self.library))
