"""The connections between a group's leader and its members: framed, and authenticated by the group's secret.

Both prove that they know the secret by a MAC over a number that the other one drew; every frame carries a MAC over its
number and its direction, so none can be made, changed, repeated or left out by others. Nothing is encrypted.
"""

import contextlib
import hashlib
import hmac
import select
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from verification import codec
from verification.errors import BadSignature, Malformed, Unavailable

M = TypeVar("M")
Draw = Callable[[int], bytes]
"""Draws so many random bytes."""
Data = bytes | bytearray | memoryview

NONCE, TAG, LENGTH, COUNTER = 32, 32, 8, 8
SECRET = 32
"""Bytes of a group's secret."""

SENDING_SECONDS = 600.0
"""How long the other end may take for one frame."""
GREETING_SECONDS = 10.0
"""How long the other end has to prove itself."""
LOST_SECONDS = 30
"""After which a machine that says nothing, not even that it is there, is gone from a channel that lasts."""
_KEEPING = {"TCP_KEEPIDLE": LOST_SECONDS // 3, "TCP_KEEPINTVL": LOST_SECONDS // 3, "TCP_KEEPCNT": 2}
"""TCP's options for that, of those that a system has."""
MAX_FRAME = 1 << 40
"""Bytes of the largest frame, a program or a tensor, of who has proved to be one of the group."""


class Channel:
    """One end of a connection that has been authenticated."""

    def __init__(self, connection: socket.socket, key: bytes, is_leader: bool) -> None:
        self._socket, self._key = connection, key
        self._ways = (b"leader", b"member") if is_leader else (b"member", b"leader")
        self._sent = self._received = 0
        self._lasts = False

    @property
    def own_address(self) -> str:
        """The address of this machine on the way to the other one."""
        return str(self._socket.getsockname()[0])

    @property
    def other_address(self) -> str:
        """The address of the other one on the way to this machine."""
        return str(self._socket.getpeername()[0])

    def lasting(self) -> "Channel":
        """Return the channel as one that a thread may send by while another receives, and that may be silent for long.

        A machine at its other end that is switched off is missed after `LOST_SECONDS`.
        """
        self._lasts = True
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPING.items():
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return self

    def send(self, message: object) -> None:
        """Send a message; raises Unavailable when the other end is gone."""
        self.send_data(codec.encode(message))

    def send_data(self, data: Data) -> None:
        """Send bytes as they are; raises as `send`."""
        tag = self._tag(self._ways[0], self._sent, data)
        self._sent += 1
        if not self._lasts:
            self._socket.settimeout(SENDING_SECONDS)
        try:
            self._socket.sendall(len(data).to_bytes(LENGTH, "big") + tag)
            self._socket.sendall(data)
        except OSError as error:
            raise Unavailable("a member of the group is gone") from error

    def receive(self, kind: type[M], seconds: float | None = None) -> M:
        """Return the next message, of a kind; raises Unavailable when none comes in time, Violation for another."""
        return codec.decode(kind, bytes(self.receive_data(seconds)), MAX_FRAME)

    def receive_data(self, seconds: float | None = None) -> bytearray:
        """Return the bytes that come next, in memory that nobody else has; raises as `receive`."""
        if not self._lasts:
            self._socket.settimeout(seconds)
        length = int.from_bytes(_exactly(self._socket, LENGTH), "big")
        if length > MAX_FRAME:
            raise Malformed(f"a frame of {length} bytes")
        tag, data = _exactly(self._socket, TAG), _exactly(self._socket, length)
        if not self._lasts:
            self._socket.settimeout(None)
        if not hmac.compare_digest(tag, self._tag(self._ways[1], self._received, data)):
            raise BadSignature("a frame with a wrong MAC")
        self._received += 1
        return data

    def is_readable(self) -> bool:
        """Return whether something has come, or the end."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def end(self) -> None:
        """Close the connection though another thread is waiting at it, which then hears that it is gone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def _tag(self, way: bytes, number: int, body: Data) -> bytes:
        return _mac(self._key, way, number.to_bytes(COUNTER, "big"), body)


def let_in(listener: socket.socket, greet: Callable[[socket.socket], None]) -> None:
    """Have a thread of its own greet each that comes, for as long as a socket listens."""

    def wait() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=greet, args=(connection,), daemon=True).start()

    threading.Thread(target=wait, daemon=True).start()


def at_once(connection: socket.socket) -> socket.socket:
    """Have a connection send small messages without waiting for more."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def as_leader(connection: socket.socket, secret: bytes, draw: Draw) -> Channel:
    """Return the channel to a newcomer that proves itself; raises Unavailable, BadSignature."""
    return _greeted(connection, secret, draw, True)


def as_member(connection: socket.socket, secret: bytes, draw: Draw) -> Channel:
    """Return the channel to a leader that proves itself; raises Unavailable, BadSignature."""
    return _greeted(connection, secret, draw, False)


def _greeted(connection: socket.socket, secret: bytes, draw: Draw, is_leader: bool) -> Channel:
    connection.settimeout(GREETING_SECONDS)
    own = draw(NONCE)
    names = (b"leader", b"member") if is_leader else (b"member", b"leader")
    try:
        connection.sendall(own)
        other = _exactly(connection, NONCE)
        both = (own, other) if is_leader else (other, own)
        connection.sendall(_mac(secret, b"proof", names[0], *both))
        proof = _exactly(connection, TAG)
    except OSError as error:
        raise Unavailable("the other end of a group's connection is gone") from error
    if not hmac.compare_digest(proof, _mac(secret, b"proof", names[1], *both)):
        raise BadSignature("the other end does not know the group's secret")
    connection.settimeout(None)
    return Channel(connection, _mac(secret, b"frames", *both), is_leader)


def _mac(key: bytes, *parts: Data) -> bytes:
    made = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        made.update(len(part).to_bytes(LENGTH, "big"))
        made.update(part)
    return made.digest()


def _exactly(connection: socket.socket, count: int) -> bytearray:
    """Return the next bytes; raises Unavailable where the connection ends before."""
    data, done = bytearray(count), 0
    with memoryview(data) as view:
        while done < count:
            try:
                size = connection.recv_into(view[done:])
            except OSError as error:
                raise Unavailable("the other end of a group's connection is silent") from error
            if not size:
                raise Unavailable("the other end of a group's connection is gone")
            done += size
    return data
