"""What strangers and members may hold of a peer's connections and memory, with lowered bounds and harmless bytes."""

import contextlib
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from multiaddr import Multiaddr

from p2p.bounds import Bounds
from p2p.errors import Declined
from p2p.framing import write_frame
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.mail import Kind
from p2p.muxer import BoundedYamux
from p2p.server import Grants
from p2p.transport import MAX_CONNECTIONS, PROTOCOL, hang_up, make_host
from tests.patience import ANSWER, WHOLE
from verification.digest import tagged
from verification.errors import Unavailable
from verification.units import Millis

pytestmark = pytest.mark.integration
RUN = tagged("test run")
NOW = Millis(1_700_000_000_000)
ECHO = Kind("echo", 1000, 1000)
ALICE, BOB = (Identity(bytes([number]) * 32) for number in (1, 2))
STRANGERS = [Identity(bytes([number]) * 32) for number in range(100, 140)]


async def echo(sender, body):
    return body


@asynccontextmanager
async def members(bounds, reading=60.0):
    """Run Alice, and Bob who echoes and holds others to `bounds`; nobody else is a member."""
    known = {ALICE.address, BOB.address}.__contains__
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(PostOffice(ALICE, RUN, lambda: NOW))
            grants = Grants(bounds=bounds, reading=reading)
            bob = PostOffice(BOB, RUN, lambda: NOW, grants=grants, is_member=known)
            await stack.enter_async_context(bob)
            bob.register(ECHO, echo)

            async def is_served():
                return await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"

            yield bob, is_served


@asynccontextmanager
async def dialled(identity, post):
    """A bare host of a stranger's with a connection to `post`; yields host and connection."""
    host, info = make_host(identity), post.address.info()
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(info)
        (connection,) = host.get_network().get_connections(info.peer_id)
        yield host, connection
        await hang_up(host)


async def test_strangers_have_a_few_connections_and_the_oldest_goes_first():
    """They took every slot and kept them; whoever came later was shut out."""
    async with members(Bounds(strangers=3)) as (bob, is_served), AsyncExitStack() as stack:
        assert await is_served()
        inside = []
        for stranger in STRANGERS[:6]:
            _, connection = await stack.enter_async_context(dialled(stranger, bob))
            inside.append(connection)
        for connection in inside[:3]:
            await connection.event_closed.wait()
        assert [connection.is_closed for connection in inside] == [True] * 3 + [False] * 3
        assert await is_served()
        assert set(bob.connected()) == {ALICE.address, *(each.address for each in STRANGERS[3:6])}
        assert sum(bob.refusals().values()) == 3


async def test_strangers_at_one_network_address_have_fewer():
    async with members(Bounds(strangers_at_one=2)) as (bob, is_served), AsyncExitStack() as stack:
        inside = []
        for stranger in STRANGERS[:3]:
            _, connection = await stack.enter_async_context(dialled(stranger, bob))
            inside.append(connection)
        await inside[0].event_closed.wait()
        assert not inside[1].is_closed and not inside[2].is_closed
        assert await is_served()


async def test_a_stranger_that_says_nothing_is_closed_and_a_member_is_not():
    async with members(Bounds(idle=0.0)) as (bob, is_served):
        assert await is_served()
        async with dialled(STRANGERS[0], bob) as (_, connection):
            await connection.event_closed.wait()
        assert bob.refusals() == {}
        assert await is_served()


async def test_connections_that_ended_take_no_slot(monkeypatch):
    monkeypatch.setattr("p2p.transport.MAX_CONNECTIONS", 5)
    async with members(Bounds()) as (bob, is_served):
        for stranger in STRANGERS[:8]:
            async with dialled(stranger, bob):
                pass
            while bob.connected():
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert await is_served()
    assert MAX_CONNECTIONS > 5


async def test_handshakes_from_one_address_are_few_at_a_time():
    async with members(Bounds(greetings=2)) as (bob, is_served):
        assert await is_served()
        port = int(bob.address.multiaddr.split("/")[4])
        async with AsyncExitStack() as stack:
            silent = []
            for _ in range(3):
                stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                silent.append(stream)
            assert await silent[2].receive_some() == b""
            assert await is_served()
        assert sum(bob.refusals().values()) == 1


async def test_streams_on_one_connection_are_bounded_before_they_say_what_they_are_for():
    granted = 4
    async with members(Bounds(streams=granted)) as (bob, is_served):
        async with dialled(STRANGERS[0], bob) as (_, connection):
            opened = 0
            with contextlib.suppress(BaseLibp2pError):
                for _ in range(granted + 1):
                    await connection.muxed_conn.open_stream()
                    opened += 1
            await connection.event_closed.wait()
        assert granted <= opened <= granted + 1
        assert list(bob.refusals().values()) == [1]
        assert await is_served()


async def filled(connection, streams, size):
    """Open streams and leave `size` bytes on each, which nobody reads; returns how many were written."""
    written = 0
    for _ in range(streams):
        stream = await connection.muxed_conn.open_stream()
        await stream.write(bytes(size))
        written += size
    return written


async def test_bytes_that_wait_unread_are_bounded_on_one_connection(monkeypatch):
    async with members(Bounds(unread=100_000)) as (bob, _):
        monkeypatch.setattr(bob._host.get_network(), "common_stream_handler", leave_unread)
        async with dialled(STRANGERS[0], bob) as (_, connection):
            assert await filled(connection, 9, 10_000) == 90_000
            assert not connection.is_closed
            assert await filled(connection, 2, 10_000) == 20_000
            await connection.event_closed.wait()
        assert list(bob.refusals().values()) == [1]


async def test_bytes_that_wait_unread_are_bounded_for_strangers_together(monkeypatch):
    bounds = Bounds(unread=100_000, unread_of_strangers=150_000, unread_in_all=1_000_000)
    async with members(bounds) as (bob, _), AsyncExitStack() as stack:
        monkeypatch.setattr(bob._host.get_network(), "common_stream_handler", leave_unread)
        connections = []
        for stranger, size in zip(STRANGERS, (90_000, 50_000, 20_000), strict=False):
            _, connection = await stack.enter_async_context(dialled(stranger, bob))
            await filled(connection, size // 10_000, 10_000)
            connections.append(connection)
        await connections[0].event_closed.wait()
        assert [connection.is_closed for connection in connections] == [True, False, False]
        assert bob.refusals() == {(STRANGERS[0].address, "Overloaded"): 1}


async def leave_unread(stream):
    """Handle a stream by not reading it."""
    await trio.sleep_forever()


async def test_who_sends_beyond_its_window_is_closed(monkeypatch):
    async with members(Bounds()) as (bob, _):
        monkeypatch.setattr(bob._host.get_network(), "common_stream_handler", leave_unread)
        async with dialled(STRANGERS[0], bob) as (_, connection):
            stream = await connection.muxed_conn.open_stream()
            stream.send_window = 1 << 20  # as if it had been granted
            with contextlib.suppress(BaseLibp2pError):
                await stream.write(bytes(1 << 20))
            await connection.event_closed.wait()
        assert bob.refusals() == {(STRANGERS[0].address, "Overloaded"): 1}


async def test_an_answer_that_nobody_takes_ends_its_connection(monkeypatch):
    """How much the other side's window takes depends on py-libp2p, so here the write itself stands still."""
    stalled = []

    async def stall(stream, data):
        stalled.append(len(data))
        await trio.sleep_forever()

    monkeypatch.setattr("p2p.server.write_frame", stall)
    async with members(Bounds(), reading=0.2) as (bob, _):
        stranger = PostOffice(STRANGERS[0], RUN, lambda: NOW)
        async with dialled(STRANGERS[0], bob) as (host, connection):
            stream = await host.new_stream(bob.address.info().peer_id, [PROTOCOL])
            await write_frame(stream, stranger._mail.seal(ECHO.name, b"hello"))
            await connection.event_closed.wait()
        assert len(stalled) == 1
        assert bob.refusals() == {(STRANGERS[0].address, "Untaken"): 1}


async def test_a_joiner_is_no_stranger_any_more():
    joined = set()
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            grants = Grants(bounds=Bounds(strangers=1))
            bob = PostOffice(BOB, RUN, lambda: NOW, grants=grants, is_member=joined.__contains__)
            await stack.enter_async_context(bob)
            _, first = await stack.enter_async_context(dialled(STRANGERS[0], bob))
            joined.add(STRANGERS[0].address)
            for stranger in STRANGERS[1:3]:
                _, connection = await stack.enter_async_context(dialled(stranger, bob))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not first.is_closed and not connection.is_closed


async def test_a_member_is_served_while_strangers_ask_for_more_than_they_may_have():
    """Answers under way to all strangers together are bounded, so that members have their turn."""
    asked = trio.Event()

    async def slow(sender, body):
        asked.set()
        await trio.sleep_forever()

    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(PostOffice(ALICE, RUN, lambda: NOW))
            known = {ALICE.address, BOB.address}.__contains__
            bob = PostOffice(
                BOB, RUN, lambda: NOW, grants=Grants(at_once=2, answers_of_one=1000), is_member=known
            )
            await stack.enter_async_context(bob)
            bob.register(ECHO, echo)
            kind = Kind("slow", 1000, 1000)
            bob.register(kind, slow)
            nursery = await stack.enter_async_context(trio.open_nursery())
            for stranger in STRANGERS[:3]:
                post = await stack.enter_async_context(PostOffice(stranger, RUN, lambda: NOW))
                nursery.start_soon(ask_in_vain, post, bob.address, kind)
            await asked.wait()
            assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"
            nursery.cancel_scope.cancel()


async def ask_in_vain(post, address, kind):
    """Ask what is not answered."""
    with pytest.raises(Unavailable):
        await post.request(address, kind, b"", 60.0)


async def wronged(host, post, connection):
    """Say nonsense until the connection ends."""
    peer = post.address.info().peer_id
    while not connection.is_closed:
        with contextlib.suppress(BaseLibp2pError, trio.BrokenResourceError, RuntimeError):
            stream = await host.new_stream(peer, [PROTOCOL])
            await stream.write(b"\xff" * 4)
            await stream.read()


async def refused(identity, post):
    """Dial, and wait until there is no connection."""
    host, info = make_host(identity), post.address.info()
    async with host.run([]):
        with contextlib.suppress(BaseLibp2pError):
            await host.connect(info)
        for connection in host.get_network().get_connections(info.peer_id):
            await connection.event_closed.wait()
        await hang_up(host)


async def test_who_does_wrong_too_often_is_cut_off_and_its_place_with_it_but_for_members():
    async with members(Bounds(wrongs=3)) as (bob, is_served), AsyncExitStack() as stack:
        assert await is_served()
        host, bad = await stack.enter_async_context(dialled(STRANGERS[0], bob))
        _, other = await stack.enter_async_context(dialled(STRANGERS[1], bob))
        await wronged(host, bob, bad)
        await other.event_closed.wait()
        assert bob.refusals()[STRANGERS[0].address, "Oversized"] >= 4
        await refused(STRANGERS[2], bob)
        assert await is_served()
        _, again = await stack.enter_async_context(dialled(ALICE, bob))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not again.is_closed


async def test_a_member_that_does_wrong_too_often_is_cut_off_and_others_at_its_place_are_not():
    async with members(Bounds(wrongs=3)) as (bob, _), AsyncExitStack() as stack:
        _, stranger = await stack.enter_async_context(dialled(STRANGERS[0], bob))
        host, bad = await stack.enter_async_context(dialled(ALICE, bob))
        await wronged(host, bob, bad)
        await refused(ALICE, bob)
        assert not stranger.is_closed
        assert bob.refusals()[ALICE.address, "Oversized"] >= 4


async def test_requests_beyond_their_pace_are_refused():
    with trio.fail_after(WHOLE):
        async with (
            PostOffice(ALICE, RUN, lambda: NOW) as alice,
            PostOffice(BOB, RUN, lambda: NOW, grants=Grants(burst=5, pace=0.001)) as bob,
        ):
            bob.register(ECHO, echo)
            for _ in range(5):
                assert await alice.request(bob.address, ECHO, b"alive", 5.0) == b"alive"
            with pytest.raises(Declined, match="Overloaded"):
                await alice.request(bob.address, ECHO, b"alive", 5.0)


async def test_strangers_at_one_place_do_not_hold_what_is_for_those_at_others(monkeypatch):
    """One that left four megabytes of answers unread held all others out for a minute."""
    asked = []

    async def slow(sender, body):
        asked.append(sender)
        await trio.sleep_forever()

    near = {each.address for each in STRANGERS[:6]}
    monkeypatch.setattr(
        BoundedYamux, "place", property(lambda own: "here" if own.account in near else "there"), raising=True
    )
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            grants = Grants(answers_of_one=4 * 1000)
            bob = PostOffice(BOB, RUN, lambda: NOW, grants=grants, is_member=lambda account: False)
            await stack.enter_async_context(bob)
            kind = Kind("slow", 1000, 400)
            bob.register(kind, slow)
            bob.register(ECHO, echo)
            nursery = await stack.enter_async_context(trio.open_nursery())
            for stranger in STRANGERS[:6]:
                post = await stack.enter_async_context(PostOffice(stranger, RUN, lambda: NOW))
                nursery.start_soon(ask_in_vain, post, bob.address, kind)
            far = await stack.enter_async_context(PostOffice(STRANGERS[7], RUN, lambda: NOW))
            while len(asked) < 2:
                await trio.testing.wait_all_tasks_blocked()
            assert await far.request(bob.address, ECHO, b"alive", 5.0) == b"alive"
            assert len(asked) == 2
            nursery.cancel_scope.cancel()
