"""A served ledger's questions and answers by the post office: the host's side with its limits, and a follower's.

Nobody waits at the host: a follower pulls one bounded answer after the other, as fast as it folds them, and looks again
when a hint tells it to. So a slow follower costs the host nothing.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import trio

from p2p.envelope import DRIFT
from p2p.errors import Busy, Declined, Overloaded, Skewed, Stale, WrongSender
from p2p.host import PostOffice
from p2p.mail import Kind
from p2p.messages import Here
from p2p.rates import Rates
from p2p.server import PLACES
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.errors import Unavailable, Violation
from verification.ledger.served import MAX_ANSWER, MAX_SAID, AskHead, Host
from verification.signing import checksum
from verification.units import Address

QUESTIONS = {
    "submit": Kind("ledger/submit", MAX_SAID + 16, 2048),
    "follow": Kind("ledger/follow", 64, MAX_ANSWER),
    "head": Kind("ledger/head", 64, 512),
}
HERE = Kind("ledger/here", 1024, 16, patience=5.0)
SECONDS = {"submit": 60.0, "follow": 15.0, "head": 15.0}
"""Longest wait for a host's answer: a full question, or a full answer, must come through a link of 300 kbit/s."""
WHERE = Kind("ledger/where", 16, 1024, patience=5.0)
HERE_SECONDS = 10.0
ASKED = 8
"""Members that are asked at a time where the host is."""
MORE_SECONDS = 1.0
"""After the first one has answered the others are waited for so long: one that is cut off must not hold anyone up."""


@dataclass(frozen=True)
class Allowance:
    """What a host grants: requests in flight for each member, for all others at one network address, and for all others
    together.

    The others together are sent `bytes_per_second`, and `burst` bytes at once. The last quarter of these bytes is for
    addresses that have had less than their own quarter: one that is alone has nearly all, and shuts nobody out.
    """

    per_member: int = 4
    per_place: int = 2
    strangers: int = 8
    bytes_per_second: int = 1 << 18
    burst: int = 1 << 23


class Budget:
    """Counts what is in flight, and what strangers were sent. Pure: `now` is in seconds, and never goes back."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._flying: Counter[Hashable] = Counter()
        self._strangers = 0
        burst, per_second = allowance.burst, allowance.bytes_per_second
        self._of_all = Rates(burst, per_second)
        self._of_one = Rates(burst / PLACES, per_second / PLACES)

    @contextmanager
    def admitted(self, who: Address | str, now: float) -> Iterator[None]:
        """Count one request of a member, or of whoever else is at a network address, while it is answered.

        Raises Overloaded for one beyond its own grant, Busy where the strangers' is used up.
        """
        is_member = not isinstance(who, str)
        grant = self._allowance.per_member if is_member else self._allowance.per_place
        if self._flying[who] >= grant:
            raise Overloaded(f"{grant} questions to the ledger are open already")
        if not is_member and (self._strangers >= self._allowance.strangers or self._is_spent(who, now)):
            raise Busy("what those who are no members may ask is used up for now")
        self._flying[who] += 1
        self._strangers += not is_member
        try:
            yield
        finally:
            self._strangers -= not is_member
            self._flying[who] -= 1
            if not self._flying[who]:
                del self._flying[who]

    def sent(self, size: int, who: Address | str, now: float) -> None:
        """Charge an answer's bytes."""
        if isinstance(who, str):
            self._of_all.add("", now, size)
            self._of_one.add(who, now, size)

    def _is_spent(self, place: Hashable, now: float) -> bool:
        taken, burst = self._of_all.level("", now), self._allowance.burst
        return taken >= burst or (taken >= burst - burst / PLACES and not self._of_one.fits(place, now, 1.0))


class HostDoor:
    """Lets others ask a host by one post office; the host and its ledger run in a worker thread, one call at a time."""

    def __init__(self, post: PostOffice, host: Host, allowance: Allowance | None = None) -> None:
        """`open` lets questions in."""
        self._post, self._host = post, host
        self._budget = Budget(allowance or Allowance())
        self._lock = trio.Lock()

    def open(self) -> None:
        """Answer from now on."""
        for name, kind in QUESTIONS.items():
            self._post.register(kind, partial(self._answer, name))

    async def look(self) -> None:
        """Let deadlines that have come pass; raises what the ledger raises when it cannot be written any more."""
        async with self._lock:
            await trio.to_thread.run_sync(self._host.head, AskHead(None))

    async def tell_where(self, peers: Sequence[PeerAddress]) -> None:
        """Tell followers at which address the host is now; who does not hear it has lost nothing."""
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._tell, peer)

    async def _tell(self, peer: PeerAddress) -> None:
        with suppress(Unavailable, Violation):
            body = encode(Here(self._post.address.multiaddr))
            await self._post.request(peer, HERE, body, HERE_SECONDS)

    async def _answer(self, name: str, sender: Address, body: bytes) -> bytes:
        who = sender if self._host.is_member(sender) else self._post.place_of(sender)
        with self._budget.admitted(who, trio.current_time()):
            async with self._lock:
                answer = await trio.to_thread.run_sync(self._host.answer, name, body)
        self._budget.sent(len(answer), who, trio.current_time())
        return answer


def skew(age: int, who: str) -> str:
    """Return what a person reads where `who`'s clock is `age` milliseconds behind this machine's."""
    apart, way = timedelta(seconds=round(abs(age) / 1000)), "ahead of" if age > 0 else "behind"
    return (
        f"this machine's clock is {apart} (hours first) {way} that of {who}, and they may differ by "
        f"{DRIFT // 1000} s: set the wrong one right; timedatectl shows this machine's"
    )


class HostLine:
    """The way to a host, for a `Follower` that runs in a worker thread of trio's."""

    def __init__(
        self,
        post: PostOffice,
        host: PeerAddress,
        on_news: Callable[[], None] = lambda: None,
        members: Callable[[], Sequence[PeerAddress]] = tuple,
    ) -> None:
        """`on_news` is called when `host` has changed; `members` are asked where it is when it does not answer."""
        self._post, self.host, self._on_news, self._members = post, host, on_news, members
        self._turn = 0

    def listen(self) -> None:
        """Hear from now on where the host is, and tell other members."""
        self._post.register(HERE, self._hear)
        self._post.register(WHERE, self._tell)

    def ask(self, name: str, body: bytes) -> bytes:
        """Return the host's answer; raises Unavailable and Violation as `Ask` says. Only in a worker thread."""
        return trio.from_thread.run(self._request, name, body)

    async def _request(self, name: str, body: bytes) -> bytes:
        try:
            return await self._asked(name, body)
        except Stale as error:
            raise Skewed(skew(error.age, checksum(self.host.address))) from error

    async def _asked(self, name: str, body: bytes) -> bytes:
        """Ask the host, and where it cannot be reached once more at the places that members know of."""
        try:
            answer = await self._post.request(self.host, QUESTIONS[name], body, SECONDS[name])
        except Declined:
            raise
        except Unavailable:
            told = await self._search()
            if told is None:
                raise
            answer = await self._post.request(told, QUESTIONS[name], body, SECONDS[name])
            self._move(self.host.also_at(told))
        else:
            self._keep_nearby()
        return answer

    def _keep_nearby(self) -> None:
        """Keep where the local network said that the host is, now that it was there."""
        way = self._post.way_to(self.host)
        if way is not None and way.is_nearby and way.address not in self.host.multiaddrs:
            self._move(self.host.also_at(PeerAddress(self.host.address, way.address)))

    async def _search(self) -> PeerAddress | None:
        """Return where members say that the host is, but for what is known; its key decides whether it is there."""
        found = dict[str, None]()

        async def ask(member: PeerAddress) -> None:
            with suppress(Unavailable, Violation):
                answer = decode(
                    Here, await self._post.request(member, WHERE, b"", HERE_SECONDS), WHERE.reply_limit
                )
                told = PeerAddress.parse(answer.multiaddr).seen_from(self._post.reach)
                if told is not None and told.address == self.host.address:
                    found.update(dict.fromkeys(told.multiaddrs))
                scope = asking.cancel_scope
                scope.deadline = min(scope.deadline, trio.current_time() + MORE_SECONDS)

        members = self._members()
        self._turn += ASKED
        async with trio.open_nursery() as asking:
            for offset in range(min(ASKED, len(members))):
                asking.start_soon(ask, members[(self._turn + offset) % len(members)])
        new = [each for each in found if each not in self.host.multiaddrs]
        return PeerAddress(self.host.address, " ".join(new)) if new else None

    def _move(self, host: PeerAddress) -> None:
        self.host = host
        self._on_news()

    async def _tell(self, sender: Address, body: bytes) -> bytes:
        return encode(Here(self.host.multiaddr))

    async def _hear(self, sender: Address, body: bytes) -> bytes:
        told = PeerAddress.parse(decode(Here, body, HERE.request_limit).multiaddr)
        if not sender == told.address == self.host.address:
            raise WrongSender(f"{checksum(sender)} is not the ledger's host")
        self._move(told)
        return b""
