"""Length-prefixed frames on libp2p streams, and libp2p's exceptions as this project's."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError, MultiError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

from p2p.errors import Overloaded, Oversized, Truncated, WrongKey
from verification.errors import Unavailable

PREFIX_BYTES = 4
_PIECE = 256 * 1024
"""Bytes asked of one read; larger ones were not faster."""
_RESET_SECONDS = 1.0
_BROKEN = (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
FAULTS = (*_BROKEN, RuntimeError, ValueError, KeyError)
"""What py-libp2p raises where a connection is made, or closes under a stream that is being opened."""


@contextlib.contextmanager
def libp2p_faults(what: str, *more: type[Exception]) -> Iterator[None]:
    """Raise Unavailable in place of what py-libp2p and trio raise when a connection fails, and of `more`."""
    try:
        yield
    except (*_BROKEN, *more) as error:
        if _is_another_key(error):
            raise WrongKey(f"{what}: another key than the expected one answers there") from error
        raise Unavailable(f"{what}: {type(error).__name__} {error}".strip()) from error


def _is_another_key(error: BaseException | None) -> bool:
    """Return whether a dial failed for the key that answered: py-libp2p buries that under what it raises."""
    if error is None or isinstance(error, PeerIDMismatchesPubkey):
        return error is not None
    tried = error.args[0] if isinstance(error, MultiError) else []
    return any(_is_another_key(each) for each in (error.__cause__, *tried))


async def write_frame(stream: INetStream, data: bytes) -> None:
    """Send `data` behind its length; raises libp2p's exceptions."""
    await stream.write(len(data).to_bytes(PREFIX_BYTES, "big") + data)


async def read_frame(stream: INetStream, limit: int, patience: float) -> bytes | None:
    """Return the next frame, or None where the stream ends between frames.

    Waits for a frame's first bytes without end, then `patience` seconds for the rest. Raises Oversized before reading
    on in a frame over `limit` bytes, Truncated for one that stops half-way, Overloaded for bytes beyond it, since
    one frame at a time is under way on a stream, and libp2p's exceptions.
    """
    # As much as there is: for each read py-libp2p tells the other side that it may send more.
    data = await _read_some(stream, _PIECE)
    if not data:
        return None
    with trio.move_on_after(patience):
        if len(data) < PREFIX_BYTES:
            data += await _read_exactly(stream, PREFIX_BYTES - len(data))
        size = int.from_bytes(data[:PREFIX_BYTES], "big")
        if size > limit:
            raise Oversized(f"frame of {size} bytes is over the limit of {limit}")
        missing = PREFIX_BYTES + size - len(data)
        if missing < 0:
            raise Overloaded(f"{-missing} bytes behind a frame that waits for its answer")
        return data[PREFIX_BYTES:] + await _read_exactly(stream, missing)
    raise Truncated(f"message stood still for {patience} s")


async def _read_some(stream: INetStream, most: int) -> bytes:
    """Return what there is, b"" where the stream has ended."""
    try:
        data: bytes = await stream.read(most)
    except StreamEOF:
        return b""
    return data


async def _read_exactly(stream: INetStream, size: int) -> bytes:
    pieces, missing = [], size
    while missing:
        piece = await _read_some(stream, min(missing, _PIECE))
        if not piece:
            raise Truncated(f"stream ended {missing} bytes before the end of a message")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


@contextlib.asynccontextmanager
async def or_dropped(stream: INetStream) -> AsyncIterator[None]:
    """Drop a stream where what is done with it meanwhile does not come to its end."""
    is_kept = False
    try:
        yield
        is_kept = True
    finally:
        if not is_kept:
            await drop(stream)


async def drop(stream: INetStream) -> None:
    """Reset a stream, even while being cancelled, and never wait long for it."""
    scope = trio.CancelScope(deadline=trio.current_time() + _RESET_SECONDS, shield=True)
    with scope, contextlib.suppress(BaseLibp2pError, trio.BrokenResourceError):
        await stream.reset()
