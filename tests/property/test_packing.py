"""Packed integers come out as they went in; compressed ones as a plain reference in numpy says, whatever the bytes."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.compression import (
    LARGEST_PACKED,
    STEPS_PER_MEAN,
    Compression,
    Dense,
    TopK,
    Whole,
)
from trainer.programs.tracing.low_rank import UNIT_BITS, LowRank, orthonormal
from trainer.programs.tracing.packing import MAX_BITS, pack, packed_size, unpack

Array = npt.NDArray[Any]
SHAPES = st.lists(st.integers(1, 9), max_size=3).map(tuple)
SEEDS = st.integers(0, 2**31)
CHUNKS = st.sampled_from([8, 16, 64])
DENSE = st.builds(Dense, st.sampled_from([2, 4, 8]), CHUNKS)
TOP_K = st.builds(TopK, st.sampled_from([1 / 64, 1 / 8, 0.3, 0.5]), CHUNKS)
LOW_RANK = st.builds(LowRank, st.sampled_from([1 / 8, 0.3, 0.5]), CHUNKS)
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def run(b: Builder, outputs: list[Value], *inputs: torch.Tensor) -> list[Array]:
    """What values of a program are on some inputs."""
    program = b.finish("test", [(str(place), value) for place, value in enumerate(outputs)])
    return [made.numpy() for made in LoadedProgram(program).run(list(inputs))]


def compressed(way: Compression, integers: Array) -> tuple[Array, Array]:
    """A packed tensor, and what it is said to stand for."""
    b = Builder()
    port = b.port("x", "float32", integers.shape)
    packed, held = run(b, list(way.pack(b, port)), torch.tensor(integers, dtype=torch.float32))
    return packed, held


def decompressed(way: Compression, packed: Array, shape: tuple[int, ...]) -> Array:
    """What a packed tensor stands for."""
    b = Builder()
    port = b.port("x", "uint8", packed.shape)
    (made,) = run(b, [way.unpack(b, port, shape)], torch.from_numpy(packed))
    return made


def drawn(shape: tuple[int, ...], seed: int) -> Array:
    """Integers of the grid: small ones, large ones, and rows of zeros."""
    random = np.random.default_rng(seed)
    spread = 10.0 ** random.uniform(-1, 4.2)
    integers = np.rint(random.standard_t(3, shape) * spread)
    integers *= random.random(shape) < random.choice([0.02, 0.6, 1.0])
    return np.asarray(np.clip(integers, -LARGEST_PACKED, LARGEST_PACKED)).reshape(shape)


def bits_to_bytes(numbers: Array, bits: int) -> Array:
    """The packing of docs and law, written bit by bit."""
    made, low = [], 0
    while low < bits:
        width = next(w for w in (8, 4, 2, 1) if w <= bits - low)
        digits = numbers >> low & (1 << width) - 1
        size = -(-len(numbers) * width // 8)
        filled = np.zeros(size * (8 // width), dtype=np.int64)
        filled[: len(digits)] = digits
        made.append(sum(filled[n * size : (n + 1) * size] << n * width for n in range(8 // width)))
        low += width
    return np.concatenate(made).astype(np.uint8)


def chunked(integers: Array, chunk: int) -> Array:
    """[chunks, chunk], the last one filled up with zeros; a small parameter's chunk is a smaller power of two."""
    flat = integers.reshape(-1).astype(np.float32)
    while chunk >= 2 * len(flat) and chunk > 1:
        chunk //= 2
    return np.pad(flat, (0, -len(flat) % chunk)).reshape(-1, chunk)


def dense(way: Dense, integers: Array) -> tuple[Array, Array]:
    """What `Dense` makes: bytes, and what they stand for."""
    rows, size = chunked(integers, way.chunk), integers.size
    lengths = np.clip(size - np.arange(len(rows)) * rows.shape[1], 0, rows.shape[1])[:, None]
    sums = np.abs(rows).astype(np.float64).sum(1, keepdims=True).astype(np.float32)
    mean = sums / lengths.astype(np.float32)
    scale = np.maximum(np.rint(mean * np.float32(STEPS_PER_MEAN[way.bits])), np.float32(1))
    limit = 2 ** (way.bits - 1) - 1
    code = np.clip(np.rint(rows / scale), -limit, limit)
    held = np.clip(code * scale, -LARGEST_PACKED, LARGEST_PACKED).reshape(-1)[:size]
    unsigned = code.reshape(-1)[:size].astype(np.int64) % 2**way.bits
    packed = [bits_to_bytes(scale.reshape(-1).astype(np.int64), 16), bits_to_bytes(unsigned, way.bits)]
    return np.concatenate(packed), held.reshape(integers.shape).astype(np.int64)


def top_k(way: TopK, integers: Array) -> tuple[Array, Array]:
    """What `TopK` makes: bytes, and what they stand for."""
    rows, size = chunked(integers, way.chunk), integers.size
    chunk = rows.shape[1]
    kept = max(1, round(way.density * chunk))
    index = np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :kept]
    value = np.take_along_axis(rows, index, 1)
    total = np.abs(value).astype(np.float64).sum(1, keepdims=True)
    scale = np.rint((total / kept).astype(np.float32))
    two = np.abs(value) >= scale * np.float32(1.5)
    held = np.zeros_like(rows)
    np.put_along_axis(held, index, np.where(value < 0, -scale, scale) * (1 + two), 1)
    held = np.clip(held, -LARGEST_PACKED, LARGEST_PACKED).reshape(-1)[:size]
    code = np.where(value < 0, 3 - two, two)
    entries = (4 * index + code).reshape(-1).astype(np.int64)
    bits = int(math.log2(chunk)) + 2
    packed = [bits_to_bytes(scale.reshape(-1).astype(np.int64), 16), bits_to_bytes(entries, bits)]
    return np.concatenate(packed), held.reshape(integers.shape).astype(np.int64)


@FEW
@given(count=st.integers(1, 70), bits=st.integers(1, MAX_BITS), seed=SEEDS)
def test_what_is_packed_comes_out_again(count: int, bits: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, count)
    b = Builder()
    packed = pack(b, b.port("x", "float32", (count,)), bits)
    data, back = run(b, [packed, unpack(b, packed, count, bits)], torch.from_numpy(numbers).float())
    assert np.array_equal(data, bits_to_bytes(numbers, bits))
    assert data.shape == (packed_size(count, bits),)
    assert np.array_equal(back, numbers)


@FEW
@given(way=DENSE, shape=SHAPES, seed=SEEDS)
def test_dense_codes_are_what_the_reference_makes(way: Dense, shape: tuple[int, ...], seed: int) -> None:
    integers = drawn(shape, seed)
    packed, held = compressed(way, integers)
    expected, meant = dense(way, integers)
    assert way.port(shape) == ("uint8", packed.shape)
    assert np.array_equal(packed, expected)
    assert np.array_equal(held, meant)
    assert np.array_equal(decompressed(way, packed, shape), held)


@FEW
@given(way=TOP_K, shape=SHAPES, seed=SEEDS)
def test_the_largest_are_what_the_reference_keeps(way: TopK, shape: tuple[int, ...], seed: int) -> None:
    """Of equal magnitudes the first, in chunks that are full and in one that is not."""
    integers = drawn(shape, seed)
    packed, held = compressed(way, integers)
    expected, meant = top_k(way, integers)
    assert way.port(shape) == ("uint8", packed.shape)
    assert np.array_equal(packed, expected)
    assert np.array_equal(held, meant)
    assert np.array_equal(decompressed(way, packed, shape), held)


@FEW
@given(way=LOW_RANK, shape=SHAPES, seed=SEEDS)
def test_two_factors_stand_for_their_product(way: LowRank, shape: tuple[int, ...], seed: int) -> None:
    """Each is dense codes of 4 bits, the left one in units of 2**-UNIT_BITS; without a rank all of it is such codes."""
    integers, rank = drawn(shape, seed), way.rank(shape)
    packed, held = compressed(way, integers)
    assert way.port(shape) == ("uint8", packed.shape)
    assert np.array_equal(decompressed(way, packed, shape), held)
    if not rank:
        assert np.array_equal(packed, dense(Dense(4, way.chunk), integers)[0])
        return
    rows, columns = shape[0], math.prod(shape[1:])
    cut = Dense(4, rows).port((rank, rows)).shape[0]
    left = decompressed(Dense(4, rows), packed[:cut], (rank, rows)).astype(np.float64)
    right = decompressed(Dense(4, columns), packed[cut:], (rank, columns)).astype(np.float64)
    unit = 2.0 ** (math.ceil(math.log2(rows) / 2) - UNIT_BITS)
    meant, bound = unit * left.T @ right, unit * np.abs(left).T @ np.abs(right)
    assert np.all(np.abs(held.reshape(rows, columns) - meant) <= 0.5 + bound.max() * 2.0**-11)


@pytest.mark.parametrize("shape", [(96, 200), (200, 96), (400, 12, 4), (1, 300)])
def test_a_low_rank_keeps_most_of_what_the_best_one_would(shape: tuple[int, ...]) -> None:
    """Beside the singular vectors' share of the squares, of a matrix whose singular values fall as 1/n."""
    way, random = LowRank(1 / 8, 64), np.random.default_rng(0)
    rows, columns = shape[0], math.prod(shape[1:])
    size, rank = min(rows, columns), way.rank(shape)
    ends = [np.linalg.qr(random.standard_normal((length, size)))[0] for length in (rows, columns)]
    values = 1 / np.arange(1, size + 1)
    matrix = np.rint(ends[0] * values @ ends[1].T * (20_000 / np.sqrt(values @ values / rows / columns) / 5))
    matrix = np.clip(matrix, -LARGEST_PACKED, LARGEST_PACKED)
    _, held = compressed(way, matrix.reshape(shape))
    kept = 1 - math.fsum(((held.reshape(rows, columns) - matrix) ** 2).flat) / math.fsum((matrix**2).flat)
    best = np.linalg.svd(matrix, compute_uv=False) ** 2
    assert kept > 0.93 * best[: max(1, rank)].sum() / best.sum()


def test_what_is_orthonormal_has_columns_of_length_one_however_alike_they_were() -> None:
    random = np.random.default_rng(0)
    alike = random.standard_normal((500, 1)) + 0.02 * random.standard_normal((500, 7))
    b = Builder()
    (made,) = run(b, [orthonormal(b, b.port("x", "float32", alike.shape))], torch.from_numpy(alike).float())
    assert np.abs(made.T @ made - np.eye(7)).max() < 4e-3


def test_entries_at_one_place_add_up_within_the_grid() -> None:
    """What no honest packing makes has a meaning too."""
    way = TopK(0.5, 8)
    scale, entries = np.array([20_000]), np.array([4 * 3, 4 * 3, 4 * 5 + 3, 4 * 5])
    packed = np.concatenate([bits_to_bytes(scale, 16), bits_to_bytes(entries, 5)])
    assert decompressed(way, packed, (8,)).tolist() == [0, 0, 0, LARGEST_PACKED, 0, 0, 0, 0]


def test_long_parameters_are_numbered_by_short_constants() -> None:
    way, integers = TopK(1 / 8, 8), drawn((8 * 2500 + 3,), 1)
    packed, held = compressed(way, integers)
    assert np.array_equal(packed, top_k(way, integers)[0])
    assert np.array_equal(held, top_k(way, integers)[1])


@FEW
@given(way=DENSE | TOP_K | LOW_RANK, shape=SHAPES, seed=SEEDS)
def test_any_bytes_stand_for_integers_of_the_grid(
    way: Compression, shape: tuple[int, ...], seed: int
) -> None:
    """Nothing that a liar sends fails to unpack, which would end everyone's outer step; zeros stand for zeros."""
    size = way.port(shape).shape
    made = decompressed(way, np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8), shape)
    assert made.shape == shape
    assert np.abs(made).max(initial=0) <= way.largest
    assert not decompressed(way, np.zeros(size, np.uint8), shape).any()


@FEW
@given(bits=st.sampled_from([2, 4]), seed=SEEDS)
def test_bits_that_are_left_over_say_nothing(bits: int, seed: int) -> None:
    way, integers = Dense(bits, 8), drawn((3, 7), seed)
    packed, held = compressed(way, integers)
    packed[-1] ^= 128  # of 21 codes the last byte holds one fewer than fit
    assert np.array_equal(decompressed(way, packed, (3, 7)), held)


def test_eight_bits_on_the_grid_stay_what_they_were() -> None:
    integers = np.arange(-127, 128).reshape(5, 51)
    packed, held = compressed(Whole(), integers)
    assert packed.dtype == np.int8
    assert np.array_equal(packed, integers)
    assert np.array_equal(held, integers)


def test_more_bits_err_less() -> None:
    """Normal numbers: what is lost of their squares is near what the best uniform codes of so many levels lose."""
    integers = np.rint(np.random.default_rng(0).standard_normal(1 << 16) * 2000)
    for bits, share in ((2, 0.22), (4, 0.015), (8, 0.0003)):
        _, held = compressed(Dense(bits, 1024), integers)
        assert math.fsum((held - integers) ** 2) < share * math.fsum(integers**2)
