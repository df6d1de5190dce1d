"""Records in a file: rows of token ids, read and hashed a part at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from verification.tensors import ITEM_BYTES, Tensor, digest_of_parts
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
        return digest_of_parts(self.dtype, self.shape, self.parts())

    def tensor(self) -> Tensor:
        """Return the records in memory."""
        return Tensor(self.dtype, self.shape, b"".join(self.parts()))

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
