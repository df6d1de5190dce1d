"""A ledger that its owner serves to others: what they ask, what the host answers, and how it does. (SPEC.md 8.6, 8.7)

Pure but for the ledger beneath: who carries the bytes, and how many of them from whom, is `p2p.served`'s. A host
judges nothing that its own ledger does not; a follower checks chain and law of each entry and believes the host's
order and time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from verification import codec
from verification.errors import BadEvidence, BadSignature, Malformed, Refused, Unavailable, Violation
from verification.ledger.heads import Head, SignedHead, head_of_host, sign_head
from verification.ledger.log import Record
from verification.ledger.port import Ledger
from verification.signing import address_of
from verification.state import Standing
from verification.units import Address, Count, Digest, Millis

MAX_SAID = codec.MAX_MESSAGE + (1 << 12)
"""Bytes of the largest statement that a served ledger takes: a body of a message's size. (SPEC.md 8.6)"""

ANSWER_BYTES = 1 << 19
"""Bytes of entries and contradictions in one answer, at most: a contradiction is not cut, so the largest must fit."""

ANSWER_ENTRIES = 256
ENTRY_OVERHEAD = 96
"""Bytes that an entry, or a contradiction, may have in an answer beyond its data."""

MAX_ANSWER = ANSWER_BYTES + ANSWER_ENTRIES * ENTRY_OVERHEAD + 512
MAX_REASON = 300
REFUSALS: dict[str, type[Violation] | type[Unavailable]] = {
    each.__name__: each for each in (Malformed, BadSignature, Refused, BadEvidence, Unavailable)
}
"""What a ledger may answer to a statement, by name."""


@dataclass(frozen=True)
class Submit:
    """Asks to put a signed statement on the log."""

    data: bytes


@dataclass(frozen=True)
class Submitted:
    """What the ledger did with a statement: `refusal` is empty, or the name of the error and `reason` its words.

    `head` is the newest then. Of a statement that is new it is the one after its own entry; one that was there already
    stands at or before it.
    """

    is_new: bool
    refusal: str
    reason: str
    head: SignedHead

    def __post_init__(self) -> None:
        if self.refusal and self.refusal not in REFUSALS:
            raise ValueError("unknown refusal")
        if len(self.reason) > MAX_REASON or not self.reason.isprintable():
            raise ValueError("a reason is one short line")


@dataclass(frozen=True)
class Follow:
    """Asks for entries from number `start` on, of that one's bytes from `offset` on, and for contradictions but for the
    first `skip`."""

    start: Count
    offset: Count
    skip: Count


@dataclass(frozen=True)
class Piece:
    """An entry, or as much of one as there was room for: `size` is the whole's."""

    seq: Count
    at: Millis
    kind: str
    size: Count
    data: bytes
    head: Digest


@dataclass(frozen=True)
class Followed:
    """What follows, as much as one answer holds, and the newest head. The last entry may be cut off.

    `refused` are contradictions, oldest first: statements that were refused because their authors had said something
    else in their places.
    """

    entries: tuple[Piece, ...]
    refused: tuple[bytes, ...]
    head: SignedHead


@dataclass(frozen=True)
class AskHead:
    """Asks for the head after entry `seq`; of None for the newest, after all deadlines that have come have passed."""

    seq: Count | None


class Host:
    """Answers what followers ask of a ledger, and signs its heads. Not shared between threads."""

    def __init__(self, ledger: Ledger, secret: bytes) -> None:
        """Serve a ledger that is open under the key that followers expect."""
        self.address: Address = address_of(secret)
        self._ledger, self._secret = ledger, secret
        self._long: Record | None = None
        """The entry that was read last of those that one answer cannot hold."""
        self._doors: dict[str, tuple[Any, int, Callable[[Any], object]]] = {
            "submit": (Submit, MAX_SAID + 16, self.submit),
            "follow": (Follow, 64, self.follow),
            "head": (AskHead, 64, self.head),
        }

    def is_member(self, account: Address) -> bool:
        """Return whether an account is a member of the run, and not excluded."""
        member = self._ledger.state.members.get(account)
        return member is not None and member.standing is not Standing.EXCLUDED

    def answer(self, name: str, body: bytes) -> bytes:
        """Return the encoded answer to an encoded question; raises Malformed for bytes that are none, Unavailable."""
        schema, limit, door = self._doors[name]
        return codec.encode(door(codec.decode(schema, body, limit)))

    def submit(self, asked: Submit) -> Submitted:
        """Put a statement on the ledger and tell what it answered."""
        try:
            is_new = self._ledger.submit(asked.data)
        except (Violation, Unavailable) as error:
            return Submitted(False, _name(error), _reason(error), self._newest())
        return Submitted(is_new, "", "", self._newest())

    def follow(self, asked: Follow) -> Followed:
        """Return what follows; the log stays as it is, so deadlines that have come stay open."""
        self._ledger.catch_up()
        newest, room = self._newest(), ANSWER_BYTES
        entries: list[Piece] = []
        for record in self._records(asked.start):
            begin = asked.offset if record.seq == asked.start else 0
            entries.append(_piece(record, begin, begin + room))
            room -= len(entries[-1].data)
            if room <= 0 or len(entries) == ANSWER_ENTRIES:
                break
        is_last = not entries or entries[-1].seq == self._ledger.height
        refused = self._refused(asked.skip, room, ANSWER_ENTRIES - len(entries)) if is_last else []
        return Followed(tuple(entries), tuple(refused), newest)

    def head(self, asked: AskHead) -> SignedHead:
        """Return the head after one entry, or the newest; raises Unavailable for one that is not there."""
        if asked.seq is None:
            self._ledger.tick()
            return self._newest()
        record = next(self._records(asked.seq), None)
        if record is not None:
            return self._signed(record.seq, record.head)
        raise Unavailable(f"there is no entry {asked.seq} yet")

    def lost(self, signed: SignedHead) -> Head | None:
        """Return a head that this host has signed and whose entry its ledger lacks; None for any other.

        Whoever serves such a ledger, as one restored from a backup, signs a second head for that number.
        """
        try:
            head = head_of_host(signed, self.address, self._ledger.state.run)
        except Violation:
            return None
        known = self._ledger.records(head.seq - 1, 1)
        return None if known and known[0].head == head.head else head

    def _records(self, start: int) -> Iterator[Record]:
        """Read entries up to the newest that was folded, one at a time: many of the largest would fill the memory."""
        for seq in range(start, self._ledger.height + 1):
            if self._long is not None and self._long.seq == seq:
                yield self._long
                continue
            for record in self._ledger.records(seq - 1, 1):
                if (
                    len(record.data) > ANSWER_BYTES
                ):  # asked for piece by piece, and reading one piece reads it all
                    self._long = record
                yield record

    def _refused(self, skip: int, room: int, most: int) -> list[bytes]:
        """Return contradictions of what a follower has by then, as many as there is room for."""
        found: list[bytes] = []
        for _, _, data in self._ledger.contradictions()[skip : skip + most]:
            room -= len(data)
            if room < 0:
                break
            found.append(data)
        return found

    def _newest(self) -> SignedHead:
        self._ledger.entries()  # nobody here reads them, and they would fill the memory
        return self._signed(self._ledger.height, self._ledger.state.head)

    def _signed(self, seq: int, head: Digest) -> SignedHead:
        return sign_head(self._secret, Head(self._ledger.state.run, Count(seq), head, self._ledger.now()))


def _piece(record: Record, begin: int, end: int) -> Piece:
    size = Count(len(record.data))
    return Piece(Count(record.seq), record.at, record.kind, size, record.data[begin:end], record.head)


def _name(error: Violation | Unavailable) -> str:
    """Return the name of the nearest kind of error that a follower knows."""
    return next(each.__name__ for each in type(error).__mro__ if each.__name__ in REFUSALS)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:MAX_REASON]
