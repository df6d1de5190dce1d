"""Every kernel makes what its operator's definition says, bit for bit, on any inputs; and the definition's own laws."""

import itertools
import math
import struct
from collections.abc import Iterable
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import arithmetic
from trainer import exact
from trainer.programs.conversion import from_torch
from verification.arithmetic import numbers
from verification.arithmetic.definition import Definition, Read, Totals, finish, range_total, totals_of
from verification.arithmetic.footprint import Block, block_of, noting
from verification.arithmetic.numbers import EndsStep
from verification.arithmetic.places import BLOCK, Site, rows_of
from verification.codec import MAX_MESSAGE
from verification.operators import OPERATORS, definition_of
from verification.program import Port
from verification.sizes import AROUND, footprint_of
from verification.statements import MAX_ENTRIES
from verification.units import Count

SMALL = 24
DTYPES = st.sampled_from(sorted(numbers.FORMATS))
RANDOMS = st.randoms(use_true_random=False)
FAST = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
@FAST
@given(random=RANDOMS)
def test_a_kernel_makes_what_the_definition_says(operator: str, random: Random) -> None:
    case = arithmetic.drawn(operator, random, SMALL)
    arithmetic.compare(case, arithmetic.by_kernel(case))


@pytest.mark.parametrize("terms", [4096, 4097, 20_000])
@pytest.mark.parametrize("operator", arithmetic.REDUCING)
def test_a_kernel_makes_what_the_definition_says_over_long_axes(operator: str, terms: int) -> None:
    """From 4,097 numbers on each has fewer bits in a sum."""
    case = arithmetic.deep(operator, Random(terms), terms)
    arithmetic.compare(case, arithmetic.by_kernel(case))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(random=RANDOMS)
def test_every_backend_of_products_makes_what_the_definition_says(random: Random) -> None:
    case = arithmetic.drawn("product", random, SMALL)
    (bits,) = dict(case.node.attributes)["bits"]
    left, left_exponents, right, right_exponents = case.inputs
    for name in arithmetic.PRODUCTS.serving(bits, left.shape[-1]):
        made = exact.product(left, left_exponents, right, right_exponents, bits, name)
        arithmetic.compare(case, made)


@FAST
@given(random=RANDOMS)
def test_the_totals_of_any_ranges_combine_to_the_whole(random: Random) -> None:
    """What narrows a dispute: no cut of an axis changes a total, and a term that ends the step ends its range's."""
    operator = random.choice(arithmetic.OVER_AN_AXIS)
    case = arithmetic.drawn(operator, random, SMALL)
    site, read = case.site, case.read
    if not math.prod(site.result.shape):
        return
    index = random.randrange(math.prod(site.result.shape))
    definition = definition_of(operator, site)
    try:
        totals = totals_of(definition, site, index, read)
    except EndsStep:
        return
    for place, total in enumerate(definition.totals):
        count = total.count(site)
        cuts = sorted({0, count, *(random.randint(0, count) for _ in range(3))})
        before = totals[:place]
        parts = [
            range_total(total, site, index, read, before, low, high) for low, high in itertools.pairwise(cuts)
        ]
        random.shuffle(parts)
        assert total.combine.of(parts, total.start) == totals[place]
        assert -(1 << 63) <= totals[place] < 1 << 63


@FAST
@given(random=RANDOMS)
def test_a_number_is_made_of_at_most_one_number_of_each_input_at_a_time(random: Random) -> None:
    """So its footprint is a few blocks, whatever the node's size: of each input one, and one for each term."""
    operator = random.choice(sorted(OPERATORS))
    case = arithmetic.drawn(operator, random, SMALL)
    site, read = case.site, case.read
    definition = definition_of(operator, site)
    most = definition.reads or len(site.inputs)
    seen: list[int] = []

    def watched(place: int, index: int) -> numbers.Number:
        assert 0 <= index < math.prod(site.inputs[place].shape)
        seen.append(place)
        return read(place, index)

    for index in range(math.prod(site.result.shape)):
        try:
            totals = totals_of(definition, site, index, read)
            for place, total in enumerate(definition.totals):
                for k in range(total.count(site)):
                    seen.clear()
                    total.term(site, index, k, watched, totals[:place])
                    assert 0 < len(seen) == len(set(seen)) <= most
            seen.clear()
            definition.value(site, index, watched, totals)
        except EndsStep:
            continue
        assert len(seen) == len(set(seen)) <= most


@FAST
@given(random=RANDOMS)
def test_the_sign_of_a_zero_is_no_part_of_a_number(random: Random) -> None:
    """A digest writes -0 as +0, so no operator may tell them apart."""
    case = arithmetic.drawn(random.choice(sorted(OPERATORS)), random, SMALL)
    turned = arithmetic.Case(
        case.node,
        tuple(
            torch.where(value == 0.0, -value, value) if value.dtype is torch.float32 else value
            for value in case.inputs
        ),
    )
    assert list(arithmetic.defined(case)) == list(arithmetic.defined(turned))


class Shown:
    """Reads the numbers of some blocks only, each kept as the bytes that a dispute would show."""

    def __init__(self, case: arithmetic.Case, blocks: Iterable[Block]) -> None:
        self._site = case.site
        self._data: dict[Block, bytes] = {}
        for block in blocks:
            value = case.inputs[block.input]
            rows = value.reshape(rows_of(tuple(value.shape)), -1)
            part = rows[block.row][block.block * BLOCK : (block.block + 1) * BLOCK]
            self._data[block] = from_torch(part).data

    def __call__(self, place: int, index: int) -> numbers.Number:
        spec = self._site.inputs[place]
        row, block, rest = block_of(spec.shape, index)
        return numbers.read_number(spec.dtype, self._data[Block(place, row, block)], rest)


@FAST
@given(random=RANDOMS, size=st.sampled_from([SMALL, 5000]))
def test_a_number_is_made_from_the_blocks_of_its_footprint_alone(random: Random, size: int) -> None:
    operator = random.choice(sorted(OPERATORS))
    case = arithmetic.drawn(operator, random, size)
    site, read = case.site, case.read
    if not math.prod(site.result.shape):
        return
    definition, index = definition_of(operator, site), random.randrange(math.prod(site.result.shape))
    totals: Totals = ()
    for total in definition.totals:
        count = total.count(site)
        low = random.randint(0, max(0, count - MAX_ENTRIES))
        terms: dict[Block, None] = {}
        wanted = (site, index, noting(site, read, terms), totals, low, min(count, low + MAX_ENTRIES))
        part = range_total(total, *wanted)
        shown = Shown(case, terms)
        assert range_total(total, *wanted[:2], shown, *wanted[3:]) == part
        whole = range_total(total, site, index, read, totals, 0, count)
        if whole is None:
            return
        totals = (*totals, whole)
    blocks: dict[Block, None] = {}
    found = value_of(definition, site, index, noting(site, read, blocks), totals)
    assert value_of(definition, site, index, Shown(case, blocks), totals) == found
    assert len(blocks) <= len(site.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(random=RANDOMS)
def test_any_bits_and_any_totals_have_a_result_or_end_the_step(operator: str, random: Random) -> None:
    """Liars may agree on integers beyond their bits and on totals that are none: the law has an answer to all."""
    site = arithmetic.drawn(operator, random, SMALL).site
    if not math.prod(site.result.shape):
        return
    definition, index = definition_of(operator, site), random.randrange(math.prod(site.result.shape))

    def read(place: int, index: int) -> numbers.Number:
        dtype = site.inputs[place].dtype
        return numbers.of_bits(dtype, random.getrandbits(8 * numbers.FORMATS[dtype].size))

    totals: Totals = ()
    for total in definition.totals:
        part = range_total(total, site, index, read, totals, 0, min(total.count(site), 9))
        assert part is None or -(1 << 63) <= part < 1 << 63
        totals = (
            *totals,
            random.choice([-(1 << 63), -149, 0, 129, 1025, (1 << 63) - 1, random.randint(-150, 130)]),
        )
    bits = value_of(definition, site, index, read, totals)
    assert bits is None or 0 <= bits < 1 << 8 * numbers.FORMATS[site.result.dtype].size


def value_of(definition: Definition, site: Site, index: int, read: Read, totals: Totals) -> int | None:
    """The bits of a number, None where it ends the step."""
    try:
        return numbers.bits_of(site.result.dtype, finish(definition, site, index, read, totals))
    except EndsStep:
        return None


def test_no_footprint_has_more_than_a_mebibyte() -> None:
    """Of the longest axes and the widest rows that a program may have."""
    longest = (Count(1 << 20), Count(1 << 20))
    dtypes = {"mean": ("float32",), "row_exponent": ("float32",), "scatter_sum": ("int64", "float32")}
    dtypes["product"] = ("int16",) * 4
    sizes = {}
    for name, operator in OPERATORS.items():
        inputs = [
            Port("", dtype, longest) for dtype in dtypes.get(name, ("int64",) * (operator.arity or 1000))
        ]
        sizes[name] = footprint_of(name, inputs, path=40).size
    assert max(sizes, key=lambda name: sizes[name]) == "scatter_sum"
    assert 64 * (1024 * 8 + 30 * 32 + 1024 * 4 + 30 * 32) < sizes["scatter_sum"] <= MAX_MESSAGE - AROUND
    assert 2 * 64 * (1024 * 2 + 30 * 32) < sizes["product"] < 420_000
    assert sizes["concatenate"] < sizes["add"] < 22_000


def nearest_single(exact_value: Fraction) -> float:
    """The float32 nearest to a fraction, half to even, by comparing neighbours."""
    largest = Fraction(2) ** 128 - Fraction(2) ** 103  # halfway from the greatest float32 to the next power
    if abs(exact_value) >= largest:
        return math.copysign(math.inf, exact_value)
    near = torch.tensor(float(exact_value), dtype=torch.float32)
    around = [near, *(torch.nextafter(near, torch.tensor(way)) for way in (math.inf, -math.inf))]

    def distance(value: torch.Tensor) -> tuple[Fraction, int]:
        return abs(Fraction(value.item()) - exact_value), int(value.view(torch.int32)) & 1

    return min((value for value in around if math.isfinite(value.item())), key=distance).item()


HALVES = st.builds(
    lambda odd, places, near: ((2 * odd + 1) << places) + near,
    st.integers(-(2**24), 2**24),
    st.integers(1, 38),
    st.integers(-1, 1),
)


@FAST
@given(st.one_of(HALVES, st.integers(-(2**63), 2**63 - 1)), st.integers(-330, 130))
def test_an_integer_is_rounded_to_float32_once(integer: int, shift: int) -> None:
    assert numbers.single_of(integer, shift) == nearest_single(Fraction(integer) * Fraction(2) ** shift)


@FAST
@given(DTYPES, st.integers(-(2**70), 2**70))
def test_integers_wrap_around(dtype: str, integer: int) -> None:
    if dtype in ("float32", "bool"):
        return
    low, high = numbers.limits(dtype)
    wrapped = numbers.wrapped(dtype, integer)
    assert low <= wrapped <= high
    assert (wrapped - integer) % (high - low + 1) == 0
    assert numbers.of_bits(dtype, numbers.bits_of(dtype, wrapped)) == wrapped


@FAST
@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_floats_keep_their_order_and_their_bits(pair: list[float]) -> None:
    first, second = pair
    orders = [numbers.order_of("float32", number) for number in pair]
    if not any(map(math.isnan, pair)):
        assert (orders[0] < orders[1], orders[0] == orders[1]) == (first < second, first == second)
    for number, order in zip(pair, orders, strict=True):
        bits = numbers.bits_of("float32", number)
        assert numbers.bits_of("float32", numbers.at_order("float32", order)) == bits
        assert numbers.bits_of("float32", numbers.of_bits("float32", bits)) == bits
        if not math.isnan(number) and number:
            assert struct.pack("<I", bits) == struct.pack("<f", number)
