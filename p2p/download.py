"""One fetch of a blob from several sources at once.

It asks sources for the chunk list, page after page, checks each against the digest, then takes the page's chunks from
all sources in parallel: from those that are whole, and from those that fetch it too, what they hold already. Every
chunk is checked before it is written. A source that lies, lacks the blob or stalls is dropped and reported; its chunks
go to the others. What was written survives a restart.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from p2p.asking import Asking, PageSearch
from p2p.blobs import BlobStore
from p2p.bounds import GoOn, at_once
from p2p.errors import Declined, Overlong
from p2p.lists import chunk_span, page_span
from p2p.messages import BlobPage, Held
from p2p.partial import Partial, known_page
from p2p.questions import write_held
from p2p.transport import PeerAddress
from p2p.wanted import Wanted, ticks_between_looks
from verification.digest import tagged
from verification.errors import Unavailable, Violation
from verification.signing import checksum
from verification.units import Address, Digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dropped:
    """A source that a fetch gave up, and why: the Violation's name, "Unavailable" for a stall, or what it declined."""

    source: Address
    blob: Digest
    reason: str


@dataclass
class Fetching:
    """What all fetches of a peer share; `under_way` are those that have a file to write to."""

    store: BlobStore
    asking: Asking
    pace: int
    on_drop: Callable[[Dropped], None] | None
    under_way: dict[Digest, "Download"] = field(default_factory=dict)

    def pause(self, sources: int) -> float:
        """Return the seconds from a look of a fetch at one of its sources to the next."""
        return self.asking.hedge * ticks_between_looks(sources, len(self.under_way))


class Download:
    """One fetch: the sources still trusted, and the chunks still missing."""

    def __init__(
        self, fetching: Fetching, blob: Digest, sources: Sequence[PeerAddress], limit: int, go_on: GoOn
    ) -> None:
        self._of, self._asking = fetching, fetching.asking
        self._blob, self._limit, self._go_on = blob, limit, go_on
        own = self._asking.post.identity.address
        self._live: dict[Address, PeerAddress] = {}
        # Who could not be reached just now is asked last; otherwise the order stays.
        for source in sorted(sources, key=self._asking.post.is_out_of_reach):
            if source.address != own:
                self._live.setdefault(source.address, source)
        self._place = _place(blob, own, self._live)
        self._partial: Partial
        self._page: BlobPage
        """The page whose chunks are fetched, `_span`."""
        self._number, self._span = 0, range(0)
        self._wanted = Wanted(0, ())
        self._lister: Address | None = None
        """Who gave the page's list: it is taken to have the chunks."""
        self._is_short = trio.Event()
        """Set when those who were asked at first do not do."""
        self._news: dict[Address, trio.Event] = {}
        """Set, and taken out, when a source may be asked for what it could not a moment ago."""
        self._scope = trio.CancelScope()
        self.arrived = 0
        """Bytes that are here."""

    async def run(self) -> Path:
        """Return the finished file; raises Unavailable when no source is left or time is up, Overlong."""
        with trio.move_on_after(self._asking.patience) as scope:
            first = await self._page_of(0)
            scope.deadline += first.info.size / self._of.pace
            return await self._load(first)
        raise Unavailable(f"blob {self._blob.hex()} did not come at {self._of.pace} bytes a second")

    def held(self, number: int) -> Held:
        """Return what is here of a page, and coming; raises Unavailable, IndexError for a page beyond the end."""
        span, held = page_span(self._partial.info, number), self._partial.held(number)
        return write_held(len(span), held, self._wanted.coming if number == self._number else 0)

    def chunk(self, page: BlobPage, index: int) -> bytes:
        """Return a chunk that a page names, if it is here already; raises Unavailable, IndexError."""
        return self._partial.chunk(page, index)

    async def _page_of(self, number: int) -> BlobPage:
        """Return a page of the list, from the disk or a source; raises Unavailable."""
        self._lister = None
        if page := known_page(self._of.store, self._blob, number):
            return page
        search = PageSearch(self._asking, self._blob, number, self._drop)
        source, page = await search.among(tuple(self._live.values()))
        # It answers, so it is asked for chunks first, and what it holds is not asked before.
        self._live, self._lister = {source.address: source, **self._live}, source.address
        return page

    async def _load(self, first: BlobPage) -> Path:
        store, info = self._of.store, first.info
        if info.size > self._limit:
            message = f"blob {self._blob.hex()} has {info.size} bytes, {self._limit} are expected"
            raise Overlong(message, info)
        with await trio.to_thread.run_sync(Partial, store, self._blob, info) as self._partial:
            self._of.under_way[self._blob] = self
            try:
                for number in range(len(info.tops)):
                    await self._load_page(number, await self._page_of(number) if number else first)
                    if store.has(self._blob):  # made here meanwhile
                        self._partial.discard()
                        return store.path(self._blob)
                return await trio.to_thread.run_sync(self._partial.finish)
            finally:
                del self._of.under_way[self._blob]

    async def _load_page(self, number: int, page: BlobPage) -> None:
        """Have all chunks that a page names; raises Unavailable when no source is left."""
        await trio.to_thread.run_sync(self._partial.keep, number, page)
        missing = await trio.to_thread.run_sync(self._partial.missing, number, page)
        self._number, self._page, self._span = number, page, page_span(page.info, number)
        there = set(self._span).difference(missing)
        self.arrived += sum(chunk_span(page.info, index)[1] for index in there)
        rank, of = self._place
        start = rank * len(self._span) // of
        self._wanted = Wanted(len(self._span), (index - self._span.start for index in missing), start)
        if missing:
            await self._gather(len(missing))
        left = self._wanted.missing.bit_count()
        if left and not self._of.store.has(self._blob):
            for source in tuple(self._live.values()):
                self._drop(source, Unavailable(f"{checksum(source.address)} holds nothing that is missing"))
            raise Unavailable(f"no source is left for {left} chunks of blob {self._blob.hex()}")

    async def _gather(self, count: int) -> None:
        """Let sources work until nothing is missing or there is no hope; raises OSError as the disk does.

        At first no more than the `count` of chunks, who answered already before all others: who stands still must not
        be asked for what another would have sent at once.
        """
        slow = self._asking.late | self._asking.stalled
        in_time = [address for address in self._live if address not in slow] or [*self._live]
        first, self._is_short = in_time[:count], trio.Event()
        for address in self._live:
            self._wanted.add(address, address == self._lister)
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._keep_time)
                for source in self._live.values():
                    turn = at_once if source.address in first else self._is_short.wait
                    nursery.start_soon(self._watch, source, turn)
                    for _ in range(self._asking.window):
                        nursery.start_soon(self._work, source, turn)
                self._stir()
        except BaseExceptionGroup as group:
            if group.split(OSError)[1] is not None:
                raise
            raise _leaf(group) from group

    async def _keep_time(self) -> None:
        """Every `hedge` seconds give what is late to others, and look who sends nothing."""
        while True:
            await trio.sleep(self._asking.hedge)
            self._is_short.set()
            if self._asking.post.is_full:  # it is this peer that is slow
                continue
            self._wanted.tick()
            self._asking.stalled |= self._wanted.silent
            self._stir()

    async def _watch(self, source: PeerAddress, turn: GoOn) -> None:
        """Look again and again what a source holds that is not whole; seldom where it gets nothing that is missing."""
        await turn()
        rests = 1
        while source.address in self._live:
            is_due = self._wanted.is_worth_a_look(source.address)
            has_more = is_due and await self._look(source)
            rests = 1 if has_more else rests
            await trio.sleep(rests * self._of.pause(len(self._live)))
            if is_due and not has_more:
                rests *= 2

    async def _look(self, source: PeerAddress) -> bool:
        """See what a source holds of the page; return whether it has, or will have, more that is missing.

        Who does not say goes on: it may have been busy, or have begun when it is asked next.
        """
        held = coming = 0
        try:
            held, coming = await self._asking.held(source, self._blob, self._number, len(self._span))
        except Unavailable as error:
            log.debug("%s does not say what it holds: %s", checksum(source.address), error)
        except Violation as lie:
            self._drop(source, lie)
        has_more = source.address in self._live and self._wanted.note(source.address, held, coming)
        self._stir(source.address)
        return has_more

    async def _work(self, source: PeerAddress, turn: GoOn) -> None:
        """Fetch chunks from one source, after its turn has come, until none is missing or the source is dropped."""
        await turn()
        while source.address in self._live:
            if self._wanted.choose(source.address) is None:
                await self._news.setdefault(source.address, trio.Event()).wait()
                continue
            await self._go_on()
            async with self._asking.slots[source.address]:
                number = self._wanted.choose(source.address) if source.address in self._live else None
                if number is None:
                    continue
                self._wanted.ask(source.address, number)
                await self._fetch_chunk(source, number)
            if self._wanted.is_over or self._of.store.has(self._blob):
                self._scope.cancel()

    async def _fetch_chunk(self, source: PeerAddress, number: int) -> None:
        """Have a chunk of the page from a source, or ask no more of it."""
        index = self._span[number]
        take = partial(self._partial.write, self._page, index)
        try:
            await self._asking.chunk(source, self._blob, index, take)
            if self._wanted.came(source.address, number):  # a late one comes twice
                self.arrived += chunk_span(self._page.info, index)[1]
        except Declined as refusal:
            self._wanted.failed(source.address, number)
            await self._doubt(source, refusal)
        except (Unavailable, Violation) as error:
            self._wanted.failed(source.address, number)
            self._drop(source, error)

    async def _doubt(self, source: PeerAddress, refusal: Declined) -> None:
        """Ask no more of who declined a chunk until it has said what it holds: it goes if that is all, or nothing."""
        if source.address in self._live and self._wanted.doubt(source.address):
            await self._look(source)
            if source.address in self._live and not self._wanted.is_part(source.address):
                self._drop(source, refusal)
        self._stir()

    def _stir(self, *addresses: Address) -> None:
        """Let sources, or all, look again what they may be asked for, and end what has no hope."""
        for address in addresses or tuple(self._news):
            if address in self._news:
                self._news.pop(address).set()
        if self._wanted.is_over:
            self._scope.cancel()

    def _drop(self, source: PeerAddress, error: Unavailable | Violation) -> None:
        if self._live.pop(source.address, None) is None:
            return
        self._wanted.drop(source.address)
        self._is_short.set()
        self._stir()
        dropped = Dropped(source.address, self._blob, getattr(error, "reason", type(error).__name__))
        fields = {"source": checksum(source.address), "blob": self._blob.hex(), "reason": dropped.reason}
        level = logging.WARNING if isinstance(error, Violation) else logging.INFO
        log.log(level, "dropped source %s: %s", fields["source"], error, extra=fields)
        if self._of.on_drop is not None:
            self._of.on_drop(dropped)


def _place(blob: Digest, own: Address, sources: Iterable[Address]) -> tuple[int, int]:
    """Return a peer's rank among those from whom a blob comes, and their number: each begins at another chunk."""
    drawn = sorted({own, *sources}, key=lambda address: tagged("blob/place", blob, address))
    return drawn.index(own), len(drawn)


def _leaf(error: BaseException) -> BaseException:
    """Return the first error in a group that is none itself: the disk tells every task the same."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
