"""A contribution's matrices as products of two thin ones: what a round moves lies near a few directions.

PowerSGD (Vogels, Karimireddy and Jaggi, 2019) carries what is left over from step to step and begins each search where
the last one ended. Here nothing is carried, so an audit needs a round's public inputs alone, and the search begins with
signed sums of the matrix's own rows, a randomized range finder (Halko, Martinsson and Tropp, 2011).
"""

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.compression import LARGEST_PACKED, NORM_BITS, Dense, on_grid
from trainer.programs.tracing.optimiser import orthogonalised
from trainer.programs.tracing.packing import joined, padded
from verification.arithmetic.numbers import FLOAT
from verification.arithmetic.places import Spec

FACTOR_BITS = 4
"""Of a factor's codes: twice the rank for half the bits keeps more."""
UNIT_BITS = 14
"""The left factor, whose columns have length 1, counts in units of 2**-UNIT_BITS."""
POLISHES = 3
"""Newton-Schulz rounds x (3 - x^2) / 2, which take singular values of 0.7 to 1.2 within a thousandth of 1."""


@dataclass(frozen=True)
class LowRank:
    """A parameter [m, n, ...] as integers about left @ right, [m, rank] and [rank, n ...], packed as `Dense` codes of
    4 bits with a scale for each of `rank`; together they have a share `density` of its numbers.

    left spans about the directions in which the columns are longest, and right is its transpose times the integers.
    Vectors, and matrices so small that no rank is left, are `Dense` codes of 4 bits in chunks.
    """

    density: float
    chunk: int
    largest: ClassVar[int] = LARGEST_PACKED
    norm_bits: ClassVar[int] = NORM_BITS

    def rank(self, shape: tuple[int, ...]) -> int:
        """Return the rank for a parameter, 0 for one that has none."""
        if len(shape) < 2:
            return 0
        rows, columns = _sides(shape)
        return math.floor(self.density * rows * columns / (rows + columns)) if rows * columns else 0

    def port(self, shape: tuple[int, ...]) -> Spec:
        """Its bytes."""
        if not (rank := self.rank(shape)):
            return self._plain.port(shape)
        return Spec("uint8", (sum(_size(rank, length) for length in _sides(shape)),))

    def pack(self, b: Builder, integers: Value) -> tuple[Value, Value]:
        """Return bytes of float32 integers, and int64 what these stand for."""
        shape = integers.shape
        if not (rank := self.rank(shape)):
            return self._plain.pack(b, integers)
        rows, columns = _sides(shape)
        matrix = b.view(integers, (rows, columns))
        left = _rounded(b, _range_of(b, matrix, rank), UNIT_BITS)
        tops, kept = _codes(rows).pack(b, b.permute(left, (1, 0)))
        right = b.matmul(_scaled(b, b.cast(kept, FLOAT), -UNIT_BITS), matrix)
        bottoms, _ = _codes(columns).pack(b, _rounded(b, right, -_growth(rows)))
        packed = joined(b, [tops, bottoms])
        return packed, self.unpack(b, packed, shape)

    def unpack(self, b: Builder, packed: Value, shape: tuple[int, ...]) -> Value:
        """Return left @ right, rounded half to even, within the grid."""
        if not (rank := self.rank(shape)):
            return self._plain.unpack(b, packed, shape)
        rows, columns = _sides(shape)
        end = _size(rank, rows)
        tops, bottoms = b.slice(packed, 0, 0, end), b.slice(packed, 0, end, packed.shape[0])
        left = b.cast(_codes(rows).unpack(b, tops, (rank, rows)), FLOAT)
        right = b.cast(_codes(columns).unpack(b, bottoms, (rank, columns)), FLOAT)
        product = b.matmul(b.permute(left, (1, 0)), right)
        return on_grid(b, b.emit("round", _scaled(b, product, _growth(rows) - UNIT_BITS)), shape)

    @property
    def _plain(self) -> Dense:
        return Dense(FACTOR_BITS, self.chunk)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a parameter as a matrix: later dimensions are one."""
    return shape[0], math.prod(shape[1:])


def _range_of(b: Builder, matrix: Value, rank: int) -> Value:
    """Return about the directions in which a matrix's columns are longest, [rows, rank] of orthonormal columns."""
    small = _scaled(b, matrix, -UNIT_BITS - 1)  # or squares of what comes below may be infinite
    return orthonormal(b, b.matmul(small, b.permute(_sketch(b, small, rank), (1, 0))))


def _sketch(b: Builder, matrix: Value, rank: int) -> Value:
    """Return sums of as many groups of rows as the rank says, each row with a sign, [rank, columns]."""
    rows, columns = matrix.shape
    group = -(-rows // rank)
    filled = padded(b, b.view(matrix, (rows * columns,)), rank * group * columns)
    signs = b.view(b.constant(_signs(group)), (1, group, 1))
    signed = b.multiply(b.view(filled, (rank, group, columns)), signs)
    return b.emit("sum", signed, dims=(1,), keepdim=0)


def orthonormal(b: Builder, matrix: Value) -> Value:
    """Return a tall matrix with about the same range and orthonormal columns."""
    x = b.permute(orthogonalised(b, matrix), (1, 0))
    for _ in range(POLISHES):
        gram = b.matmul(x, b.permute(x, (1, 0)))
        x = b.subtract(b.multiply(x, b.scalar(1.5)), b.multiply(b.matmul(gram, x), b.scalar(0.5)))
    return b.permute(x, (1, 0))


def _signs(count: int) -> torch.Tensor:
    """Return float32 [count] of 1 and -1, the same ones wherever they are made."""
    stream = hashlib.shake_256(b"low-rank").digest(-(-count // 8))
    bits = [stream[place // 8] >> place % 8 & 1 for place in range(count)]
    return 1.0 - 2.0 * torch.tensor(bits, dtype=torch.float32)


def _codes(length: int) -> Dense:
    """Return how rows of so many numbers are packed: a scale for each."""
    return Dense(FACTOR_BITS, length)


def _size(rank: int, length: int) -> int:
    """Return how many bytes hold so many such rows."""
    return _codes(length).port((rank, length)).shape[0]


def _growth(rows: int) -> int:
    """Return by how many bits the product of a column with one of length 1 may be longer than its numbers are."""
    return -(-(rows - 1).bit_length() // 2)


def _scaled(b: Builder, numbers: Value, bits: int) -> Value:
    return b.multiply(numbers, b.scalar(math.ldexp(1.0, bits)))


def _rounded(b: Builder, numbers: Value, bits: int) -> Value:
    """Return numbers times 2**bits as float32 integers that can be packed."""
    limit = float(LARGEST_PACKED)
    rounded = b.emit("round", _scaled(b, numbers, bits))
    return b.emit("minimum", b.emit("maximum", rounded, b.scalar(-limit)), b.scalar(limit))
