"""Bundles in a store: read tensor by tensor, and checked against the digest that the law knows them by."""

from collections.abc import Container, Iterator

from p2p.blobs import BlobStore
from verification.errors import Malformed
from verification.manifest import BundleRef, DataRef
from verification.tensors import Bundle, Tensor, bundle_digest, read_tensors, tensor_digest


def read_bundle(store: BlobStore, ref: BundleRef, limit: int) -> Bundle:
    """Return a bundle; raises Malformed for a blob that does not hold it or is over `limit` bytes, Unavailable for one
    that is not here, or damaged on the disk, which is quarantined."""
    return Bundle(tuple(_tensors(store, ref, limit)))


def read_some(store: BlobStore, ref: BundleRef, limit: int, wanted: Container[int]) -> list[Tensor | None]:
    """Return the tensors of a bundle at the `wanted` places, None at the others; raises what `read_bundle` raises."""
    return [tensor if at in wanted else None for at, tensor in enumerate(_tensors(store, ref, limit))]


def read_data(store: BlobStore, data: DataRef, limit: int) -> Bundle:
    """Return a run's records as the bundle of one tensor that their blob is; raises what `read_bundle` raises."""
    return read_bundle(store, BundleRef(bundle_digest([data.root]), data.blob), limit)


def check_bundle(store: BlobStore, ref: BundleRef, limit: int) -> None:
    """Raise what `read_bundle` raises, in the memory of one tensor."""
    for _ in _tensors(store, ref, limit):
        pass


def _tensors(store: BlobStore, ref: BundleRef, limit: int) -> Iterator[Tensor]:
    size, digests = store.size(ref.blob), []
    if size > limit:
        raise Malformed(f"blob {ref.blob.hex()} of {size} bytes is over the limit of {limit}")
    try:
        with store.opened(ref.blob) as file:
            for tensor in read_tensors(file, size):
                digests.append(tensor_digest(tensor))
                yield tensor
        if bundle_digest(digests) != ref.digest:
            raise Malformed(f"blob {ref.blob.hex()} does not hold bundle {ref.digest.hex()}")
    except Malformed:
        store.get(ref.blob)  # what the disk has damaged is nobody's fault
        raise
