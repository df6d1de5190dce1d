"""A fetching peer and any number of sources of one blob, over real sockets."""

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from p2p.blobs import BlobStore, blob_digest
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.messages import BlobQuery, ChunkBytes, ChunkQuery, Held
from p2p.questions import CHUNK, HELD, LIST
from p2p.server import Grants
from tests.patience import ANSWER, WHOLE
from verification.codec import decode, encode
from verification.content import CHUNK_BYTES
from verification.digest import tagged
from verification.units import Millis

RUN = tagged("test run")
NOW = Millis(1_700_000_000_000)
CHUNKS = 12
DATA = hashlib.shake_128(b"blob").digest(CHUNK_BYTES * (CHUNKS - 1) + 100)
BLOB = blob_digest(DATA)


class Town:
    """One fetching peer, and any number of sources."""

    def __init__(self, folder, stack):
        self.folder, self._stack, self._born = folder, stack, 1
        self.dropped = []

    async def office(self, **granted):
        self._born += 1
        grants = Grants(**{"dial_seconds": ANSWER} | granted)
        post = PostOffice(Identity(bytes([self._born]) * 32), RUN, lambda: NOW, grants=grants)
        return await self._stack.enter_async_context(post)

    async def fetcher(self, granted=None, **options):
        post = await self.office(**granted or {})
        store = BlobStore(self.folder / "own")
        return self.exchange(store, post, **options), post, store

    def exchange(self, store, post, **options):
        usual = {"patience": ANSWER, "hedge": ANSWER, "on_drop": self.dropped.append}
        return Exchange(store, post, **usual | options)

    async def source(self, hold=True, up=None, **options):
        post = await self.office(up=up)
        store = BlobStore(self.folder / post.identity.address.hex())
        if hold:
            store.put(DATA)
        Exchange(store, post, **options).serve()
        return post, store

    async def odd_source(self, chunk, page=None):
        """A source whose chunks come from `chunk(index)`; the page of its list is right unless given.

        It says that it holds all.
        """
        post = await self.office()
        store = BlobStore(self.folder / post.identity.address.hex())
        store.put(DATA)

        async def answer_list(sender, body):
            return encode(page or store.page(BLOB, decode(BlobQuery, body).page))

        async def answer_chunk(sender, body):
            return encode(ChunkBytes(await chunk(decode(ChunkQuery, body).index)))

        post.register(LIST, answer_list)
        post.register(HELD, hold_all)
        post.register(CHUNK, answer_chunk)
        return post

    def reasons(self):
        return [(dropped.source, dropped.reason) for dropped in self.dropped]


@asynccontextmanager
async def town(folder):
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            yield Town(folder, stack)


def right_chunk(index):
    return DATA[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


async def stand_still(sender, body):
    await trio.sleep_forever()


async def hold_all(sender, body):
    return encode(Held(b"", b""))


async def lie(index):
    return bytes(len(right_chunk(index)))


def chunks_from(post, source):
    flows = {(flow.peer, flow.kind): flow.messages for flow in post.traffic() if flow.direction == "in"}
    return flows.get((source.identity.address, CHUNK.reply), 0)
