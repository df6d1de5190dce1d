"""Bundles read tensor by tensor: the same as the codec reads whole, for whatever bytes."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.blobs import BlobStore
from p2p.bundles import check_bundle, open_bundle, read_bundle
from tests.property.strategies import bundles
from verification import codec, tensors
from verification.errors import Malformed, Unavailable
from verification.manifest import BundleRef
from verification.tensors import Bundle, Tensor, decode_bundle, digest_of, encoded, read_tensors
from verification.units import Count

LIMIT = 1 << 16


@given(bundle=bundles)
def test_a_bundle_is_written_as_the_codec_writes_it_and_read_back(bundle: Bundle) -> None:
    data = b"".join(encoded(bundle))
    assert data == codec.encode(bundle)
    assert decode_bundle(data, LIMIT) == bundle
    assert digest_of(decode_bundle(data, LIMIT)) == digest_of(bundle)


@given(bundle=bundles, place=st.integers(0), new=st.binary(max_size=3), gone=st.integers(0, 3))
def test_what_the_codec_refuses_is_refused(bundle: Bundle, place: int, new: bytes, gone: int) -> None:
    data = b"".join(encoded(bundle))
    at = place % (len(data) + 1)
    changed = data[:at] + new + data[at + gone :]
    is_as_the_codec_says(changed)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_malformed(data: bytes) -> None:
    is_as_the_codec_says(data)


def is_as_the_codec_says(data: bytes) -> None:
    """Check that bytes are read as the codec reads them; a bundle without tensors is none."""
    try:
        wanted = codec.decode(Bundle, data, LIMIT)
    except Malformed:
        wanted = Bundle(())
    if wanted.tensors:
        assert decode_bundle(data, LIMIT) == wanted
    else:
        with pytest.raises(Malformed):
            decode_bundle(data, LIMIT)


def test_a_length_that_is_not_there_takes_no_memory() -> None:
    huge = Tensor("uint8", (Count(3),), b"abc")
    data = b"".join(encoded(Bundle((huge,))))
    lying = data.replace(b"\x91\x03\xc4\x03", b"\x91\xce\xff\xff\xff\xff\xc6\xff\xff\xff\xff")
    with pytest.raises(Malformed, match="cut short"):
        list(read_tensors(io.BytesIO(lying), len(lying)))


@given(bundle=bundles, piece=st.integers(1, 64))
def test_a_digest_is_the_same_however_many_bytes_are_hashed_together(bundle: Bundle, piece: int) -> None:
    whole = digest_of(bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "PIECE", piece)
        assert digest_of(bundle) == whole


def stored(store: BlobStore, bundle: Bundle) -> BundleRef:
    return BundleRef(digest_of(bundle), store.put_stream(encoded(bundle)))


@given(bundle=bundles)
def test_tensors_are_read_later_and_each_time_anew(bundle: Bundle, tmp_path_factory) -> None:
    store = BlobStore(tmp_path_factory.mktemp("store"))
    ref = stored(store, bundle)
    opened = open_bundle(store, ref, LIMIT)
    assert [(each.dtype, each.shape) for each in opened] == [
        (each.dtype, each.shape) for each in bundle.tensors
    ]
    store.path(ref.blob).unlink()  # as a store that is pruned meanwhile
    for _ in range(2):
        made = [each.read() for each in opened]
        assert tuple(made) == bundle.tensors
        for each in made:
            each.data[:] = bytes(len(each.data))  # type: ignore[index]


def test_a_tensor_that_changes_after_it_was_checked_is_refused(tmp_path) -> None:
    store, one = BlobStore(tmp_path), Bundle((Tensor("uint8", (Count(3),), b"abc"),))
    ref = stored(store, one)
    (opened,) = open_bundle(store, ref, LIMIT)
    path = store.path(ref.blob)
    path.chmod(0o644)
    right = path.read_bytes()
    for damaged in (right[:-1] + b"z", right[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(Unavailable, match="damaged on disk"):
            opened.read()
        assert not store.has(ref.blob)
        (store.folder / "quarantine" / ref.blob.hex()).rename(path)
    path.unlink()
    with pytest.raises(Malformed, match="changed while it was read"):
        opened.read()


def test_a_blob_that_holds_another_bundle_and_one_that_is_damaged(tmp_path) -> None:
    store, one = BlobStore(tmp_path), Bundle((Tensor("uint8", (Count(3),), b"abc"),))
    blob, other = store.put_stream(encoded(one)), BundleRef(digest_of(one), store.put(b"else"))
    right = BundleRef(digest_of(one), blob)
    assert read_bundle(store, right, LIMIT) == one
    check_bundle(store, right, LIMIT)
    for wrong, limit in ((other, LIMIT), (right, 3), (BundleRef(other.blob, blob), LIMIT)):
        with pytest.raises(Malformed):
            check_bundle(store, wrong, limit)
    path = store.path(blob)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"z")
    with pytest.raises(Unavailable, match="damaged on disk"):
        read_bundle(store, right, LIMIT)
    assert not store.has(blob)
