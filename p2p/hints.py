"""Hints that something is new, told to every known peer by plain requests. Losing any of them is harmless.

Not gossipsub: py-libp2p 0.8.1 was tried in a full mesh with its rate limit raised and its subscriptions drained. At
20 messages a second from each of 3 peers all arrived; of 5, all, but a second late; of 8, in one process, four tenths,
and a message that arrived while a host closed raised RuntimeError through the connection's nursery. Requests are
signed, counted and limited by the post office like everything else, and a peer that does not answer costs nobody.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from p2p.errors import Overloaded
from p2p.host import PostOffice
from p2p.mail import Kind
from p2p.messages import Hint, Hints
from p2p.rates import Rates
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.errors import Unavailable, Violation
from verification.signing import checksum
from verification.units import Address, Millis

K = TypeVar("K")
log = logging.getLogger(__name__)
HINT = Kind("hint", 4096, 16, patience=5.0)
MAX_TOPICS = 32
"""Topics that wait for one peer, and hints in one message; the oldest is dropped."""
MAX_TOPIC_BYTES = 64
MAX_UNREAD = 1024
BURST, MESSAGES_PER_SECOND = 20, 20.0
"""Messages that a sender may send at once, and a second from then on."""


class Rumours:
    """Tells peers the newest hint of each topic, and collects theirs.

    `peers` gives the peers to tell, `interval` the least seconds between two messages to the same one (at least
    1 / `MESSAGES_PER_SECOND` where the other side limits), `clock` milliseconds.
    """

    def __init__(
        self,
        post: PostOffice,
        peers: Callable[[], Sequence[PeerAddress]],
        clock: Callable[[], Millis],
        *,
        interval: float = 0.1,
        timeout: float = 5.0,
    ) -> None:
        self.lost = 0
        self._post, self._peers, self._clock = post, peers, clock
        self._interval, self._timeout = interval, timeout
        self._news = trio.Event()
        self._waiting: dict[Address, OrderedDict[str, Hint]] = defaultdict(OrderedDict)
        self._busy: set[Address] = set()
        self._unread: OrderedDict[tuple[Address, str], Hint] = OrderedDict()
        self._arrived = trio.Event()
        self._allowance = Rates(BURST, MESSAGES_PER_SECOND / 1000)
        post.register(HINT, self._hear)

    def announce(self, hint: Hint) -> None:
        """Tell every known peer soon; replaces what was not yet told of the same topic. Raises ValueError (topic)."""
        if len(hint.topic.encode()) > MAX_TOPIC_BYTES:
            raise ValueError(f"topic {hint.topic!r} is longer than {MAX_TOPIC_BYTES} bytes")
        for peer in self._peers():
            if peer.address != self._post.identity.address:
                _push(self._waiting[peer.address], hint.topic, hint, MAX_TOPICS)
        self._news.set()

    async def run(self) -> None:
        """Deliver what is announced until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                known = {peer.address: peer for peer in self._peers()}
                for address in [address for address in self._waiting if address not in known]:
                    del self._waiting[address]
                for address in self._waiting.keys() - self._busy:
                    self._busy.add(address)
                    nursery.start_soon(self._deliver, known[address])

    async def receive(self) -> tuple[Address, Hint]:
        """Wait for the next hint and return it with its sender; a newer hint of its topic replaces an unread one."""
        while not self._unread:
            await self._arrived.wait()
        (sender, _), hint = self._unread.popitem(last=False)
        return sender, hint

    async def _deliver(self, peer: PeerAddress) -> None:
        try:
            while hints := self._waiting.pop(peer.address, None):
                body = encode(Hints(tuple(hints.values())))
                try:
                    await self._post.request(peer, HINT, body, self._timeout)
                except (Unavailable, Violation) as error:
                    log.info("hint not delivered to %s: %s", checksum(peer.address), error)
                await trio.sleep(self._interval)
        finally:
            self._busy.discard(peer.address)

    async def _hear(self, sender: Address, body: bytes) -> bytes:
        self._charge(sender)
        hints = decode(Hints, body).hints[:MAX_TOPICS]
        for hint in (
            hints if self._post.is_member(sender) else ()
        ):  # strangers would have every peer look in vain
            if len(hint.topic.encode()) <= MAX_TOPIC_BYTES:
                self.lost += _push(self._unread, (sender, hint.topic), hint, MAX_UNREAD)
        self._arrived.set()
        self._arrived = trio.Event()
        return b""

    def _charge(self, sender: Address) -> None:
        """Raise Overloaded for a sender beyond its rate."""
        if not self._allowance.take(sender, self._clock()):
            raise Overloaded(f"more than {MESSAGES_PER_SECOND:.0f} hints a second")


class Heights:
    """Whose word on the height of a ledger is worth a look: not that of who told of one that is not there yet."""

    def __init__(self) -> None:
        self._told: dict[Address, int] = {}

    def is_news(self, sender: Address, told: int, own: int) -> bool:
        """Return whether a member's hint is worth a look at a ledger that is known up to `own`, and remember it."""
        if told <= own or self._told.get(sender, 0) > own:
            return False
        self._told[sender] = told
        return True


def _push(queue: OrderedDict[K, Hint], key: K, value: Hint, limit: int) -> int:
    """Append or replace, then drop the oldest beyond `limit`; return how many were dropped."""
    queue.pop(key, None)
    queue[key] = value
    if len(queue) > limit:
        queue.popitem(last=False)
        return 1
    return 0
