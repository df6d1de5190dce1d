"""The last step of a dispute in words: numbers, places, and terms from the definitions."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.one_number import tensor
from verification.arithmetic.definition import number_of, range_total, totals_of
from verification.arithmetic.numbers import FLOAT, Number, of_bits, read_number, single
from verification.arithmetic.places import Site, Spec
from verification.claims import Range, Result, Term, Value, word_of
from verification.report.judged import ENDS, coordinates, lines_of, number_text, report_of
from verification.report.words import last_step, place

STEADY = settings(max_examples=300, deadline=None, derandomize=True)


@STEADY
@given(st.integers(0, 2**32 - 1))
def test_the_text_of_a_float32_is_read_as_it(bits: int) -> None:
    number = of_bits(FLOAT, bits)
    text = number_text(FLOAT, number).split(" (0x")[0]
    assert text == "not a number" if number != number else single(float(text)) == number


@pytest.mark.parametrize(
    ("dtype", "number", "text"),
    [
        (FLOAT, 3.5, "3.5 (0x40600000)"),
        (FLOAT, -0.0, "0 (0x00000000)"),
        (FLOAT, single(0.1), "0.1 (0x3dcccccd)"),
        (FLOAT, 16777216.0, "16777216 (0x4b800000)"),
        (FLOAT, 2.0**-149, "1e-45 (0x00000001)"),
        (FLOAT, float("inf"), "infinity (0x7f800000)"),
        (FLOAT, float("-inf"), "-infinity (0xff800000)"),
        (FLOAT, float("nan"), "not a number (0x7fc00000)"),
        ("int64", -(2**63), "-9223372036854775808"),
        ("bool", 1, "1"),
    ],
)
def test_numbers_as_text(dtype: str, number: Number, text: str) -> None:
    assert number_text(dtype, number) == text


@pytest.mark.parametrize(
    ("shape", "index", "told"),
    [
        ((), 0, "0 of []"),
        ((32,), 17, "17 of [32]"),
        ((4, 8), 17, "17 of [4, 8] (row 2, column 1)"),
        ((2, 4, 8), 49, "49 of [2, 4, 8] (at [1, 2, 1])"),
    ],
)
def test_a_number_has_a_place_in_its_shape(shape: tuple[int, ...], index: int, told: str) -> None:
    site = Site({}, (Spec(FLOAT, shape),), Spec(FLOAT, shape))
    assert place(report_of(Value(index, (), 0), Result(site, "view"), 0)) == told


def summed(count: int, seed: int) -> tuple[Result, list[Number]]:
    """Return a float32 sum of so many terms, and these."""
    rng = random.Random(seed)
    numbers: list[Number] = [single(rng.uniform(-4, 4)) for _ in range(count)]
    site = Site({"dims": (0,), "keepdim": (0,)}, (Spec(FLOAT, (count,)),), Spec(FLOAT, ()))
    return Result(site, "sum"), numbers


@STEADY
@given(st.integers(1, 64), st.integers(0, 5))
def test_lines_give_what_the_law_finds(count: int, seed: int) -> None:
    """Each total is the combination of its lines, and the number is what its own line gives."""
    result, numbers = summed(count, seed)

    def read(_: int, index: int) -> Number:
        return numbers[index]

    totals = totals_of(result.definition, result.site, 0, read)
    for number, total in enumerate(result.definition.totals):
        lines = lines_of(Range(0, totals[:number], 0, count, 0), result, read)
        assert [[one.index for one in line.reads] for line in lines] == [[k] for k in range(count)]
        gives = [line.gives for line in lines if line.gives is not None]
        assert len(gives) == count
        assert total.combine.of(gives, total.start) == totals[number]
    (line,) = lines_of(Value(0, totals, 0), result, read)
    assert line.gives == word_of(FLOAT, number_of(result.definition, result.site, 0, read))


def test_a_term_that_ends_the_step_is_told() -> None:
    result, numbers = summed(3, 0)
    numbers[1] = float("inf")
    (line,) = lines_of(Term(0, 1, 1), result, lambda _, index: numbers[index])
    assert (line.term, line.gives) == (1, None)
    found = report_of(Term(0, 1, 1), result, None, [line], [7])
    assert dict(last_step(found)) == {
        "number": "0 of []",
        "terms": "1 of 3, by itself, for total 2 of 2",
        "claimed": ENDS,
        "is": ENDS,
    }
    assert [(read.value, read.at, read.number) for read in found.lines[0].reads] == [
        (7, (1,), "infinity (0x7f800000)")
    ]


def test_a_range_without_terms_is_told() -> None:
    site = Site({"dims": (0,), "keepdim": (0,)}, (Spec("int64", (0,)),), Spec("int64", ()))
    result, claim = Result(site, "sum"), Range(0, (), 0, 0, 5)
    assert lines_of(claim, result, lambda _, __: 0) == []
    right = claim.right(result, lambda _, __: 0)
    found = dict(last_step(report_of(claim, result, right)))
    assert (found["terms"], found["claimed"], found["is"]) == ("none of 0, added up", "5", "0")


def test_a_claim_keeps_its_dtype() -> None:
    """An integer result is told as it is, not as the bits of a float."""
    made = tensor("int16", (2,), [-3, 4])
    site = Site({}, (Spec("int16", (2,)),), Spec("int16", (2,)))
    result = Result(site, "negate")
    right = Value(0, (), -3).right(result, lambda _, index: read_number("int16", made.data, index))
    found = report_of(Value(0, (), -3), result, right)
    assert (found.claimed, found.right, found.dtype) == ("-3", "3", "int16")


@STEADY
@given(
    st.lists(st.integers(1, 4), max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.integers(0, 300))
    )
)
def test_coordinates_lead_back(drawn: tuple[list[int], int]) -> None:
    shape, index = drawn
    count = 1
    for size in shape:
        count *= size
    index %= count
    at, flat = coordinates(shape, index), 0
    for size, one in zip(shape, at, strict=True):
        assert 0 <= one < size
        flat = flat * size + one
    assert flat == index


def test_a_range_of_a_later_total_reads_the_earlier_ones() -> None:
    result, numbers = summed(5, 1)

    def read(_: int, index: int) -> Number:
        return numbers[index]

    totals = totals_of(result.definition, result.site, 0, read)
    claim = Range(0, totals[:1], 1, 3, 0)
    lines = lines_of(claim, result, read)
    found = report_of(claim, result, claim.right(result, read), lines, [0])
    assert found.totals == (str(totals[0]),)
    assert all(line.text.endswith(f" after {totals[0]}") for line in found.lines)
    total = result.definition.totals[1]
    assert found.right == str(range_total(total, result.site, 0, read, totals[:1], 1, 3))
