"""Hints between real post offices; delivery is awaited, never slept for."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2p.errors import Declined
from p2p.hints import BURST, HINT, MAX_TOPICS, MESSAGES_PER_SECOND, Rumours
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.messages import Hint, Hints
from p2p.transport import PeerAddress
from tests.patience import ANSWER, NOBODY, WHOLE
from verification.codec import encode
from verification.digest import tagged
from verification.units import Count, Millis

pytestmark = pytest.mark.integration
RUN = tagged("test run")
NOW = Millis(1_700_000_000_000)


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return Millis(self.now)


@asynccontextmanager
async def circle(size, absent=()):
    """Run `size` peers that know each other; yields their offices, their rumours and the clock."""
    clock, known, offices, rumours = Clock(), list(absent), [], []
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            for number in range(size):
                post = PostOffice(Identity(bytes([number + 1]) * 32), RUN, clock)
                offices.append(await stack.enter_async_context(post))
                rumours.append(Rumours(post, lambda: known, clock, interval=0.0))
                known.append(post.address)
                nursery.start_soon(rumours[-1].run)
            yield offices, rumours, clock
            nursery.cancel_scope.cancel()


def news(height, topic="ledger"):
    return Hint(topic, tagged("head", bytes([height])), Count(height))


async def test_everybody_hears_but_the_speaker():
    async with circle(4) as (offices, rumours, _):
        rumours[0].announce(news(1))
        for listener in rumours[1:]:
            assert await listener.receive() == (offices[0].identity.address, news(1))
        sent = {flow.peer for flow in offices[0].traffic() if (flow.kind, flow.direction) == ("hint", "out")}
        assert sent == {office.identity.address for office in offices[1:]}


async def test_of_one_topic_only_the_newest_is_told():
    async with circle(2) as (_, rumours, _):
        for height in range(50):
            rumours[0].announce(news(height))
        rumours[0].announce(news(7, "blob"))
        heard = [await rumours[1].receive() for _ in range(2)]
        assert [hint for _, hint in heard] == [news(49), news(7, "blob")]


async def test_a_peer_that_is_away_holds_up_nobody():
    absent = PeerAddress.parse(f"{NOBODY}/p2p/{Identity(bytes([0x55]) * 32).peer_id}")
    async with circle(2, [absent]) as (_, rumours, _):
        for height in range(3):
            rumours[0].announce(news(height))
            assert (await rumours[1].receive())[1] == news(height)


async def test_a_sender_that_floods_is_refused_and_counted():
    async with circle(2) as (offices, _, clock):
        body = encode(Hints((news(1),)))
        for _ in range(BURST):
            await offices[0].request(offices[1].address, HINT, body, ANSWER)
        with pytest.raises(Declined, match="Overloaded"):
            await offices[0].request(offices[1].address, HINT, body, ANSWER)
        assert offices[1].refusals() == {(offices[0].identity.address, "Overloaded"): 1}
        clock.now += round(1000 / MESSAGES_PER_SECOND)
        await offices[0].request(offices[1].address, HINT, body, ANSWER)


async def test_topics_beyond_the_limit_drop_the_oldest():
    async with circle(2) as (_, rumours, _):
        for number in range(MAX_TOPICS + 5):
            rumours[0].announce(news(number, f"topic {number}"))
        heard = [(await rumours[1].receive())[1].height for _ in range(MAX_TOPICS)]
        assert heard == list(range(5, MAX_TOPICS + 5))


async def test_a_topic_that_is_too_long_is_our_own_fault():
    async with circle(1) as (_, rumours, _):
        with pytest.raises(ValueError):
            rumours[0].announce(news(1, "x" * 65))
