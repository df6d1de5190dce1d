"""From documents to records: pure, and the same however the documents come in pieces."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from trainer.runs.data.pieces import Ids
from verification.digest import integer, tagged

MIN_RECORDS = 16
"""Records to train on, at least."""


def _none() -> Ids:
    return np.empty(0, np.int64)


@dataclass
class Packer:
    """Cuts documents into records of `length` tokens and the one that follows; each record begins with the token in
    which the one before ends, so that every token is predicted once.

    Packed, documents follow one another with the separator between them, and what is left at the end makes no record.
    Else every document begins a record, and separators fill its last one up; without a separator the rest is left out.
    `rest` is what waits for more, `inside` and `started` whether a document, or any, has begun.
    """

    length: int
    separator: int | None
    packed: bool = True
    rest: Ids = field(default_factory=_none)
    inside: bool = False
    started: bool = False

    def add(self, ids: Ids, ends: bool) -> Ids:
        """Take a document's next tokens and return the records that they complete, [n, length + 1]."""
        parts = [self.rest, ids]
        if self.packed and self.started and not self.inside and self.separator is not None:
            parts.insert(1, np.array([self.separator]))
        rows, self.rest = self._windows(np.concatenate(parts))
        self.inside, self.started = not ends, True
        if ends and not self.packed:
            rows = np.concatenate([rows, self._filled()])
            self.rest = _none()
        return rows

    def _windows(self, tokens: Ids) -> tuple[Ids, Ids]:
        count = max(0, (len(tokens) - 1) // self.length)
        used = count * self.length
        rows = np.empty((count, self.length + 1), np.int64)
        rows[:, :-1] = tokens[:used].reshape(count, self.length)
        rows[:, -1] = tokens[self.length : used + 1 : self.length]
        return rows, tokens[used:].copy()

    def _filled(self) -> Ids:
        """Return the record that a document's rest makes with separators: none of a single token."""
        if len(self.rest) < 2 or self.separator is None:
            return np.empty((0, self.length + 1), np.int64)
        row = np.full((1, self.length + 1), self.separator, np.int64)
        row[0, : len(self.rest)] = self.rest
        return row


@dataclass(frozen=True)
class Split:
    """Which of `documents` are held out: a share of them, drawn by a hash of seed and number; one at least is, and one
    is not.

    Of a single document the end is held out, so `by_document` is False.
    """

    seed: int
    share: float
    documents: int

    @property
    def by_document(self) -> bool:
        """Whether whole documents are held out."""
        return self.documents > 1

    def holds_out(self, number: int) -> bool:
        """Return whether a document, counted from 0, is held out."""
        return self.by_document and self._drawn(number) != (number == self._moved)

    @cached_property
    def _moved(self) -> int | None:
        """The document that goes to the other side, since nothing would be there."""
        seen = set()
        for number in range(self.documents):
            seen.add(self._drawn(number))
            if len(seen) == 2:
                return None
        return (max if True in seen else min)(range(self.documents), key=self._hash)

    def _drawn(self, number: int) -> bool:
        return self._hash(number) < int(self.share * 2.0**64)

    def _hash(self, number: int) -> int:
        return int.from_bytes(tagged("held-out", integer(self.seed), integer(number))[:8], "big")
