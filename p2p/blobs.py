"""Content-addressed files of one peer, shared by its processes.

A blob is cut into chunks of 256 KiB. Its digest is a hash of its size and of the Merkle root over its chunks' digests,
so a list of chunk digests is checked against the blob's digest before any of them is trusted, page by page
(`p2p/lists.py`), and each chunk against the list as it comes. The folder holds the blobs as plain bytes named by the
hex digits of their digest, in `lists/` their chunk lists, in `partial/` unfinished files, and in `quarantine/` files
found damaged. Files appear by rename, complete and synchronised, so another process may map a blob at any time.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from p2p.lists import (
    MAX_BLOB_BYTES,
    ListWriter,
    check_info,
    chunk_span,
    info_digest,
    named,
    read_page,
)
from p2p.messages import BlobInfo, BlobPage
from verification.content import CHUNK_BYTES, address_of_bytes, chunk_digest
from verification.errors import NoRoom, Unavailable
from verification.units import Digest

log = logging.getLogger(__name__)
RESERVE = 1 << 29
"""Bytes that stay free on a store's disk, for ledger and journal, but at most a tenth of the disk: without them a peer
cannot answer in time."""


def blob_digest(data: bytes) -> Digest:
    """Return the digest of a whole blob; raises ValueError for more than `MAX_BLOB_BYTES`."""
    if len(data) > MAX_BLOB_BYTES:
        raise ValueError(f"a blob of {len(data)} bytes is over the limit of {MAX_BLOB_BYTES}")
    return address_of_bytes(data)


class BlobStore:
    """Blobs in one folder. Several processes of one peer may use it at once.

    Nothing is added where less than `reserve` bytes, or a tenth of the disk if that is less, would stay free; two
    processes that add at the same moment may overshoot it by one blob each.
    """

    def __init__(self, folder: Path, reserve: int = RESERVE) -> None:
        self.folder = folder
        self._reserve = reserve
        for path in (folder, folder / "lists", folder / "partial", folder / "quarantine"):
            path.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> Digest:
        """Store a blob and return its digest; raises NoRoom."""
        view = memoryview(data)
        return self.put_stream(view[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES))

    def put_file(self, path: Path) -> Digest:
        """Store a copy of a file, read once, and return its digest; raises NoRoom and OSError."""
        with path.open("rb") as file:
            return self.put_stream(iter(lambda: file.read(CHUNK_BYTES), b""))

    def put_stream(self, pieces: Iterable[bytes | memoryview]) -> Digest:
        """Store the concatenation of `pieces`, hashed as written; raises NoRoom and ValueError (too long)."""
        handle, name = tempfile.mkstemp(dir=self.folder / "partial", prefix="put-")
        draft, listed = Path(name), self._list_of(Path(name))
        try:
            with os.fdopen(handle, "wb") as file, listed.open("wb") as listing:
                info = _write_hashed(file, listing, self._fitting(pieces))
                sync(file)
                sync(listing)
            return self._adopt(draft, info)
        finally:
            draft.unlink(missing_ok=True)
            listed.unlink(missing_ok=True)

    @property
    def scratch(self) -> Path:
        """Where files lie for a while that are no blobs; what a crash leaves there is pruned."""
        return self.folder / "partial"

    def has(self, blob: Digest) -> bool:
        """Return whether the blob is here; its bytes are not read."""
        return self._file(blob).exists()

    def path(self, blob: Digest) -> Path:
        """Return the blob's file, whose bytes were right when they were stored; raises Unavailable."""
        path = self._file(blob)
        if not path.exists():
            raise Unavailable(f"blob {blob.hex()} is not in the store")
        return path

    def get(self, blob: Digest) -> bytes:
        """Return the blob's bytes, checked; damage is quarantined. Raises Unavailable."""
        data = _read(self.path(blob), blob)
        if len(data) > MAX_BLOB_BYTES or blob_digest(data) != blob:
            self.quarantine(blob)
            raise Unavailable(f"blob {blob.hex()} was damaged on disk and is quarantined")
        return data

    def size(self, blob: Digest) -> int:
        """Return the bytes of a blob; raises Unavailable."""
        return self.path(blob).stat().st_size

    def page(self, blob: Digest, number: int) -> BlobPage:
        """Return a page of the blob's list, from its file or else by reading the blob.

        Raises Unavailable, and IndexError for a page beyond the end.
        """
        self.path(blob)
        found = read_page(self._list(blob), blob, number)
        if found is None:
            self.check(blob)
            found = read_page(self._list(blob), blob, number)
        if found is None:
            raise Unavailable(f"the chunk list of blob {blob.hex()} cannot be kept on the disk")
        return found

    def check(self, blob: Digest) -> BlobInfo:
        """Return what the blob is made of by reading all of it, and write its list anew, in the memory of a page.

        Damage quarantines the blob. Raises Unavailable.
        """
        handle, name = tempfile.mkstemp(dir=self.folder / "lists", prefix="write-")
        draft = Path(name)
        try:
            with os.fdopen(handle, "wb") as listing, self.opened(blob) as file:
                writer = ListWriter(listing)
                for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                    writer.add(chunk)
                info = writer.finish()
                sync(listing)
            if info.size > MAX_BLOB_BYTES or info_digest(info) != blob:
                self.quarantine(blob)
                raise Unavailable(f"blob {blob.hex()} was damaged on disk and is quarantined")
            draft.rename(self._list(blob))
            sync_folder(self.folder / "lists")
            return info
        finally:
            draft.unlink(missing_ok=True)

    def chunk(self, blob: Digest, page: BlobPage, index: int) -> bytes:
        """Return a chunk that a page names, checked; damage quarantines the blob. Raises Unavailable and IndexError."""
        offset, length = chunk_span(page.info, index)
        with self.opened(blob) as file:
            data = os.pread(file.fileno(), length, offset)
        if chunk_digest(data) != named(page, index):
            self.quarantine(blob)
            raise Unavailable(f"blob {blob.hex()} was damaged on disk and is quarantined")
        return data

    def quarantine(self, blob: Digest) -> None:
        """Move a blob out of the way, for a person to look at."""
        log.error("blob %s is damaged on disk; moved to quarantine", blob.hex(), extra={"blob": blob.hex()})
        with contextlib.suppress(FileNotFoundError):  # the other process was faster
            self._file(blob).rename(self.folder / "quarantine" / blob.hex())

    def blobs(self) -> tuple[Digest, ...]:
        """Return the digests of all blobs here, sorted."""
        return tuple(sorted(Digest(bytes.fromhex(entry.name)) for entry in self._entries()))

    def require_room(self, size: int) -> None:
        """Raise NoRoom where so many bytes more would leave too little free on the disk."""
        require_room(self.folder, size, self._reserve)

    def _fitting(self, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Yield the same pieces; raises NoRoom before one that does not fit."""
        for piece in pieces:
            self.require_room(len(piece))
            yield piece

    def prune(self, keep: Collection[Digest], age: float) -> int:
        """Delete blobs not in `keep` that were stored more than `age` seconds ago; return the bytes freed.

        Unfinished and damaged ones go with them, but for a download that is going on. `age` protects what another
        process has just stored and not yet asked to keep. A process that has mapped a deleted blob may go on reading.
        """
        kept, freed = {blob.hex() for blob in keep}, 0
        before = time.time() - age
        for entry in [*self._entries(), *self._others()]:
            path = Path(entry.path)
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if entry.name[:64] not in kept and found.st_mtime < before and _delete(path):
                    freed += found.st_size
                    self._list_of(path).unlink(missing_ok=True)
        return freed

    def adopt(self, path: Path, blob: Digest, info: BlobInfo) -> Path:
        """Take over a synchronised file of `partial/`, and its list's, whose chunks were checked against `info`."""
        self._adopt(path, check_info(blob, info))
        return self._file(blob)

    def _adopt(self, draft: Path, info: BlobInfo) -> Digest:
        blob = info_digest(info)
        self._list_of(draft).rename(self._list(blob))
        sync_folder(self.folder / "lists")
        draft.chmod(0o444)  # others map it: nobody may change it in place
        draft.rename(self._file(blob))
        sync_folder(self.folder)
        return blob

    def _file(self, blob: Digest) -> Path:
        return self.folder / blob.hex()

    def _list(self, blob: Digest) -> Path:
        return self.folder / "lists" / blob.hex()

    @contextlib.contextmanager
    def opened(self, blob: Digest) -> Iterator[BinaryIO]:
        """Give the blob's file to read, whose bytes were right when they were stored; raises Unavailable."""
        try:
            file = self._file(blob).open("rb")
        except FileNotFoundError as error:
            raise Unavailable(f"blob {blob.hex()} is not in the store") from error
        with file:
            yield file

    def _entries(self) -> Iterator["os.DirEntry[str]"]:
        with os.scandir(self.folder) as entries:
            yield from (entry for entry in entries if len(entry.name) == 64 and entry.is_file())

    def _list_of(self, path: Path) -> Path:
        """Return where the chunk list of a file is, if it has one of its own."""
        return self.folder / "lists" / path.name if path.parent == self.folder else path.with_suffix(".list")

    def _others(self) -> Iterator["os.DirEntry[str]"]:
        """Yield the files of unfinished and damaged blobs."""
        for name in ("partial", "quarantine"):
            with os.scandir(self.folder / name) as entries:
                yield from (entry for entry in entries if not entry.name.endswith(".list"))


def require_room(folder: Path, size: int, reserve: int = RESERVE) -> None:
    """Raise NoRoom where so many bytes more would leave less than `reserve`, or a tenth, of a folder's disk free."""
    disk = shutil.disk_usage(folder)
    kept = min(reserve, disk.total // 10)
    if disk.free - size < kept:
        raise NoRoom(
            f"{folder}: {disk.free / 1e6:,.1f} MB are free on its disk, where {kept / 1e6:,.1f} are kept for "
            f"ledger and journal and {size / 1e6:,.1f} are needed: free space there"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears complete, with its bytes on the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix="write-")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            sync(file)
        draft.rename(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Bring a file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_hashed(file: BinaryIO, listing: BinaryIO, pieces: Iterable[bytes | memoryview]) -> BlobInfo:
    """Write `pieces`, and the list of their chunks, and return what was written; keeps a chunk and a page in memory."""
    writer, held = ListWriter(listing), bytearray()
    for piece in _chunked(pieces):
        file.write(piece)
        held += piece
        while len(held) >= CHUNK_BYTES:
            writer.add(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
    if held:
        writer.add(held)
    return writer.finish()


def _chunked(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        yield from (view[begin : begin + CHUNK_BYTES] for begin in range(0, len(view), CHUNK_BYTES))


def _delete(path: Path) -> bool:
    """Delete a file, and return True, unless a download holds it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
        return True


def _read(path: Path, blob: Digest) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(f"blob {blob.hex()} is not in the store") from error
