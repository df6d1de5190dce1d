"""Peers that reach each other by way of a relay, on loopback: what it carries, and what it does not."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.dcutr import PROTOCOL_ID as DCUTR
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg
from multiaddr import Multiaddr

from p2p.addresses import CIRCUIT
from p2p.circuits import AGAIN_SECONDS
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.listening import Outside
from p2p.mail import Kind
from p2p.muxer import is_relayed
from p2p.relay import CARRIED, HOP, KIND, SEEN, STOP, Carried
from p2p.transport import PROTOCOL, PeerAddress, make_host
from tests.patience import ANSWER, NOBODY, WHOLE
from verification.digest import tagged
from verification.errors import Unavailable
from verification.units import Millis

pytestmark = pytest.mark.integration
ALICE, BOB, RELAY, CAROL = (Identity(bytes([number]) * 32) for number in (1, 2, 3, 4))
STRANGER = Identity(bytes([9]) * 32)
RUN, NOW = tagged("test run"), Millis(1_700_000_000_000)
ECHO, BULK = Kind("echo", 100_000, 100_000), Kind("bulk", 100_000, 100_000, is_bulk=True)
ALONE = "/ip4/127.0.0.2/tcp/0"
"""An address of loopback where no other test is given a port that was just given back."""
MEMBERS = {who.address for who in (ALICE, BOB, RELAY, CAROL)}


async def echo(sender, body):
    return body


def post_office(identity: Identity, **options) -> PostOffice:
    """Return an office of a run with four members."""
    return PostOffice(identity, RUN, lambda: NOW, is_member=MEMBERS.__contains__, **options)


@asynccontextmanager
async def relayed(carried: Carried = CARRIED, **options) -> AsyncIterator[tuple[PostOffice, ...]]:
    """Run a relay, Bob with a place there, and Alice; Bob echoes. Yields relay, Bob and Alice."""
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            relay = post_office(RELAY, outside=Outside(relays=True, carried=carried), **options)
            await stack.enter_async_context(relay)
            bob = await stack.enter_async_context(post_office(BOB, outside=Outside(via=(relay.address,))))
            alice = await stack.enter_async_context(post_office(ALICE))
            for kind in (ECHO, BULK):
                bob.register(kind, echo)
            assert await bob.is_reserved()
            yield relay, bob, alice


def by_relay(peer: PostOffice) -> PeerAddress:
    """Return a peer's address with nothing but circuits."""
    return PeerAddress.parse(" ".join(each for each in peer.address.multiaddrs if CIRCUIT in each))


@asynccontextmanager
async def bare(identity: Identity, relay: PostOffice):
    """A bare host that is connected to the relay; yields what asks it and returns its answer and stream."""
    host, info = make_host(identity), relay.address.info()
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(info)

        async def ask(**fields):
            stream = await host.new_stream(info.peer_id, [HOP])
            await write_delimited_msg(stream, HopMessage(**fields))
            return (await read_delimited_msg(stream, HopMessage)).status, stream

        yield ask


async def exhaust(stream) -> bytes:
    """Read until the stream ends."""
    received = b""
    with contextlib.suppress(BaseLibp2pError):
        while piece := await stream.read(1000):
            received += piece
    return received


def to(peer: Identity) -> dict:
    """Return the fields that ask for a circuit."""
    return {"type": HopMessage.CONNECT, "peer": PeerId(id=ID.from_string(str(peer.peer_id)).to_bytes())}


RESERVE = {"type": HopMessage.RESERVE}


async def test_statements_go_by_way_of_a_relay_and_are_counted_there():
    async with relayed() as (relay, bob, alice):
        assert [CIRCUIT in each for each in bob.address.multiaddrs] == [True, False]
        body = bytes(50_000)
        assert await alice.request(by_relay(bob), ECHO, body, ANSWER) == body
        carried = {(flow.peer, flow.direction): flow.size for flow in relay.traffic() if flow.kind == KIND}
    assert min(carried.values()) > 50_000
    assert set(carried) == {(who.address, way) for who in (ALICE, BOB) for way in ("in", "out")}


async def test_both_sides_use_one_circuit():
    async with relayed() as (_, bob, alice):
        alice.register(ECHO, echo)
        assert await alice.request(by_relay(bob), ECHO, b"there", ANSWER) == b"there"
        nowhere = PeerAddress.parse(f"{NOBODY}/p2p/{ALICE.peer_id}")
        assert await bob.request(nowhere, ECHO, b"back", ANSWER) == b"back"


async def test_bulk_waits_for_a_direct_connection():
    async with relayed() as (_, bob, alice):
        assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""
        with pytest.raises(Unavailable, match="relays only, which carry no bulk"):
            await alice.request(by_relay(bob), BULK, b"", ANSWER)
        assert alice.is_out_of_reach(by_relay(bob))
        assert await alice.request(bob.address, BULK, b"now", ANSWER) == b"now"


async def test_who_has_no_place_is_not_reached_and_is_left_alone_then(monkeypatch):
    monkeypatch.setattr("p2p.addresses.SHORTEST_SECONDS", WHOLE)
    async with relayed() as (relay, bob, alice):
        nobody = PeerAddress.parse(f"{relay.address.multiaddr}{CIRCUIT}/p2p/{CAROL.peer_id}")
        for _ in range(2):
            with pytest.raises(Unavailable, match="refuses: NO_RESERVATION"):
                await alice.request(nobody, ECHO, b"", ANSWER)
        with pytest.raises(Unavailable, match="is tried again in"):
            await alice.request(nobody, ECHO, b"", ANSWER)
        assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""


async def test_a_place_is_taken_again_when_the_relay_comes_back():
    with trio.fail_after(WHOLE + AGAIN_SECONDS):
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(post_office(ALICE))
            relays = post_office(RELAY, listen=ALONE, outside=Outside(relays=True))
            async with relays as relay:
                listen = relay.address.multiaddr.split("/p2p/")[0]
                bob = await stack.enter_async_context(post_office(BOB, outside=Outside(via=(relay.address,))))
                bob.register(ECHO, echo)
                assert await bob.is_reserved()
                there = bob.address
            assert bob.address == there
            again = PostOffice(RELAY, RUN, lambda: NOW + 1, listen=listen, outside=Outside(relays=True))
            async with again:
                while not again._relay._until:
                    await trio.testing.wait_all_tasks_blocked(0.05)
                assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""


async def test_the_end_of_one_circuit_leaves_others_alone():
    async with relayed() as (relay, bob, alice), post_office(CAROL) as carol:
        carol.register(ECHO, echo)
        for asking in (alice, carol):
            assert await asking.request(by_relay(bob), ECHO, b"", ANSWER) == b""
        assert len(relay._relay._circuits) == 2
        connections = bob._host.get_network().get_connections(ID.from_string(str(ALICE.peer_id)))
        # where that took long, there is a direct one, too
        (circuit,) = (each for each in connections if is_relayed(each.muxed_conn))
        await circuit.close()
        while len(relay._relay._circuits) > 1:
            await trio.testing.wait_all_tasks_blocked()
        assert await carol.request(by_relay(bob), ECHO, b"on", ANSWER) == b"on"


@pytest.mark.parametrize(
    ("carried", "kind", "count"),
    [
        (Carried(of_one=2), BOB, 2),
        (Carried(circuits=1), BOB, 1),
        (Carried(strangers=1), STRANGER, 1),
    ],
)
async def test_circuits_are_bounded_and_the_refusal_is_counted(carried, kind, count):
    who = CAROL if kind is BOB else STRANGER
    async with relayed(carried) as (relay, bob, alice), bare(who, relay) as ask:
        answers = [(await ask(**to(BOB)))[0] for _ in range(count + 1)]
        assert answers == [Status.OK] * count + [Status.RESOURCE_LIMIT_EXCEEDED]
        assert relay.refusals() == {(who.address, "Overloaded"): 1}
        if who is STRANGER:  # and members have theirs
            assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""


async def test_places_are_bounded_and_those_of_strangers_more():
    async with relayed(Carried(reservations=3, strangers=1)) as (relay, _, _):
        async with bare(STRANGER, relay) as first, bare(Identity(bytes([10]) * 32), relay) as second:
            assert [(await first(**RESERVE))[0] for _ in range(2)] == [Status.OK] * 2
            assert (await second(**RESERVE))[0] == Status.RESOURCE_LIMIT_EXCEEDED
            async with bare(CAROL, relay) as member, bare(ALICE, relay) as last:
                assert (await member(**RESERVE))[0] == Status.OK
                assert (await last(**RESERVE))[0] == Status.RESOURCE_LIMIT_EXCEEDED
        assert sorted(relay.refusals().values()) == [1, 1]


async def test_a_circuit_has_so_many_bytes_and_so_much_time():
    async with relayed(Carried(size=60_000)) as (relay, bob, alice):
        assert await alice.request(by_relay(bob), ECHO, bytes(10_000), ANSWER) == bytes(10_000)
        with pytest.raises(Unavailable):
            await alice.request(by_relay(bob), ECHO, bytes(90_000), ANSWER)
        assert sum(relay.refusals().values()) == 1
        assert await alice.request(by_relay(bob), ECHO, b"anew", ANSWER) == b"anew"
    async with relayed(Carried(seconds=1)) as (relay, _, _), bare(CAROL, relay) as ask:
        status, stream = await ask(**to(BOB))
        assert status == Status.OK
        assert await exhaust(stream)  # a silent one too


async def test_a_circuit_has_so_many_bytes_a_second():
    async with relayed(Carried(rate=40_000)) as (_, bob, alice):
        began = trio.current_time()
        await alice.request(by_relay(bob), ECHO, bytes(40_000), ANSWER)
        assert trio.current_time() - began > 1.0


async def test_nobody_brings_a_circuit_but_a_relay_of_ones_own():
    async with relayed() as (_, bob, _):
        stranger = make_host(STRANGER)
        async with stranger.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            info = PeerAddress.parse(bob.address.multiaddrs[-1]).info()
            await stranger.connect(info)
            stream = await stranger.new_stream(info.peer_id, [STOP])
            await write_delimited_msg(stream, StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=b"x")))
            with pytest.raises(BaseLibp2pError):
                await stream.read(10)
        assert bob.refusals() == {(STRANGER.address, "BrokenProtocol"): 1}


async def test_a_relay_that_answers_nonsense_is_none():
    """Whoever writes an endpoint chooses the relay."""
    liar = make_host(STRANGER)
    async with liar.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):

        async def babble(stream):
            await stream.write(b"\x04\xff\xff\xff\xff")

        liar.set_stream_handler(HOP, babble)
        (place,) = liar.get_addrs()
        with trio.fail_after(WHOLE):
            async with post_office(ALICE) as alice:
                with pytest.raises(Unavailable, match="nothing that can be read"):
                    await alice.request(
                        PeerAddress.parse(f"{place}{CIRCUIT}/p2p/{BOB.peer_id}"), ECHO, b"", ANSWER
                    )


async def test_nobody_is_reached_by_way_of_oneself():
    async with relayed() as (_, _, alice):
        named = PeerAddress.parse(f"{alice.address.multiaddr}{CIRCUIT}/p2p/{CAROL.peer_id}")
        with pytest.raises(Unavailable, match="by way of this peer"):
            await alice.request(named, ECHO, b"", ANSWER)


async def test_what_is_no_question_to_a_relay_is_refused():
    async with relayed() as (relay, bob, alice), bare(CAROL, relay) as ask:
        assert (await ask(type=HopMessage.STATUS))[0] == Status.UNEXPECTED_MESSAGE
        assert (await ask(type=HopMessage.CONNECT))[0] == Status.NO_RESERVATION
        assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""


async def test_who_has_to_do_with_relays_offers_what_it_takes_and_no_more():
    async with relayed() as (relay, bob, alice):

        def offered(post):
            return {str(each) for each in post._host.multiselect.handlers} - {PROTOCOL}

        assert (offered(relay), offered(bob), offered(alice)) == ({HOP, SEEN}, {STOP, DCUTR}, set())
        assert await alice.request(by_relay(bob), ECHO, b"", ANSWER) == b""
        assert offered(alice) == {DCUTR}


async def test_a_relay_that_was_not_asked_to_be_one_carries_nothing():
    with trio.fail_after(WHOLE):
        async with post_office(CAROL) as plain, bare(ALICE, plain) as ask:
            with pytest.raises(BaseLibp2pError):
                await ask(**RESERVE)
