"""Yamux within bounds: what the other side of a connection makes this side hold is counted as its frames arrive.

py-libp2p leaves it to its user how much that may be.
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn, INetConn, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
)

from p2p.addresses import site_of
from p2p.framing import FAULTS
from p2p.identity import account_of

ANSWERS = 256
"""Frames that wait to be written because the other side asked for them, one for each stream that it opens or ping."""


class Overrun(Exception):
    """A frame that asks for more than its sender may hold; py-libp2p ends the connection that raises it."""


Admit = Callable[["BoundedYamux", str | None, int, bool], None]
"""Counts the bytes that a frame brings, and the stream that it may open; raises Overrun for what is wrong with it, or
for too many."""


class BoundedYamux(Yamux):  # type: ignore[misc]
    """A connection whose frames are judged before their bodies are read, and which reads on while it cannot write.

    In py-libp2p 0.8.1 the task that reads writes what answers a new stream or a ping: where both sides send much, and
    all that lies between them is full, each waits for the other to read.
    """

    def __init__(self, secured_conn: ISecureConn, peer_id: ID, admit: Admit, streams: int) -> None:
        """The other side may have `streams` streams open; `admit` is asked about their data, and new ones."""
        watched = cast(ISecureConn, _Watched(secured_conn, self._judge))
        super().__init__(watched, peer_id, is_initiator=secured_conn.is_initiator)
        self._admit, self._streams_granted = admit, streams
        self.heard_at = trio.current_time()
        self.account = account_of(peer_id)
        self._reader: trio.lowlevel.Task | None = None
        self._answers, self._is_asked = bytearray(), trio.Event()

    @cached_property
    def place(self) -> str:
        """What counts as one network address of the other side, a relay's for a circuit; "" where nobody knows."""
        address = self.get_remote_address()
        return site_of(address[0]) if address else ""

    def unread(self) -> int:
        """Return the bytes that wait to be read."""
        return sum(len(buffer) for buffer in self.stream_buffers.values())

    async def hang_up(self) -> None:
        """Close the socket, without a word to who does not listen; the reading task does the rest."""
        await self.secured_conn.close()

    async def handle_incoming(self) -> None:
        """Read until the connection ends, while another task writes the answers."""
        self._reader = trio.lowlevel.current_task()
        self._nursery.start_soon(self._answer)
        await super().handle_incoming()

    async def _write_frame(self, data: bytes) -> None:
        """Write a frame behind all answers to what was read before; the task that reads waits for none of its own."""
        if trio.lowlevel.current_task() is self._reader and not self.event_shutting_down.is_set():
            self._answers += data
            self._is_asked.set()
        else:
            async with self._write_lock:
                await self._write_answers()
                await self.secured_conn.write(data)
        await trio.lowlevel.checkpoint()

    async def _answer(self) -> None:
        """Write answers until one cannot be written, which ends the connection."""
        with suppress(*FAULTS):
            while True:
                await self._is_asked.wait()
                self._is_asked = trio.Event()
                async with self._write_lock:
                    await self._write_answers()
        with suppress(*FAULTS):
            await self.hang_up()

    async def _write_answers(self) -> None:
        data = bytes(self._answers)
        if data:
            await self.secured_conn.write(data)
            del self._answers[: len(data)]  # not before: what is being written is held, too

    def _judge(self, kind: int, flags: int, number: int, length: int) -> None:
        """Look at a frame's header; raises Overrun."""
        stream, size = self.streams.get(number), length if kind == TYPE_DATA else 0
        is_new, wrong = stream is None and bool(flags & FLAG_SYN), None
        if is_new and kind != TYPE_PING and self._opened() >= self._streams_granted:
            wrong = f"more than {self._streams_granted} streams on one connection"
        elif size > (DEFAULT_WINDOW_SIZE if stream is None else stream.recv_window):
            wrong = f"{size} bytes beyond the window of a stream"
        elif flags & FLAG_SYN and len(self._answers) >= ANSWERS * HEADER_SIZE:
            wrong = f"more than {ANSWERS} answers that are not taken"
        self.heard_at = trio.current_time() if size else self.heard_at
        if size or wrong or is_new:
            self._admit(self, wrong, size, is_new)

    def _opened(self) -> int:
        return sum(not stream.is_initiator for stream in self.streams.values())


def is_relayed(connection: BoundedYamux) -> bool:
    """Return whether a connection goes by way of a relay."""
    return bool(connection.get_connection_type() is ConnectionType.RELAYED)


def best(connections: Sequence[INetConn]) -> INetConn:
    """Return the connection of several to one peer that is used: one by way of a relay last, of others the newest.

    An older one may lead to where the peer was before its network changed.
    """
    return max(connections, key=lambda each: (not is_relayed(each.muxed_conn), each._created_at))


class _Watched:
    """A secured connection that shows the header of each Yamux frame as soon as it is read."""

    def __init__(self, inner: ISecureConn, judge: Callable[[int, int, int, int], None]) -> None:
        self._inner, self._judge = inner, judge
        self._header = b""
        self._body = 0

    async def read(self, n: int | None = None) -> bytes:
        """Read as `inner` does; raises Overrun."""
        data: bytes = await self._inner.read(n)
        at = 0
        while at < len(data):
            if self._body:
                skipped = min(self._body, len(data) - at)
                self._body -= skipped
                at += skipped
                continue
            piece = data[at : at + HEADER_SIZE - len(self._header)]
            self._header += piece
            at += len(piece)
            if len(self._header) == HEADER_SIZE:
                _, kind, flags, number, length = struct.unpack(YAMUX_HEADER_FORMAT, self._header)
                self._header, self._body = b"", length if kind == TYPE_DATA else 0
                self._judge(kind, flags, number, length)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class BoundedMuxers(MuxerMultistream):  # type: ignore[misc]
    """Negotiates Yamux and makes it a bounded one; py-libp2p 0.8.1 would take its own class whatever it is given."""

    def __init__(self, kinds: Any, make: Callable[[ISecureConn, ID], IMuxedConn]) -> None:
        """`kinds` are py-libp2p's muxers by protocol, `make` makes a connection."""
        super().__init__(kinds)
        self._make = make

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on a protocol and return the connection; raises py-libp2p's MultiselectError."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(self._make(conn, peer_id), conn, protocol)
