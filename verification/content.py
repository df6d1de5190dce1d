"""Content addresses: bytes by a hash of their size and of the Merkle root over their chunks. (SPEC.md 2.3)

So a list of chunk digests is checked against an address before any chunk is here, and a size without any bytes.
"""

from verification.digest import integer, tagged
from verification.merkle import root
from verification.units import Digest

CHUNK_BYTES = 256 * 1024
"""Bytes of every chunk of a blob but the last."""


def chunk_digest(chunk: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of one chunk."""
    return tagged("blob/chunk", bytes(chunk))


def chunks_root(data: bytes) -> Digest:
    """Return the root over the chunks of some bytes; no bytes are one empty chunk."""
    view = memoryview(data)
    cuts = range(0, len(data), CHUNK_BYTES) or (0,)
    return root("blob", [chunk_digest(view[i : i + CHUNK_BYTES]) for i in cuts])


def content_address(size: int, chunks: Digest) -> Digest:
    """Return the address of `size` bytes with this root over their chunks."""
    return tagged("blob", integer(size), chunks)


def address_of_bytes(data: bytes) -> Digest:
    """Return the address of some bytes."""
    return content_address(len(data), chunks_root(data))
