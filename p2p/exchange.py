"""Blobs by digest from several peers at once, and to them.

A fetch asks sources for the chunk list, page after page, checks each against the digest, then takes the page's chunks
from all sources in parallel. Every chunk is checked before it is written. A source that lies, lacks the blob or stalls
is dropped and reported; its chunks go to the others. What was written survives a restart.
"""

import logging
import math
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.blobs import BlobStore
from p2p.bounds import GoOn, at_once
from p2p.errors import Declined, Overlong
from p2p.host import PostOffice
from p2p.lists import MAX_BLOB_BYTES, MAX_LIST_BYTES, check_page, chunk_span, chunks_of, page_of, page_span
from p2p.mail import Kind
from p2p.messages import BlobPage, BlobQuery, ChunkBytes, ChunkQuery
from p2p.partial import Partial, known_page
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.content import CHUNK_BYTES
from verification.errors import Malformed, Unavailable, Violation
from verification.signing import checksum
from verification.units import Address, Count, Digest

log = logging.getLogger(__name__)
LIST = Kind("blob/list", 64, MAX_LIST_BYTES, is_direct=True)
CHUNK = Kind("blob/chunk", 64, CHUNK_BYTES + 16, is_bulk=True)
LIST_SECONDS = 5.0
"""Longest wait for a page of a chunk list, which is small and lies ready."""
LEAST_PACE = 1 << 14
"""Bytes a second that a blob must come at; a peer that sends to ten others over 2 Mbit/s is not slower."""
PAGES_KEPT = 64
"""Pages of lists that the serving side holds in memory, the longest unused dropped first; at most 0.6 MiB each."""


@dataclass(frozen=True)
class Dropped:
    """A source that a fetch gave up, and why: the Violation's name, "Unavailable" for a stall, or what it declined."""

    source: Address
    blob: Digest
    reason: str


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
        self._store, self._post = store, post
        self._admits = admits
        self._window, self._patience, self._hedge, self._pace = window, patience, hedge, pace
        self._on_drop = on_drop
        self._slots: dict[Address, trio.Semaphore] = defaultdict(lambda: trio.Semaphore(window))
        self._locks: dict[Digest, tuple[trio.Lock, int]] = {}
        self._pages: OrderedDict[tuple[Digest, int], BlobPage] = OrderedDict()
        self._late: set[Address] = set()
        """Sources that did not answer within `hedge` seconds when they were asked last: nobody waits for them alone."""
        self._stalled: set[Address] = set()
        """Sources that sent no chunk within `hedge` seconds when they were asked last: others are asked first."""
        self.arrived: dict[Digest, int] = {}
        """Bytes that are here of each blob that is being fetched."""

    def serve(self) -> None:
        """Answer other peers' questions for lists and chunks."""
        self._post.register(LIST, self._answer_list)
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
                return await _Download(self, blob, sources, limit, go_on).run()
        finally:
            self.arrived.pop(blob, None)
            lock, users = self._locks.pop(blob)
            if users > 1:
                self._locks[blob] = (lock, users - 1)

    async def _answer_list(self, sender: Address, body: bytes) -> bytes:
        query = decode(BlobQuery, body)
        await self._admit(sender, query.blob)
        return encode(await self._page(query.blob, query.page))

    async def _answer_chunk(self, sender: Address, body: bytes) -> bytes:
        query = decode(ChunkQuery, body)
        await self._admit(sender, query.blob)
        page = await self._page(query.blob, page_of(query.index))
        if query.index >= chunks_of(page.info.size):
            raise Malformed(f"chunk {query.index} of a blob of {chunks_of(page.info.size)}")
        # In this thread: a chunk takes less time to read and hash than a worker thread takes to win the interpreter.
        data = self._store.chunk(query.blob, page, query.index)
        return encode(ChunkBytes(data))

    async def _admit(self, sender: Address, blob: Digest) -> None:
        """Raise Unavailable, as for a blob that is not here, where `sender` may not have it (yet)."""
        if not await self._admits(sender, blob):
            raise Unavailable(f"blob {blob.hex()} is not for {checksum(sender)} now")

    async def _page(self, blob: Digest, number: int) -> BlobPage:
        """Return a page of a blob's list; raises Unavailable, Malformed for one beyond the end."""
        page = self._pages.pop((blob, number), None)
        if page is None:
            try:
                page = await trio.to_thread.run_sync(self._store.page, blob, number)
            except IndexError:
                raise Malformed(f"page {number} of the chunk list of blob {blob.hex()}") from None
        self._pages[blob, number] = page
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return page


class _Download:
    """One fetch: the sources still trusted, and the chunks still missing."""

    def __init__(
        self, exchange: Exchange, blob: Digest, sources: Sequence[PeerAddress], limit: int, go_on: GoOn
    ) -> None:
        self._of, self._blob, self._limit, self._go_on = exchange, blob, limit, go_on
        own = exchange._post.identity.address
        # Who could not be reached just now is asked last; otherwise the order stays.
        ordered = sorted(sources, key=exchange._post.is_out_of_reach)
        self._live = {source.address: source for source in ordered if source.address != own}
        self._page: BlobPage
        """The page whose chunks are fetched."""
        self._missing: set[int] = set()
        self._asked: set[tuple[int, Address]] = set()
        self._sent: set[Address] = set()
        """Sources of which a chunk has come."""
        self._is_short = trio.Event()
        """Set when those who were asked at first do not do."""
        self._open = 0
        """Questions for a page of the list that are not answered yet."""
        self._queue, self._todo = trio.open_memory_channel[int](math.inf)

    async def run(self) -> Path:
        """Return the finished file; raises Unavailable when no source is left or time is up, Overlong."""
        with trio.move_on_after(self._of._patience) as scope:
            first = known_page(self._of._store, self._blob, 0) or await self._ask_page(0)
            scope.deadline += first.info.size / self._of._pace
            return await self._load(first)
        raise Unavailable(f"blob {self._blob.hex()} did not come at {self._of._pace} bytes a second")

    async def _load(self, first: BlobPage) -> Path:
        store, info = self._of._store, first.info
        if info.size > self._limit:
            message = f"blob {self._blob.hex()} has {info.size} bytes, {self._limit} are expected"
            raise Overlong(message, info)
        self._of.arrived[self._blob] = 0
        with await trio.to_thread.run_sync(Partial, store, self._blob, info) as partial:
            for number in range(len(info.tops)):
                page = known_page(store, self._blob, number) if number else first
                await self._load_page(partial, number, page or await self._ask_page(number))
                if store.has(self._blob):  # made here meanwhile
                    partial.discard()
                    return store.path(self._blob)
            return await trio.to_thread.run_sync(partial.finish)

    async def _load_page(self, partial: Partial, number: int, page: BlobPage) -> None:
        """Have all chunks that a page names; raises Unavailable when no source is left."""
        await trio.to_thread.run_sync(partial.keep, number, page)
        missing = await trio.to_thread.run_sync(partial.missing, number, page)
        self._page, self._missing = page, set(missing)
        self._asked.clear()
        there = set(page_span(page.info, number)) - self._missing
        self._of.arrived[self._blob] += sum(chunk_span(page.info, index)[1] for index in there)
        for index in missing:
            self._queue.send_nowait(index)
        if self._missing:
            await self._gather(partial)
        if self._missing and not self._of._store.has(self._blob):
            raise Unavailable(f"no source is left for {len(self._missing)} chunks of blob {self._blob.hex()}")

    async def _gather(self, partial: Partial) -> None:
        """Let sources work until nothing is missing or none is left; raises OSError as the disk does.

        At first no more than there are chunks, who answered already before all others: who stands still must not be
        asked for what another would have sent at once.
        """
        slow = self._of._late | self._of._stalled
        in_time = [address for address in self._live if address not in slow] or [*self._live]
        first, self._is_short = in_time[: len(self._missing)], trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as workers:
                    nursery.start_soon(self._offer_again)
                    for source in tuple(self._live.values()):
                        turn = at_once if source.address in first else self._is_short.wait
                        for _ in range(self._of._window):
                            workers.start_soon(self._work, source, partial, turn, workers.cancel_scope)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if group.split(OSError)[1] is not None:
                raise
            raise _leaf(group) from group

    async def _offer_again(self) -> None:
        """When only chunks on their way are missing, give those that are late to whoever was not asked for them."""
        while True:
            await trio.sleep(self._of._hedge)
            self._is_short.set()
            if self._of._post.is_full:  # it is this peer that is slow
                continue
            asked = {address for index, address in self._asked if index in self._missing}
            self._of._stalled |= asked - self._sent
            queue = self._todo.statistics()
            for index in sorted(self._missing) if not queue.current_buffer_used else ():
                if any((index, address) not in self._asked for address in self._live):
                    for _ in range(queue.tasks_waiting_receive):  # whoever was asked for it passes
                        self._queue.send_nowait(index)

    async def _ask_page(self, number: int) -> BlobPage:
        """Ask one source after the other, and the next when the last has not answered for `hedge` seconds."""
        found: list[BlobPage] = []
        async with trio.open_nursery() as nursery:
            for source in tuple(self._live.values()):
                answered = trio.Event()
                nursery.start_soon(self._ask_for_page, source, number, found, answered, nursery.cancel_scope)
                with trio.move_on_after(0 if source.address in self._of._late else self._of._hedge) as scope:
                    await answered.wait()
                if scope.cancelled_caught:
                    self._of._late.add(source.address)
        if not found:
            raise Unavailable(f"no source has the chunk list of blob {self._blob.hex()}")
        return found[0]

    async def _ask_for_page(
        self,
        source: PeerAddress,
        number: int,
        found: list[BlobPage],
        answered: trio.Event,
        scope: trio.CancelScope,
    ) -> None:
        """Ask a source; a page that it has ends the search, which is `scope`.

        Who declines may have it soon, from the one that does not answer: it is asked again while there is such a one.
        """
        query = encode(BlobQuery(self._blob, Count(number)))
        patience = min(self._of._patience, LIST_SECONDS)
        while True:
            self._open += 1
            try:
                body = await self._of._post.request(source, LIST, query, patience)
                self._of._late.discard(source.address)
                found.append(self._checked(source, number, body))
                # It answers, so it is asked for chunks first.
                self._live = {source.address: source, **self._live}
                scope.cancel()
                return
            except Declined as error:
                self._of._late.discard(source.address)
                refusal = error
            except (Unavailable, Violation) as error:
                self._drop(source, error)
                return
            finally:
                self._open -= 1
                answered.set()
            if not self._open:
                self._drop(source, refusal)
                return
            await trio.sleep(self._of._hedge)

    def _checked(self, source: PeerAddress, number: int, body: bytes) -> BlobPage:
        try:
            return check_page(self._blob, number, decode(BlobPage, body, limit=MAX_LIST_BYTES))
        except Violation as lie:
            self._of._post.refuse(source.address, lie)
            raise

    async def _work(self, source: PeerAddress, partial: Partial, turn: GoOn, scope: trio.CancelScope) -> None:
        """Fetch chunks from one source, after its turn has come, until none is missing or the source is dropped."""
        await turn()
        async for index in self._todo:
            if source.address not in self._live:
                self._queue.send_nowait(index)
                return
            if index not in self._missing or (index, source.address) in self._asked:
                continue
            await self._go_on()
            if index not in self._missing:
                continue
            self._asked.add((index, source.address))
            try:
                await self._fetch_chunk(source, partial, index)
            except (Unavailable, Violation) as error:
                self._queue.send_nowait(index)
                self._drop(source, error)
                return
            self._missing.discard(index)
            if not self._missing or self._of._store.has(self._blob):
                scope.cancel()

    async def _fetch_chunk(self, source: PeerAddress, partial: Partial, index: int) -> None:
        query = encode(ChunkQuery(self._blob, Count(index)))
        async with self._of._slots[source.address]:
            body = await self._of._post.request(source, CHUNK, query, self._of._patience)
        try:
            data = decode(ChunkBytes, body).data
            partial.write(self._page, index, data)
            self._of.arrived[self._blob] += len(data) * (index in self._missing)  # a late one comes twice
        except Violation as lie:
            self._of._post.refuse(source.address, lie)
            raise
        self._sent.add(source.address)
        self._of._stalled.discard(source.address)

    def _drop(self, source: PeerAddress, error: Unavailable | Violation) -> None:
        if self._live.pop(source.address, None) is None:
            return
        self._is_short.set()
        dropped = Dropped(source.address, self._blob, getattr(error, "reason", type(error).__name__))
        fields = {"source": checksum(source.address), "blob": self._blob.hex(), "reason": dropped.reason}
        level = logging.WARNING if isinstance(error, Violation) else logging.INFO
        log.log(level, "dropped source %s: %s", fields["source"], error, extra=fields)
        if self._of._on_drop is not None:
            self._of._on_drop(dropped)


def _leaf(error: BaseException) -> BaseException:
    """Return the first error in a group that is none itself: the disk tells every task the same."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
