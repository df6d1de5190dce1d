"""What a round's contribution holds, built from operators: how far the parameters went, as integers of a grid.

A contribution has one tensor for each parameter. A packed one is uint8 bytes; all that these can be stands for integers
of the grid, zeros for zeros, so no contribution fails to unpack. (SPEC.md 2.7)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.packing import joined, pack, packed_size, padded, unpack
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import Spec

LARGEST_PACKED = (1 << 15) - 1
"""The largest integer of the finer grid of packed contributions: 2**33 squares of it fit an int64."""
NORM_BITS = 16
"""A packed contribution's norm is in units of 2**NORM_BITS: those of the grid of 8 bits."""
SCALE_BITS = 16
NUMBERED = 1024


@dataclass(frozen=True)
class Working:
    """A working bundle: float32 parameters and optimiser's state, 0-d float32 loss, int64 step, float32 learning rates
    of the round's steps, tokens of any integer dtype, and of a model that drops the int64 0-d seed."""

    parameters: list[Value]
    state: list[Value]
    loss_sum: Value
    step: Value
    rates: Value
    tokens: Value
    seed: Value | None = None


class Compression(Protocol):
    """How a contribution holds a parameter's integers, which go from -`largest` to `largest`."""

    @property
    def largest(self) -> int:
        """The largest integer."""

    @property
    def norm_bits(self) -> int:
        """The norm counts in units of 2**norm_bits."""

    def port(self, shape: tuple[int, ...]) -> Spec:
        """Return dtype and shape of the tensor that holds the integers of a parameter of a shape."""

    def pack(self, b: Builder, integers: Value) -> tuple[Value, Value]:
        """Return that tensor of float32 integers, and int64 like these: the integers that it stands for."""

    def unpack(self, b: Builder, packed: Value, shape: tuple[int, ...]) -> Value:
        """Return the int64 integers that such a tensor stands for."""


@dataclass(frozen=True)
class Whole:
    """Every integer of a grid of 8 bits, as int8."""

    largest: ClassVar[int] = 127
    norm_bits: ClassVar[int] = 0

    def port(self, shape: tuple[int, ...]) -> Spec:
        """int8 like the parameter."""
        return Spec("int8", shape)

    def pack(self, b: Builder, integers: Value) -> tuple[Value, Value]:
        """A cast."""
        return b.cast(integers, "int8"), b.cast(integers, INDEX)

    def unpack(self, b: Builder, packed: Value, shape: tuple[int, ...]) -> Value:
        """A cast."""
        return b.cast(packed, INDEX)


STEPS_PER_MEAN = {2: 1.25, 4: 0.5, 8: 0.0625}
"""A code's step in mean magnitudes of its chunk, by bits: about what errs least on pseudo-gradients of AdamW, which lie
closer together than normal numbers, with room above."""


@dataclass(frozen=True)
class Dense:
    """Every integer as a code of 8, 4 or 2 bits times its chunk's scale.

    A chunk's scale is its mean magnitude times `STEPS_PER_MEAN`, rounded half to even, at least 1: 16 bits. A code is
    the integer over the scale, rounded likewise and clipped to +-(2**(bits - 1) - 1), in two's complement. The tensor
    holds the scales, then the codes.
    """

    bits: int
    chunk: int
    largest: ClassVar[int] = LARGEST_PACKED
    norm_bits: ClassVar[int] = NORM_BITS

    def port(self, shape: tuple[int, ...]) -> Spec:
        """Its bytes."""
        size, count, _ = _cut(shape, self.chunk)
        return Spec("uint8", (packed_size(count, SCALE_BITS) + packed_size(size, self.bits),))

    def pack(self, b: Builder, integers: Value) -> tuple[Value, Value]:
        """Return bytes of float32 integers, and int64 what these stand for."""
        size, count, chunk = _cut(integers.shape, self.chunk)
        flat = padded(b, b.view(integers, (size,)), count * chunk)
        rows, limit = b.view(flat, (count, chunk)), float((1 << self.bits - 1) - 1)
        sums = b.emit("sum", b.emit("absolute", rows), dims=(1,), keepdim=1)
        mean = b.divide(sums, _lengths(b, size, count, chunk))
        step = b.emit("round", b.multiply(mean, b.scalar(STEPS_PER_MEAN[self.bits])))
        scale = b.emit("maximum", step, b.scalar(1.0))
        code = b.emit("round", b.divide(rows, scale))
        code = b.emit("minimum", b.emit("maximum", code, b.scalar(-limit)), b.scalar(limit))
        code = b.slice(b.view(code, (count * chunk,)), 0, 0, size)
        below = b.cast(b.emit("less", code, b.scalar(0.0)), FLOAT)
        unsigned = b.add(code, b.multiply(below, b.scalar(2.0**self.bits)))
        packed = joined(b, [pack(b, b.view(scale, (count,)), SCALE_BITS), pack(b, unsigned, self.bits)])
        return packed, self.unpack(b, packed, integers.shape)

    def unpack(self, b: Builder, packed: Value, shape: tuple[int, ...]) -> Value:
        """Return code times scale, within the grid."""
        size, count, chunk = _cut(shape, self.chunk)
        scales, rest = _with_scales(b, packed, count)
        unsigned = unpack(b, rest, size, self.bits)
        high = b.emit("less_equal", b.scalar(2.0 ** (self.bits - 1)), unsigned)
        code = b.subtract(unsigned, b.multiply(b.cast(high, FLOAT), b.scalar(2.0**self.bits)))
        rows = b.view(padded(b, code, count * chunk), (count, chunk))
        return on_grid(b, b.multiply(rows, scales), shape)


VALUE_BITS = 2


@dataclass(frozen=True)
class TopK:
    """Of every chunk a share `density`, the integers of largest magnitude, as one or two of the chunk's scales.

    Among equal magnitudes the first counts. A chunk's scale is the mean magnitude of what is kept, rounded half to
    even: 16 bits. An entry is 4 * the integer's place in its chunk + a code: 0 and 1 stand for one and two scales, 3
    and 2 for minus these; two from one and a half on. The tensor holds the scales, then the entries, the largest first.
    Entries at one place add up.
    """

    density: float
    chunk: int
    largest: ClassVar[int] = LARGEST_PACKED
    norm_bits: ClassVar[int] = NORM_BITS

    def port(self, shape: tuple[int, ...]) -> Spec:
        """Its bytes."""
        _, count, chunk = _cut(shape, self.chunk)
        entries = packed_size(count * self.kept_of(chunk), _entry_bits(chunk))
        return Spec("uint8", (packed_size(count, SCALE_BITS) + entries,))

    def kept_of(self, chunk: int) -> int:
        """Return how many integers of a chunk are kept."""
        return max(1, round(self.density * chunk))

    def pack(self, b: Builder, integers: Value) -> tuple[Value, Value]:
        """Return bytes of float32 integers, and int64 what these stand for."""
        size, count, chunk = _cut(integers.shape, self.chunk)
        kept = self.kept_of(chunk)
        flat = padded(b, b.view(integers, (size,)), count * chunk)
        index = _largest(b, b.view(flat, (count, chunk)), kept)
        value = b.emit("gather", flat, _in_parameter(b, index, chunk))
        size_of = b.emit("absolute", value)
        scale = b.emit("round", b.emit("mean", size_of, dims=(1,), keepdim=1))
        two = b.cast(b.emit("less_equal", b.multiply(scale, b.scalar(1.5)), size_of), FLOAT)
        below = b.emit("less", value, b.scalar(0.0))
        code = b.emit("where", below, b.subtract(b.scalar(3.0), two), two)
        entry = b.view(b.add(b.multiply(index, b.scalar(4.0)), code), (count * kept,))
        scales = pack(b, b.view(scale, (count,)), SCALE_BITS)
        packed = joined(b, [scales, pack(b, entry, _entry_bits(chunk))])
        return packed, self.unpack(b, packed, integers.shape)

    def unpack(self, b: Builder, packed: Value, shape: tuple[int, ...]) -> Value:
        """Return the sums of entries at their places, within the grid."""
        _, count, chunk = _cut(shape, self.chunk)
        kept = self.kept_of(chunk)
        scales, rest = _with_scales(b, packed, count)
        entry = b.view(unpack(b, rest, count * kept, _entry_bits(chunk)), (count, kept))
        index = b.emit("floor", b.multiply(entry, b.scalar(0.25)))
        code = b.subtract(entry, b.multiply(index, b.scalar(4.0)))
        below = b.emit("less_equal", b.scalar(2.0), code)
        times = b.emit("where", below, b.subtract(code, b.scalar(4.0)), b.add(code, b.scalar(1.0)))
        place = b.view(_in_parameter(b, index, chunk), (count * kept,))
        value = b.view(b.multiply(times, scales), (count * kept,))
        return on_grid(b, b.emit("scatter_sum", place, value, rows=count * chunk), shape)


def compress(
    b: Builder, start: Sequence[Value], working: Working, grids: Sequence[int], way: Compression
) -> tuple[list[Value], Value, Value]:
    """Return (a tensor per parameter, int64 0-d norm, float32 0-d mean loss).

    An integer is (start - end) * 2**grid, with a grid for each parameter, rounded half to even and clipped to
    +-`way.largest`. The norm is the sum of the squares of the integers that the tensors stand for, in units of
    2**`way.norm_bits`, rounded down from a float32.
    """
    packed, norm = [], b.scalar(0, INDEX)
    largest = float(way.largest)
    for before, after, grid in zip(start, working.parameters, grids, strict=True):
        scale = b.scalar(math.ldexp(1.0, grid))
        rounded = b.emit("round", b.multiply(b.subtract(before, after), scale))
        clipped = b.emit("minimum", b.emit("maximum", rounded, b.scalar(-largest)), b.scalar(largest))
        tensor, wide = way.pack(b, clipped)
        packed.append(tensor)
        norm = b.add(norm, b.total(b.multiply(wide, wide)))
    if way.norm_bits:
        unit = b.scalar(math.ldexp(1.0, -way.norm_bits))
        norm = b.cast(b.emit("floor", b.multiply(b.cast(norm, FLOAT), unit)), INDEX)
    steps = b.emit("maximum", working.step, b.scalar(1, INDEX))
    return packed, norm, b.divide(working.loss_sum, b.cast(steps, FLOAT))


def _cut(shape: tuple[int, ...], chunk: int) -> tuple[int, int, int]:
    """Return how many integers a parameter has, in how many chunks of how many, the last one filled up with zeros.

    A parameter of fewer integers than a chunk is one chunk of the next power of two.
    """
    size = math.prod(shape)
    length = min(chunk, 1 << max(0, size - 1).bit_length())
    return size, -(-size // length), length


def _lengths(b: Builder, size: int, count: int, chunk: int) -> Value:
    """Return how many integers each chunk has, float32 [count, 1] or 0-d."""
    last = size - (count - 1) * chunk
    if last == chunk or count == 1:
        return b.scalar(float(last))
    whole = b.expand(b.scalar(float(chunk)), (count - 1, 1))
    return b.emit("concatenate", whole, b.view(b.scalar(float(last)), (1, 1)), dim=0)


def _entry_bits(chunk: int) -> int:
    return chunk.bit_length() - 1 + VALUE_BITS


def _largest(b: Builder, rows: Value, kept: int) -> Value:
    """Return the places of the numbers of largest magnitude in each row, in order, float32 [rows, kept]."""
    count, width = rows.shape
    rank = b.emit("rank", b.emit("absolute", rows))
    first = b.multiply(b.view(_numbers(b, count), (count, 1)), b.scalar(kept, INDEX))
    is_kept = b.emit("less", rank, b.scalar(kept, INDEX))
    # One place for each that is kept, and a last one for all others.
    place = b.emit("where", is_kept, b.add(rank, first), b.scalar(count * kept, INDEX))
    index = b.expand(b.cast(_numbers(b, width), FLOAT), (count, width))
    found = b.emit("scatter_sum", place, index, rows=count * kept + 1)
    return b.view(b.slice(found, 0, 0, count * kept), (count, kept))


def _in_parameter(b: Builder, index: Value, chunk: int) -> Value:
    """Return int64 places in a parameter of float32 places in its chunks, [chunks, n]."""
    count = index.shape[0]
    first = b.multiply(b.view(_numbers(b, count), (count, 1)), b.scalar(chunk, INDEX))
    return b.add(b.cast(index, INDEX), first)


def _numbers(b: Builder, count: int) -> Value:
    """Return int64 0 .. count - 1, made of at most twice 1,024 constants."""
    if count <= NUMBERED:
        return b.constant(torch.arange(count))
    high = b.multiply(_numbers(b, -(-count // NUMBERED)), b.scalar(NUMBERED, INDEX))
    rows = b.add(b.view(high, (*high.shape, 1)), _numbers(b, NUMBERED))
    return b.slice(b.view(rows, (math.prod(rows.shape),)), 0, 0, count)


def _with_scales(b: Builder, packed: Value, count: int) -> tuple[Value, Value]:
    """Return the scales of chunks, float32 [count, 1], and the bytes after them."""
    end = packed_size(count, SCALE_BITS)
    scales = unpack(b, b.slice(packed, 0, 0, end), count, SCALE_BITS)
    return b.view(scales, (count, 1)), b.slice(packed, 0, end, packed.shape[0])


def on_grid(b: Builder, numbers: Value, shape: tuple[int, ...]) -> Value:
    """Return the first of float32 integers in C order, within the grid, int64 of a shape."""
    flat = b.view(numbers, (math.prod(numbers.shape),))
    kept = b.view(b.slice(flat, 0, 0, math.prod(shape)), shape)
    limit = b.scalar(float(LARGEST_PACKED)), b.scalar(-float(LARGEST_PACKED))
    return b.cast(b.emit("maximum", b.emit("minimum", kept, limit[0]), limit[1]), INDEX)
