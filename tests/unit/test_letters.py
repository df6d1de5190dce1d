"""Letters between members of a crew: who is answered, who is asked again, and who counts as gone."""

from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import Declined
from p2p.host import PostOffice
from p2p.mail import Kind
from p2p.messages import CrossingQuery, ReceiptQuery
from p2p.questions import CROSSING, RECEIPT
from p2p.transport import PeerAddress
from tests.unit.test_outbox import CUT, STEPS, given, outbox
from trainer.peer.contacts import Contacts
from trainer.peer.letters import BEGIN_SECONDS, GONE_SECONDS, Desk, Gone, Letters
from trainer.peer.outbox import Outbox
from verification.codec import decode, encode
from verification.errors import Malformed, Unavailable
from verification.units import Address, Count, Round

MATE, OTHER = Address(b"m" * 20), Address(b"o" * 20)
ROUND = Round(3)


class Post:
    """A post office whose answers are given in a row; errors are raised. What is registered can be called."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers, self.asked = list(answers), 0
        self.handlers: dict[str, Callable[[Address, bytes], Awaitable[bytes]]] = {}
        self.is_gone = False

    def register(self, kind: Kind, handler: Callable[[Address, bytes], Awaitable[bytes]]) -> None:
        """Keep a handler."""
        self.handlers[kind.name] = handler

    async def request(self, peer: object, kind: Kind, body: bytes, timeout: float) -> bytes:
        """Give the next answer, the last one again and again."""
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def is_out_of_reach(self, peer: object) -> bool:
        """As the test says."""
        return self.is_gone


class Everyone:
    """Contacts that have everyone."""

    def named(self, accounts: Iterable[Address]) -> tuple[PeerAddress, ...]:
        """Each of them."""
        return tuple(PeerAddress(account, "/ip4/127.0.0.1/tcp/1") for account in accounts)


def letters(post: Post, expected: bool = True) -> Letters:
    """Letters of a peer that works with everyone, or with nobody."""

    async def expects(account: Address, number: Round) -> bool:
        return expected

    made = Letters(cast(PostOffice, post), cast(Contacts, Everyone()), expects)
    made.serve()
    return made


def query(step: int = 1) -> bytes:
    """For the short crossing."""
    return encode(CrossingQuery(ROUND, Count(step), (Count(1),), Count(0)))


async def test_only_neighbours_of_the_round_are_answered() -> None:
    post = Post()
    made, box = letters(post), outbox()
    box.put(given(1, 1, b"ab"))
    made.begin(ROUND, Desk({MATE: 2}, box))
    assert b"ab" in await post.handlers[CROSSING.name](MATE, query())
    with pytest.raises(Unavailable, match="is no neighbour in round 3"):
        await post.handlers[CROSSING.name](OTHER, query())
    with pytest.raises(Malformed):
        await post.handlers[CROSSING.name](MATE, query(STEPS + 1))


async def test_who_is_ahead_waits_for_the_round_to_begin_and_strangers_do_not(mock_clock: MockClock) -> None:
    post = Post()
    made, box, found = letters(post), outbox(), list[bytes]()
    box.put(given(1, 1, b"ab"))

    async def ask() -> None:
        found.append(await post.handlers[CROSSING.name](MATE, query()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        made.begin(ROUND, Desk({MATE: 2}, box))
    assert len(found) == 1
    stranger = Post()
    letters(stranger, expected=False)
    with pytest.raises(Unavailable):
        await stranger.handlers[CROSSING.name](MATE, query())
    assert trio.current_time() < BEGIN_SECONDS


async def test_a_round_that_never_begins_is_declined_after_a_while(autojump_clock: MockClock) -> None:
    post = Post()
    letters(post)
    with pytest.raises(Unavailable):
        await post.handlers[CROSSING.name](MATE, query())
    assert trio.current_time() == pytest.approx(BEGIN_SECONDS, abs=0.1)


async def test_receipts_are_given_once_they_are_signed_and_for_a_round_longer() -> None:
    post = Post()
    made, desk = letters(post), Desk({MATE: 2}, Outbox(CUT, {}, STEPS))
    made.begin(ROUND, desk)
    desk.receipts[MATE] = b"signed"
    desk.is_signed.set()
    body = encode(ReceiptQuery(ROUND))
    assert await post.handlers[RECEIPT.name](MATE, body) == b"signed"
    made.begin(Round(ROUND + 1), Desk({}, Outbox(CUT, {}, STEPS)))
    assert await post.handlers[RECEIPT.name](MATE, body) == b"signed"
    assert decode(ReceiptQuery, body).round == ROUND


async def test_who_declines_or_is_late_is_asked_again(autojump_clock: MockClock) -> None:
    post = Post(Declined("not yet", "Unavailable"), Unavailable("late"), b"here")
    assert await letters(post).ask(MATE, CROSSING, query()) == b"here"
    assert post.asked == 3


async def test_who_is_out_of_reach_for_a_while_is_gone(autojump_clock: MockClock) -> None:
    post = Post(Unavailable("connection refused"))
    post.is_gone = True
    with pytest.raises(Gone):
        await letters(post).ask(MATE, CROSSING, query())
    assert GONE_SECONDS <= trio.current_time() < GONE_SECONDS + 1
