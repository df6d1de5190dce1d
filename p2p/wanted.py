"""Which chunk of a page to ask of whom. Pure: it knows neither time nor network.

Sets of chunks are integers: bit i stands for chunk i of the page. A source is whole, or holds a part and says which,
and what is coming to it. Whole ones, often the author alone, are spared what others bring, so that each byte leaves
the author about once and those who fetch give it to each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from verification.units import Address

TOLERATED = 4
"""Chunks that a source may decline after it has said what it holds, which may have been on their way then."""
BELIEVED_TICKS = 5
"""So long after its last chunk a source's word about what it brings is believed: others are spared that."""
LOOKS_A_TICK = 32
"""How often a peer asks what its sources hold, over all fetches, but for the first time."""
HOPED_TICKS = 20
"""So long after its last chunk a source is waited for where there is only its word that something comes to it."""


@dataclass(slots=True)
class _Source:
    """What is known of one source, in sets of chunks.

    `quiet` counts the ticks since its last chunk, but for those in which it was asked for nothing that it holds;
    `owing` those for which it has sent nothing that it was asked for, `declined` the chunks that it declined since it
    said what it holds.
    """

    held: int = 0
    coming: int = 0
    asked: int = 0
    on_way: int = 0
    is_whole: bool = False
    is_known: bool = False
    has_sent: bool = False
    quiet: int = 0
    owing: int = 0
    declined: int = 0


class Wanted:
    """The chunks of a page that are missing, who holds them, and who was asked for them."""

    def __init__(self, count: int, missing: Iterable[int], start: int = 0) -> None:
        """A page of `count` chunks, asked for in order from `start` on, round to the chunk before it."""
        self._all, self._start = (1 << count) - 1, start
        self._missing = sum(1 << number for number in missing)
        self._late = 0
        self._sources: dict[Address, _Source] = {}

    @property
    def missing(self) -> int:
        """The chunks that are not here."""
        return self._missing

    @property
    def coming(self) -> int:
        """The chunks that somebody was asked for and has not sent."""
        return _union(source.on_way for source in self._sources.values()) & self._missing

    @property
    def is_short(self) -> bool:
        """Whether something is missing that nobody is bringing, or not in time."""
        return bool(self._missing & (~self.coming | self._late))

    @property
    def is_over(self) -> bool:
        """Whether nothing is missing, or nothing on its way and nobody has it, or will by a word that is still good."""
        return not self._missing or not any(
            source.on_way
            or not source.is_known
            or self._fresh(source)
            or (self._missing & source.coming and source.quiet < HOPED_TICKS)
            for source in self._sources.values()
        )

    @property
    def silent(self) -> set[Address]:
        """The sources that were asked before the last tick and have sent nothing at all."""
        found = self._sources.items()
        return {address for address, each in found if each.on_way and each.owing and not each.has_sent}

    def add(self, address: Address, is_whole: bool = False) -> None:
        """Take a source of which nothing is known, or which is taken to hold everything until it declines."""
        self._sources[address] = _Source(self._all * is_whole, is_whole=is_whole, is_known=is_whole)

    def drop(self, address: Address) -> None:
        """Forget a source; others may be asked for what it was to bring."""
        self._sources.pop(address, None)

    def is_part(self, address: Address) -> bool:
        """Return whether a source said that it holds something, or will, and not all."""
        source = self._sources[address]
        return bool(source.held | source.coming) and not source.is_whole

    def is_worth_a_look(self, address: Address) -> bool:
        """Return whether to ask a source now what it holds."""
        source = self._sources[address]
        return not source.is_known or (self.is_short and not source.is_whole)

    def note(self, address: Address, held: int, coming: int = 0) -> bool:
        """See what a source says that it holds and that is coming to it; return whether it has, or will have, more."""
        source = self._sources[address]
        news = self._missing & (held & ~source.held | coming & ~held)
        source.held, source.coming = held, coming & ~held
        source.is_whole, source.is_known, source.declined = held == self._all, True, 0
        return bool(news)

    def doubt(self, address: Address) -> bool:
        """Note that a source declined a chunk; return whether it was whole, and is not known to hold anything now.

        One that declines more and more is asked for nothing until it says again what it holds.
        """
        source = self._sources[address]
        was_whole, source.is_whole = source.is_whole, False
        source.declined, source.quiet = source.declined + 1, BELIEVED_TICKS
        if was_whole or source.declined > TOLERATED:
            source.held, source.is_known = 0, source.is_known and not was_whole
        return was_whole

    def choose(self, address: Address) -> int | None:
        """Return the chunk to ask of a source now, if there is one.

        Nobody is asked twice for a chunk, a second source only for one that is late. Who is whole is asked for what
        others hold, or have coming, when there is nothing else, and then for one chunk at a time.
        """
        source = self._sources[address]
        fresh, coming = self._fresh(source), self.coming
        spared = self._brought() if source.is_whole else 0
        for chunks in (fresh & ~coming, fresh & self._late):
            chosen = chunks & ~spared or (0 if source.on_way else chunks)
            if chosen:
                return self._first(chosen)
        return None

    def ask(self, address: Address, number: int) -> None:
        """Note that a source is asked for a chunk."""
        source, chunk = self._sources[address], 1 << number
        if not source.on_way:
            source.owing = 0
        source.asked |= chunk
        source.on_way |= chunk

    def came(self, address: Address, number: int) -> bool:
        """Note that a source sent a chunk, and return whether it was missing."""
        self._end(address, number)
        if source := self._sources.get(address):
            source.has_sent, source.quiet, source.owing = True, 0, 0
        was_missing = bool(self._missing >> number & 1)
        self._missing &= ~(1 << number)
        return was_missing

    def failed(self, address: Address, number: int) -> None:
        """Note that a source will not send a chunk that it was asked for."""
        self._end(address, number)

    def tick(self) -> None:
        """Note that a while has passed: what has been on its way from who sent nothing meanwhile is late, and all that
        is on its way when nothing else is missing."""
        coming = self.coming
        for source in self._sources.values():
            if source.on_way or not self._fresh(source):
                source.quiet += 1
            source.owing += 1
            if source.owing > 1:
                self._late |= source.on_way
        if not self._missing & ~coming:
            self._late |= coming

    def _end(self, address: Address, number: int) -> None:
        if source := self._sources.get(address):
            source.on_way &= ~(1 << number)

    def _fresh(self, source: _Source) -> int:
        """Return what a source holds of what is missing, and was not asked for."""
        return self._missing & source.held & ~source.asked

    def _brought(self) -> int:
        """Return what those hold, or will, who hold a part and have sent something lately."""
        believed = (s for s in self._sources.values() if not s.is_whole and s.quiet < BELIEVED_TICKS)
        return _union(source.held | source.coming for source in believed)

    def _first(self, chunks: int) -> int:
        """Return the first of some chunks from the start on."""
        after = chunks >> self._start
        return self._start + _lowest(after) if after else _lowest(chunks)


def ticks_between_looks(sources: int, fetches: int) -> float:
    """Return after how many ticks each of so many fetches looks again at one of its sources: many take turns."""
    return max(1.0, sources * fetches / LOOKS_A_TICK)


def _lowest(chunks: int) -> int:
    return (chunks & -chunks).bit_length() - 1


def _union(sets: Iterable[int]) -> int:
    found = 0
    for each in sets:
        found |= each
    return found
