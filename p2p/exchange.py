"""Blobs by digest from several peers at once, and to them.

Who holds a chunk serves it, from the store or from a fetch that goes on (`p2p/download.py`): what many fetch at once
leaves the peer that has it about once, and they give it to each other.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from p2p.asking import Asking
from p2p.blobs import BlobStore
from p2p.bounds import GoOn, at_once
from p2p.download import Download, Dropped, Fetching
from p2p.host import PostOffice
from p2p.lists import MAX_BLOB_BYTES, chunks_of, page_of
from p2p.messages import BlobPage, BlobQuery, ChunkBytes, ChunkQuery, Held
from p2p.partial import known_page
from p2p.questions import CHUNK, HELD, LIST
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.errors import Malformed, Unavailable
from verification.signing import checksum
from verification.units import Address, Digest

LEAST_PACE = 1 << 14
"""Bytes a second that a blob must come at; a peer that sends to ten others over 2 Mbit/s is not slower."""
PAGES_KEPT = 64
"""Pages of lists that the serving side holds in memory, the longest unused dropped first; at most 0.6 MiB each."""
Admits = Callable[[Address, Digest], Awaitable[bool]]
"""Says whether an account may have a blob."""


async def all_alike(sender: Address, blob: Digest) -> bool:
    """Let everyone have everything, where no ledger says otherwise."""
    return True


class Exchange:
    """Fetches blobs into a store and serves what the store holds to whom `admits` lets have it.

    From each source `window` chunks are on the way at a time, over all fetches; one that does not come within
    `patience` seconds drops the source, and after `hedge` seconds the other sources are asked for it too: a peer that
    accepts requests and stands still must not cost everyone its patience. Keep `window` below `Grants.asking`.
    A whole fetch may take `patience` seconds to learn what the blob is made of, and then as long as its bytes take at
    `pace` bytes a second: sources that hand out one chunk after the other just in time must not hold it for hours.
    """

    def __init__(
        self,
        store: BlobStore,
        post: PostOffice,
        *,
        window: int = 4,
        patience: float = 20.0,
        hedge: float = 1.0,
        pace: int = LEAST_PACE,
        on_drop: Callable[[Dropped], None] | None = None,
        admits: Admits = all_alike,
    ) -> None:
        self._store, self._post, self._admits = store, post, admits
        self._fetching = Fetching(store, Asking(post, window, patience, hedge), pace, on_drop)
        self._locks: dict[Digest, tuple[trio.Lock, int]] = {}
        self._pages: OrderedDict[tuple[Digest, int], BlobPage] = OrderedDict()

    @property
    def arrived(self) -> dict[Digest, int]:
        """Bytes that are here of each blob that is being fetched."""
        return {blob: each.arrived for blob, each in self._fetching.under_way.items()}

    def serve(self) -> None:
        """Answer other peers' questions for lists, for what is held, and for chunks."""
        self._post.register(LIST, self._answer_list)
        self._post.register(HELD, self._answer_held)
        self._post.register(CHUNK, self._answer_chunk)

    async def fetch(
        self,
        blob: Digest,
        sources: Sequence[PeerAddress],
        limit: int = MAX_BLOB_BYTES,
        go_on: GoOn = at_once,
    ) -> Path:
        """Return the file of `blob`, from the store or else from `sources`.

        Several tasks may fetch one blob at once: it is downloaded once. What arrived stays for the next attempt. A
        blob that comes into the store otherwise meanwhile ends the fetch.
        `go_on` is awaited before each question for a chunk: what was asked for arrives while a fetch stands still.
        Raises Unavailable when no source is left or they are too slow, Overlong, before the first chunk, for more than
        `limit` bytes, OSError when the disk takes no more.
        """
        lock, users = self._locks.get(blob, (trio.Lock(), 0))
        self._locks[blob] = (lock, users + 1)
        try:
            async with lock:
                if self._store.has(blob):
                    return self._store.path(blob)
                return await Download(self._fetching, blob, sources, limit, go_on).run()
        finally:
            lock, users = self._locks.pop(blob)
            if users > 1:
                self._locks[blob] = (lock, users - 1)

    async def _answer_list(self, sender: Address, body: bytes) -> bytes:
        query = decode(BlobQuery, body)
        await self._admit(sender, query.blob)
        return encode(await self._page(query.blob, query.page))

    async def _answer_held(self, sender: Address, body: bytes) -> bytes:
        query = decode(BlobQuery, body)
        await self._admit(sender, query.blob)
        if self._store.has(query.blob):
            return encode(Held(b"", b""))
        try:
            return encode(self._download(query.blob).held(query.page))
        except IndexError:
            raise _beyond(query.blob, query.page) from None

    async def _answer_chunk(self, sender: Address, body: bytes) -> bytes:
        query = decode(ChunkQuery, body)
        await self._admit(sender, query.blob)
        page = await self._page(query.blob, page_of(query.index))
        if query.index >= chunks_of(page.info.size):
            raise Malformed(f"chunk {query.index} of a blob of {chunks_of(page.info.size)}")
        # In this thread: a chunk takes less time to read and hash than a worker thread takes to win the interpreter.
        if self._store.has(query.blob):
            data = self._store.chunk(query.blob, page, query.index)
        else:
            data = self._download(query.blob).chunk(page, query.index)
        return encode(ChunkBytes(data))

    def _download(self, blob: Digest) -> Download:
        """Return the fetch of a blob that is not here yet; raises Unavailable."""
        if blob not in self._fetching.under_way:
            raise Unavailable(f"blob {blob.hex()} is not in the store")
        return self._fetching.under_way[blob]

    async def _admit(self, sender: Address, blob: Digest) -> None:
        """Raise Unavailable, as for a blob that is not here, where `sender` may not have it (yet)."""
        if not await self._admits(sender, blob):
            raise Unavailable(f"blob {blob.hex()} is not for {checksum(sender)} now")

    async def _page(self, blob: Digest, number: int) -> BlobPage:
        """Return a page of a blob's list; raises Unavailable, Malformed for one beyond the end."""
        try:
            if not self._store.has(blob):
                self._download(blob).held(number)  # what is not here yet is not looked for on the disk
            page = self._pages.pop((blob, number), None)
            if page is None:
                page = await trio.to_thread.run_sync(self._read_page, blob, number)
        except IndexError:
            raise _beyond(blob, number) from None
        self._pages[blob, number] = page
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return page

    def _read_page(self, blob: Digest, number: int) -> BlobPage:
        """Return a page from the disk, also one that a fetch has checked; raises Unavailable, IndexError."""
        page = known_page(self._store, blob, number) if blob in self._fetching.under_way else None
        return page or self._store.page(blob, number)


def _beyond(blob: Digest, number: int) -> Malformed:
    return Malformed(f"page {number} of the chunk list of blob {blob.hex()}")
