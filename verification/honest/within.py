"""What a party of a dispute says about one node: its own list of a claim, what it contests, and what a number reads.

The other side of `verification.claims`. (SPEC.md 9.5)
"""

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from verification import merkle
from verification.arithmetic.definition import Part, Read, Totals, finish, range_total
from verification.arithmetic.footprint import Block as Footing
from verification.arithmetic.footprint import noting
from verification.arithmetic.numbers import FLOAT, FORMATS, EndsStep, bits_of
from verification.claims import (
    Bytes,
    Ending,
    Failure,
    Judged,
    Listed,
    Range,
    Region,
    Result,
    Split,
    Sum,
)
from verification.grid import Rows
from verification.narrowing import first_change, segments
from verification.placed import ExecutionRef
from verification.statements import Block, FailedAt, RangeList, ResultList, TotalList
from verification.units import Count, Digest


@dataclass(frozen=True)
class Own:
    """What one's own node gives for a claim: `digests` of parts, `data` of a block, `totals`; or where it `fails`."""

    digests: tuple[Digest, ...] = ()
    data: bytes = b""
    totals: tuple[int, ...] = ()
    fails: Failure | None = None


RangeTotal = Callable[[int, int, Totals, int, int], Part]
"""Gives total number `which` of number `index`, after the `totals` before it, over terms `low` .. `high` - 1; None
where one of them ends the step."""


@dataclass(frozen=True)
class Held:
    """A disputed node as one computes it: what its inputs hold, and what it made; None where it fails.

    `fast_total` gives what the definition does, for who cannot wait for that over a million terms, and `suspects` all
    numbers that have no value, in order, perhaps with others.
    """

    result: Result
    read: Read
    made: Rows | None
    fast_total: RangeTotal | None = None
    suspects: Callable[[], Iterable[int]] | None = None

    def split(self, claim: Split) -> Own:
        """Return one's own list where a claim is split, or where the node fails."""
        match claim:
            case Region() | Bytes() if (fails := self.fails()) is not None:
                return Own(fails=fails)
            case Region():
                return Own(digests=self._part(claim))
            case Bytes():
                return Own(data=self._block(claim))
            case Ending():
                return Own(fails=self.fails())
        try:
            return Own(totals=self._totals(claim))
        except EndsStep:
            return Own(fails=self._failure_at(claim.index))

    def fails(self) -> Failure | None:
        """Return the first place at which the node fails; None where it does not."""
        return self._unmade if self.made is None else self._forbidden

    @cached_property
    def _unmade(self) -> Failure | None:
        numbers = range(self.result.grid.numbers) if self.suspects is None else self.suspects()
        found = map(self._failure_at, numbers)
        return next((place for place in found if place is not None), None)

    @cached_property
    def _forbidden(self) -> Failure | None:
        """The first number of an output that none may hold. Rows of one leaf are equal: one of them is looked at."""
        grid = self.result.grid
        if self.made is None or not self.result.is_output or grid.dtype != FLOAT or not grid.numbers:
            return None
        first = {leaf: row for row, leaf in reversed(list(enumerate(self.made.leaves)))}
        for row in sorted(first.values()):
            for block, data in enumerate(self.made.blocks(row)):
                numbers = struct.unpack(f"<{grid.length_of(block)}f", data)
                if not all(map(math.isfinite, numbers)):
                    rest = next(place for place, number in enumerate(numbers) if not math.isfinite(number))
                    return Failure(grid.first_in(row, block) + rest, bits_of(FLOAT, numbers[rest]))
        return None

    def _part(self, claim: Region) -> tuple[Digest, ...]:
        assert self.made is not None
        leaves: Sequence[bytes] = self.made.leaves if claim.row is None else self.made.blocks(claim.row)
        purpose = "row" if claim.row is None else "block"
        return tuple(
            merkle.subtree(purpose, leaves[low:high]) for low, high in segments(claim.low, claim.high)
        )

    def _block(self, claim: Bytes) -> bytes:
        assert self.made is not None
        return self.made.blocks(claim.row)[claim.block]

    def _totals(self, claim: Sum | Range) -> tuple[int, ...]:
        if isinstance(claim, Range):
            which, parts = len(claim.totals), segments(claim.low, claim.high)
            return tuple(_some(self._total(which, claim.index, claim.totals, *part)) for part in parts)
        totals: Totals = ()
        for which, count in enumerate(self._counts):
            totals += (_some(self._total(which, claim.index, totals, 0, count)),)
        return totals

    @property
    def _counts(self) -> list[int]:
        """How many terms each total has."""
        return [total.count(self.result.site) for total in self.result.definition.totals]

    def _total(self, which: int, index: int, totals: Totals, low: int, high: int) -> Part:
        if self.fast_total is not None:
            return self.fast_total(which, index, totals, low, high)
        total = self.result.definition.totals[which]
        return range_total(total, self.result.site, index, self.read, totals, low, high)

    def _failure_at(self, index: int) -> Failure | None:
        """Return how number `index` fails; None where it does not."""
        totals: Totals = ()
        for which, count in enumerate(self._counts):
            made = self._total(which, index, totals, 0, count)
            if made is None:
                return Failure(index, None, which, self._ending_term(which, index, totals, count))
            totals += (made,)
        try:
            number = finish(self.result.definition, self.result.site, index, self.read, totals)
        except EndsStep:
            return Failure(index)
        return Failure(index, bits_of(FLOAT, number)) if self.result.forbids(number) else None

    def _ending_term(self, which: int, index: int, totals: Totals, count: int) -> int:
        """Return the first term of a total that ends the step, where one does: by halves."""
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            if self._total(which, index, totals, low, middle) is None:
                high = middle
            else:
                low = middle
        return low


def _some(total: Part) -> int:
    if total is None:
        raise EndsStep("a term has no value")
    return total


def read_by(claim: Judged, result: Result, read: Read) -> list[Footing]:
    """Return the blocks of all that a claim reads, in order of their first reading."""
    blocks: dict[Footing, None] = {}
    claim.right(result, noting(result.site, read, blocks))
    return list(blocks)


def own_list(claim: Split, own: Own, execution: ExecutionRef, node: int) -> Listed:
    """Return what the claim's author says of it; `own` is what its node gives."""
    where = execution.round, execution.place, execution.step, Count(node)
    match claim:
        case Region(row, low, high):
            return ResultList(*where, _count(row), Count(low), Count(high), own.digests)
        case Bytes(row, block):
            return Block(*where, Count(row), Count(block), own.data)
        case Sum(index):
            return TotalList(*where, Count(index), own.totals)
        case Range(index, totals, low, high):
            place = Count(index), Count(len(totals))
            return RangeList(*where, *place, Count(low), Count(high), own.totals)
    fails = own.fails or Failure(0)
    return FailedAt(*where, Count(fails.index), _count(fails.bits), _count(fails.total), _count(fails.term))


def _count(number: int | None) -> Count | None:
    return None if number is None else Count(number)


def contested(result: Result, claim: Split, listed: Listed, own: Own) -> int:
    """Return the entry of a list that one's own node contests first; the last where it contests none."""
    if own.fails is not None:
        return _holding(result, claim, own.fails)
    mine, theirs = _entries(result, own), _entries(result, _said(listed))
    index = first_change(theirs, mine)
    if isinstance(listed, TotalList):
        return len(theirs) if index is None else index
    return max(0, len(theirs) - 1) if index is None else index


def _said(listed: Listed) -> Own:
    match listed:
        case ResultList(entries=digests):
            return Own(digests=digests)
        case Block(data=data):
            return Own(data=data)
        case TotalList(entries=totals) | RangeList(entries=totals):
            return Own(totals=totals)
    return Own()


def _entries(result: Result, own: Own) -> Sequence[object]:
    size = FORMATS[result.grid.dtype].size
    return own.digests or own.totals or [own.data[i : i + size] for i in range(0, len(own.data), size)]


def _holding(result: Result, claim: Split, fails: Failure) -> int:
    """Return the entry of a claim's list that holds the place at which one's own node fails."""
    row, block, rest = result.grid.place(fails.index)
    match claim:
        case Region(None, low, high):
            return _segment(low, high, row)
        case Region(_, low, high):
            return _segment(low, high, block)
        case Bytes():
            return rest
        case Sum():
            return len(result.definition.totals) if fails.total is None else fails.total
        case Range(low=low, high=high):
            return _segment(low, high, fails.term or 0)
    return 0


def _segment(low: int, high: int, place: int) -> int:
    return next(index for index, (_, end) in enumerate(segments(low, high)) if place < end)
