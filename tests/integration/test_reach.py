"""Peers of several addresses, on loopback: of both families, taken, refused, silent, and with another key behind."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2p.addresses import Backoff
from p2p.errors import WrongKey
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.listening import Outside
from p2p.mail import Kind
from p2p.reach import HEAD_START, Way
from p2p.server import Grants
from p2p.transport import PeerAddress
from tests.patience import ANSWER, NOBODY, WHOLE
from verification.digest import tagged
from verification.errors import Unavailable, UserError
from verification.units import Millis

pytestmark = pytest.mark.integration
ALICE, BOB, MALLORY = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
RUN, NOW = tagged("test run"), Millis(1_700_000_000_000)
ECHO = Kind("echo", 1000, 1000)
BOTH = "/ip4/127.0.0.1/tcp/0 /ip6/::1/tcp/0"


async def echo(sender, body):
    return body


@asynccontextmanager
async def two(dial_seconds: float = 60.0, **options) -> AsyncIterator[tuple[PostOffice, PostOffice]]:
    """Run Alice, who has much patience with an address, and Bob who echoes."""
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            alice = PostOffice(ALICE, RUN, lambda: NOW, grants=Grants(dial_seconds=dial_seconds))
            await stack.enter_async_context(alice)
            bob = await stack.enter_async_context(PostOffice(BOB, RUN, lambda: NOW, **options))
            bob.register(ECHO, echo)
            yield alice, bob


def of_bob(*places: str) -> PeerAddress:
    """Return Bob at these addresses."""
    return PeerAddress.parse(" ".join(f"{place}/p2p/{BOB.peer_id}" for place in places))


async def test_a_peer_listens_on_both_families_and_is_reached_on_each():
    async with two(listen=BOTH) as (alice, bob):
        four, six = bob.address.multiaddrs
        assert (four.split("/")[1:3], six.split("/")[1:3]) == (["ip4", "127.0.0.1"], ["ip6", "::1"])
        assert await alice.request(PeerAddress.parse(six), ECHO, b"6", ANSWER) == b"6"
        (connection,) = bob._door._inside
        assert connection.get_remote_address()[0] == "::1"
        async with PostOffice(MALLORY, RUN, lambda: NOW) as other:
            assert await other.request(PeerAddress.parse(four), ECHO, b"4", ANSWER) == b"4"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_taken_port_and_anothers_address_are_one_line_on_both_families(host):
    family = "ip6" if ":" in host else "ip4"
    with socket.create_server(
        (host, 0), family=getattr(socket, f"AF_INET{'6' * (family == 'ip6')}")
    ) as taken:
        listen = f"{BOTH} /{family}/{host}/tcp/{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"/{family}/.*is taken; choose another"):
            async with PostOffice(BOB, RUN, lambda: NOW, listen=listen):
                pass
    elsewhere = {"ip4": "198.51.100.1", "ip6": "2001:db8::1"}[family]
    with pytest.raises(UserError, match=r"cannot listen there: .*; choose another address"):
        async with PostOffice(BOB, RUN, lambda: NOW, listen=f"/{family}/{elsewhere}/tcp/0"):
            pass


async def test_what_is_announced_is_told_in_place_of_what_is_listened_on():
    told = "/ip4/93.184.216.34/tcp/4001"
    async with two(outside=Outside(told)) as (_, bob):
        assert bob.address == of_bob(told)


async def test_who_does_not_answer_is_looked_for_nearby_and_must_have_the_key_there_too(monkeypatch):
    sought = []
    async with two() as (alice, bob), PostOffice(MALLORY, RUN, lambda: NOW) as mallory:
        places = [bob, mallory]

        async def find(peer):
            sought.append(str(peer))
            return places.pop().address.info().addrs

        monkeypatch.setattr(alice._dialler, "_find", find)
        away = of_bob(NOBODY)
        with pytest.raises(WrongKey):
            await alice.request(away, ECHO, b"", ANSWER)
        assert alice.way_to(bob.address) is None
        assert await alice.request(of_bob(NOBODY), ECHO, b"here", ANSWER) == b"here"
        assert alice.way_to(bob.address) == Way(bob.address.multiaddr, is_nearby=True)
        assert sought == [str(BOB.peer_id)] * 2
        assert await alice.request(away, ECHO, b"still", ANSWER) == b"still"
        assert len(sought) == 2


async def test_an_address_that_is_silent_costs_a_head_start_and_one_that_refuses_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        async with two() as (alice, bob):
            (good,) = (str(address) for address in bob.address.info().addrs)
            began = trio.current_time()
            assert await alice.request(of_bob(hanging, NOBODY, good), ECHO, b"", ANSWER) == b""
            assert trio.current_time() - began >= HEAD_START


async def test_a_request_uses_the_connection_that_the_other_side_made():
    """Bob is behind a NAT, say: at his address nobody answers."""
    async with two() as (alice, bob):
        alice.register(ECHO, echo)
        nowhere = of_bob(NOBODY)
        with pytest.raises(Unavailable):
            await alice.request(nowhere, ECHO, b"", ANSWER)
        assert alice.is_out_of_reach(nowhere)
        assert await bob.request(alice.address, ECHO, b"out", ANSWER) == b"out"
        assert not alice.is_out_of_reach(nowhere)
        assert await alice.request(nowhere, ECHO, b"in", ANSWER) == b"in"


async def test_all_addresses_together_have_the_time_of_one_and_are_left_alone_then(monkeypatch):
    monkeypatch.setattr("p2p.addresses.SHORTEST_SECONDS", WHOLE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # The silent one second: the time may be up before a third has its turn.
        hanging = of_bob(NOBODY, f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")
        async with two(dial_seconds=1.0) as (alice, _):
            for _ in range(2):  # the second try is free
                with pytest.raises(Unavailable, match=r"no connection within 1\.0 s"):
                    await alice.request(hanging, ECHO, b"", ANSWER)
            with pytest.raises(Unavailable, match=r"could not be reached, and is tried again in"):
                await alice.request(hanging, ECHO, b"", ANSWER)
            assert alice.is_out_of_reach(hanging)


async def test_another_key_at_one_address_does_not_hide_the_peer_at_the_next():
    async with two() as (alice, bob), PostOffice(MALLORY, RUN, lambda: NOW) as other:
        wrong, right = (str(post.address.info().addrs[0]) for post in (other, bob))
        with pytest.raises(WrongKey):
            await alice.request(of_bob(wrong), ECHO, b"", ANSWER)
        assert await alice.request(of_bob(wrong, right), ECHO, b"", ANSWER) == b""


def test_a_failing_place_is_known_until_it_is_reached():
    backoff, place = Backoff(), ("10.0.0.1", 1)
    assert not backoff.is_failing(place)
    backoff.note(place, False, 0.0)
    assert backoff.is_failing(place)
    assert backoff.is_due(place, 0.0)
    backoff.note(place, False, 0.0)
    assert not backoff.is_due(place, 0.1)
    backoff.note(place, True, 0.1)
    assert not backoff.is_failing(place)
