"""Frames between a peer's two processes: a length, then a canonical message.

The node's side reads with trio, the compute side blocks.
"""

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

import trio

from verification import codec
from verification.errors import Malformed
from verification.statements import MAX_STATEMENT
from verification.units import Count

_LENGTH = struct.Struct(">I")
MAX_FRAME = MAX_STATEMENT + (1 << 16)
"""Bytes: the largest frame carries the inputs of one disputed execution."""


@dataclass(frozen=True)
class Frame:
    """`order` ties replies to their order; `kind` names the body's dataclass in `trainer.compute.orders`."""

    order: Count
    kind: str
    body: bytes


def pack(order: int, message: object) -> bytes:
    """Return the bytes of one frame that carries a dataclass instance."""
    frame = codec.encode(Frame(Count(order), type(message).__name__, codec.encode(message)))
    return _LENGTH.pack(len(frame)) + frame


def read(stream: BinaryIO) -> Frame | None:
    """Return the next frame of a blocking stream, None at its end; raises Malformed when it ends inside a frame."""
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    length = _checked(head)
    data = stream.read(length)
    if len(data) != length:
        raise Malformed("the stream ends inside a frame")
    return codec.decode(Frame, data, MAX_FRAME)


async def frames(stream: trio.abc.ReceiveStream) -> AsyncIterator[Frame]:
    """Yield the frames of a trio stream until it ends."""
    buffer = bytearray()
    async for data in stream:
        buffer += data
        while len(buffer) >= _LENGTH.size:
            length = _checked(bytes(buffer[: _LENGTH.size]))
            end = _LENGTH.size + length
            if len(buffer) < end:
                break
            yield codec.decode(Frame, bytes(buffer[_LENGTH.size : end]), MAX_FRAME)
            del buffer[:end]


def _checked(head: bytes) -> int:
    if len(head) != _LENGTH.size:
        raise Malformed("the stream ends inside a frame")
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise Malformed(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    return int(length)
