"""What client and server of one post office share: its key and run, its count of messages, and what it refused."""

from collections.abc import Callable
from dataclasses import dataclass

from p2p.bandwidth import Link
from p2p.envelope import Envelope, Limits, ReplayGuard, first_sequence, open_envelope, seal
from p2p.identity import Identity
from p2p.refusals import Refusals, everyone
from p2p.traffic import Counters, Refusal
from verification.digest import tagged
from verification.errors import Violation
from verification.units import Address, Count, Digest, Millis

REPLY_OVERHEAD = 128
"""Bytes that a Reply may have beyond its body."""
MAX_DETAIL = 300
"""Characters that are kept of what was wrong with a message; others' words are among them."""
OK = "ok"
"""Status of an answered request; every other status is the name of a reason."""


UNREAD = "refused"
"""Stands for the kind of a request whose envelope was refused."""


def reply_to(name: str) -> str:
    """Return the name of the envelope kind that carries the answer to a kind of request."""
    return name + "/reply"


@dataclass(frozen=True)
class Kind:
    """One kind of request, known to both sides: its name, and bytes that its body and its answer may have.

    `patience` is the seconds that its handler may take. Answers that are bulk wait on a full link, and are not asked
    for by way of a relay; nor is what `is_direct`.
    """

    name: str
    request_limit: int
    reply_limit: int
    patience: float = 60.0
    is_bulk: bool = False
    is_direct: bool = False

    @property
    def is_relayed(self) -> bool:
        """Whether relays carry it."""
        return not (self.is_bulk or self.is_direct)

    @property
    def reply(self) -> str:
        """Name of the envelope kind that carries the answer."""
        return reply_to(self.name)

    def reply_limits(self) -> Limits:
        """Return what a client admits when it waits for this kind's answer, or hears that nobody read the question."""
        return Limits({self.reply: self.reply_limit + REPLY_OVERHEAD, reply_to(UNREAD): REPLY_OVERHEAD})


def request_digest(data: bytes) -> Digest:
    """Return the digest by which a reply names the envelope that it answers."""
    return tagged("request", data)


class Mail:
    """Seals what this peer says and opens what others say; `up` and `down` are its link."""

    def __init__(
        self,
        identity: Identity,
        run: Digest,
        clock: Callable[[], Millis],
        on_refusal: Callable[[Refusal], None] | None = None,
        is_member: Callable[[Address], bool] = everyone,
        up: int | None = None,
        down: int | None = None,
    ) -> None:
        """Limit the link to `up` and `down` bytes a second."""
        self.up, self.down = Link(up), Link(down)
        self.identity = identity
        self.run = run
        self.counters = Counters()
        self.is_member = is_member
        self.refusals = Refusals(on_refusal or (lambda refusal: None), is_member)
        self._clock = clock
        self._guard = ReplayGuard()
        self._next = first_sequence(clock())

    def now(self) -> Millis:
        """Return the time by which envelopes are dated."""
        return self._clock()

    def seal(self, kind: str, body: bytes) -> bytes:
        """Return a fresh envelope; no two of this peer have the same sequence number."""
        sequence, self._next = self._next, Count(self._next + 1)
        return seal(self.identity, self.run, kind, body, sequence, self._clock())

    def open(self, data: bytes, limits: Limits, sender: Address) -> Envelope:
        """Return the envelope that `sender`, at the other end of the connection, sent; raises its Violation."""
        return open_envelope(
            data, run=self.run, limits=limits, now=self._clock(), seen=self._guard, sender=sender
        )

    def refuse(self, sender: Address, violation: Violation) -> None:
        """Count a message that broke a rule, and tell of it as `Refusals` does."""
        refusal = Refusal(sender, type(violation).__name__, str(violation)[:MAX_DETAIL])
        self.counters.refused(refusal)
        self.refusals.note(refusal)
