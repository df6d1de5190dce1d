"""The host of a served ledger as its followers see it: asks, checks the answers' form and signatures, and puts entries
together that came in pieces. What the entries say is for whoever folds them. (SPEC.md 8.6, 8.7)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from verification import codec
from verification.errors import Malformed
from verification.ledger.heads import Head, SignedHead, head_of_host
from verification.ledger.log import FOUND, Record, genesis_of, verify_chain
from verification.ledger.served import (
    MAX_ANSWER,
    AskHead,
    Follow,
    Followed,
    Piece,
    Submit,
    Submitted,
)
from verification.signed import open_statement
from verification.statements import MAX_STATEMENT
from verification.units import Address, Count, Digest

A = TypeVar("A")
Ask = Callable[[str, bytes], bytes]
"""Carries a question ("submit", "follow" or "head", and its encoding) to the host and returns the encoded answer.

Raises Unavailable when there is none, the Violation of an answer that broke the carrier's rules."""


@dataclass(frozen=True)
class Batch:
    """What one question brought: whole entries, contradictions, and the newest head as the host signed it.

    `is_cut` says that a part of the next entry is here too, and waits for the rest.
    """

    records: tuple[Record, ...]
    is_cut: bool
    refused: tuple[bytes, ...]
    signed: SignedHead
    newest: Head


class Remote:
    """One host. Whatever it answers that it must not raises a Violation; no answer at all, Unavailable."""

    def __init__(self, ask: Ask, host: Address, run: Digest) -> None:
        """`host` is the account whose key signs heads, `run` the run that it serves."""
        self.host, self.run = host, run
        self._ask = ask
        self._begun, self._begun_seq = bytearray(), 0
        """What has come of an entry that was cut off, and its number."""

    def submit(self, data: bytes) -> tuple[Submitted, Head]:
        """Return what the host's ledger answers to a statement, and its newest head then."""
        answer = self._asked("submit", Submit(data), Submitted)
        return answer, self._checked(answer.head)

    def follow(self, start: int, skip: int) -> Batch:
        """Return entries from number `start` on, contradictions but for the first `skip`, and the newest head."""
        if self._begun_seq != start:
            self._begun, self._begun_seq = bytearray(), start
        question = Follow(Count(start), Count(len(self._begun)), Count(skip))
        answer = self._asked("follow", question, Followed)
        newest = self._checked(answer.head)
        if not answer.entries and newest.seq >= start:
            raise Malformed("the host names a head and keeps back its entry")
        for data in answer.refused:
            open_statement(data)
        records = self._put_together(answer.entries)
        if [record.seq for record in records] != list(range(start, start + len(records))):
            raise Malformed("the host sent other entries than were asked for")
        return Batch(records, bool(self._begun), answer.refused, answer.head, newest)

    def head(self, seq: int | None) -> tuple[SignedHead, Head]:
        """Return the head after one entry, or the newest, once deadlines that have come have passed."""
        signed = self._asked("head", AskHead(None if seq is None else Count(seq)), SignedHead)
        head = self._checked(signed)
        if seq not in (None, head.seq):
            raise Malformed("the host signed another head than was asked for")
        return signed, head

    def founding(self) -> Record:
        """Return the entry that founds the run; raises Malformed for another run's."""
        found: tuple[Record, ...] = ()
        while not found:
            found = self.follow(0, 0).records
        first = found[0]
        if first.kind != FOUND or genesis_of(first).run != self.run:
            raise Malformed("the host serves another run")
        verify_chain([first])
        return first

    def _asked(self, name: str, question: object, schema: type[A]) -> A:
        return codec.decode(schema, self._ask(name, codec.encode(question)), MAX_ANSWER)

    def _checked(self, signed: SignedHead) -> Head:
        return head_of_host(signed, self.host, self.run)

    def _put_together(self, pieces: tuple[Piece, ...]) -> tuple[Record, ...]:
        """Return the entries that are whole, and keep what there is of one that was cut off."""
        records: list[Record] = []
        for piece in pieces:
            self._begun += piece.data
            if len(self._begun) < piece.size <= MAX_STATEMENT and piece.data and piece is pieces[-1]:
                self._begun_seq = piece.seq
                break
            data, self._begun = bytes(self._begun), bytearray()
            if len(data) != piece.size:
                raise Malformed("an entry is cut off or too large")
            records.append(Record(piece.seq, piece.at, piece.kind, data, piece.head))
        return tuple(records)
