"""Words that people pass on: a name, the version's digits, `t`, then base32 of a body and of a checksum. Pure.

Letters and digits alone: no shell, chat program or mailer makes something else of them. The checksum is over the
version too, and every version has it in this place, so that a slip of the pen is told from a word of another version.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from verification.digest import tagged
from verification.errors import UserError

MAX_TEXT = 4096
"""Characters of the longest word."""
_CHECK_BYTES = 8
_AGAIN = "copy it again, from its first to its last letter"


@dataclass(frozen=True)
class Words:
    """Words of one kind: the name that they begin with, and the version that this program writes and reads."""

    name: str
    version: int

    def spelled(self, body: bytes) -> str:
        """Return the word for a body; raises ValueError where it would be longer than `MAX_TEXT`."""
        packed = base64.b32encode(body + _check(str(self.version), body)).decode().rstrip("=").lower()
        text = f"{self.name}{self.version}t{packed}"
        if len(text) > MAX_TEXT:
            raise ValueError(f"a ticket of {len(text)} characters is over the limit of {MAX_TEXT}")
        return text

    def body(self, text: str) -> bytes:
        """Return the body of the word in a text, whatever space is around it.

        Raises UserError, which names no part of it.
        """
        word = text.strip()
        form = self.name + r"([0-9]{1,9})t([a-z2-7]+)"
        found = re.fullmatch(form, word) if len(word) <= MAX_TEXT else None
        if found is None:
            raise UserError(
                "that is no ticket: it is one word of small letters and digits that begins with "
                f"{self.name}{self.version}t; {_AGAIN}"
            )
        body = _checked(*found.groups())
        if body is None:
            raise UserError(f"the ticket is cut short or mistyped: its checksum is wrong; {_AGAIN}")
        if found[1] != str(self.version):
            raise UserError(
                f"the ticket is of version {found[1]}, this program reads version {self.version}: install the "
                "version of whoever invited you"
            )
        return body


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
