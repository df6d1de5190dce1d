"""The last step of a dispute as a person checks it with pencil and paper: a number, or at most 64 terms of one.

Every line comes from the operator's own definition, through a `read` that notes what is read, so nothing here can
differ from what the law did. (SPEC.md 6.5)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from verification.arithmetic.definition import Combine, Read
from verification.arithmetic.numbers import FLOAT, Number, bits_of, of_bits, single
from verification.arithmetic.places import strides_of
from verification.claims import Judged, Range, Result, Term, Value
from verification.report.schema import JudgedReport, LineReport, ReadReport

SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "product": "*"}
"""Operators whose number, or for a product whose term, is two numbers with a sign between them."""

COMBINED = {Combine.ADD: "added up", Combine.MAX: "the greatest of them"}
ENDS = "no value: the step ends there"


@dataclass(frozen=True)
class Reading:
    """A number that was read: `index` is flat in the input with a `place`."""

    place: int
    index: int
    number: Number


@dataclass(frozen=True)
class Line:
    """A term, or the number itself (`term` None): what it reads, and what it gives; None where it ends the step."""

    term: int | None
    reads: tuple[Reading, ...]
    gives: int | None


def lines_of(claim: Judged, result: Result, read: Read) -> list[Line]:
    """Return every term of a range, or the one number of another claim, each with what it reads."""
    if isinstance(claim, Range):
        return [
            _line(replace(claim, low=k, high=k + 1), k, result, read) for k in range(claim.low, claim.high)
        ]
    term = claim.term if isinstance(claim, Term) and _total_of(claim) is not None else None
    return [_line(claim, term, result, read)]


def _line(claim: Judged, term: int | None, result: Result, read: Read) -> Line:
    reads = list[Reading]()

    def noted(place: int, index: int) -> Number:
        reads.append(Reading(place, index, read(place, index)))
        return reads[-1].number

    gives = claim.right(result, noted)
    return Line(term, tuple(reads), gives)


def report_of(
    claim: Judged, result: Result, right: int | None, lines: Sequence[Line] = (), sources: Sequence[int] = ()
) -> JudgedReport:
    """Return what was judged, in words; `sources` are the value numbers of the node's inputs."""
    is_number = _total_of(claim) is None
    return JudgedReport(
        index=claim.index,
        shape=result.grid.shape,
        at=coordinates(result.grid.shape, claim.index),
        dtype=result.grid.dtype,
        terms=_terms(claim, result),
        totals=() if isinstance(claim, Term) else tuple(map(str, claim.totals)),
        claimed=_told(claim.claimed, result, is_number),
        right=_told(right, result, is_number),
        rule=_rule(claim, result),
        given=_given(claim, result),
        lines=tuple(_written(line, claim, result, sources) for line in lines),
    )


def coordinates(shape: Sequence[int], index: int) -> tuple[int, ...]:
    """Return where a flat index stands along each dimension."""
    return tuple(index // stride % size for size, stride in zip(shape, strides_of(shape), strict=True))


def number_text(dtype: str, number: Number) -> str:
    """Return a number for people; of a float32 the shortest text that is read as it, and its bits."""
    if dtype != FLOAT:
        return str(int(number))
    return f"{_decimal(number)} (0x{bits_of(FLOAT, number):08x})"


def _decimal(number: float) -> str:
    if number != number:
        return "not a number"
    if math.isinf(number):
        return "infinity" if number > 0 else "-infinity"
    texts = (f"{number + 0.0:.{digits}g}" for digits in range(1, 10))
    return next(text for text in texts if single(float(text)) == number)


def _total_of(claim: Judged) -> int | None:
    """Return the place of the total that a claim is about terms of; None for a claim about the number itself."""
    if isinstance(claim, Value):
        return None
    return len(claim.totals) if isinstance(claim, Range) else claim.total


def _told(word: int | None, result: Result, is_number: bool) -> str:
    if word is None:
        return ENDS
    if not is_number or result.grid.dtype != FLOAT:
        return str(word)
    return number_text(FLOAT, of_bits(FLOAT, word))


def _terms(claim: Judged, result: Result) -> str:
    """Return which terms a claim is about; nothing for the number itself."""
    place, totals = _total_of(claim), result.definition.totals
    if place is None:
        return ""
    count = totals[place].count(result.site)
    which = f", for total {place + 1} of {len(totals)}" if len(totals) > 1 else ""
    if isinstance(claim, Term):
        return f"{claim.term} of {count}, by itself{which}"
    assert isinstance(claim, Range)
    some = f"{claim.low} to {claim.high - 1}" if claim.high > claim.low else "none"
    return f"{some} of {count}, {COMBINED[totals[place].combine]}{which}"


def _rule(claim: Judged, result: Result) -> str:
    """Return how a line comes from what it reads, in the definition's own words; nothing where its name says it all."""
    place, definition = _total_of(claim), result.definition
    told = definition.value.__doc__ if place is None else definition.totals[place].term.__doc__
    return " ".join((told or "").split("\n\n")[0].split())


def _given(claim: Judged, result: Result) -> str:
    """Return what a rule is about beside what is read: attributes, and n, the number of terms."""
    place, totals = _total_of(claim), result.definition.totals
    given = [f"{name} = {', '.join(map(str, some))}" for name, some in sorted(result.site.attributes.items())]
    if totals:
        given.append(f"n = {totals[-1 if place is None else place].count(result.site)}")
    return "; ".join(given)


def _written(line: Line, claim: Judged, result: Result, sources: Sequence[int]) -> LineReport:
    inputs, is_number = result.site.inputs, _total_of(claim) is None
    reads = tuple(
        ReadReport(
            sources[read.place], coordinates(inputs[read.place].shape, read.index),
            number_text(inputs[read.place].dtype, read.number),
        )
        for read in line.reads
    )  # fmt: skip
    text = _reckoning(line, claim, result)
    return LineReport(line.term, reads, text, _told(line.gives, result, is_number))


def _reckoning(line: Line, claim: Judged, result: Result) -> str:
    """Return what is reckoned with what was read, for people: `3 * 4`, or a name with numbers, after which totals."""
    inputs = result.site.inputs
    numbers = [
        _decimal(read.number) if inputs[read.place].dtype == FLOAT else str(int(read.number))
        for read in line.reads
    ]
    sign = SIGNS.get(result.operator, "")
    if sign and len(numbers) == 2 and bool(result.definition.totals) == (line.term is not None):
        return f"{numbers[0]} {sign} {numbers[1]}"
    name = result.operator if line.term is None else "term"
    totals = () if isinstance(claim, Term) else claim.totals
    after = f" after {', '.join(map(str, totals))}" if totals else ""
    return f"{name}({', '.join(numbers)}){after}" if numbers else f"{name}{after}"
