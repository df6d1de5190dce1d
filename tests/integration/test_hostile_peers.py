"""Junk below the envelope: on the bare socket, in Yamux frames and in the negotiation of protocols."""

import contextlib
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from multiaddr import Multiaddr

from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.mail import Kind
from p2p.transport import PROTOCOL, hang_up, make_host
from tests.patience import ANSWER, WHOLE
from verification.digest import tagged
from verification.signing import checksum
from verification.units import Millis

pytestmark = pytest.mark.integration
ALICE, BOB, MALLORY = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
NOW = Millis(1_700_000_000_000)
ECHO = Kind("echo", 1000, 1000)
SOCKET_JUNK = [
    b"",
    b"\0",
    b"\x13/multistream/1.0.0\n\x0b/plaintext/2.0.0\n",
    bytes(range(256)) * 40,
    b"GET / HTTP/1.1\r\n\r\n",
]
PROTOCOL_JUNK = [
    b"",
    b"\x13/multistream/1.0.0\n",
    b"\x13/multistream/1.0.0\n\x05/no/\n",
    b"\xff" * 100,
    bytes(100),
]
FRAMES = {
    "unknown type": b"\0\x09\0\0\0\0\0\x01\0\0\0\0",
    "unknown version": b"\x07\0\0\0\0\0\0\x01\0\0\0\0",
    "data for no stream": b"\0\0\0\0\0\0\x07\x01\0\0\0\x04data",
    "stream of our own": b"\0\0\0\x01\0\0\0\x02\0\0\0\0" * 2,
    "every flag": b"\0\x01\0\x0f\0\0\0\x09\0\0\0\0",
    "huge": b"\0\0\0\x01\0\0\0\x09\xff\xff\xff\xff",
    "junk": bytes(range(256)),
}


@asynccontextmanager
async def bob_and_a_friend():
    """Run Bob who echoes; yields his address and a check that he still answers Alice."""

    async def echo(sender, body):
        return body

    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            alice, bob = [
                await stack.enter_async_context(PostOffice(who, tagged("run"), lambda: NOW))
                for who in (ALICE, BOB)
            ]
            bob.register(ECHO, echo)

            async def alive():
                return await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"

            yield bob.address, alive


async def exhaust(stream):
    """Read until the other side ends or resets the stream."""
    with contextlib.suppress(BaseLibp2pError):
        while await stream.read(65536):
            pass


async def test_junk_on_a_bare_socket_harms_nobody():
    async with bob_and_a_friend() as (address, alive):
        port = int(address.multiaddr.split("/")[4])
        for junk in SOCKET_JUNK:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(junk)
                    await stream.send_eof()
                    async for _ in stream:
                        pass
            assert await alive()


@pytest.mark.parametrize("end", ["close_write", "reset"])
async def test_junk_instead_of_a_protocol_harms_nobody(end):
    async with bob_and_a_friend() as (address, alive):
        host, info = make_host(MALLORY), address.info()
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await host.connect(info)
            for junk in PROTOCOL_JUNK:
                stream = await host.get_network().new_stream(info.peer_id)
                await stream.write(junk)
                await getattr(stream, end)()
                if end == "close_write":
                    await exhaust(stream)
                assert await alive()


async def test_what_breaks_in_libp2p_ends_no_more_than_its_stream(monkeypatch, caplog):
    """In py-libp2p 0.8.1 what an inbound stream raises ends the whole program; here it raises by our own hand."""
    broken, negotiate = [], BasicHost._swarm_stream_handler

    async def handle(self, stream):
        if len(broken) < 3:
            broken.append(stream)
            raise RuntimeError("broken on purpose")
        await negotiate(self, stream)

    monkeypatch.setattr(BasicHost, "_swarm_stream_handler", handle)
    async with bob_and_a_friend() as (address, alive):
        host, info = make_host(MALLORY), address.info()
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await host.connect(info)
            while len(broken) < 3:
                await exhaust(await host.get_network().new_stream(info.peer_id))
            assert await alive()
    assert len(broken) == 3
    assert [line for line in caplog.messages if line.startswith("refused")] == [
        f"refused BrokenProtocol from {checksum(MALLORY.address)}: RuntimeError('broken on purpose') (1)",
        f"refused BrokenProtocol from {checksum(MALLORY.address)}: again (2)",
    ]


async def test_a_host_serves_its_own_protocol_only_and_keeps_nothing_of_strangers():
    """Of libp2p's own protocols a stranger is answered none, and leaves nothing behind."""
    host = make_host(BOB)
    assert list(host.multiselect.handlers) == []
    with trio.fail_after(WHOLE):
        async with PostOffice(BOB, tagged("run"), lambda: NOW) as bob:
            assert [str(each) for each in bob._host.multiselect.handlers] == [PROTOCOL]
            stranger, info = make_host(MALLORY), bob.address.info()
            async with stranger.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                await stranger.connect(info)
                for protocol in ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"):
                    with pytest.raises(BaseLibp2pError):
                        await stranger.new_stream(info.peer_id, [protocol])
                await hang_up(stranger)
            assert MALLORY.peer_id not in bob._host.get_peerstore().peer_ids()


@pytest.mark.parametrize("frame", FRAMES)
async def test_junk_instead_of_frames_harms_nobody(frame):
    async with bob_and_a_friend() as (address, alive):
        host, info = make_host(MALLORY), address.info()
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await host.connect(info)
            (connection,) = host.get_network().get_connections(info.peer_id)
            await connection.muxed_conn.secured_conn.write(FRAMES[frame])
            assert await alive()
