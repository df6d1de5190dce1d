"""Unfinished downloads: a sparse file and the pages of its chunk list, taken up again after a restart.

What of it was checked is read again for others, who need not wait until the blob is whole.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from p2p.blobs import BlobStore, sync
from p2p.errors import Underway
from p2p.lists import (
    check_info,
    chunk_span,
    lay_out,
    named,
    page_of,
    page_span,
    read_info,
    read_page,
    write_page,
)
from p2p.messages import BlobInfo, BlobPage
from verification.content import chunk_digest
from verification.errors import BadEvidence, Unavailable
from verification.units import Digest


def known_page(store: BlobStore, blob: Digest, number: int) -> BlobPage | None:
    """Return a page of the chunk list that an earlier download of `blob` left."""
    return read_page(_list_path(store, blob), blob, number)


class Partial:
    """One blob being downloaded. Which chunks are there is found by hashing them: a crash may have lost any of them."""

    def __init__(self, store: BlobStore, blob: Digest, info: BlobInfo) -> None:
        """Raises BadEvidence for a list of another blob, Underway while another process downloads the blob, NoRoom."""
        self.info = check_info(blob, info)
        self._store, self._blob = store, blob
        self._path = store.folder / "partial" / f"{blob.hex()}.data"
        self._checked = (-1, 0)
        """The page that is filled, and which of its chunks were checked: read while a thread sets it."""
        store.require_room(info.size - _written(self._path))
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._handle).st_nlink == 0 or not os.path.samestat(
                os.fstat(self._handle), self._path.stat()
            ):
                raise BlockingIOError  # the other process finished between our opening and our lock
            self._fresh = os.fstat(self._handle).st_size == 0
            os.ftruncate(self._handle, info.size)
            if read_info(_list_path(store, blob), blob) is None:
                lay_out(_list_path(store, blob), info)
        except BlockingIOError as error:
            os.close(self._handle)
            raise Underway(f"another process is downloading {blob.hex()}") from error
        except OSError:
            os.close(self._handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def keep(self, number: int, page: BlobPage) -> None:
        """Keep a page of the list, which was checked, for a later download and for the finished blob."""
        if known_page(self._store, self._blob, number) is None:
            write_page(_list_path(self._store, self._blob), number, page)

    def missing(self, number: int, page: BlobPage) -> list[int]:
        """Return the indices of a page's chunks that are not there yet, by reading the file if it is not new."""
        span = page_span(self.info, number)
        missing = [index for index in span if self._fresh or not self._holds(page, index)]
        held = (1 << len(span)) - 1 - sum(1 << index - span.start for index in missing)
        self._checked = (number, held)
        return missing

    def held(self, number: int) -> int:
        """Return which chunks of a page were checked, as a set of bits; pages are gone through one after the other.

        Raises Unavailable for a page whose turn has not come, IndexError for one beyond the end.
        """
        span = page_span(self.info, number)
        filled, held = self._checked
        if number > filled:
            raise Unavailable(f"page {number} of blob {self._blob.hex()} is not here yet")
        return held if number == filled else (1 << len(span)) - 1

    def chunk(self, page: BlobPage, index: int) -> bytes:
        """Return a chunk that a page names and that is here, checked again; raises Unavailable, IndexError."""
        number = page_of(index)
        if not self.held(number) >> index - page_span(self.info, number).start & 1:
            raise Unavailable(f"chunk {index} of blob {self._blob.hex()} is not here yet")
        data = self._read(index)
        if chunk_digest(data) != named(page, index):
            raise Unavailable(f"chunk {index} of blob {self._blob.hex()} was damaged on disk")
        return data

    def write(self, page: BlobPage, index: int, data: bytes) -> None:
        """Store a chunk; raises BadEvidence if it is not the one that the page of the list names."""
        offset, length = chunk_span(self.info, index)
        if len(data) != length or chunk_digest(data) != named(page, index):
            raise BadEvidence(f"chunk {index} does not match the list of blob {self._blob.hex()}")
        if os.pwrite(self._handle, data, offset) != length:
            raise OSError(f"{self._path}: short write")
        number, held = self._checked
        if page_of(index) == number:
            self._checked = (number, held | 1 << index - page_span(self.info, number).start)

    def finish(self) -> Path:
        """Turn the complete file into a blob of the store and return its path."""
        os.fsync(self._handle)
        with _list_path(self._store, self._blob).open("r+b") as listing:
            sync(listing)
        return self._store.adopt(self._path, self._blob, self.info)

    def discard(self) -> None:
        """Forget what has come."""
        self._path.unlink(missing_ok=True)
        _list_path(self._store, self._blob).unlink(missing_ok=True)

    def _holds(self, page: BlobPage, index: int) -> bool:
        return chunk_digest(self._read(index)) == named(page, index)

    def _read(self, index: int) -> bytes:
        offset, length = chunk_span(self.info, index)
        return os.pread(self._handle, length, offset)


def _written(path: Path) -> int:
    """Return the bytes of the disk that a sparse file takes."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def _list_path(store: BlobStore, blob: Digest) -> Path:
    return store.folder / "partial" / f"{blob.hex()}.list"
