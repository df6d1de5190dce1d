"""What a member of a crew gives in one round, in pieces, for those who take it. (SPEC.md 4.17)"""

from collections.abc import Mapping, Sequence

import trio

from p2p.messages import CrossingBytes
from trainer.compute.orders import PIECE, Given
from verification.errors import Malformed, Unavailable
from verification.manifest import Cut
from verification.units import Digest

HELD = 1 << 28
"""Bytes above which is dropped what all who take it have: who starts again then finds it nowhere."""
BEHIND = 2
"""Who asks for something of a step has all of those so many before it: nobody asks further ahead."""


TOGETHER = 8
"""Crossings of which one letter asks for at most."""


def letters_of(sizes: Mapping[int, int], crossings: Sequence[int]) -> list[tuple[int, ...]]:
    """Return crossings of one maker by the letters that ask for them: what is smaller than the next one, as the scales
    of numbers before these, goes with it, if all is one piece."""
    found: list[tuple[int, ...]] = []
    for crossing in crossings:
        last = found[-1] if found else ()
        whole = sum(sizes[each] for each in last) + sizes[crossing]
        if last and len(last) < TOGETHER and sizes[last[-1]] < sizes[crossing] and whole <= PIECE:
            found[-1] = (*last, crossing)
        else:
            found.append((crossing,))
    return found


def pieces_of(size: int) -> int:
    """Return in how many pieces so many bytes go."""
    return max(1, -(-size // PIECE))


class Outbox:
    """The pieces of one shard's crossings, as far as they are made.

    It holds what anyone may still ask for: at most a round's crossings, and of a shard that waits for its takers in
    every step those of two steps above `held`.
    """

    def __init__(self, cut: Cut, sizes: Mapping[int, int], steps: int, held: int = HELD) -> None:
        """`sizes` are the bytes of each crossing that the shard makes."""
        self._cut, self._sizes, self._steps, self._held = cut, sizes, steps, held
        self._pieces: dict[tuple[int, int], list[bytes]] = {}
        self._asked: dict[int, int] = {taker: 0 for each in sizes for taker in cut.crossings[each].takers}
        self._failed: Digest | None = None
        self._is_closed = False
        self._changed = trio.Event()
        self.size = self.sent = 0
        """Bytes held now, and bytes that went out."""

    def put(self, given: Given) -> None:
        """Hold one more piece of a crossing; who waits hears of it with the last that was made at once."""
        self._pieces.setdefault((int(given.step), int(given.crossing)), []).append(given.data)
        self.size += len(given.data)
        if self.size > self._held:
            self._drop()
        if not given.more:
            self._note()

    def fail(self, failure: Digest) -> None:
        """Tell from now on that the round fails, in the place of what is not made."""
        self._failed = failure
        self._note()

    def close(self) -> None:
        """Give nothing more."""
        self._is_closed = True
        self._pieces.clear()
        self._note()

    async def pieces(self, taker: int, step: int, crossings: Sequence[int], number: int) -> CrossingBytes:
        """Return a piece of the first of some crossings once it is made, with the first pieces of the others as far as
        they are there, and all is no more than one piece.

        Raises Malformed for what shard `taker` does not take, Unavailable for what is not given any more.
        """
        self._check(taker, step, crossings, number)
        self._asked[taker] = max(self._asked[taker], step)
        while not self._is_closed:
            if found := self._made(step, crossings, number):
                self.sent += sum(map(len, found))
                return CrossingBytes(tuple(found), None)
            if self._failed is not None:
                return CrossingBytes((), self._failed)
            await self._changed.wait()
        raise Unavailable("the round is over here")

    def _check(self, taker: int, step: int, crossings: Sequence[int], number: int) -> None:
        if not 1 <= len(crossings) <= TOGETHER:
            raise Malformed(f"{len(crossings)} crossings in one letter")
        for crossing in crossings:
            if crossing not in self._sizes or taker not in self._cut.crossings[crossing].takers:
                raise Malformed(f"crossing {crossing} does not go from here to shard {taker}")
        if not 1 <= step <= self._steps or number >= pieces_of(self._sizes[crossings[0]]):
            raise Malformed(f"piece {number} of step {step}")

    def _made(self, step: int, crossings: Sequence[int], number: int) -> list[bytes]:
        """Return what there is of what a letter asks for, from its beginning on."""
        found: list[bytes] = []
        for crossing in crossings:
            pieces, place = self._pieces.get((step, crossing), []), 0 if found else number
            if place >= len(pieces) or (found and sum(map(len, found)) + len(pieces[place]) > PIECE):
                break
            found.append(pieces[place])
        return found

    def _drop(self) -> None:
        """Drop what all have who take it."""
        for step, crossing in list(self._pieces):
            takers = self._cut.crossings[crossing].takers
            if all(step + BEHIND <= self._asked[int(taker)] for taker in takers):
                self.size -= sum(map(len, self._pieces.pop((step, crossing))))

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
