"""Who has a chunk of a blob serves it on before the blob is whole."""

import itertools

import pytest
import trio
import trio.testing

from p2p import blobs, lists
from p2p.blobs import BlobStore
from p2p.bundles import map_data
from p2p.errors import Declined
from p2p.messages import BlobQuery, ChunkBytes, ChunkQuery, Held
from p2p.partial import Partial
from p2p.questions import CHUNK, HELD, LIST, read_held, write_held
from tests.patience import ANSWER
from tests.town import BLOB, CHUNKS, DATA, chunks_from, lie, right_chunk, stand_still, town
from verification.codec import decode, encode
from verification.digest import tagged
from verification.errors import Unavailable
from verification.manifest import DataRef
from verification.program import Port
from verification.tensors import Tensor, tensor_digest
from verification.units import Count

pytestmark = pytest.mark.integration
MEMBERS, LONG, SMALL_CHUNK, RATE = 5, 40, 1 << 14, 10
FIRST_HALF, SECOND_HALF = range(CHUNKS // 2), range(CHUNKS // 2, CHUNKS)


def sent(post, kind):
    """Count what left a post office of a kind: messages and bytes."""
    flows = [flow for flow in post.traffic() if (flow.direction, flow.kind) == ("out", kind)]
    return sum(flow.messages for flow in flows), sum(flow.size for flow in flows)


async def acquaint(posts):
    """Connect everyone, one pair after the other: the handshakes of all at once take long on a busy machine."""
    for one, other in itertools.combinations(posts, 2):
        with pytest.raises(Declined):
            await other.request(one.address, HELD, encode(BlobQuery(tagged("none"), 0)), ANSWER)


async def member(here, number, **options):
    """A peer that fetches and serves what it has."""
    post, store = await here.office(), BlobStore(here.folder / f"member-{number}")
    exchange = here.exchange(store, post, **options)
    exchange.serve()
    return exchange, post, store


async def part_holder(here, held, chunk=None):
    """A source that says that it holds some chunks, and gives them unless `chunk` does otherwise."""
    post, asked = await here.office(), []
    own = BlobStore(here.folder / post.identity.address.hex())
    own.put(DATA)

    async def answer_list(sender, body):
        return encode(own.page(BLOB, decode(BlobQuery, body).page))

    async def answer_held(sender, body):
        return encode(write_held(CHUNKS, sum(1 << index for index in held), 0))

    async def answer_chunk(sender, body):
        asked.append(decode(ChunkQuery, body).index)
        return encode(ChunkBytes(await (chunk or give)(asked[-1])))

    post.register(LIST, answer_list)
    post.register(HELD, answer_held)
    post.register(CHUNK, answer_chunk)
    return post, asked


async def source_after(here, event):
    """A source that gives nothing before something has happened."""

    async def wait(index):
        await event.wait()
        return right_chunk(index)

    return await here.odd_source(wait)


async def give(index):
    return right_chunk(index)


async def decline(index):
    raise Unavailable("not here")


async def stall(index):
    await trio.sleep_forever()


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 KiB, which take no time but that of the link."""
    monkeypatch.setattr(lists, "CHUNK_BYTES", SMALL_CHUNK)
    monkeypatch.setattr(blobs, "CHUNK_BYTES", SMALL_CHUNK)


@pytest.fixture
def patient_clock():
    """A clock that goes on when nobody has anything to do, so that links are as fast as they say on any machine."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def jumping_clock():
    """A clock that goes as any, and jumps where a test says so."""
    return trio.testing.MockClock(rate=1.0)


@pytest.mark.usefixtures("small_chunks")
async def test_each_byte_leaves_the_author_of_a_blob_fewer_than_two_times(tmp_path, patient_clock):
    """It left it five times, once for each member. What they ask in vain is bounded too."""
    data = b"".join(bytes([number]) * SMALL_CHUNK for number in range(LONG))
    async with town(tmp_path) as here:
        author, held = await here.source(hold=False, up=RATE * SMALL_CHUNK)
        blob, five = held.put(data), [await member(here, number, hedge=0.2) for number in range(MEMBERS)]
        posts = [author, *(post for _, post, _ in five)]
        await acquaint(posts)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for exchange, _, _ in five:
                nursery.start_soon(exchange.fetch, blob, [post.address for post in posts])
        assert all(store.path(blob).read_bytes() == data for _, _, store in five)
        assert here.dropped == []
        assert trio.current_time() - began < 2 * LONG / RATE
        assert len(data) <= sent(author, CHUNK.reply)[1] < 2 * len(data)
        assert sum(sent(post, CHUNK.name)[0] for post in posts) < 1.5 * MEMBERS * LONG
        assert all(post.refusals() == {} for post in posts)


async def test_a_fetch_under_way_answers_for_what_it_has_and_declines_the_rest(tmp_path):
    async with town(tmp_path) as here:
        halted, served = trio.Event(), []

        async def half(index):
            if len(served) == CHUNKS // 2:
                halted.set()
                await trio.sleep_forever()
            served.append(index)
            return right_chunk(index)

        author, (exchange, post, store) = await here.odd_source(half), await member(here, 0, window=1)
        asking, page = await here.office(), BlobStore(tmp_path / author_folder(author)).page(BLOB, 0)

        async def ask(kind, query):
            return await asking.request(post.address, kind, encode(query), ANSWER)

        with pytest.raises(Declined, match="Unavailable"):
            await ask(HELD, BlobQuery(BLOB, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [author.address])
            await halted.wait()
            held, coming = read_held(CHUNKS, decode(Held, await ask(HELD, BlobQuery(BLOB, 0))))
            assert held == sum(1 << index for index in served)
            assert coming.bit_count() == 1 and not held & coming
            assert await ask(LIST, BlobQuery(BLOB, 0)) == encode(page)
            for index in served:
                assert await ask(CHUNK, ChunkQuery(BLOB, index)) == encode(ChunkBytes(right_chunk(index)))
            with pytest.raises(Declined, match="Unavailable"):
                await ask(CHUNK, ChunkQuery(BLOB, coming.bit_length() - 1))
            for kind, query in ((HELD, BlobQuery(BLOB, 1)), (CHUNK, ChunkQuery(BLOB, CHUNKS))):
                with pytest.raises(Declined, match="Malformed"):
                    await ask(kind, query)
            nursery.cancel_scope.cancel()
        for kind, query in ((LIST, BlobQuery), (HELD, BlobQuery), (CHUNK, ChunkQuery)):
            with pytest.raises(Declined, match="Unavailable"):
                await ask(kind, query(BLOB, 0))
        assert not store.has(BLOB)
        assert post.refusals() == {(asking.identity.address, "Malformed"): 2}


def author_folder(author):
    return author.identity.address.hex()


async def test_who_may_not_have_a_blob_is_told_nothing_of_a_fetch_of_it(tmp_path):
    async with town(tmp_path) as here:
        halted, asked = trio.Event(), []

        async def admits(sender, blob):
            asked.append((sender, blob))
            return False

        async def one(index):
            if halted.is_set():
                await trio.sleep_forever()
            halted.set()
            return right_chunk(index)

        author, (exchange, post, _) = (
            await here.odd_source(one),
            await member(here, 0, window=1, admits=admits),
        )
        stranger, queries = await here.office(), [(LIST, BlobQuery), (HELD, BlobQuery), (CHUNK, ChunkQuery)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [author.address])
            await halted.wait()
            for kind, query in queries:
                with pytest.raises(Declined, match="Unavailable"):
                    await stranger.request(post.address, kind, encode(query(BLOB, 0)), ANSWER)
            nursery.cancel_scope.cancel()
        assert asked == [(stranger.identity.address, BLOB)] * 3
        assert post.refusals() == {}


async def test_what_came_wrong_is_not_served_on(tmp_path):
    async with town(tmp_path) as here:
        liar, silent, asking = await here.odd_source(lie), await here.office(), await here.office()
        silent.register(HELD, stand_still)  # so that the fetch goes on
        dropped, query = trio.Event(), encode(BlobQuery(BLOB, 0))
        exchange, post, _ = await member(here, 0, window=1, on_drop=lambda source: dropped.set())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [liar.address, silent.address])
            await dropped.wait()
            held = decode(Held, await asking.request(post.address, HELD, query, ANSWER))
            assert read_held(CHUNKS, held) == (0, 0)
            for index in range(CHUNKS):
                with pytest.raises(Declined, match="Unavailable"):
                    await asking.request(post.address, CHUNK, encode(ChunkQuery(BLOB, index)), ANSWER)
            nursery.cancel_scope.cancel()
        assert post.refusals() == {(liar.identity.address, "BadEvidence"): 1}


async def test_a_list_is_waited_for_as_long_as_a_chunk(tmp_path, jumping_clock):
    """On a slow link it comes behind chunks of other blobs: an honest source was given up after five seconds."""
    asked, go_on = trio.Event(), trio.Event()

    async def late(sender, blob):
        asked.set()
        await go_on.wait()
        return True

    async with town(tmp_path) as here:
        source, _ = await here.source(admits=late)
        exchange, _, store = await here.fetcher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [source.address])
            await asked.wait()
            jumping_clock.jump(6.0)
            await trio.testing.wait_all_tasks_blocked(0.01)
            go_on.set()
        assert store.get(BLOB) == DATA and here.dropped == []


async def test_a_runs_records_that_came_in_parts_are_mapped(tmp_path):
    """Their blob is the records' bytes alone."""
    port = Port("data", "uint8", (Count(4), Count(len(DATA) // 4)))
    data = DataRef(tensor_digest(Tensor(port.dtype, port.shape, DATA)), BLOB, *port.shape)
    async with town(tmp_path) as here:
        halves = [await part_holder(here, half) for half in (FIRST_HALF, SECOND_HALF)]
        exchange, _, store = await here.fetcher()
        await exchange.fetch(BLOB, [post.address for post, _ in halves])
        assert all(asked for _, asked in halves)
        (records,) = map_data(store, data, port).tensors
        assert records.data == DATA and here.dropped == []


async def test_who_holds_a_part_is_asked_for_that_and_the_author_for_the_rest(tmp_path):
    async with town(tmp_path) as here:
        is_asked = trio.Event()

        async def tell(index):
            is_asked.set()
            return right_chunk(index)

        author, (part, asked) = await source_after(here, is_asked), await part_holder(here, FIRST_HALF, tell)
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [author.address, part.address])
        assert store.get(BLOB) == DATA
        assert set(asked) <= set(FIRST_HALF) and len(asked) == len(set(asked)) > 0
        assert here.dropped == []
        assert chunks_from(post, author) + len(asked) == CHUNKS


@pytest.mark.parametrize("chunk", [decline, stall, lie])
async def test_who_says_that_it_holds_what_it_does_not_give_costs_little(tmp_path, chunk):
    """It is asked for a window of chunks, and the author brings them."""
    async with town(tmp_path) as here:
        (author, held), (liar, asked) = await here.source(), await part_holder(here, FIRST_HALF, chunk)
        exchange, post, store = await here.fetcher(patience=1000.0, hedge=0.2)
        page = held.page(BLOB, 0)
        with Partial(store, BLOB, page.info) as begun:  # who has the list is taken to be whole
            begun.keep(0, page)
        await exchange.fetch(BLOB, [author.address, liar.address])
        assert store.get(BLOB) == DATA
        assert len(asked) == len(set(asked)) <= len(FIRST_HALF)
        assert here.reasons() == ([(liar.identity.address, "BadEvidence")] if chunk is lie else [])
        refused = post.refusals().get((liar.identity.address, "BadEvidence"), 0)
        assert (refused > 0) == (chunk is lie)


async def test_a_bitmap_of_another_length_is_a_violation(tmp_path):
    async with town(tmp_path) as here:
        is_dropped = trio.Event()
        author, liar = await source_after(here, is_dropped), await here.office()

        async def answer_held(sender, body):
            return encode(Held(b"\x01" * 3, b"\0" * 3))

        liar.register(HELD, answer_held)
        exchange, post, store = await here.fetcher(on_drop=lambda dropped: is_dropped.set())
        await exchange.fetch(BLOB, [author.address, liar.address])
        assert store.get(BLOB) == DATA
        assert post.refusals() == {(liar.identity.address, "Malformed"): 1}


async def test_a_part_holder_that_disappears_is_made_up_for(tmp_path):
    async with town(tmp_path) as here:
        gone, is_dropped = trio.Event(), trio.Event()

        async def vanish(index):
            gone.set()
            await trio.sleep_forever()

        def note(dropped):
            here.dropped.append(dropped)
            is_dropped.set()

        author = await source_after(here, is_dropped)
        exchange, _, store = await here.fetcher(hedge=1000.0, on_drop=note)
        dying, asked = await part_holder(here, FIRST_HALF, vanish)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [author.address, dying.address])
            await gone.wait()
            await dying._close()
        assert store.get(BLOB) == DATA
        assert here.reasons() == [(dying.identity.address, "Unavailable")]
        assert len(asked) <= 4


async def test_after_a_restart_two_halves_make_each_other_whole_without_the_author(tmp_path):
    async with town(tmp_path) as here:
        for number, half in enumerate((FIRST_HALF, SECOND_HALF)):

            async def of_half(index, half=half):
                return await (give if index in half else decline)(index)

            (exchange, _, _), (poor, _) = await member(here, number), await part_holder(here, half, of_half)
            with pytest.raises(Unavailable, match="no source is left for 6 chunks"):
                await exchange.fetch(BLOB, [poor.address])
        again = [await member(here, number, hedge=0.1) for number in range(2)]
        posts, silent = [post for _, post, _ in again], await here.office()
        silent.register(HELD, stand_still)  # so that whoever begins first waits for the other
        await acquaint(posts)
        here.dropped.clear()
        async with trio.open_nursery() as nursery:
            for exchange, _, _ in again:
                nursery.start_soon(exchange.fetch, BLOB, [post.address for post in [*posts, silent]])
        assert all(store.get(BLOB) == DATA for _, _, store in again)
        assert [chunks_from(posts[at], posts[1 - at]) for at in range(2)] == [CHUNKS // 2] * 2
        assert [sent(post, LIST.name)[0] for post in posts] == [0, 0] and here.dropped == []
