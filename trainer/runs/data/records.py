"""Records in a file: rows of token ids, read where they lie."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from verification.tensors import ITEM_BYTES, Tensor, tensor_digest
from verification.units import Count, Digest

PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Records:
    """`count` rows of `width` little-endian numbers of a dtype, after `skipped` others in a file."""

    path: Path
    dtype: str
    count: int
    width: int
    skipped: int = 0

    @property
    def shape(self) -> tuple[Count, Count]:
        """The tensor's."""
        return Count(self.count), Count(self.width)

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes, some whole rows at a time."""
        row = self.width * ITEM_BYTES[self.dtype]
        rows = max(1, PART_BYTES // row)
        with self.path.open("rb") as file:
            file.seek(self.skipped * row)
            for low in range(0, self.count, rows):
                yield file.read(min(rows, self.count - low) * row)

    def root(self) -> Digest:
        """Return the digest of the tensor that the records are: the run's data root."""
        return tensor_digest(self.tensor())

    def tensor(self) -> Tensor:
        """Return the records, mapped from the file."""
        row = self.width * ITEM_BYTES[self.dtype]
        begin, end = self.skipped * row, (self.skipped + self.count) * row
        with self.path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ))
        return Tensor(self.dtype, self.shape, cast(bytes, mapped[begin:]))

    def split_end(self, count: int) -> "tuple[Records, Records]":
        """Return all but the last `count` records, and those."""
        kept = self.count - count
        return replace(self, count=kept), replace(self, count=count, skipped=self.skipped + kept)

    def copy_to(self, path: Path) -> None:
        """Write the records into a file of their own."""
        with path.open("wb") as file:
            for part in self.parts():
                file.write(part)


def write_rows(path: Path, rows: npt.NDArray[np.uint8]) -> Records:
    """Write rows of bytes and return them as records."""
    rows.tofile(path)
    return Records(path, "uint8", *rows.shape)
