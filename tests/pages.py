"""The only page of a small blob's chunk list, made by the tests themselves."""

from p2p.lists import top_of
from p2p.messages import BlobInfo, BlobPage
from verification.content import CHUNK_BYTES, chunk_digest
from verification.units import Count


def first_page(data: bytes) -> BlobPage:
    """Return what some bytes, at most a page of chunks, are made of."""
    chunks = tuple(chunk_digest(data[at : at + CHUNK_BYTES]) for at in range(0, len(data) or 1, CHUNK_BYTES))
    return BlobPage(BlobInfo(Count(len(data)), (top_of(chunks),)), chunks)
