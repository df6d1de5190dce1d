"""Files by name and pattern, and their bytes, whether they are compressed or not."""

import bz2
import glob
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from verification.errors import UserError

BLOCK_BYTES = 1 << 20
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""What decompressors raise for bytes that are not theirs, besides OSError."""


def named(patterns: str | Sequence[str], base: Path, key: str) -> tuple[Path, ...]:
    """Return the files that names and patterns (`*`, `?`, `[a-z]`, `**`) give, relative ones from `base`.

    Names stay in their order, what a pattern gives is sorted, none comes twice. Raises UserError for none.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        whole = base / pattern
        matches = [whole] if whole.exists() else [Path(p) for p in glob.glob(str(whole), recursive=True)]
        files = sorted(path for path in matches if path.is_file())
        if not files:
            raise UserError(f"data.{key}: {whole}: no such file; correct the name or the pattern")
        found.update(dict.fromkeys(files))
    if not found:
        raise UserError(f"data.{key}: names no file")
    return tuple(found)


@contextmanager
def opened(path: Path, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file's bytes at an offset; .gz, .bz2, .xz and .zst are decompressed.

    Raises UserError where it cannot be read, also while it is read in the block.
    """
    try:
        with _stream(path) as file:
            _skip(file, offset)
            yield cast(BinaryIO, file)
    except (OSError, *_DAMAGED) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason}; correct the path or the file") from error


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file."""
    return iter(lambda: file.read(BLOCK_BYTES), b"")


def _stream(path: Path) -> IO[bytes]:
    match path.suffix:
        case ".gz":
            return cast(IO[bytes], gzip.open(path))
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            from trainer.runs.data.columns import arrow

            pa = arrow(str(path))
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), BLOCK_BYTES)
    return path.open("rb", BLOCK_BYTES)


def _skip(file: IO[bytes], offset: int) -> None:
    if offset and file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (block := file.read(min(offset, BLOCK_BYTES))):
        offset -= len(block)
