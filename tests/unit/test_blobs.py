import hashlib
import multiprocessing
import os
import shutil
from types import SimpleNamespace

import pytest

from p2p.blobs import BlobStore, blob_digest
from p2p.lists import info_digest
from p2p.partial import Partial, known_page
from tests.pages import first_page
from verification.content import CHUNK_BYTES
from verification.errors import BadEvidence, NoRoom, Unavailable

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17]


def noise(size, seed=0):
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_is_got(store, size, tmp_path):
    data = noise(size)
    (tmp_path / "file").write_bytes(data)
    blob = store.put(data)
    assert blob == blob_digest(data) == store.put_file(tmp_path / "file")
    assert blob == store.put_stream(data[i : i + 1000] for i in range(0, size, 1000))
    assert store.get(blob) == data == store.path(blob).read_bytes()
    assert store.path(blob).name == blob.hex()
    assert info_digest(store.page(blob, 0).info) == blob
    assert os.listdir(store.folder / "partial") == []


def test_what_is_not_there_is_unavailable(store):
    missing = blob_digest(b"missing")
    assert not store.has(missing)
    for ask in (store.get, store.path, store.check, lambda blob: store.page(blob, 0)):
        with pytest.raises(Unavailable, match=r"not in the store"):
            ask(missing)


def damage(store, blob, where=5):
    path = store.path(blob)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def test_damage_is_found_on_reading_and_quarantined(store):
    blob = store.put(noise(CHUNK_BYTES * 2))
    damage(store, blob)
    with pytest.raises(Unavailable, match="damaged"):
        store.get(blob)
    assert not store.has(blob)
    assert (store.folder / "quarantine" / blob.hex()).exists()
    store.put(noise(CHUNK_BYTES * 2))
    assert store.get(blob) == noise(CHUNK_BYTES * 2)


def test_a_damaged_chunk_is_never_served(store):
    blob = store.put(noise(CHUNK_BYTES * 2))
    page = store.page(blob, 0)
    damage(store, blob, CHUNK_BYTES + 1)
    assert store.chunk(blob, page, 0) == noise(CHUNK_BYTES * 2)[:CHUNK_BYTES]
    with pytest.raises(Unavailable, match="damaged"):
        store.chunk(blob, page, 1)
    assert not store.has(blob)


@pytest.mark.parametrize("junk", [None, b"", b"junk"])
def test_a_lost_or_damaged_list_is_made_again(store, junk):
    blob = store.put(noise(CHUNK_BYTES + 5))
    path, page = store.folder / "lists" / blob.hex(), store.page(blob, 0)
    path.unlink()
    if junk is not None:
        path.write_bytes(junk)
    assert store.page(blob, 0) == page
    assert BlobStore(store.folder).page(blob, 0) == page


def test_a_list_made_from_a_damaged_blob_quarantines_it(store):
    blob = store.put(noise(100))
    (store.folder / "lists" / blob.hex()).unlink()
    damage(store, blob)
    with pytest.raises(Unavailable, match="damaged"):
        store.page(blob, 0)


@pytest.fixture
def disk(monkeypatch):
    """A disk of which tests set how much is free, and how large it is."""
    disk = SimpleNamespace(free=1 << 40, total=1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    return disk


def test_nothing_is_added_where_too_little_would_stay_free(tmp_path, disk):
    store = BlobStore(tmp_path, reserve=1_000_000)
    disk.free = 1_000_600
    first = store.put(noise(600))
    with pytest.raises(NoRoom, match=r"1.0 MB are free on its disk, where 1.0 are kept .*: free space there"):
        store.put(noise(601, 1))
    assert store.blobs() == (first,)
    assert os.listdir(tmp_path / "partial") == []


def test_a_small_disk_keeps_a_tenth(tmp_path, disk):
    store = BlobStore(tmp_path)
    disk.total, disk.free = 10_000, 1_600
    store.put(noise(600))
    with pytest.raises(NoRoom):
        store.put(noise(601, 1))


def test_pruning_keeps_what_is_named_or_new(store):
    blobs = [store.put(noise(100, seed)) for seed in range(4)]
    for blob in blobs[:3]:
        os.utime(store.path(blob), (1000, 1000))
    assert store.prune({blobs[0]}, age=1000) == 200
    assert set(store.blobs()) == {blobs[0], blobs[3]}
    assert not (store.folder / "lists" / blobs[1].hex()).exists()


def test_a_partial_file_is_taken_up_where_it_stopped(store):
    data = noise(CHUNK_BYTES * 3 + 1)
    blob, page = blob_digest(data), first_page(data)
    with Partial(store, blob, page.info) as partial:
        assert known_page(store, blob, 0) is None
        partial.keep(0, page)
        assert partial.missing(0, page) == [0, 1, 2, 3]
        partial.write(page, 3, data[-1:])
        partial.write(page, 1, data[CHUNK_BYTES : 2 * CHUNK_BYTES])
        with pytest.raises(BadEvidence):
            partial.write(page, 0, data[1 : CHUNK_BYTES + 1])
        with pytest.raises(BadEvidence):
            partial.write(page, 2, b"")
        with pytest.raises(Unavailable, match="another process"):
            Partial(BlobStore(store.folder), blob, page.info)
    again = BlobStore(store.folder)
    assert not again.has(blob)
    assert known_page(again, blob, 0) == page
    with Partial(again, blob, page.info) as partial:
        assert partial.missing(0, page) == [0, 2]
        partial.write(page, 0, data[:CHUNK_BYTES])
        partial.write(page, 2, data[2 * CHUNK_BYTES : 3 * CHUNK_BYTES])
        assert partial.finish() == store.path(blob)
    assert store.page(blob, 0) == page
    assert store.get(blob) == data
    assert os.listdir(store.folder / "partial") == []


def test_a_partial_that_lost_bytes_in_a_crash_fetches_them_again(store):
    data = noise(CHUNK_BYTES * 2)
    blob = store.put(data)
    page = store.page(blob, 0)
    store.prune([], age=-1)
    with Partial(store, blob, page.info) as partial:
        partial.write(page, 0, data[:CHUNK_BYTES])
        partial.write(page, 1, data[CHUNK_BYTES:])
    with (store.folder / "partial" / f"{blob.hex()}.data").open("r+b") as file:
        file.write(bytes(10))
    with Partial(store, blob, page.info) as partial:
        assert partial.missing(0, page) == [0]


def put_many(folder, seeds):
    store = BlobStore(folder)
    for seed in seeds:
        assert store.get(store.put(noise(CHUNK_BYTES + seed, seed))) == noise(CHUNK_BYTES + seed, seed)


def test_two_processes_may_store_the_same_blobs_at_once(store):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=put_many, args=(store.folder, range(20))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(store.blobs()) == 20
    assert all(blob_digest(store.get(blob)) == blob for blob in store.blobs())


def test_a_mapped_blob_survives_its_deletion(store):
    blob = store.put(noise(1000))
    with store.path(blob).open("rb") as file:
        store.prune([], age=-1)
        assert file.read() == noise(1000)


def unfinished(store, seed):
    """Begin to download a blob, and stop before its last chunk; returns its digest."""
    data = noise(3 * CHUNK_BYTES, seed)
    page = first_page(data)
    blob = info_digest(page.info)
    with Partial(store, blob, page.info) as partial:
        partial.keep(0, page)
        for index in range(2):
            partial.write(page, index, data[index * CHUNK_BYTES :][:CHUNK_BYTES])
    return blob


def files(store):
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def test_unfinished_and_damaged_blobs_go_when_nobody_needs_them(store):
    """An author that served all chunks but one left a whole contribution on the disk in each round."""
    for number in range(4):
        blob = unfinished(store, number)
        assert store.prune([blob], age=-1) == 0
        assert store.prune([], age=1000) == 0
        assert store.prune([], age=-1) == 3 * CHUNK_BYTES
        assert files(store) == []
    damaged = store.put(noise(500))
    store.quarantine(damaged)
    (store.folder / "lists" / damaged.hex()).unlink()
    assert store.prune([damaged], age=-1) == 0
    assert store.prune([], age=-1) == 500
    assert files(store) == []


def test_a_download_has_room_before_it_begins_and_may_be_taken_up_with_what_is_here(tmp_path, disk):
    store = BlobStore(tmp_path, reserve=0)
    disk.free = 3 * CHUNK_BYTES - 1
    with pytest.raises(NoRoom):
        unfinished(store, 1)
    disk.free = 3 * CHUNK_BYTES
    first = unfinished(store, 1)
    disk.free = CHUNK_BYTES
    assert unfinished(store, 1) == first


def test_a_download_that_goes_on_is_not_pruned(store):
    data = noise(100)
    blob, page = blob_digest(data), first_page(data)
    with Partial(store, blob, page.info) as partial:
        partial.keep(0, page)
        assert store.prune([], age=-1) == 0
        partial.write(page, 0, data)
        partial.finish()
    assert store.get(blob) == data


def test_what_is_damaged_goes_without_the_list_of_the_blob_that_replaced_it(store):
    blob = store.put(noise(500))
    store.quarantine(blob)
    store.put(noise(500))
    assert store.prune([], age=1000) == 0
    os.utime(store.folder / "quarantine" / blob.hex(), (0, 0))
    assert store.prune([], age=1000) == 500
    assert (store.folder / "lists" / blob.hex()).exists()
    assert store.get(blob) == noise(500)
