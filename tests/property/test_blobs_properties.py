import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import blobs, lists
from p2p.blobs import BlobStore, blob_digest
from p2p.lists import check_page, info_digest, page_span, top_of
from p2p.messages import BlobInfo, BlobPage
from verification.content import CHUNK_BYTES, chunk_digest, content_address
from verification.merkle import root
from verification.units import Count

data = st.tuples(st.binary(max_size=64), st.integers(0, 3), st.binary(max_size=64)).map(
    lambda parts: parts[0] + bytes(CHUNK_BYTES * parts[1]) + parts[2]
)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(data, st.integers(1, CHUNK_BYTES * 2))
def test_stored_however_cut_a_blob_has_one_digest_and_returns(content, step):
    step = max(step, len(content) >> 12)  # pieces of a byte of what has chunks would take seconds
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder))
        blob = store.put_stream(content[i : i + step] for i in range(0, len(content), step))
        assert blob == blob_digest(content) == info_digest(store.page(blob, 0).info)
        assert store.get(blob) == content
        page = store.page(blob, 0)
        assert b"".join(store.chunk(blob, page, index) for index in range(len(page.chunks))) == content


@settings(deadline=None, max_examples=50)
@given(data, data)
def test_different_bytes_have_different_digests(one, other):
    assert (blob_digest(one) == blob_digest(other)) == (one == other)


def test_trailing_zeros_count():
    assert len({blobs.blob_digest(bytes(size)) for size in range(5)}) == 5


@given(st.integers(0, 5), st.integers(1, 200), st.integers(0, CHUNK_BYTES - 1))
def test_pages_of_any_power_of_two_are_parts_of_one_tree(height, chunks, missing):
    leaves = [chunk_digest(number.to_bytes(2, "big")) for number in range(chunks)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "PAGE_CHUNKS", 1 << height)
        cut = [tuple(leaves[at : at + (1 << height)]) for at in range(0, chunks, 1 << height)]
        info = BlobInfo(Count(chunks * CHUNK_BYTES - missing), tuple(map(top_of, cut)))
        blob = info_digest(info)
        assert blob == content_address(info.size, root("blob", leaves))
        for number, page in enumerate(cut):
            assert [leaves[index] for index in page_span(info, number)] == list(page)
            assert check_page(blob, number, BlobPage(info, page)).chunks == page
