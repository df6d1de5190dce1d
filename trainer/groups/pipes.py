"""Messages between a process and the one that it started: a length, then a canonical message."""

from typing import IO, TypeVar

from verification import codec
from verification.errors import Malformed

M = TypeVar("M")
LENGTH = 8
MAX_MESSAGE = 1 << 40
"""Bytes of the longest message: a process believes the one that it started."""


def write(stream: IO[bytes], message: object) -> None:
    """Write a message; raises OSError where nobody reads any more."""
    body = codec.encode(message)
    stream.write(len(body).to_bytes(LENGTH, "big"))
    stream.write(body)
    stream.flush()


def read(stream: IO[bytes], kind: type[M]) -> M | None:
    """Return the next message, None at the end of the stream; raises Malformed when it ends inside one."""
    head = stream.read(LENGTH)
    if not head:
        return None
    body = stream.read(int.from_bytes(head, "big"))
    if len(head) != LENGTH or len(body) != int.from_bytes(head, "big"):
        raise Malformed("the stream ends inside a message")
    return codec.decode(kind, body, MAX_MESSAGE)
