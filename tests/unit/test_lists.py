"""Chunk lists in pages: their size, their files, and lists that lie."""

import dataclasses
import itertools
import os

import pytest

from p2p import lists
from p2p.blobs import BlobStore, blob_digest
from p2p.lists import (
    MAX_BLOB_BYTES,
    MAX_LIST_BYTES,
    MAX_PAGES,
    PAGE_CHUNKS,
    ListWriter,
    check_page,
    chunk_span,
    chunks_of,
    info_digest,
    page_span,
    read_info,
    read_page,
    root_of,
    top_of,
)
from p2p.messages import BlobInfo, BlobPage, BlobQuery
from p2p.partial import Partial, known_page
from p2p.questions import LIST
from verification.codec import decode, encode
from verification.content import CHUNK_BYTES, chunk_digest, chunks_root
from verification.digest import tagged
from verification.errors import BadEvidence
from verification.merkle import root

TIB = 1 << 40
SMALL_PAGE = 4
SIZES = [*range(1, 14), 16, 17]
"""Chunks of blobs of up to five pages of four."""


@pytest.fixture
def small(monkeypatch):
    """Pages of four chunks, so that a small blob has several."""
    monkeypatch.setattr(lists, "PAGE_CHUNKS", SMALL_PAGE)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


def content(chunks):
    """Return a blob whose chunks all differ; the last has three bytes."""
    return b"".join(bytes([number]) * CHUNK_BYTES for number in range(chunks - 1)) + b"end"


def leaves(data):
    return [chunk_digest(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]


def pages_of(store, blob):
    return [store.page(blob, number) for number in range(len(store.page(blob, 0).info.tops))]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("chunks", SIZES)
def test_pages_name_all_chunks_under_the_digest_that_a_blob_always_had(store, chunks):
    data = content(chunks)
    blob, pages = store.put(data), pages_of(store, blob_digest(data))
    assert len(pages) == -(-chunks // SMALL_PAGE)
    assert list(itertools.chain.from_iterable(page.chunks for page in pages)) == leaves(data)
    assert list(
        itertools.chain.from_iterable(page_span(pages[0].info, n) for n in range(len(pages)))
    ) == list(range(chunks))
    assert root_of(pages[0].info) == chunks_root(data) == root("blob", leaves(data))
    assert info_digest(pages[0].info) == blob == blob_digest(data)


@pytest.mark.usefixtures("small")
def test_every_chunk_is_read_by_the_page_that_names_it(store):
    data = content(10)
    blob = store.put(data)
    pages = pages_of(store, blob)
    assert b"".join(store.chunk(blob, pages[index // SMALL_PAGE], index) for index in range(10)) == data


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "lie", ["page", "order", "short", "long", "top", "tops", "more tops", "size", "beyond"]
)
def test_a_page_that_lies_is_refused_before_any_chunk(store, lie):
    blob = store.put(content(10))
    page, other = store.page(blob, 1), store.page(blob, 0)
    assert check_page(blob, 1, page) == page
    info, chunks, tops = page.info, page.chunks, page.info.tops
    number, wrong = {
        "page": (1, other),
        "order": (1, BlobPage(info, (chunks[1], chunks[0], *chunks[2:]))),
        "short": (1, BlobPage(info, chunks[:3])),
        "long": (1, BlobPage(info, (*chunks, chunks[0]))),
        "top": (1, BlobPage(dataclasses.replace(info, tops=(tops[0], tagged("x"), tops[2])), chunks)),
        "tops": (1, BlobPage(dataclasses.replace(info, tops=tops[:2]), chunks)),
        "more tops": (1, BlobPage(dataclasses.replace(info, tops=(*tops, tops[0])), chunks)),
        "size": (1, BlobPage(dataclasses.replace(info, size=info.size - 1), chunks)),
        "beyond": (3, page),
    }[lie]
    with pytest.raises(BadEvidence):
        check_page(blob, number, wrong)


def test_a_blob_of_many_terabytes_is_checked_by_answers_of_the_limit(monkeypatch):
    """The largest blob there is, by its digests alone; the bytes of an answer are counted as they are sent."""
    assert MAX_BLOB_BYTES == 16 * TIB
    page = tuple(map(tagged, itertools.repeat("same", PAGE_CHUNKS)))
    for size in (TIB, MAX_BLOB_BYTES):
        pages = chunks_of(size) // PAGE_CHUNKS
        info = BlobInfo(size, (top_of(page),) * pages)
        blob, answer = info_digest(info), encode(BlobPage(info, page))
        assert len(answer) <= MAX_LIST_BYTES == LIST.reply_limit < 1 << 20
        assert check_page(blob, pages - 1, decode(BlobPage, answer, LIST.reply_limit)).info == info
        assert chunk_span(info, chunks_of(size) - 1) == (size - CHUNK_BYTES, CHUNK_BYTES)
        assert len(encode(BlobQuery(blob, pages - 1))) <= LIST.request_limit
    with pytest.raises(ValueError, match="over the limit"):
        info_digest(BlobInfo(MAX_BLOB_BYTES + 1, (*info.tops, tagged("x"))))
    assert len(info.tops) == MAX_PAGES


def test_no_bytes_are_one_empty_chunk(tmp_path):
    with (tmp_path / "list").open("wb") as file:
        info = ListWriter(file).finish()
    assert info_digest(info) == blob_digest(b"")
    assert read_page(tmp_path / "list", blob_digest(b""), 0) == BlobPage(info, (chunk_digest(b""),))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("cut", [0, 7, 8, 40, -1])
def test_a_list_that_was_cut_off_is_made_again(store, cut):
    blob = store.put(content(10))
    path, pages = store.folder / "lists" / blob.hex(), pages_of(store, blob)
    path.write_bytes(path.read_bytes()[:cut])
    assert read_info(path, blob) is None
    assert pages_of(store, blob) == pages
    assert os.listdir(store.folder / "lists") == [blob.hex()]


@pytest.mark.usefixtures("small")
def test_a_damaged_page_is_made_again_and_the_others_are_read_as_they_are(store):
    blob = store.put(content(10))
    path, pages = store.folder / "lists" / blob.hex(), pages_of(store, blob)
    data = bytearray(path.read_bytes())
    data[8 + 32 * 5] ^= 1  # of the second page
    path.write_bytes(data)
    assert [read_page(path, blob, number) for number in range(3)] == [pages[0], None, pages[2]]
    assert store.page(blob, 1) == pages[1]
    with pytest.raises(IndexError):
        store.page(blob, 3)


@pytest.mark.usefixtures("small")
def test_a_download_is_taken_up_page_by_page(store, tmp_path):
    data = content(10)
    source = BlobStore(tmp_path / "source")
    blob = source.put(data)
    pages = pages_of(source, blob)
    with Partial(store, blob, pages[0].info) as partial:
        partial.keep(2, pages[2])
        partial.write(pages[2], 9, data[9 * CHUNK_BYTES :])
        with pytest.raises(BadEvidence):
            partial.write(pages[2], 8, data[:CHUNK_BYTES])
    assert [known_page(store, blob, number) for number in range(3)] == [None, None, pages[2]]
    with Partial(store, blob, pages[0].info) as partial:
        assert partial.missing(2, pages[2]) == [8]
        for number, page in enumerate(pages):
            partial.keep(number, page)
            for index in partial.missing(number, page):
                partial.write(page, index, source.chunk(blob, page, index))
        partial.finish()
    assert store.get(blob) == data
    assert pages_of(store, blob) == pages
