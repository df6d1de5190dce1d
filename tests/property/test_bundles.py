"""Bundles read tensor by tensor: the same as the codec reads whole, for whatever bytes."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.blobs import BlobStore
from p2p.bundles import check_bundle, map_data, open_bundle, read_bundle
from tests.property.strategies import bundles
from trainer.programs.conversion import from_torch, to_torch
from verification import codec, tensors
from verification.errors import Malformed, Unavailable
from verification.manifest import BundleRef, DataRef
from verification.program import Port
from verification.tensors import (
    Bundle,
    Tensor,
    decode_bundle,
    digest_of,
    encoded,
    read_tensors,
    tensor_digest,
)
from verification.units import Count, Digest

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


RECORDS = Tensor("int16", (Count(5), Count(3)), bytes(range(30)))
PORT = Port("data", RECORDS.dtype, RECORDS.shape)


def test_records_are_read_where_they_lie(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    data = DataRef(tensor_digest(RECORDS), store.put(RECORDS.data), *RECORDS.shape)
    (records,) = map_data(store, data, PORT).tensors
    assert bytes(records.data) == RECORDS.data
    seen = to_torch(records)
    assert seen.data_ptr() == np.frombuffer(records.data, np.uint8).ctypes.data
    store.path(data.blob).unlink()  # as a store prunes
    assert from_torch(seen) == RECORDS


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, root=Digest(bytes(32))),
        lambda data: replace(data, records=Count(4)),
    ],
)
def test_other_records_than_the_run_names_are_malformed(
    tmp_path: Path, change: Callable[[DataRef], DataRef]
) -> None:
    store = BlobStore(tmp_path)
    data = change(DataRef(tensor_digest(RECORDS), store.put(RECORDS.data), *RECORDS.shape))
    with pytest.raises(Malformed, match="does not hold the run's records"):
        map_data(store, data, replace(PORT, shape=(data.records, data.width)))
    assert store.has(data.blob)


@pytest.mark.parametrize("damaged", [RECORDS.data[:-2], RECORDS.data[:-2] + b"xx"])
def test_damaged_records_are_put_apart(tmp_path: Path, damaged: bytes) -> None:
    store = BlobStore(tmp_path)
    data = DataRef(tensor_digest(RECORDS), store.put(RECORDS.data), *RECORDS.shape)
    store.path(data.blob).write_bytes(damaged)
    with pytest.raises(Unavailable, match="damaged on disk"):
        map_data(store, data, PORT)
    assert not store.has(data.blob)
