"""The terminal of every command: it shows what is said, whatever it can encode and whatever the text looks like."""

import codecs
import io
import sys

from rich import console as rich

LIKE = str.maketrans("→·✓✕≠–…×", ">.+x!-.x")
"""Signs of reports that few encodings have, by ones of ASCII that keep a table's columns."""
FALLBACK = "proofswarm.like"


class Console(rich.Console):
    """The console on standard output, or standard error, which takes every text anyway.

    A text is no markup: brackets and :names: in it stay what they are.
    """

    def __init__(self, stderr: bool = False) -> None:
        """Take what the stream is now."""
        accept_any_text()
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)


def accept_any_text() -> None:
    """Let standard output take every text: a sign that its encoding lacks is replaced instead of ending the command."""
    codecs.register_error(FALLBACK, _like)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=FALLBACK)


def _like(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded, as `codecs.register_error` asks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end].translate(LIKE)
    return "".join(sign if sign.isascii() else "?" for sign in signs), error.end
