"""What a source yields: documents in order, a long one in pieces, each with where it stands and where to go on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 1 << 18
"""A longer document is encoded in pieces of at most so many bytes, so that memory stays bounded.

Part of what records are: another size gives other tokens at the cuts.
"""

_SPACES = b" \t\n\r\f\v"

Ids = npt.NDArray[np.int64]
"""Token ids, one after the other."""

T_co = TypeVar("T_co", covariant=True)


class Cursor(NamedTuple):
    """Where a source goes on: in which of its files, at which byte or token, after so many lines or rows.

    `inside` says that a document has begun and not ended.
    """

    file: int = 0
    offset: int = 0
    number: int = 0
    inside: bool = False


START = Cursor()


class Place(NamedTuple):
    """Where something stands, for people: a file and a line, row, byte or token in it."""

    path: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.path}: {self.kind} {self.number}"


@dataclass(frozen=True, slots=True)
class Piece(Generic[T_co]):
    """A document, or a part of one: UTF-8 (`bytes`) or token ids. No document is empty.

    `ends` says whether the document ends here; `after` is where to go on behind it, or None inside a line or row.
    """

    content: T_co
    ends: bool
    place: Place
    after: Cursor | None


class Source(Protocol[T_co]):
    """Documents in a fixed order; `name` is what a person calls them."""

    @property
    def name(self) -> str:
        """The key and the names in the job file."""
        ...

    def pieces(self, start: Cursor) -> Iterator[Piece[T_co]]:
        """Yield pieces from a cursor on; raises UserError, with the place, for what cannot be read."""
        ...


def cut(
    blocks: Iterable[bytes], delimiter: bytes = b"", begun: bool = False
) -> Iterator[tuple[bytes, bool, int]]:
    """Yield documents' pieces, whether a document ends with each, and how many bytes were used up by then.

    A document ends at the delimiter, if there is one, and with the blocks. It is cut behind the last line that ends
    within `PIECE_BYTES` before something that is no space, else between two characters; how the bytes come in blocks
    does not matter. Documents without bytes are left out; `begun` says that the first one has begun before.
    """
    held, used = bytearray(), 0
    for block in blocks:
        held += block
        while True:
            place = held.find(delimiter) if delimiter else -1
            if 0 <= place <= PIECE_BYTES:
                used += place + len(delimiter)
                if place or begun:
                    yield bytes(held[:place]), True, used
                del held[: place + len(delimiter)]
                begun = False
            elif len(held) > PIECE_BYTES + len(delimiter):
                size = _cut_at(held)
                used, begun = used + size, True
                yield bytes(held[:size]), False, used
                del held[:size]
            else:
                break
    if held or begun:
        yield bytes(held), True, used + len(held)


def _cut_at(held: bytearray) -> int:
    """Return where to cut more than `PIECE_BYTES` bytes."""
    place = PIECE_BYTES
    while (place := held.rfind(b"\n", 0, place) + 1) > 0:
        if held[place] not in _SPACES:
            return place
        place -= 1
    size = PIECE_BYTES
    while size > PIECE_BYTES - 4 and held[size] & 0xC0 == 0x80:  # never inside a character of UTF-8
        size -= 1
    return size
