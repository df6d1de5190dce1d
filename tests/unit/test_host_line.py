"""A follower's way to its host, on a clock of its own: members that are cut off must not keep it from the ledger."""

from typing import Any

import trio
import trio.testing

from p2p.addresses import Scope
from p2p.identity import Identity
from p2p.mail import Kind
from p2p.messages import Here
from p2p.served import HERE_SECONDS, MORE_SECONDS, WHERE, HostLine
from p2p.transport import PeerAddress
from verification.codec import encode
from verification.errors import Unavailable


def at(number: int, port: int = 4001) -> PeerAddress:
    """A peer's address."""
    identity = Identity(bytes([number]) * 32)
    return PeerAddress.parse(f"/ip4/10.0.0.{number}/tcp/{port}/p2p/{identity.peer_id}")


HOST, MOVED, CUT_OFF, NEAR = at(1), at(1, 4002), at(2), at(3)


class Post:
    """A post office on a network in which the host is away from `HOST`, and one member's answers never come."""

    reach = Scope.SITE

    def __init__(self, told: PeerAddress) -> None:
        self.told, self.asked = told, list[PeerAddress]()

    async def request(self, peer: PeerAddress, kind: Kind, body: bytes, seconds: float) -> bytes:
        """Answer, or run out of time."""
        self.asked.append(peer)
        if peer == NEAR and kind is WHERE:
            return encode(Here(self.told.multiaddr))
        if peer == CUT_OFF:
            with trio.move_on_after(seconds):
                await trio.sleep_forever()
        if peer == MOVED:
            return b"answer"
        raise Unavailable("nobody is there")

    def way_to(self, peer: PeerAddress) -> None:
        """Know none."""


async def test_a_member_that_is_cut_off_does_not_hold_up_who_asks_where_the_host_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Before, it took all of its ten seconds, and the host was left alone for as long again."""
    post: Any = Post(HOST)
    line, began = HostLine(post, HOST, members=lambda: [CUT_OFF, NEAR]), trio.current_time()
    try:
        await line._asked("head", b"")
        raise AssertionError("nobody knows another place")
    except Unavailable:
        assert trio.current_time() - began == MORE_SECONDS < HERE_SECONDS
    assert post.asked == [HOST, CUT_OFF, NEAR] or post.asked == [HOST, NEAR, CUT_OFF]


async def test_where_a_member_has_seen_the_host_it_is_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    post: Any = Post(MOVED)
    heard: list[PeerAddress] = []
    line = HostLine(post, HOST, lambda: heard.append(line.host), members=lambda: [CUT_OFF, NEAR])
    assert await line._asked("head", b"") == b"answer"
    assert heard == [HOST.also_at(MOVED)]
