"""A group's ticket: one word of text with which a machine of the same owner joins a leader's group. Pure."""

from dataclasses import dataclass, field

from p2p.words import MAX_TEXT, Words
from verification.codec import decode, encode
from verification.errors import Malformed, UserError
from verification.units import Count

TICKETS = Words("group", 1)


@dataclass(frozen=True)
class GroupTicket:
    """Where a group's leader listens, the secret that its members share, and how many machines it is made for."""

    address: str
    port: Count
    members: Count
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """Return the ticket as people pass it on."""
        return TICKETS.spelled(encode(self))

    @classmethod
    def parse(cls, text: str) -> "GroupTicket":
        """Return the ticket in a text, whatever space is around it; raises UserError, which names no part of it."""
        try:
            return decode(cls, TICKETS.body(text), MAX_TEXT)
        except Malformed as error:
            raise UserError(
                f"the ticket makes no sense ({error}): copy the one that the leader writes now"
            ) from error
