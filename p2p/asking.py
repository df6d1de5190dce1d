"""How a peer asks sources about blobs: for a page of a list, for what they hold of it, for a chunk."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from p2p.errors import Declined
from p2p.host import PostOffice
from p2p.lists import MAX_LIST_BYTES, check_page
from p2p.mail import Kind
from p2p.messages import BlobPage, BlobQuery, ChunkBytes, ChunkQuery, Held
from p2p.questions import CHUNK, HELD, LIST, read_held
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.errors import Unavailable, Violation
from verification.units import Address, Count, Digest

LISTS, LOOKS = 1, 2
"""Questions for lists, and for what is held, that wait for one source's answers, over all fetches: with the chunks that
are on the way they leave room for statements among `Grants.asking`."""
Drop = Callable[[PeerAddress, Unavailable | Violation], None]
"""Gives a source up, and says why."""
Read = TypeVar("Read")


class Asking:
    """What all fetches of a peer share of their sources: how they are asked, and how they answered.

    `late` did not answer for a list within `hedge` seconds when they were asked last: nobody waits for them alone.
    `stalled` sent no chunk within that time: others are asked first. `slots` are the chunks that may be on the way
    from each source.
    """

    def __init__(self, post: PostOffice, window: int, patience: float, hedge: float) -> None:
        """Wait for an answer for `patience` seconds; `window` chunks are on the way from a source at a time."""
        self.post, self.window, self.patience, self.hedge = post, window, patience, hedge
        self.late: set[Address] = set()
        self.stalled: set[Address] = set()
        self.slots = defaultdict[Address, trio.Semaphore](lambda: trio.Semaphore(window))
        self._lists = defaultdict[Address, trio.Semaphore](lambda: trio.Semaphore(LISTS))
        self._looks = defaultdict[Address, trio.Semaphore](lambda: trio.Semaphore(LOOKS))

    async def page(self, source: PeerAddress, blob: Digest, number: int) -> BlobPage:
        """Return a page of a blob's list, checked; raises what `_ask` raises."""

        def read(body: bytes) -> BlobPage:
            return check_page(blob, number, decode(BlobPage, body, limit=MAX_LIST_BYTES))

        async with self._lists[source.address]:
            return await self._ask(source, LIST, BlobQuery(blob, Count(number)), read)

    async def held(self, source: PeerAddress, blob: Digest, number: int, count: int) -> tuple[int, int]:
        """Return which of a page's `count` chunks a source holds, and which come to it; raises what `_ask` raises."""

        def read(body: bytes) -> tuple[int, int]:
            return read_held(count, decode(Held, body))

        async with self._looks[source.address]:
            return await self._ask(source, HELD, BlobQuery(blob, Count(number)), read)

    async def chunk(
        self, source: PeerAddress, blob: Digest, index: int, take: Callable[[bytes], None]
    ) -> None:
        """Have a chunk, which `take` checks and keeps, in one of the `slots`; raises what it and `_ask` raise."""
        await self._ask(
            source, CHUNK, ChunkQuery(blob, Count(index)), lambda body: take(decode(ChunkBytes, body).data)
        )
        self.stalled.discard(source.address)

    async def _ask(
        self, source: PeerAddress, kind: Kind, query: BlobQuery | ChunkQuery, read: Callable[[bytes], Read]
    ) -> Read:
        """Return what `read` makes of the answer.

        Raises Declined, Unavailable, and the Violation of an answer that breaks a rule, which is counted. Small answers
        have as long as chunks: on a slow link they come behind those that are on their way.
        """
        try:
            body = await self.post.request(source, kind, encode(query), self.patience)
        except Declined:
            self.late.discard(source.address)
            raise
        self.late.discard(source.address)
        try:
            return read(body)
        except Violation as lie:
            self.post.refuse(source.address, lie)
            raise


class PageSearch:
    """One page of a blob's list, from whoever has it."""

    def __init__(self, asking: Asking, blob: Digest, number: int, drop: Drop) -> None:
        """`drop` hears of who does not have it."""
        self._asking, self._blob, self._number, self._drop = asking, blob, number, drop
        self._found: tuple[PeerAddress, BlobPage] | None = None
        self._open = 0
        """Questions that are not answered yet."""

    async def among(self, sources: Sequence[PeerAddress]) -> tuple[PeerAddress, BlobPage]:
        """Return who had the page, and the page; raises Unavailable.

        One is asked after the other, and the next when the last has not answered for `hedge` seconds.
        """
        late = self._asking.late
        async with trio.open_nursery() as nursery:
            for source in sources:
                answered = trio.Event()
                nursery.start_soon(self._ask, source, answered, nursery.cancel_scope)
                with trio.move_on_after(0 if source.address in late else self._asking.hedge) as scope:
                    await answered.wait()
                if scope.cancelled_caught:
                    late.add(source.address)
        if self._found is None:
            raise Unavailable(f"no source has the chunk list of blob {self._blob.hex()}")
        return self._found

    async def _ask(self, source: PeerAddress, answered: trio.Event, scope: trio.CancelScope) -> None:
        """Ask a source; a page that it has ends the search, which is `scope`.

        Who declines may have it soon, from the one that does not answer: it is asked again while there is such a one.
        """
        while True:
            self._open += 1
            try:
                self._found = source, await self._asking.page(source, self._blob, self._number)
                scope.cancel()
                return
            except Declined as error:
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
            await trio.sleep(self._asking.hedge)
