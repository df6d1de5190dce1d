"""A ticket: one word of text with all that a newcomer needs to join a run. Pure.

`proofswarm`, the version's digits, `t`, then base32 of the encoded ticket and of a checksum. Letters and digits alone:
no shell, chat program or mailer makes something else of them. The checksum is over the version too, and every version
has it in this place, so that a slip of the pen is told from a ticket of another version.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

from p2p.identity import Identity
from p2p.transport import PeerAddress
from verification.codec import decode, encode
from verification.digest import tagged
from verification.errors import Malformed, UserError
from verification.units import Digest

NAME = "proofswarm"
VERSION = 1
MAX_TEXT = 4096
"""Characters of the longest ticket."""
_FORM = re.compile(NAME + r"([0-9]{1,9})t([a-z2-7]+)")
_CHECK_BYTES = 8
_AGAIN = "copy it again, from its first to its last letter"


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
        body = encode(self)
        packed = base64.b32encode(body + _check(str(VERSION), body)).decode().rstrip("=").lower()
        text = f"{NAME}{VERSION}t{packed}"
        if len(text) > MAX_TEXT:
            raise ValueError(f"a ticket of {len(text)} characters is over the limit of {MAX_TEXT}")
        return text

    @classmethod
    def parse(cls, text: str) -> "Ticket":
        """Return the ticket in a text, whatever space is around it; raises UserError, which names no part of it."""
        word = text.strip()
        found = _FORM.fullmatch(word) if len(word) <= MAX_TEXT else None
        if found is None:
            raise UserError(
                f"that is no ticket: it is one word of small letters and digits that begins with {NAME}{VERSION}t; "
                + _AGAIN
            )
        body = _checked(*found.groups())
        if body is None:
            raise UserError(f"the ticket is cut short or mistyped: its checksum is wrong; {_AGAIN}")
        if found[1] != str(VERSION):
            raise UserError(
                f"the ticket is of version {found[1]}, this program reads version {VERSION}: install the version of "
                "whoever invited you"
            )
        try:
            return decode(cls, body, MAX_TEXT)
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


def _check(version: str, body: bytes) -> bytes:
    return tagged("ticket", version.encode(), body)[:_CHECK_BYTES]


def _checked(version: str, packed: str) -> bytes | None:
    """Return the bytes whose checksum is right; None for all others, and for letters that encode nothing."""
    try:
        data = base64.b32decode(packed.upper() + "=" * (-len(packed) % 8))
    except binascii.Error:
        return None
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    # The last letter has bits to spare, which no ticket sets.
    is_canonical = base64.b32encode(data).decode().rstrip("=").lower() == packed
    return body if is_canonical and check == _check(version, body) else None
