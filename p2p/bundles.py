"""Bundles in a store: read tensor by tensor, and checked against the digest that the law knows them by."""

import math
import mmap
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from p2p.blobs import BlobStore
from verification.errors import Malformed
from verification.manifest import BundleRef, DataRef
from verification.program import Port, size_bytes
from verification.tensors import ITEM_BYTES, Bundle, Tensor, bundle_digest, read_tensors, tensor_digest
from verification.units import Count, Digest


def read_bundle(store: BlobStore, ref: BundleRef, limit: int) -> Bundle:
    """Return a bundle; raises Malformed for a blob that does not hold it or is over `limit` bytes, Unavailable for one
    that is not here, or damaged on the disk, which is quarantined."""
    return Bundle(tuple(tensor for tensor, _ in _tensors(store, ref, limit)))


def map_data(store: BlobStore, data: DataRef, port: Port) -> Bundle:
    """Return a run's records, one tensor as `port` reads it, where they lie on the disk: only what is read is fetched
    from there, and nothing is copied. Raises what `read_bundle` raises. (SPEC.md 2.4)"""
    size = store.size(data.blob)
    if size == size_bytes(port):
        with store.opened(data.blob) as file:
            mapped = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        tensor = Tensor(port.dtype, port.shape, cast(bytes, mapped))
        if tensor_digest(tensor) == data.root:
            return Bundle((tensor,))
    store.check(data.blob)  # what the disk has damaged is nobody's fault
    raise Malformed(f"blob {data.blob.hex()} does not hold the run's records")


def check_bundle(store: BlobStore, ref: BundleRef, limit: int) -> None:
    """Raise what `read_bundle` raises, in the memory of one tensor."""
    for _ in _tensors(store, ref, limit):
        pass


class OpenBlob:
    """A blob's file, open as long as somebody holds this: it can be read though the store forgets it meanwhile."""

    def __init__(self, store: BlobStore, blob: Digest) -> None:
        """Raises Unavailable."""
        self._store, self._blob = store, blob
        self._file = store.path(blob).open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def read(self, offset: int, size: int) -> bytearray:
        """Return so many bytes from there on, fewer where the file ends."""
        data = bytearray(size)
        self._file.seek(offset)
        with memoryview(data) as view:
            done = 0
            while done < size and (got := self._file.readinto(view[done:])):
                done += got
        del data[done:]
        return data

    def blame(self) -> Malformed:
        """Return the error for bytes that are not those of before; raises Unavailable where the disk damaged them."""
        if self._store.has(self._blob):
            self._store.check(self._blob)
        return Malformed(f"blob {self._blob.hex()} changed while it was read")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a bundle that was checked; its bytes stay in the store, and are read whenever somebody asks."""

    dtype: str
    shape: tuple[Count, ...]
    blob: OpenBlob
    offset: int
    checksum: int

    def read(self) -> Tensor:
        """Return the tensor in memory that nobody else has; raises Unavailable where the disk has damaged it."""
        data = self.blob.read(self.offset, math.prod(self.shape) * ITEM_BYTES[self.dtype])
        if zlib.crc32(data) != self.checksum:  # enough to notice what happens to a file of one's own
            raise self.blob.blame()
        return Tensor(self.dtype, self.shape, cast(bytes, data))


def open_bundle(store: BlobStore, ref: BundleRef, limit: int) -> tuple[StoredTensor, ...]:
    """Return a bundle's tensors to be read later, once all are checked; raises what `read_bundle` raises."""
    blob = OpenBlob(store, ref.blob)
    return tuple(
        StoredTensor(tensor.dtype, tensor.shape, blob, offset, zlib.crc32(tensor.data))
        for tensor, offset in _tensors(store, ref, limit)
    )


def _tensors(store: BlobStore, ref: BundleRef, limit: int) -> Iterator[tuple[Tensor, int]]:
    """Yield each tensor and where in the blob its elements begin."""
    size, digests = store.size(ref.blob), []
    if size > limit:
        raise Malformed(f"blob {ref.blob.hex()} of {size} bytes is over the limit of {limit}")
    try:
        with store.opened(ref.blob) as file:
            for tensor in read_tensors(file, size):
                digests.append(tensor_digest(tensor))
                yield tensor, file.tell() - len(tensor.data)
        if bundle_digest(digests) != ref.digest:
            raise Malformed(f"blob {ref.blob.hex()} does not hold bundle {ref.digest.hex()}")
    except Malformed:
        store.check(ref.blob)  # what the disk has damaged is nobody's fault
        raise
