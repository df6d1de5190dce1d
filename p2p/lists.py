"""What blobs are made of: their chunks' digests in pages, checked page by page, and the files that hold them.

The chunks' digests are the leaves of a Merkle tree (SPEC.md 2.3). A page is `PAGE_CHUNKS` of them, over which one inner
node stands, its top. So the tops are checked against a blob's digest before any page is here, and each page against
its top; nobody holds more of a list than a page. A list's file has the blob's size in 8 bytes, the chunks' digests and
the tops, and which of its pages are there is found by hashing them.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from p2p.messages import BlobInfo, BlobPage
from verification.content import CHUNK_BYTES, chunk_digest, content_address
from verification.digest import integer
from verification.errors import BadEvidence
from verification.merkle import crown, fold, subtree
from verification.units import Count, Digest

log = logging.getLogger(__name__)
PAGE_CHUNKS = 1 << 13
"""Chunks of a full page, a power of two: 2 GiB, whose digests take 272 KiB."""
MAX_PAGES = 1 << 13
MAX_BLOB_BYTES = CHUNK_BYTES * PAGE_CHUNKS * MAX_PAGES
"""Bytes of the largest blob: 16 TiB."""
MAX_LIST_BYTES = 34 * (PAGE_CHUNKS + MAX_PAGES) + 64
"""Bytes of the longest answer about a list: a digest takes 34, and what is around them less than 64."""
_HEAD = 8
_ITEM = 32


def page_of(index: int) -> int:
    """Return the number of the page that names chunk `index`."""
    return index // PAGE_CHUNKS


def chunks_of(size: int) -> int:
    """Return how many chunks a blob of `size` bytes has; no bytes are one empty chunk."""
    return max(1, -(-size // CHUNK_BYTES))


def page_span(info: BlobInfo, number: int) -> range:
    """Return the indices of the chunks that a page names; raises IndexError."""
    if not 0 <= number < len(info.tops):
        raise IndexError(number)
    return range(number * PAGE_CHUNKS, min(chunks_of(info.size), (number + 1) * PAGE_CHUNKS))


def chunk_span(info: BlobInfo, index: int) -> tuple[int, int]:
    """Return offset and length in bytes of a chunk; raises IndexError."""
    if not 0 <= index < chunks_of(info.size):
        raise IndexError(index)
    return index * CHUNK_BYTES, min(CHUNK_BYTES, info.size - index * CHUNK_BYTES)


def named(page: BlobPage, index: int) -> Digest:
    """Return the digest of chunk `index` of the blob by the page of its list that names it."""
    return page.chunks[index % PAGE_CHUNKS]


def top_of(chunks: Sequence[Digest]) -> Digest:
    """Return the top of a page."""
    return subtree("blob", chunks)


def root_of(info: BlobInfo) -> Digest:
    """Return the root over a blob's chunks."""
    return crown("blob", chunks_of(info.size), fold("blob", info.tops))


def info_digest(info: BlobInfo) -> Digest:
    """Return the digest of the blob whose size and tops `info` states; raises ValueError if they do not fit."""
    if info.size > MAX_BLOB_BYTES:
        raise ValueError(f"a blob of {info.size} bytes is over the limit of {MAX_BLOB_BYTES}")
    if len(info.tops) != page_of(chunks_of(info.size) - 1) + 1:
        raise ValueError(f"{len(info.tops)} pages do not make {info.size} bytes")
    return content_address(info.size, root_of(info))


def check_info(blob: Digest, info: BlobInfo) -> BlobInfo:
    """Return `info` if it is that of `blob`; raises BadEvidence."""
    try:
        found = info_digest(info)
    except ValueError as error:
        raise BadEvidence(f"chunk list of {blob.hex()}: {error}") from error
    if found != blob:
        raise BadEvidence(f"chunk list does not hash to {blob.hex()}")
    return info


def check_page(blob: Digest, number: int, page: BlobPage) -> BlobPage:
    """Return `page` if it is page `number` of the list of `blob`; raises BadEvidence."""
    info = check_info(blob, page.info)
    if number >= len(info.tops) or len(page.chunks) != len(page_span(info, number)):
        raise BadEvidence(
            f"{len(page.chunks)} chunks are not page {number} of the chunk list of {blob.hex()}"
        )
    if top_of(page.chunks) != info.tops[number]:
        raise BadEvidence(f"page {number} of the chunk list of {blob.hex()} does not hash to its top")
    return page


class ListWriter:
    """Writes the file of a list as a blob's chunks come one after another, and holds one page of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, 0
        self._page: list[Digest] = []
        self._tops: list[Digest] = []
        file.write(bytes(_HEAD))

    def add(self, chunk: bytes | bytearray) -> None:
        """Take the next chunk, a full one unless it is the last."""
        self._size += len(chunk)
        self._page.append(chunk_digest(chunk))
        if len(self._page) == PAGE_CHUNKS:
            self._turn()

    def finish(self) -> BlobInfo:
        """Complete the file and return what was written."""
        if not self._size:
            self._page = [chunk_digest(b"")]
        if self._page:
            self._turn()
        self._file.write(b"".join(self._tops))
        self._file.seek(0)
        self._file.write(integer(self._size))
        return BlobInfo(Count(self._size), tuple(self._tops))

    def _turn(self) -> None:
        self._file.write(b"".join(self._page))
        self._tops.append(top_of(self._page))
        self._page = []


def lay_out(path: Path, info: BlobInfo) -> None:
    """Make the file of a list without its pages; they are added by `write_page`."""
    with path.open("wb") as file:
        file.write(integer(info.size))
        file.seek(_HEAD + _ITEM * chunks_of(info.size))
        file.write(b"".join(info.tops))


def write_page(path: Path, number: int, page: BlobPage) -> None:
    """Add a page to the file of a list."""
    with path.open("r+b") as file:
        file.seek(_HEAD + _ITEM * page_span(page.info, number).start)
        file.write(b"".join(page.chunks))


def read_info(path: Path, blob: Digest) -> BlobInfo | None:
    """Return size and tops from the file of a list if it is there and belongs to `blob`."""
    try:
        with path.open("rb") as file:
            return check_info(blob, _read_info(file))
    except FileNotFoundError:
        return None
    except BadEvidence:
        log.warning("chunk list %s is damaged and ignored", path.name)
        return None


def read_page(path: Path, blob: Digest, number: int) -> BlobPage | None:
    """Return a page from the file of a list if the file belongs to `blob` and has it; raises IndexError."""
    info = read_info(path, blob)
    if info is None:
        return None
    span = page_span(info, number)
    with path.open("rb") as file:
        data = os.pread(file.fileno(), _ITEM * len(span), _HEAD + _ITEM * span.start)
    try:
        return check_page(blob, number, BlobPage(info, _digests(data)))
    except BadEvidence:
        return None


def _read_info(file: BinaryIO) -> BlobInfo:
    """Raise BadEvidence for a file that is not as long as its first bytes say."""
    size = int.from_bytes(file.read(_HEAD), "big")
    chunks = chunks_of(size)
    tops, length = page_of(chunks - 1) + 1, file.seek(0, os.SEEK_END)
    if length != _HEAD + _ITEM * (chunks + tops):
        raise BadEvidence(f"a list of {length} bytes is none of {size} bytes")
    file.seek(-_ITEM * tops, os.SEEK_END)
    return BlobInfo(Count(size), _digests(file.read()))


def _digests(data: bytes) -> tuple[Digest, ...]:
    return tuple(Digest(data[at : at + _ITEM]) for at in range(0, len(data), _ITEM))
