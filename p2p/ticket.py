"""A ticket: one word of text with all that a newcomer needs to join a run. Pure."""

from dataclasses import dataclass, field

from p2p.identity import Identity
from p2p.transport import PeerAddress
from p2p.words import MAX_TEXT, Words
from verification.codec import decode, encode
from verification.errors import Malformed, UserError
from verification.units import Digest

NAME = "proofswarm"
TICKETS = Words(NAME, 1)


@dataclass(frozen=True)
class Ticket:
    """What a newcomer is told: the run's identity, where its ledger's host is reached, and a funded account.

    `endpoint` is one multiaddr with the host's key, or several with single spaces between. `secret` is the account's
    key; it is empty where the newcomer brings its own.
    """

    run: Digest
    endpoint: str
    secret: bytes = field(repr=False, default=b"")

    def __post_init__(self) -> None:
        if self.secret:
            Identity(self.secret)

    def text(self) -> str:
        """Return the ticket as people pass it on; raises ValueError where it would be longer than `MAX_TEXT`."""
        return TICKETS.spelled(encode(self))

    @classmethod
    def parse(cls, text: str) -> "Ticket":
        """Return the ticket in a text, whatever space is around it; raises UserError, which names no part of it."""
        try:
            return decode(cls, TICKETS.body(text), MAX_TEXT)
        except Malformed as error:
            raise UserError(f"the ticket makes no sense ({error}): ask for another") from error

    @property
    def host(self) -> PeerAddress:
        """Where the ledger's host is reached; raises UserError for an endpoint that is none."""
        try:
            return PeerAddress.parse(self.endpoint)
        except Malformed as error:
            raise UserError(f"the ticket names no host: {error}; ask for another") from error

    @property
    def identity(self) -> Identity | None:
        """The funded account, if the ticket brings one."""
        return Identity(self.secret) if self.secret else None
