"""Blobs whose chunk lists have several pages, over real sockets."""

import pytest
import trio

from p2p import lists
from p2p.blobs import BlobStore
from p2p.errors import Declined
from p2p.exchange import Exchange
from p2p.messages import BlobPage, BlobQuery, ChunkBytes, ChunkQuery, Held
from p2p.questions import CHUNK, HELD, LIST
from tests.patience import ANSWER
from tests.town import BLOB, CHUNKS, DATA, chunks_from, hold_all, right_chunk, town
from verification.codec import decode, encode
from verification.errors import Unavailable

pytestmark = pytest.mark.integration


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of four chunks, of which the blob has three."""
    monkeypatch.setattr(lists, "PAGE_CHUNKS", 4)


def lists_from(post, source):
    flows = {(flow.peer, flow.kind): flow.messages for flow in post.traffic() if flow.direction == "in"}
    return flows.get((source.identity.address, LIST.reply), 0)


@pytest.mark.usefixtures("small_pages")
async def test_a_blob_of_several_pages_comes_page_after_page(tmp_path):
    async with town(tmp_path) as here:
        asked = []

        async def note(index):
            asked.append(index)
            return right_chunk(index)

        source = await here.odd_source(note)
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [source.address])
        assert store.get(BLOB) == DATA
        assert [sorted(asked[at : at + 4]) for at in (0, 4, 8)] == [[*range(at, at + 4)] for at in (0, 4, 8)]
        assert lists_from(post, source) == 3
        assert store.page(BLOB, 2) == BlobStore(tmp_path / source.identity.address.hex()).page(BLOB, 2)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("lie", ["missing", "another", "cut"])
async def test_who_has_the_first_page_and_no_right_second_one_is_made_up_for(tmp_path, lie):
    async with town(tmp_path) as here:
        liar, (honest, held) = await here.office(), await here.source()

        async def answer_list(sender, body):
            number = decode(BlobQuery, body).page
            page = held.page(BLOB, number)
            if number and lie == "missing":
                raise Unavailable("not here")
            if number:
                page = held.page(BLOB, 0) if lie == "another" else BlobPage(page.info, page.chunks[1:])
            return encode(page)

        async def answer_chunk(sender, body):
            return encode(ChunkBytes(right_chunk(decode(ChunkQuery, body).index)))

        liar.register(LIST, answer_list)
        liar.register(HELD, hold_all)
        liar.register(CHUNK, answer_chunk)
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [liar.address, honest.address])
        assert store.get(BLOB) == DATA
        reason = "Unavailable" if lie == "missing" else "BadEvidence"
        assert here.reasons() == [(liar.identity.address, reason)]
        assert post.refusals() == ({} if lie == "missing" else {(liar.identity.address, reason): 1})
        assert lists_from(post, honest) == 2


@pytest.mark.usefixtures("small_pages")
async def test_a_fetch_of_several_pages_resumes_and_asks_only_for_pages_that_it_has_not(tmp_path):
    served = []

    async def half(index):
        if len(served) == 7:
            raise Unavailable("no more")
        served.append(index)
        return right_chunk(index)

    async with town(tmp_path) as here:
        poor, (honest, _) = await here.odd_source(half), await here.source()
        exchange, post, store = await here.fetcher(window=1)
        with pytest.raises(Unavailable, match="no source is left for 1 chunks"):
            await exchange.fetch(BLOB, [poor.address])
        assert lists_from(post, poor) == 2
        await Exchange(store, post).fetch(BLOB, [honest.address])
        assert store.get(BLOB) == DATA
        assert (chunks_from(post, honest), lists_from(post, honest)) == (CHUNKS - 7, 1)


@pytest.mark.usefixtures("small_pages")
async def test_of_pages_that_a_fetch_has_not_come_to_nothing_is_looked_for(tmp_path):
    halted = trio.Event()

    async def halt(index):
        if index // 4 == 1:
            halted.set()
            await trio.sleep_forever()
        return right_chunk(index)

    async with town(tmp_path) as here:
        source, asking = await here.odd_source(halt), await here.office()
        exchange, post, _ = await here.fetcher()
        exchange.serve()

        async def ask(kind, query):
            return await asking.request(post.address, kind, encode(query), ANSWER)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [source.address])
            await halted.wait()
            assert decode(Held, await ask(HELD, BlobQuery(BLOB, 0))) == Held(b"", b"")
            assert decode(ChunkBytes, await ask(CHUNK, ChunkQuery(BLOB, 3))).data == right_chunk(3)
            for kind, query in (
                (LIST, BlobQuery(BLOB, 2)),
                (HELD, BlobQuery(BLOB, 2)),
                (CHUNK, ChunkQuery(BLOB, 8)),
            ):
                with pytest.raises(Declined, match="Unavailable"):
                    await ask(kind, query)
            for kind in (LIST, HELD):
                with pytest.raises(Declined, match="Malformed"):
                    await ask(kind, BlobQuery(BLOB, 3))
            nursery.cancel_scope.cancel()
        assert post.refusals() == {(asking.identity.address, "Malformed"): 2}


async def test_a_page_beyond_the_end_is_a_refused_question(tmp_path):
    async with town(tmp_path) as here:
        source, _ = await here.source()
        _, post, _ = await here.fetcher()
        for number in (1, 2**53):
            with pytest.raises(Unavailable, match="Malformed"):
                await post.request(source.address, LIST, encode(BlobQuery(BLOB, number)), ANSWER)
        with pytest.raises(Unavailable, match="Malformed"):
            await post.request(source.address, CHUNK, encode(ChunkQuery(BLOB, 2**53)), ANSWER)
        assert source.refusals() == {(post.identity.address, "Malformed"): 3}
