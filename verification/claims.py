"""What is left of a claim below a node: parts of its result, a block's bytes, one number, a range of its terms.

Who made a claim splits it into at most 64 smaller ones (a block into its 1,024 numbers), which fold or add up to it;
who contests it points at one of these; and the last is judged by the definition of the operator. (SPEC.md 6.12)
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import ClassVar

from verification import merkle
from verification.arithmetic.definition import Definition, Read, Totals, finish, range_total
from verification.arithmetic.numbers import FLOAT, FORMATS, EndsStep, Number, bits_of, of_bits, read_number
from verification.arithmetic.places import Site
from verification.causes import Cause
from verification.errors import BadEvidence
from verification.grid import Grid
from verification.narrowing import segments
from verification.operators import definition_of
from verification.placed import OfResult
from verification.statements import MAX_ENTRIES, Block, FailedAt, RangeList, ResultList, TotalList
from verification.units import Digest

Listed = ResultList | Block | TotalList | RangeList | FailedAt
"""What an accused says of its claim."""

Awaited = tuple[type[OfResult], tuple[int | None, ...]]
"""A kind of statement about a node's result, and the facts that tell it from others of its kind."""


@dataclass(frozen=True)
class Result:
    """A node's result before anything of it is known: where it is made, and whether it is an output."""

    site: Site
    operator: str
    is_output: bool = False

    @cached_property
    def definition(self) -> Definition:
        """What defines its numbers."""
        return definition_of(self.operator, self.site)

    @cached_property
    def grid(self) -> Grid:
        """How its numbers stand in rows and blocks."""
        return Grid(self.site.result.dtype, self.site.result.shape)

    def forbids(self, number: Number) -> bool:
        """Return whether it is an output, and none may hold the number: a NaN or an infinity. (SPEC.md 2.5)"""
        return self.is_output and self.grid.dtype == FLOAT and not math.isfinite(number)


def word_of(dtype: str, number: Number) -> int:
    """Return an integer that tells a dtype's numbers apart: the bits of a float32, any other number itself."""
    return bits_of(dtype, number) if dtype == FLOAT else int(number)


class Level(StrEnum):
    """At what a claim's digest stands: an inner node of a tree, a block, a row, or the whole result."""

    INNER = "inner"
    BLOCK = "block"
    ROW = "row"
    RESULT = "result"


def lifted(grid: Grid, top: Digest, row: int | None, level: Level) -> Digest:
    """Return what the top over all rows, or over all blocks of one row, gives at a level above it."""
    if level is Level.INNER:
        return top
    if row is not None:
        top = grid.leaf_of_row(top)
        if level is Level.ROW:
            return top
    return grid.digest(top)


@dataclass(frozen=True)
class Region:
    """Rows low .. high-1 of a result, or such blocks of one `row`: `claimed` stands for them at its level."""

    row: int | None
    low: int
    high: int
    claimed: Digest
    level: Level

    @property
    def awaits(self) -> Awaited:
        """The next list of it."""
        return ResultList, (self.row, self.low, self.high)

    def fault(self, result: Result, listed: Listed) -> Cause | None:
        """Return what is wrong with a list, None for one that folds to the claim."""
        assert isinstance(listed, ResultList)
        if len(listed.entries) != len(segments(self.low, self.high)):
            return Cause.PART_TOO_FEW
        purpose = "row" if self.row is None else "block"
        folded = lifted(result.grid, merkle.fold(purpose, listed.entries), self.row, self.level)
        return None if folded == self.claimed else Cause.PART_FOLDS

    def child(self, result: Result, listed: Listed, index: int) -> "Claim":
        """Return the claim of an entry of a list that is in order; raises IndexError."""
        assert isinstance(listed, ResultList)
        (low, high), entry = segments(self.low, self.high)[index], listed.entries[index]
        if high - low > 1:
            return replace(self, low=low, high=high, claimed=entry, level=Level.INNER)
        if self.row is None:
            return _row(result, low, entry, Level.ROW)
        return Bytes(self.row, low, entry, Level.BLOCK)


@dataclass(frozen=True)
class Bytes:
    """A block's bytes: `claimed` stands for them at its level."""

    row: int
    block: int
    claimed: Digest
    level: Level

    @property
    def awaits(self) -> Awaited:
        """The bytes."""
        return Block, (self.row, self.block)

    def fault(self, result: Result, listed: Listed) -> Cause | None:
        """Return what is wrong with bytes, None for such as hash to the claim and hold numbers of the result's kind."""
        assert isinstance(listed, Block)
        data, dtype = listed.data, result.grid.dtype
        count, size = result.grid.length_of(self.block), FORMATS[dtype].size
        if len(data) != count * size:
            return Cause.BLOCK_SIZE
        top = merkle.leaf_of("block", data)
        if (
            top if self.level is Level.BLOCK else lifted(result.grid, top, self.row, self.level)
        ) != self.claimed:
            return Cause.BLOCK_BYTES
        words = [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(count)]
        numbers = [read_number(dtype, data, i) for i in range(count)]
        if words != [bits_of(dtype, n) for n in numbers] or (dtype == "bool" and max(words) > 1):
            return Cause.BLOCK_FORM
        return Cause.TRACE_GOES_ON if any(map(result.forbids, numbers)) else None

    def child(self, result: Result, listed: Listed, index: int) -> "Claim":
        """Return the claim of one number; raises IndexError."""
        assert isinstance(listed, Block)
        if not 0 <= index < result.grid.length_of(self.block):
            raise IndexError(index)
        word = word_of(result.grid.dtype, read_number(result.grid.dtype, listed.data, index))
        return _number(result, result.grid.first_in(self.row, self.block) + index, word)


@dataclass(frozen=True)
class Sum:
    """One number that is made of totals, before any of these is told: `claimed` is its word."""

    index: int
    claimed: int

    @property
    def awaits(self) -> Awaited:
        """Its totals."""
        return TotalList, (self.index,)

    def fault(self, result: Result, listed: Listed) -> Cause | None:
        """Return what is wrong with a list of totals: nothing but its length shows by itself."""
        assert isinstance(listed, TotalList)
        return None if len(listed.entries) == len(result.definition.totals) else Cause.TOTALS_TOO_FEW

    def child(self, result: Result, listed: Listed, index: int) -> "Claim":
        """Return the claim of one total after those before it; one past the last that of the number they give."""
        assert isinstance(listed, TotalList)
        if index == len(listed.entries):
            return Value(self.index, listed.entries, self.claimed)
        count = result.definition.totals[index].count(result.site)
        return Range(self.index, listed.entries[:index], 0, count, listed.entries[index])


@dataclass(frozen=True)
class Range:
    """The total of a number's terms low .. high-1, after the `totals` before it. (SPEC.md 6.13)"""

    index: int
    totals: Totals
    low: int
    high: int
    claimed: int

    @property
    def awaits(self) -> Awaited | None:
        """Its parts; nothing where its terms can be judged."""
        is_short = self.high - self.low <= MAX_ENTRIES
        return None if is_short else (RangeList, (self.index, len(self.totals), self.low, self.high))

    def fault(self, result: Result, listed: Listed) -> Cause | None:
        """Return what is wrong with a list of parts, None for one that adds up to the claim."""
        assert isinstance(listed, RangeList)
        if len(listed.entries) != len(segments(self.low, self.high)):
            return Cause.RANGES_TOO_FEW
        total = result.definition.totals[len(self.totals)]
        return None if total.combine.of(listed.entries, total.start) == self.claimed else Cause.RANGES_ADD_UP

    def child(self, result: Result, listed: Listed, index: int) -> "Claim":
        """Return the claim of a part; raises IndexError."""
        assert isinstance(listed, RangeList)
        low, high = segments(self.low, self.high)[index]
        return replace(self, low=low, high=high, claimed=listed.entries[index])

    def right(self, result: Result, read: Read) -> int | None:
        """Return what its terms give; None where one of them ends the step."""
        total = result.definition.totals[len(self.totals)]
        return range_total(total, result.site, self.index, read, self.totals, self.low, self.high)


@dataclass(frozen=True)
class Value:
    """A number, once all of its `totals` are agreed: `claimed` is its word."""

    index: int
    totals: Totals
    claimed: int

    def right(self, result: Result, read: Read) -> int | None:
        """Return the word that the totals, and what it reads besides, give; None where it ends the step."""
        try:
            own = finish(result.definition, result.site, self.index, read, self.totals)
        except EndsStep:
            return None
        return word_of(result.grid.dtype, own)


@dataclass(frozen=True)
class Failure:
    """Where a node fails: at a number that no output may hold, by its `bits`; or at one that has no value, for term
    `term` of its total number `total`, or by itself."""

    index: int
    bits: int | None = None
    total: int | None = None
    term: int | None = None


@dataclass(frozen=True)
class Ending:
    """The node fails, it is claimed: where is said next."""

    @property
    def awaits(self) -> Awaited:
        """The place."""
        return FailedAt, ()

    def fault(self, result: Result, listed: Listed) -> Cause | None:
        """Return what is wrong with a place, None for one at which a node of this kind may fail."""
        assert isinstance(listed, FailedAt)
        return None if self._is_possible(result, listed) else Cause.FAILS_NOWHERE

    def child(self, result: Result, listed: Listed, index: int) -> "Claim":
        """Return the claim about the place that was said; raises IndexError for an index other than 0."""
        assert isinstance(listed, FailedAt)
        if index:
            raise IndexError(index)
        if listed.bits is not None:
            return _number(result, int(listed.index), int(listed.bits))
        total = None if listed.total is None else int(listed.total)
        return Term(int(listed.index), total, 0 if listed.term is None else int(listed.term))

    def _is_possible(self, result: Result, at: FailedAt) -> bool:
        """Either a number of an output that none may hold, or a term that ends the step, or a number without terms."""
        totals = result.definition.totals
        if not at.index < result.grid.numbers or (at.total is None) != (at.term is None):
            return False
        if at.bits is not None:
            return at.total is None and at.bits < 1 << 32 and result.forbids(of_bits(FLOAT, int(at.bits)))
        if at.total is None or at.term is None:
            return not totals
        return at.total < len(totals) and at.term < totals[at.total].count(result.site)


@dataclass(frozen=True)
class Term:
    """A number that has no value: term `term` of its total number `total` ends the step, or it does itself (None).

    Whether a term ends the step does not depend on earlier totals, so the least ones stand for these.
    """

    index: int
    total: int | None
    term: int

    claimed: ClassVar[None] = None
    """That there is no number."""

    def right(self, result: Result, read: Read) -> int | None:
        """Return the term, or the number's word, that there is instead; None where the step ends as claimed."""
        if self.total is None:
            return Value(self.index, (), 0).right(result, read)
        before = tuple(total.start for total in result.definition.totals[: self.total])
        return Range(self.index, before, self.term, self.term + 1, 0).right(result, read)


Split = Region | Bytes | Sum | Range | Ending
"""Claims that their author splits; a short range is judged."""

Judged = Range | Value | Term
"""Claims that evidence decides."""

Claim = Split | Judged


WRONG: dict[type[Judged], Cause] = {
    Range: Cause.WRONG_RANGE,
    Value: Cause.WRONG_NUMBER,
    Term: Cause.FAILS_NOT,
}
"""What it is called when a judged claim is wrong."""


def extent(claim: Claim, result: Result) -> tuple[int, int]:
    """Return the first and the last number of a result that a claim is about, or of a number's terms."""
    match claim:
        case Region(None, low, high):
            return result.grid.first_in(low), result.grid.first_in(high) - 1
        case Region(int(row), low, high):
            last = result.grid.first_in(row, high - 1) + result.grid.length_of(high - 1) - 1
            return result.grid.first_in(row, low), last
        case Bytes(row, block):
            first = result.grid.first_in(row, block)
            return first, first + result.grid.length_of(block) - 1
        case Range(low=low, high=high):
            return low, max(low, high - 1)
        case Ending():
            return 0, result.grid.numbers - 1
        case Sum(index) | Value(index) | Term(index):
            return index, index
    raise AssertionError("unreachable")


def claim_of(result: Result, claimed: Digest, failure: Digest) -> Claim:
    """Return what is claimed of a result that has numbers: a tensor's digest, or one that stands for its failure."""
    if claimed == failure:
        return Ending()
    if result.grid.rows == 1:
        return _row(result, 0, claimed, Level.RESULT)
    return Region(None, 0, result.grid.rows, claimed, Level.RESULT)


def _row(result: Result, row: int, claimed: Digest, level: Level) -> Claim:
    if result.grid.blocks == 1:
        return Bytes(row, 0, claimed, level)
    return Region(row, 0, result.grid.blocks, claimed, level)


def _number(result: Result, index: int, word: int) -> Claim:
    return Sum(index, word) if result.definition.totals else Value(index, (), word)


def awaited(claim: Claim) -> Awaited | None:
    """Return what a claim's author owes next; None where evidence is due."""
    return claim.awaits if isinstance(claim, Split) else None


def narrowed(claim: Claim, result: Result, listed: Listed, index: int) -> Claim:
    """Return the part of a claim that an index points at; raises BadEvidence for one that its list has not."""
    assert isinstance(claim, Split)
    if index < 0:
        raise BadEvidence("the index lies outside the list")
    try:
        return claim.child(result, listed, index)
    except IndexError:
        raise BadEvidence("the index lies outside the list") from None
