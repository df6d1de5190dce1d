"""Blobs over real sockets from honest, lying, silent and dying sources."""

import errno
import os
import socket
from collections import Counter

import pytest
import trio

from p2p.asking import LISTS, LOOKS, Asking
from p2p.blobs import BlobStore
from p2p.errors import Declined, Oversized
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.mail import Kind
from p2p.messages import BlobInfo, BlobPage, BlobQuery, ChunkBytes, ChunkQuery
from p2p.partial import Partial, known_page
from p2p.questions import CHUNK, HELD, LIST
from p2p.reach import LATE_SECONDS
from p2p.server import Grants
from p2p.transport import PeerAddress
from tests.patience import ANSWER, NOBODY
from tests.town import (
    BLOB,
    CHUNKS,
    DATA,
    NOW,
    RUN,
    chunks_from,
    hold_all,
    lie,
    right_chunk,
    stand_still,
    town,
)
from verification.codec import decode, encode
from verification.content import CHUNK_BYTES
from verification.digest import tagged
from verification.errors import Unavailable

pytestmark = pytest.mark.integration
AT_ONCE = 1 << 50
"""A pace that gives a whole fetch no more than its patience, which is over before that of any question in it."""


async def test_a_blob_comes_from_several_sources_at_once(tmp_path):
    async with town(tmp_path) as here:
        sources = [(await here.source())[0] for _ in range(3)]
        exchange, post, store = await here.fetcher()
        path = await exchange.fetch(BLOB, [source.address for source in sources])
        assert path == store.path(BLOB)
        assert store.get(BLOB) == DATA
        assert here.dropped == []
        shares = [chunks_from(post, source) for source in sources]
        assert sum(shares) == CHUNKS
        assert sum(share > 0 for share in shares) >= 2


async def test_what_is_in_the_store_asks_nobody(tmp_path):
    async with town(tmp_path) as here:
        exchange, post, store = await here.fetcher()
        store.put(DATA)
        assert await exchange.fetch(BLOB, []) == store.path(BLOB)
        assert post.traffic() == ()


async def test_two_tasks_fetch_one_blob_once(tmp_path):
    async with town(tmp_path) as here:
        source, _ = await here.source()
        exchange, post, _ = await here.fetcher()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(exchange.fetch, BLOB, [source.address])
        assert chunks_from(post, source) == CHUNKS


async def test_who_waits_for_anothers_fetch_of_a_blob_may_leave(tmp_path):
    """It took with it the count of what is here, and the fetch failed by that."""
    halted, go_on = trio.Event(), trio.Event()

    async def halt(index):
        halted.set()
        await go_on.wait()
        return right_chunk(index)

    async with town(tmp_path) as here:
        source = await here.odd_source(halt)
        exchange, post, store = await here.fetcher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [source.address])
            await halted.wait()
            with trio.CancelScope() as leaving:
                leaving.cancel()
                await exchange.fetch(BLOB, [source.address])
            assert leaving.cancelled_caught and exchange.arrived == {BLOB: 0}
            go_on.set()
        assert store.get(BLOB) == DATA
        assert chunks_from(post, source) == CHUNKS and here.dropped == []


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES])
async def test_small_blobs_come_too(tmp_path, size):
    async with town(tmp_path) as here:
        source, held = await here.source()
        blob = held.put(bytes(size))
        exchange, _, store = await here.fetcher()
        await exchange.fetch(blob, [source.address])
        assert store.get(blob) == bytes(size)


async def test_a_blob_over_the_limit_is_refused_before_its_first_chunk(tmp_path):
    async with town(tmp_path) as here:
        source, _ = await here.source()
        exchange, post, store = await here.fetcher()
        with pytest.raises(Oversized):
            await exchange.fetch(BLOB, [source.address], limit=len(DATA) - 1)
        assert chunks_from(post, source) == 0
        assert not store.has(BLOB)
        await exchange.fetch(BLOB, [source.address], limit=len(DATA))
        assert store.has(BLOB)


async def test_a_source_that_lies_is_counted_dropped_and_made_up_for(tmp_path):
    async with town(tmp_path) as here:
        liar, honest = await here.odd_source(lie), (await here.source())[0]
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [liar.address, honest.address])
        assert store.get(BLOB) == DATA
        assert here.reasons() == [(liar.identity.address, "BadEvidence")]
        assert post.refusals()[liar.identity.address, "BadEvidence"] >= 1
        assert {sender for sender, _ in post.refusals()} == {liar.identity.address}
        assert chunks_from(post, honest) == CHUNKS


@pytest.mark.parametrize("wrong", [BlobInfo(5, (tagged("x"),)), BlobInfo(2**53, ()), BlobInfo(0, ())])
async def test_a_source_that_lies_about_the_list_is_dropped(tmp_path, wrong):
    async with town(tmp_path) as here:
        liar, honest = await here.odd_source(lie, BlobPage(wrong, ())), (await here.source())[0]
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [liar.address, honest.address])
        assert store.get(BLOB) == DATA
        assert here.reasons() == [(liar.identity.address, "BadEvidence")]
        assert post.refusals() == {(liar.identity.address, "BadEvidence"): 1}


async def test_a_source_that_stalls_is_dropped(tmp_path):
    async def stall(index):
        await trio.sleep_forever()

    async with town(tmp_path) as here:
        slow, honest = await here.odd_source(stall), (await here.source())[0]
        # One chunk at a time, so that an honest one never takes as long.
        exchange, _, store = await here.fetcher(patience=5.0, hedge=1000.0, window=1)
        await exchange.fetch(BLOB, [slow.address, honest.address])
        assert store.get(BLOB) == DATA
        assert here.reasons() == [(slow.identity.address, "Unavailable")]


async def test_a_source_that_stands_still_does_not_cost_its_patience(tmp_path):
    async with town(tmp_path) as here:
        stalled = []

        async def stall(index):
            stalled.append(index)
            await trio.sleep_forever()

        slow, (honest, _) = await here.odd_source(stall), await here.source()
        exchange, post, store = await here.fetcher(patience=1000.0, hedge=0.1)
        await exchange.fetch(BLOB, [slow.address, honest.address])
        assert store.get(BLOB) == DATA
        assert 1 <= len(stalled) <= 4
        assert chunks_from(post, honest) == CHUNKS
        assert here.dropped == []


async def test_a_source_that_dies_midway_is_dropped(tmp_path):
    async with town(tmp_path) as here:
        honest, _ = await here.source()
        dying = PostOffice(Identity(b"\x77" * 32), RUN, lambda: NOW)
        reached = trio.Event()

        async def answer_chunk(sender, body):
            reached.set()
            await trio.sleep_forever()

        dying.register(HELD, hold_all)
        dying.register(CHUNK, answer_chunk)
        exchange, _, store = await here.fetcher(hedge=1000.0)
        async with trio.open_nursery() as nursery, dying:
            nursery.start_soon(exchange.fetch, BLOB, [honest.address, dying.address])
            await reached.wait()
        assert store.get(BLOB) == DATA
        assert here.reasons() == [(dying.identity.address, "Unavailable")]


async def test_a_fetch_resumes_after_a_restart_with_what_it_had(tmp_path):
    served = Counter()

    async def half(index):
        served[index] += 1
        if served.total() > CHUNKS // 2:
            raise Unavailable("no more")
        return right_chunk(index)

    async with town(tmp_path) as here:
        weak = await here.odd_source(half)
        exchange, _, store = await here.fetcher(window=1)
        with pytest.raises(Unavailable, match="no source is left for 6 chunks"):
            await exchange.fetch(BLOB, [weak.address])
        assert not store.has(BLOB)
        honest, _ = await here.source()
        again, post, store = await here.fetcher()
        await again.fetch(BLOB, [honest.address])
        assert store.get(BLOB) == DATA
        assert chunks_from(post, honest) == CHUNKS - CHUNKS // 2
        assert (honest.identity.address, LIST.reply) not in {
            (flow.peer, flow.kind) for flow in post.traffic()
        }


async def test_a_cancelled_fetch_leaves_the_blob_free_to_fetch(tmp_path):
    async with town(tmp_path) as here:
        reached = trio.Event()

        async def stall(index):
            reached.set()
            await trio.sleep_forever()

        slow = await here.odd_source(stall)
        exchange, _, store = await here.fetcher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [slow.address])
            await reached.wait()
            nursery.cancel_scope.cancel()
        page = known_page(store, BLOB, 0)
        with Partial(store, BLOB, page.info) as partial:
            assert len(partial.missing(0, page)) == CHUNKS
        await exchange.fetch(BLOB, [(await here.source())[0].address])
        assert store.get(BLOB) == DATA


async def test_nobody_has_it(tmp_path):
    async with town(tmp_path) as here:
        empty, _ = await here.source(hold=False)
        absent = PeerAddress.parse(f"{NOBODY}/p2p/{Identity(bytes([0x55]) * 32).peer_id}")
        exchange, post, _ = await here.fetcher()
        with pytest.raises(Unavailable, match="no source has the chunk list"):
            await exchange.fetch(BLOB, [empty.address, absent, post.address])
        assert here.reasons() == [(empty.identity.address, "Unavailable"), (absent.address, "Unavailable")]


async def test_who_could_not_be_reached_is_asked_last(tmp_path):
    """Asked first, it takes all the time that there is to learn what the blob is made of."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        key = Identity(b"\x55" * 32).peer_id
        hanging = PeerAddress.parse(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{key}")
        async with town(tmp_path) as here:
            honest, _ = await here.source()
            exchange, post, store = await here.fetcher({"dial_seconds": LATE_SECONDS / 2}, hedge=60.0)
            with pytest.raises(Unavailable):
                await post.request(hanging, LIST, b"", ANSWER)
            assert post.is_out_of_reach(hanging)
            exchange.serve()  # and is called by the honest one, which may take longer than it dials for
            with pytest.raises(Declined):
                await honest.request(post.address, LIST, encode(BlobQuery(BLOB, 0)), ANSWER)
            await exchange.fetch(BLOB, [hanging, honest.address])
            assert store.get(BLOB) == DATA


async def test_a_source_that_is_named_twice_is_asked_where_it_is_reached(tmp_path):
    """A newcomer has the host's address from its ticket, and may have another one from the ledger."""
    async with town(tmp_path) as here:
        honest, _ = await here.source()
        exchange, post, store = await here.fetcher()
        absent = PeerAddress.parse(f"{NOBODY}/p2p/{honest.identity.peer_id}")
        with pytest.raises(Unavailable):
            await post.request(absent, LIST, b"", ANSWER)
        assert post.is_out_of_reach(absent) and absent.address == honest.address.address
        await exchange.fetch(BLOB, [absent, honest.address, absent])
        assert store.get(BLOB) == DATA and here.dropped == []


async def test_a_damaged_source_declines_instead_of_lying(tmp_path):
    async with town(tmp_path) as here:
        (source, held), (honest, _) = await here.source(), await here.source()
        path = held.path(BLOB)
        path.chmod(0o644)
        path.write_bytes(bytes(len(DATA)))
        exchange, post, store = await here.fetcher()
        await exchange.fetch(BLOB, [source.address, honest.address])
        assert store.get(BLOB) == DATA
        assert post.refusals() == {}
        assert here.reasons() == [(source.identity.address, "Unavailable")]
        assert not held.has(BLOB)


async def test_a_chunk_beyond_the_end_is_a_refused_question(tmp_path):
    async with town(tmp_path) as here:
        source, _ = await here.source()
        _, post, _ = await here.fetcher()
        with pytest.raises(Unavailable, match="Malformed"):
            await post.request(source.address, CHUNK, encode(ChunkQuery(BLOB, CHUNKS)), ANSWER)
        assert source.refusals() == {(post.identity.address, "Malformed"): 1}


async def test_sources_that_keep_to_their_patience_do_not_hold_a_fetch_for_hours(tmp_path):
    """Each chunk came within the patience, and all of them over any number of rounds."""
    served = []

    async def dawdle(index):
        if served:
            await trio.sleep_forever()
        served.append(index)
        return right_chunk(index)

    async with town(tmp_path) as here:
        slow = await here.odd_source(dawdle)
        exchange, post, store = await here.fetcher(patience=5.0, pace=AT_ONCE)
        with pytest.raises(Unavailable, match="did not come at"):
            await exchange.fetch(BLOB, [slow.address])
        assert len(served) == chunks_from(post, slow) == 1
        assert not store.has(BLOB)
        honest, _ = await here.source()
        await Exchange(store, post).fetch(BLOB, [honest.address])
        assert chunks_from(post, honest) == CHUNKS - 1


async def test_a_source_that_does_not_answer_holds_up_nobody_who_has_the_list(tmp_path):
    """Ten of them first in the order cost 50 s."""
    asked, all_asked = [], trio.Event()

    async def stand_still(sender, body):
        asked.append(sender)
        if len(asked) == 3:
            all_asked.set()
        await trio.sleep_forever()

    async def admits(sender, blob):
        await all_asked.wait()
        return True

    async with town(tmp_path) as here:
        silent = [await here.office() for _ in range(3)]
        for post in silent:
            post.register(LIST, stand_still)
        honest, _ = await here.source(admits=admits)
        exchange, _, store = await here.fetcher(patience=1000.0, hedge=0.05)
        await exchange.fetch(BLOB, [post.address for post in [*silent, honest]])
        assert store.get(BLOB) == DATA
        assert len(asked) == 3


async def test_who_did_not_answer_is_not_waited_for_again(tmp_path):
    """A dead author cost a second for the list and another for the chunk, of every fetch."""
    async with town(tmp_path) as here:
        silent, (honest, held) = await here.office(), await here.source()
        silent.register(LIST, stand_still)
        silent.register(HELD, stand_still)
        silent.register(CHUNK, stand_still)
        sources = [silent.address, honest.address]
        exchange, _, store = await here.fetcher(patience=1000.0, hedge=0.05)
        await exchange.fetch(held.put(b"first"), sources)
        exchange._fetching.asking.hedge = 1000.0
        await exchange.fetch(BLOB, sources)
        assert store.get(BLOB) == DATA


async def test_a_chunk_is_asked_of_who_had_its_list_before_who_may_stand_still(tmp_path):
    """A silent member cost a run a second a round: it was asked for the only chunk, now and then."""
    asked = []

    async def note_and_stand_still(sender, body):
        asked.append(sender)
        await trio.sleep_forever()

    async with town(tmp_path) as here:
        (author, held), silent = await here.source(), [await here.office() for _ in range(3)]
        for post in silent:
            post.register(HELD, hold_all)
            post.register(CHUNK, note_and_stand_still)
        exchange, _, store = await here.fetcher(patience=1000.0, hedge=1000.0)
        blobs = [held.put(bytes([number])) for number in range(10)]
        for blob in blobs:
            await exchange.fetch(blob, [author.address, *(post.address for post in silent)])
        assert all(map(store.has, blobs))
        assert asked == []


async def test_who_has_lists_and_sends_no_chunk_is_waited_for_once(tmp_path):
    asked = []

    async def stall(index):
        asked.append(index)
        await trio.sleep_forever()

    async with town(tmp_path) as here:
        idle, (honest, held) = await here.odd_source(stall), await here.source()
        blobs = [held.put(bytes([number])) for number in range(10)]
        exchange, _, store = await here.fetcher(patience=1000.0, hedge=0.05)
        own = BlobStore(tmp_path / idle.identity.address.hex())
        for number in range(10):
            own.put(bytes([number]))
        await exchange.fetch(BLOB, [idle.address, honest.address])
        stalled, exchange._fetching.asking.hedge = len(asked), 1000.0
        for blob in blobs:
            await exchange.fetch(blob, [honest.address, idle.address])
        assert all(map(store.has, blobs))
        assert len(asked) == stalled


async def test_who_has_not_got_it_yet_is_asked_again_while_another_does_not_answer(tmp_path):
    asked = Counter()

    async with town(tmp_path) as here:
        silent, other = await here.office(), await here.office()
        held = BlobStore(tmp_path / "other")
        page = held.page(held.put(DATA), 0)

        async def not_yet(sender, body):
            asked["other"] += 1
            if asked["other"] < 3:
                raise Unavailable("not here yet")
            return encode(page)

        async def answer_chunk(sender, body):
            return encode(ChunkBytes(right_chunk(decode(ChunkQuery, body).index)))

        silent.register(LIST, stand_still)
        silent.register(HELD, stand_still)
        silent.register(CHUNK, stand_still)
        other.register(LIST, not_yet)
        other.register(HELD, hold_all)
        other.register(CHUNK, answer_chunk)
        exchange, _, store = await here.fetcher(patience=1000.0, hedge=0.05)
        await exchange.fetch(BLOB, [silent.address, other.address])
        assert store.get(BLOB) == DATA
        assert asked["other"] == 3
        assert here.dropped == []


async def test_who_may_not_have_a_blob_gets_neither_its_list_nor_its_chunks(tmp_path):
    async with town(tmp_path) as here:
        asked, closed = [], [True]

        async def admits(sender, blob):
            asked.append((sender, blob))
            return not closed

        post = await here.office()
        held = BlobStore(tmp_path / "held")
        held.put(DATA)
        Exchange(held, post, admits=admits).serve()
        exchange, own, store = await here.fetcher()
        with pytest.raises(Unavailable, match="no source has the chunk list"):
            await exchange.fetch(BLOB, [post.address])
        with pytest.raises(Unavailable, match="Unavailable"):
            await own.request(post.address, CHUNK, encode(ChunkQuery(BLOB, 0)), ANSWER)
        assert asked == [(own.identity.address, BLOB)] * 2
        assert post.refusals() == {}
        closed.clear()
        await exchange.fetch(BLOB, [post.address])
        assert store.get(BLOB) == DATA


async def test_statements_are_answered_while_tensors_wait_on_a_full_link(tmp_path):
    async def echo(sender, body):
        return body

    async with town(tmp_path) as here:
        small = Kind("small", 10, 10)
        source, _ = await here.source(up=CHUNK_BYTES // 1000)  # a chunk in a thousand seconds
        source.register(small, echo)
        post, arrived = await here.office(), []

        async def ask(index):
            await post.request(source.address, CHUNK, encode(ChunkQuery(BLOB, index)), 2000.0)
            arrived.append(index)

        async with trio.open_nursery() as nursery:
            await ask(0)
            nursery.start_soon(ask, 1)
            for number in range(5):
                assert await post.request(source.address, small, bytes([number]), ANSWER) == bytes([number])
            nursery.cancel_scope.cancel()
        assert arrived == [0]
        assert chunks_from(post, source) == 1


async def test_statements_find_room_beside_questions_for_blobs_that_nobody_answers(tmp_path):
    waiting, is_full = Counter(), trio.Event()

    def stalled(kind):
        async def stand_still(sender, body):
            waiting[kind.name] += 1
            if waiting.total() == LISTS + LOOKS:
                is_full.set()
            await trio.sleep_forever()

        return stand_still

    async def echo(sender, body):
        return body

    async with town(tmp_path) as here:
        small, silent, post = Kind("small", 10, 10), await here.office(), await here.office()
        silent.register(LIST, stalled(LIST))
        silent.register(HELD, stalled(HELD))
        silent.register(small, echo)
        asking = Asking(post, window=4, patience=1000.0, hedge=1000.0)
        assert Grants.asking > asking.window + LISTS + LOOKS
        async with trio.open_nursery() as nursery:
            for number in range(Grants.asking):
                blob = tagged("blob", bytes([number]))
                nursery.start_soon(asking.page, silent.address, blob, 0)
                nursery.start_soon(asking.held, silent.address, blob, 0, 1)
            await is_full.wait()
            assert await post.request(silent.address, small, b"now", ANSWER) == b"now"
            nursery.cancel_scope.cancel()
        assert waiting == {LIST.name: LISTS, HELD.name: LOOKS}


async def test_no_more_is_asked_for_than_the_link_takes(tmp_path):
    async with town(tmp_path) as here:
        (source, _), (other, _) = await here.source(), await here.source()
        exchange, post, _ = await here.fetcher(
            {"down": CHUNK_BYTES // 1000}, patience=5.0, pace=AT_ONCE, hedge=0.1
        )
        with pytest.raises(Unavailable, match="did not come at"):
            await exchange.fetch(BLOB, [source.address, other.address])
        asked = [
            flow.messages for flow in post.traffic() if (flow.direction, flow.kind) == ("out", CHUNK.name)
        ]
        assert sum(asked) == 1
        assert here.dropped == []


async def test_how_much_of_a_blob_is_here_is_told_while_it_comes(tmp_path):
    halted, go_on = trio.Event(), trio.Event()

    asked = []

    async def halt(index):
        asked.append(index)
        if len(asked) == CHUNKS:
            halted.set()
            await go_on.wait()
        return right_chunk(index)

    async with town(tmp_path) as here:
        source = await here.odd_source(halt)
        exchange, _, store = await here.fetcher(window=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.fetch, BLOB, [source.address])
            await halted.wait()
            assert exchange.arrived == {BLOB: len(DATA) - len(right_chunk(asked[-1]))}
            go_on.set()
        assert exchange.arrived == {} and store.has(BLOB)


async def test_a_full_disk_is_the_error_of_the_system_and_nobody_is_dropped_for_it(tmp_path, monkeypatch):
    faults = []

    def full(handle, data, offset):
        faults.append(offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with town(tmp_path) as here:
        source, _ = await here.source()
        exchange, _, store = await here.fetcher()
        with monkeypatch.context() as patch:
            patch.setattr("p2p.partial.os.pwrite", full)
            with pytest.raises(OSError, match="No space left on device"):
                await exchange.fetch(BLOB, [source.address])
        assert faults and here.dropped == []
        await exchange.fetch(BLOB, [source.address])
        assert store.get(BLOB) == DATA


async def test_a_blob_that_is_made_here_meanwhile_ends_its_fetch(tmp_path):
    """The next state, which a slower machine has nearly computed when others have sealed it."""
    async with town(tmp_path) as here:
        exchange, _post, store = await here.fetcher(window=1)
        asked = []

        async def make_it(index):
            asked.append(index)
            if len(asked) == 3:
                store.put(DATA)
            return right_chunk(index)

        source = await here.odd_source(make_it)
        path = await exchange.fetch(BLOB, [source.address])
        assert path == store.path(BLOB)
        assert len(asked) == 3, "of twelve"
        assert not list((store.folder / "partial").iterdir())
