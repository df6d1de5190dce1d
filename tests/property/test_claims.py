"""The game below a node: whatever number is wrong is found, and what is right cannot be made to look wrong."""

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import arithmetic
from trainer.programs.conversion import from_torch
from verification import merkle
from verification.arithmetic.definition import number_of
from verification.arithmetic.numbers import FORMATS, EndsStep, Number, bits_of, read_number
from verification.arithmetic.places import Site, Spec
from verification.causes import Cause
from verification.claims import (
    Bytes,
    Claim,
    Failure,
    Judged,
    Range,
    Result,
    Split,
    Sum,
    Value,
    awaited,
    claim_of,
    narrowed,
)  # fmt: skip
from verification.grid import Grid
from verification.honest.within import Held, Own, contested, own_list
from verification.manifest import Place
from verification.operators import OPERATORS
from verification.placed import ExecutionRef
from verification.statements import MAX_ENTRIES, Block
from verification.tensors import Tensor, tensor_digest
from verification.units import Address, Count, Digest, Round

EXECUTION = ExecutionRef(Round(0), Address(bytes(20)), Place.STEP, Count(1))
NODE = 7
FAILURE = Digest(b"f" * 32)


def tensor(dtype: str, shape: tuple[int, ...], numbers: list[Number]) -> Tensor:
    """Return a tensor of these numbers."""
    size = FORMATS[dtype].size
    data = b"".join(bits_of(dtype, number).to_bytes(size, "little") for number in numbers)
    return Tensor(dtype, tuple(map(Count, shape)), data)


def held(result: Result, inputs: list[Tensor]) -> Held:
    """Return a node that was computed by its definition."""

    def read(place: int, index: int) -> Number:
        return read_number(inputs[place].dtype, inputs[place].data, index)

    try:
        numbers = [number_of(result.definition, result.site, i, read) for i in range(result.grid.numbers)]
    except EndsStep:
        return Held(result, read, None)
    return Held(result, read, tensor(result.grid.dtype, result.grid.shape, numbers))


def digest_of(node: Held) -> Digest:
    """Return what its owner claims of it."""
    return FAILURE if node.made is None or node.fails() else tensor_digest(node.made)


class Duel:
    """A dispute about one node: `accused` and `challenger` hold it, each in its own way."""

    def __init__(self, accused: Held, challenger: Held) -> None:
        self.accused, self.challenger = accused, challenger
        self.lists = 0
        self.fault: Cause | None = None
        self.claim: Claim = claim_of(accused.result, digest_of(accused), FAILURE)

    def play(self) -> bool:
        """Return whether the accused is guilty."""
        result = self.accused.result
        while awaited(self.claim):
            assert isinstance(self.claim, Split)
            listed = own_list(self.claim, self.accused.split(self.claim), EXECUTION, NODE)
            self.lists += 1
            self.fault = self.claim.fault(result, listed)
            if self.fault is not None:
                return True
            index = contested(result, self.claim, listed, self.challenger.split(self.claim))
            self.claim = narrowed(self.claim, result, listed, index)
        assert isinstance(self.claim, Judged)
        return self.claim.right(result, self.challenger.read) != self.claim.claimed


OPERATORS_WITH_MANY = ("product", "sum", "mean", "amax", "row_exponent")


def many_terms(operator: str, rng: random.Random, count: int) -> tuple[Result, list[Tensor]]:
    """Return a node whose two numbers have `count` terms each."""
    if operator == "product":
        limit = 8191
        left = tensor("int16", (1, count), [rng.randint(-limit, limit) for _ in range(count)])
        right = tensor("int16", (count, 2), [rng.randint(-limit, limit) for _ in range(2 * count)])
        exponents = tensor("int16", (1, 1), [3]), tensor("int16", (1, 2), [-2, 4])
        inputs = [left, exponents[0], right, exponents[1]]
        attributes, result = {"bits": (14,)}, Spec("float32", (1, 2))
    else:
        inputs = [tensor("float32", (2, count), [rng.uniform(-4, 4) for _ in range(2 * count)])]
        attributes = {"dim": (1,)} if operator == "row_exponent" else {"dims": (1,), "keepdim": (0,)}
        result = Spec("int16", (2, 1)) if operator == "row_exponent" else Spec("float32", (2,))
    specs = tuple(Spec(value.dtype, tuple(map(int, value.shape))) for value in inputs)
    return Result(Site(attributes, specs, result), operator), inputs


def flipped(node: Held, index: int, bit: int) -> Held:
    """Return the node with one bit of one number turned; a bool becomes the other one."""
    assert node.made is not None
    size, data = FORMATS[node.made.dtype].size, bytearray(node.made.data)
    place = index % node.result.grid.numbers
    bit = 0 if node.made.dtype == "bool" else bit % (8 * size)
    data[place * size + bit // 8] ^= 1 << bit % 8
    return replace(node, made=Tensor(node.made.dtype, node.made.shape, bytes(data)))


def of_case(case: arithmetic.Case, is_output: bool) -> tuple[Result, list[Tensor]]:
    """Return a drawn node as the law sees it."""
    return Result(case.site, case.node.operator, is_output), [from_torch(value) for value in case.inputs]


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=40, deadline=None, derandomize=True)
@given(drawing=st.randoms(use_true_random=False), index=st.integers(0, 10_000), bit=st.integers(0, 63))
def test_a_wrong_number_is_found_and_a_right_one_is_not(
    operator: str, drawing: random.Random, index: int, bit: int
) -> None:
    case = arithmetic.drawn(operator, drawing, 80)
    right = held(*of_case(case, is_output=False))
    if not right.result.grid.numbers:
        return
    honest = Duel(right, right)
    guilty = honest.play()
    assert (honest.fault, guilty) == (None, False)
    if right.made is None:
        return
    wrong = flipped(right, index, bit)
    duel = Duel(wrong, right)
    if tensor_digest(wrong.made) == tensor_digest(right.made):  # the sign of a zero
        assert not duel.play()
        return
    assert duel.play()
    if duel.fault is None:
        assert duel.claim.index == index % right.result.grid.numbers


@pytest.mark.parametrize("operator", OPERATORS_WITH_MANY)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), count=st.integers(60, 5000), bit=st.integers(0, 31))
def test_a_number_of_many_terms_comes_down_to_64(operator: str, seed: int, count: int, bit: int) -> None:
    result, inputs = many_terms(operator, random.Random(seed), count)
    right = held(result, inputs)
    assert not Duel(right, right).play()
    for index in (0, 1):
        duel = Duel(flipped(right, index, bit), right)
        assert duel.play()


class Liar(Held):
    """Tells wrong totals that combine to a wrong number, and of ranges those that add up to what it told."""

    def __init__(self, node: Held, index: int) -> None:
        super().__init__(node.result, node.read, node.made)
        object.__setattr__(self, "index", index)

    def split(self, claim: Split) -> Own:
        """Shift the last total, or the last part of a range whose claim is not what its terms give."""
        own = super().split(claim)
        if isinstance(claim, Sum) and claim.index == self.index:
            return replace(own, totals=(*own.totals[:-1], own.totals[-1] + 1))
        if isinstance(claim, Range) and claim.right(self.result, self.read) != claim.claimed:
            return replace(own, totals=(*own.totals[:-1], own.totals[-1] + 1))
        return own


@pytest.mark.parametrize("operator", ["product", "sum", "mean"])
@pytest.mark.parametrize("count", [64, 65, 4096, 5000])
def test_totals_that_add_up_to_a_wrong_one_end_at_64_terms(operator: str, count: int) -> None:
    result, inputs = many_terms(operator, random.Random(count), count)
    right = held(result, inputs)
    wrong = Liar(flipped(right, 0, 22), 0)
    duel = Duel(wrong, right)
    assert duel.play()
    assert duel.fault is None
    assert isinstance(duel.claim, Range)
    assert 1 <= duel.claim.high - duel.claim.low <= MAX_ENTRIES


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(drawing=st.randoms(use_true_random=False), data=st.data())
def test_a_failure_is_where_it_is_said_to_be(
    operator: str, drawing: random.Random, data: st.DataObject
) -> None:
    """A true failure stands, an invented one does not, and who goes on after one is convicted."""
    right = held(*of_case(arithmetic.drawn(operator, drawing, 40), is_output=True))
    if not right.result.grid.numbers:
        return
    fails = right.fails()
    assert not Duel(right, right).play()
    numbers = [0] * right.result.grid.numbers
    zeros = tensor(right.result.grid.dtype, right.result.grid.shape, numbers)
    if fails is None:
        false = Failure(
            data.draw(st.integers(0, len(numbers) - 1)), *data.draw(
                st.sampled_from([(None, 0, 0), (None, None, None), (0x7F800000, None, None), (0, None, None)])
            )
        )  # fmt: skip
        assert Duel(Pretender(right, false), right).play()
    else:
        assert Duel(Held(right.result, right.read, zeros), right).play()


class Pretender(Held):
    """Says that its node fails somewhere, and nothing else."""

    def __init__(self, node: Held, false: Failure) -> None:
        super().__init__(node.result, node.read, None)
        object.__setattr__(self, "false", false)

    def fails(self) -> Failure | None:
        """Say so."""
        return self.false  # type: ignore[attr-defined]


def test_a_block_with_another_zero_or_nan_convicts() -> None:
    """A number that a digest sees otherwise than it is would be contested and be right."""
    site = Site({}, (Spec("float32", (2,)), Spec("float32", (2,))), Spec("float32", (2,)))
    result = Result(site, "add")
    right = held(result, [tensor("float32", (2,), [1.0, 2.0]), tensor("float32", (2,), [-1.0, 3.0])])
    for data in (struct.pack("<ff", -0.0, 5.0), struct.pack("<If", 0x7FC00001, 5.0)):
        top = merkle.leaf_of("block", data)
        claimed = result.grid.digest(result.grid.leaf_of_row(top))
        claim = claim_of(result, claimed, FAILURE)
        assert isinstance(claim, Bytes)
        listed = Block(Round(0), Place.STEP, Count(1), Count(NODE), Count(0), Count(0), data)
        assert claim.fault(result, listed) is Cause.BLOCK_FORM
    assert right.made is not None


@given(dtype=st.sampled_from(sorted(FORMATS)), shape=st.lists(st.integers(0, 5), max_size=3))
def test_zeros_have_their_digest_without_being_made(dtype: str, shape: list[int]) -> None:
    size = FORMATS[dtype].size
    for length in shape:
        size *= length
    assert Grid(dtype, tuple(shape)).of_zeros == tensor_digest(
        Tensor(dtype, tuple(map(Count, shape)), bytes(size))
    )


FAR = st.sampled_from(
    [0, 1, -1, 128, -148, 200, -200, 1 << 31, -(1 << 31), (1 << 62) + 1, (1 << 63) - 1, -(1 << 63)]
)


@pytest.mark.slow
@pytest.mark.parametrize("operator", arithmetic.OVER_AN_AXIS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawing=st.randoms(use_true_random=False), told=st.tuples(FAR, FAR))
def test_whatever_totals_an_accused_tells_the_law_comes_to_an_end(
    operator: str, drawing: random.Random, told: tuple[int, int]
) -> None:
    """Both sides may have agreed on totals that no numbers have: they give some number, or none."""
    node = held(*of_case(arithmetic.drawn(operator, drawing, 40), is_output=False))
    totals = node.result.definition.totals
    if not node.result.grid.numbers:
        return
    given_totals = told[: len(totals)]
    for claim in (
        Value(0, given_totals, 0),
        *(
            Range(0, given_totals[:t], 0, min(64, totals[t].count(node.result.site)), 0)
            for t in range(len(totals))
        ),
    ):
        right = claim.right(node.result, node.read)
        assert right is None or -(1 << 63) <= right < 1 << 63
