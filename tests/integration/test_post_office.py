"""Real sockets on free ports of 127.0.0.1. Nothing sleeps: tests wait for events, bounded by fail_after."""

import contextlib
import logging
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from multiaddr import Multiaddr

from p2p.client import LATE_IN_A_ROW
from p2p.envelope import PURPOSE, SIGNATURE_BYTES, Envelope, first_sequence, seal
from p2p.errors import Declined, Oversized, Replayed
from p2p.framing import PREFIX_BYTES, drop, write_frame
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.mail import Kind
from p2p.server import Grants
from p2p.transport import PROTOCOL, PeerAddress, make_host
from tests.patience import ANSWER, WHOLE
from verification.codec import encode
from verification.digest import tagged
from verification.errors import Malformed, Refused, Unavailable, UserError
from verification.signing import checksum, sign
from verification.units import Count, Millis

pytestmark = pytest.mark.integration
ALICE, BOB, MALLORY = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
RUN = tagged("test run")
NOW = Millis(1_700_000_000_000)
ECHO = Kind("echo", 1000, 1000)
ALONE = "/ip4/127.0.0.2/tcp/0"
"""An address of loopback where no other test is given a port that was just given back."""


def office(identity, **options):
    return PostOffice(identity, RUN, lambda: NOW, **options)


async def echo(sender, body):
    return body


@asynccontextmanager
async def two(**options):
    """Run Alice, and Bob who echoes."""
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(office(ALICE))
            bob = await stack.enter_async_context(office(BOB, **options))
            bob.register(ECHO, echo)
            yield alice, bob


@asynccontextmanager
async def raw_streams(identity, post):
    """Run a bare libp2p host of `identity`; yields a function that opens a stream to `post`."""
    host = make_host(identity)
    info = post.address.info()
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(info)

        async def open_stream():
            return await host.new_stream(info.peer_id, [PROTOCOL])

        yield open_stream


async def exhaust(stream):
    """Read until the other side ends or resets the stream."""
    received = b""
    while True:
        try:
            piece = await stream.read(65536)
        except BaseLibp2pError:
            return received
        if not piece:
            return received
        received += piece


async def test_a_request_is_answered_and_both_sides_count_it():
    async with two() as (alice, bob):
        assert await alice.request(bob.address, ECHO, b"hello", ANSWER) == b"hello"
        assert await alice.request(bob.address, ECHO, b"", ANSWER) == b""
        sent = {(flow.direction, flow.kind): (flow.messages, flow.size) for flow in alice.traffic()}
        got = {(flow.direction, flow.kind): (flow.messages, flow.size) for flow in bob.traffic()}
    assert sent["out", "echo"] == got["in", "echo"]
    assert sent["in", "echo/reply"] == got["out", "echo/reply"]
    assert sent["out", "echo"][0] == 2
    assert {flow.peer for flow in alice.traffic()} == {BOB.address}
    assert alice.refusals() == bob.refusals() == {}


async def test_the_handler_learns_who_asks():
    async with two() as (alice, bob):
        who = Kind("who", 10, 20)

        async def tell(sender, body):
            return sender

        bob.register(who, tell)
        assert await alice.request(bob.address, who, b"", ANSWER) == ALICE.address


async def test_only_noise_and_yamux_are_offered():
    upgrader = make_host(ALICE).get_network().upgrader
    assert [str(name) for name in upgrader.security_multistream.transports] == ["/noise"]
    assert [str(name) for name in upgrader.muxer_multistream.transports] == ["/yamux/1.0.0"]


def altered(**changes):
    fields = {
        "version": Count(1),
        "run": RUN,
        "kind": "echo",
        "sender": MALLORY.address,
        "sequence": Count(1),
    }
    fields |= {"sent_at": NOW, "body": b"x", "signature": bytes(SIGNATURE_BYTES)} | changes
    signed = encode(Envelope(**fields))[:-SIGNATURE_BYTES]
    return signed + sign(MALLORY.secret, PURPOSE, signed)


def not_canonical():
    data = altered(sequence=Count(1), body=b"x")
    at = data.index(MALLORY.address) + 20
    signed = data[:at] + b"\xcc\x01" + data[at + 1 : -SIGNATURE_BYTES]
    return signed + sign(MALLORY.secret, PURPOSE, signed)


WRONG = {
    "Oversized": lambda: altered(body=bytes(1001)),
    "Malformed": not_canonical,
    "BadSignature": lambda: altered()[:-SIGNATURE_BYTES] + sign(ALICE.secret, PURPOSE, b"else"),
    "WrongSender": lambda: seal(ALICE, RUN, "echo", b"", Count(9), NOW),
    "UnknownVersion": lambda: altered(version=Count(2)),
    "WrongRun": lambda: altered(run=tagged("another")),
    "UnknownKind": lambda: altered(kind="nobody/knows"),
    "Stale": lambda: altered(sent_at=Millis(NOW - 10**6)),
}


@pytest.mark.parametrize("reason", WRONG)
async def test_a_wrong_message_is_refused_counted_logged_and_survived(reason, caplog):
    refusals = []
    async with two(on_refusal=refusals.append) as (alice, bob), raw_streams(MALLORY, bob) as open_stream:
        with caplog.at_level(logging.WARNING, "p2p"):
            stream = await open_stream()
            await write_frame(stream, WRONG[reason]())
            assert reason.encode() in await exhaust(stream)
        assert bob.refusals() == {(MALLORY.address, reason): 1}
        assert [(refusal.sender, refusal.reason) for refusal in refusals] == [(MALLORY.address, reason)]
        assert any(checksum(MALLORY.address) in line and reason in line for line in caplog.messages)
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"
        again = await open_stream()
        await write_frame(again, altered(sequence=Count(77)))
        assert b"ok" in await again.read(4096)


async def test_a_replayed_message_is_refused():
    async with two() as (_, bob), raw_streams(MALLORY, bob) as open_stream:
        stream = await open_stream()
        await write_frame(stream, altered())
        assert b"ok" in await stream.read(4096)
        await write_frame(stream, altered())
        assert b"Replayed" in await exhaust(stream)
        assert bob.refusals() == {(MALLORY.address, Replayed.__name__): 1}


async def test_a_frame_over_the_limit_is_refused_unread():
    async with two() as (alice, bob), raw_streams(MALLORY, bob) as open_stream:
        stream = await open_stream()
        await stream.write((2**32 - 1).to_bytes(PREFIX_BYTES, "big"))
        assert await exhaust(stream) == b""
        assert bob.refusals() == {(MALLORY.address, Oversized.__name__): 1}
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


@pytest.mark.parametrize("sent", [b"\0", b"\0\0\1\0", b"\0\0\1\0half"])
async def test_a_truncated_message_is_refused(sent):
    async with two() as (alice, bob), raw_streams(MALLORY, bob) as open_stream:
        stream = await open_stream()
        await stream.write(sent)
        await stream.close_write()
        assert await exhaust(stream) == b""
        assert bob.refusals() == {(MALLORY.address, "Truncated"): 1}
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


async def test_a_message_that_stands_still_is_refused():
    async with two(grants=Grants(patience=0.2)) as (_, bob), raw_streams(MALLORY, bob) as open_stream:
        stream = await open_stream()
        await stream.write(b"\0\0")
        assert await exhaust(stream) == b""
        assert bob.refusals() == {(MALLORY.address, "Truncated"): 1}


async def test_a_stream_reset_half_way_harms_nobody():
    async with two() as (alice, bob), raw_streams(MALLORY, bob) as open_stream:
        stream = await open_stream()
        await stream.write(b"\0\0\1\0half")
        await drop(stream)
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Refused("not now"), "Refused"), (Unavailable("gone"), "Unavailable"), (ZeroDivisionError(), "Fault")],
)
async def test_a_handler_that_raises_declines_and_the_host_lives(fault, reason):
    async with two() as (alice, bob):

        async def fail(sender, body):
            raise fault

        bob.register(Kind("fail", 10, 10), fail)
        with pytest.raises(Declined) as caught:
            await alice.request(bob.address, Kind("fail", 10, 10), b"", ANSWER)
        assert caught.value.reason == reason
        assert bob.refusals() == ({(ALICE.address, "Refused"): 1} if reason == "Refused" else {})
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


async def test_a_peer_s_own_word_for_why_it_declines_reaches_nobody():
    """Its status once went to the terminal of whoever had asked, escape sequences and all."""
    made_up = type("\x1b[2J\nended ok", (Refused,), {})
    async with two() as (alice, bob):

        async def fail(sender, body):
            raise made_up("")

        bob.register(Kind("fail", 10, 10), fail)
        with pytest.raises(Declined, match=r"declined fail: Unknown$") as caught:
            await alice.request(bob.address, Kind("fail", 10, 10), b"", ANSWER)
        assert caught.value.reason == "Unknown"


async def test_an_answer_that_breaks_a_rule_is_counted_against_its_author():
    async with two() as (alice, bob):
        with pytest.raises(Oversized):
            await alice.request(bob.address, Kind("echo", 1000, 1), bytes(900), ANSWER)
        assert alice.refusals() == {(BOB.address, "Oversized"): 1}


async def test_a_reply_to_another_request_is_refused(monkeypatch):
    async with two() as (alice, bob):
        monkeypatch.setattr("p2p.server.request_digest", lambda data: tagged("else"))
        with pytest.raises(Exception, match="not asked"):
            await alice.request(bob.address, ECHO, b"", ANSWER)
        assert alice.refusals() == {(BOB.address, "WrongReply"): 1}


async def test_a_late_answer_is_unavailable_and_its_handler_is_freed():
    async with two() as (alice, bob):
        never, kind = trio.Event(), Kind("never", 10, 10, patience=0.3)

        async def wait(sender, body):
            await never.wait()

        bob.register(kind, wait)
        with pytest.raises(Unavailable, match=r"within 0\.1 s"):
            await alice.request(bob.address, kind, b"", 0.1)
        with pytest.raises(Declined):
            await alice.request(bob.address, kind, b"", ANSWER)
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


async def test_a_connection_on_which_nothing_comes_back_is_dialled_anew():
    async with two() as (alice, bob):
        never = Kind("never", 10, 10)

        async def wait(sender, body):
            await trio.sleep_forever()

        bob.register(never, wait)
        await alice.request(bob.address, ECHO, b"", ANSWER)
        for _ in range(LATE_IN_A_ROW):
            with pytest.raises(Unavailable):
                await alice.request(bob.address, never, b"", 0.05)
        assert alice.connected() == ()
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"
        assert alice.connected() == (BOB.address,)


async def test_a_peer_gets_so_many_streams_and_no_more():
    async with (
        two(grants=Grants(streams_per_peer=2)) as (alice, bob),
        raw_streams(MALLORY, bob) as open_stream,
    ):
        for number in range(2):
            stream = await open_stream()
            await write_frame(stream, altered(sequence=Count(number)))
            assert b"ok" in await stream.read(4096)
        with contextlib.suppress(
            BaseLibp2pError
        ):  # the reset may come before or after the protocol is agreed
            assert await exhaust(await open_stream()) == b""
        assert bob.refusals() == {(MALLORY.address, "Overloaded"): 1}
        assert await alice.request(bob.address, ECHO, b"alive", ANSWER) == b"alive"


async def test_requests_at_once_are_limited_in_total_and_per_peer():
    async with two(grants=Grants(at_once=3)) as (alice, bob):
        running, most, gate, full, done = 0, 0, trio.Event(), trio.Event(), Counter()

        async def hold(sender, body):
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 3:
                full.set()
            await gate.wait()
            running -= 1
            return b""

        kind = Kind("hold", 10, 10)
        bob.register(kind, hold)

        async def ask(number):
            done[await alice.request(bob.address, kind, b"", ANSWER)] += 1

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
            await full.wait()
            gate.set()
        assert (most, done[b""]) == (3, 20)
        assert bob.refusals() == {}


async def test_a_taken_port_is_one_line_for_the_user():
    async with two() as (_, bob):
        listen = bob.address.multiaddr.split("/p2p/")[0]
        with pytest.raises(UserError, match="is taken; choose another") as caught:
            async with office(MALLORY, listen=listen):
                pass
        assert "\n" not in str(caught.value)


async def test_a_port_taken_by_another_program_too():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="is taken"):
        async with office(ALICE, listen=f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"):
            pass


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1:80", "/ip4/127.0.0.1", "/ip4/192.0.2.1/tcp/0", "/ip4/127.0.0.1/tcp/x"]
)
async def test_an_address_nobody_can_listen_on_is_one_line(listen):
    with pytest.raises(UserError) as caught:
        async with office(ALICE, listen=listen):
            pass
    assert "\n" not in str(caught.value)


async def test_a_closed_office_frees_its_port_and_a_new_one_is_reached_again():
    with trio.fail_after(WHOLE):
        async with office(ALICE) as alice:
            async with office(BOB, listen=ALONE) as bob:
                bob.register(ECHO, echo)
                address = bob.address
                assert await alice.request(address, ECHO, b"1", ANSWER) == b"1"
            with pytest.raises(Unavailable):
                await alice.request(address, ECHO, b"2", ANSWER)
            again = PostOffice(BOB, RUN, lambda: Millis(NOW + 1), listen=address.multiaddr.split("/p2p/")[0])
            async with again as bob:
                bob.register(ECHO, echo)
                assert await alice.request(address, ECHO, b"3", ANSWER) == b"3"


async def test_a_cancelled_office_closes_and_passes_the_bodys_exception_bare():
    with trio.fail_after(WHOLE):
        with trio.CancelScope() as scope:
            async with office(BOB, listen=ALONE) as bob:
                address = bob.address
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(KeyError):
            async with office(BOB, listen=address.multiaddr.split("/p2p/")[0]):
                raise KeyError


async def test_closing_does_not_wait_for_a_handler():
    with trio.fail_after(WHOLE):
        async with office(ALICE) as alice, trio.open_nursery() as nursery, office(BOB) as bob:
            reached, kind = trio.Event(), Kind("never", 10, 10)

            async def never(sender, body):
                reached.set()
                await trio.sleep_forever()

            bob.register(kind, never)

            async def ask():
                with pytest.raises(Unavailable):
                    await alice.request(bob_address, kind, b"", ANSWER)

            bob_address = bob.address
            nursery.start_soon(ask)
            await reached.wait()


async def test_a_peer_with_another_key_at_the_address_is_not_believed():
    async with two() as (alice, bob):
        claimed = PeerAddress(MALLORY.address, bob.address.multiaddr)
        with pytest.raises(Malformed, match="is not the peer"):
            await alice.request(claimed, ECHO, b"", ANSWER)
        host = bob.address.multiaddr.split("/p2p/")[0]
        impostor = PeerAddress.parse(f"{host}/p2p/{MALLORY.peer_id}")
        with pytest.raises(Unavailable):
            await alice.request(impostor, ECHO, b"", ANSWER)


@pytest.mark.parametrize(
    "text", ["", "x", "/ip4/127.0.0.1/tcp/1", "/p2p/16Uiu2HAkzdQ5Y9SYT91K1ue5SxXwgmajXntfScGnLYeip5hHyWmT"]
)
def test_text_that_is_no_peer_address_is_refused(text):
    with pytest.raises(Malformed):
        PeerAddress.parse(text)


async def test_sequences_of_a_restarted_peer_are_new():
    with trio.fail_after(WHOLE):
        async with office(BOB) as bob:
            bob.register(ECHO, echo)
            for later in (0, 1):
                async with PostOffice(ALICE, RUN, lambda later=later: Millis(NOW + later)) as alice:
                    for _ in range(3):
                        await alice.request(bob.address, ECHO, b"", ANSWER)
            assert bob.refusals() == {}
    assert first_sequence(NOW) < 2**53


async def test_a_post_office_that_closes_is_announced_no_more():
    """Before, it went on while sockets closed, asked a closed one for its address, and ended the peer with that."""

    class Announcing:
        begun, ended = trio.Event(), 0

        async def announce(self):
            self.begun.set()
            try:
                await trio.sleep_forever()
            finally:
                self.ended += 1

    nearby, post = Announcing(), office(ALICE)
    post.nearby = nearby
    with trio.fail_after(WHOLE):
        async with trio.open_nursery() as nursery, post:
            nursery.start_soon(post.announce)
            await nearby.begun.wait()
    assert nearby.ended == 1
