"""Nodes that run a band of rows at a time, against the whole: the same numbers, told the same, failing at one node."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.programs.interpreter import LoadedProgram, Tap
from trainer.programs.options import RunOptions
from trainer.programs.tracing.builder import Builder
from trainer.shards.bands import bands_of
from trainer.shards.frugal import FrugalEngine
from trainer.shards.stretches import stretches_of
from verification.errors import Refused
from verification.library import StepFailed
from verification.program import Program, encode_program, first_node, peak_bytes, program_digest
from verification.units import Count

Run = Callable[[list[torch.Tensor], Tap | None], list[torch.Tensor]]
ROWS, WIDTH = 37, 512


def update() -> Program:
    """An update of a table: state, gradient, a rate for each row, a divisor for each column, one of three weights."""
    b = Builder()
    table, speed = (b.port(name, "float32", (ROWS, WIDTH)) for name in ("table", "speed"))
    gradient = b.port("gradient", "int32", (ROWS, WIDTH))
    rates, divisors = b.port("rates", "float32", (ROWS, 1)), b.port("divisors", "float32", (WIDTH,))
    rate = b.view(b.slice(b.port("weights", "float32", (3,)), 0, 1, 2), ())
    delta = b.divide(b.multiply(b.cast(gradient, "float32"), rates), divisors)
    moved = b.add(b.multiply(speed, rate), delta)
    kept = b.emit("where", b.emit("less", moved, b.scalar(1e30)), moved, b.expand(rates, (ROWS, WIDTH)))
    new = b.subtract(table, b.multiply(kept, rate))
    return b.finish("inner", [("table", new), ("speed", moved)])


def inputs(seed: int) -> list[torch.Tensor]:
    """What it reads."""
    draw = torch.Generator().manual_seed(seed)
    table, speed = (torch.randn(ROWS, WIDTH, generator=draw) for _ in range(2))
    gradient = torch.randint(-9, 9, (ROWS, WIDTH), generator=draw, dtype=torch.int32)
    return [table, speed, gradient, torch.rand(ROWS, 1, generator=draw), torch.ones(WIDTH), torch.rand(3)]


@dataclass
class Told:
    """What a run gives: outputs, or the failure; and what a tap hears."""

    made: list[torch.Tensor]
    heard: list[tuple[int, torch.Tensor]]
    failure: str


def told(run: Run, given: list[torch.Tensor]) -> list[Told]:
    """What a run gives without and with a tap."""
    return [_told(run, given, is_heard) for is_heard in (False, True)]


def _told(run: Run, given: list[torch.Tensor], is_heard: bool) -> Told:
    found = Told([], [], "")

    def hear(number: int, value: torch.Tensor) -> None:
        found.heard.append((number, value.clone()))

    try:
        found.made = run(given, hear if is_heard else None)
    except StepFailed as failure:
        found.failure = str(failure)
    return found


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether tensors have the same bits."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which nothing is left."""
    made = tmp_path_factory.mktemp("bands")
    yield made
    assert list(made.iterdir()) == []


def engine_of(program: Program, memory: int, folder: Path) -> FrugalEngine:
    """An engine of little memory."""
    text = encode_program(program)
    return FrugalEngine({program_digest(text): text}, RunOptions(memory=Count(memory), scratch=str(folder)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    share=st.floats(0.04, 0.2),
    seed=st.integers(0, 99),
    zero=st.none() | st.integers(0, WIDTH - 1),
    large=st.none() | st.tuples(st.integers(0, ROWS - 1), st.integers(0, WIDTH - 1)),
)
def test_bands_make_and_tell_what_the_whole_does(
    folder: Path, share: float, seed: int, zero: int | None, large: tuple[int, int] | None
) -> None:
    """Failures are drawn as well: a divisor of zero, and a number that makes an output infinite in one row."""
    program, given = update(), inputs(seed)
    if zero is not None:
        given[4][zero] = 0.0
    if large is not None:
        given[0][large] = torch.inf
    memory = int(share * peak_bytes(program))
    assert any(each.bands is not None for each in stretches_of(program, memory))
    engine = engine_of(program, memory, folder)
    digest = program_digest(encode_program(program))
    whole = LoadedProgram(program)
    ours = told(lambda each, tap: engine.run(digest, [each], tap), given)
    for own, right in zip(ours, told(whole.run, given), strict=True):
        assert own.failure == right.failure
        assert bool(right.failure) == (zero is not None or large is not None)
        assert same(own.made, right.made)
        assert [number for number, _ in own.heard] == [number for number, _ in right.heard]
        assert same([value for _, value in own.heard], [value for _, value in right.heard])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(share=st.floats(0.04, 0.5))
def test_bands_cover_all_rows_in_order_and_fit(share: float) -> None:
    program = update()
    memory, first = int(share * peak_bytes(program)), first_node(program)
    stretches = stretches_of(program, memory)
    own = [number for each in stretches for number in each.nodes if number >= each.first]
    assert own == list(range(first, first + len(program.nodes)))
    assert all(each.need <= memory for each in stretches)
    banded = [each.bands for each in stretches if each.bands is not None]
    assert banded or share > 0.1
    for bands in banded:
        assert sum(bands.heights) == bands.rows == ROWS
        assert 0 <= max(bands.heights) - min(bands.heights) <= 1
        spans = list(bands.spans())
        assert [begin for _, begin, _ in spans] == [0, *(end for _, _, end in spans[:-1])]
        assert spans[-1][2] == ROWS


def test_more_memory_never_means_more_bands() -> None:
    program, counts = update(), []
    for share in (0.04, 0.06, 0.1, 0.15):
        stretches = stretches_of(program, int(share * peak_bytes(program)))
        counts.append(max(len(each.bands.heights) for each in stretches if each.bands is not None))
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] > 1


def test_what_numbers_of_other_places_make_does_not_run_in_bands() -> None:
    b = Builder()
    table = b.port("table", "float32", (ROWS, WIDTH))
    program = b.finish("inner", [("sums", b.emit("sum", table, dims=(0,), keepdim=0))])
    assert bands_of(program, first_node(program), peak_bytes(program)) is None
    with pytest.raises(Refused, match="node 1 of the inner program alone needs"):
        stretches_of(program, 1000)
