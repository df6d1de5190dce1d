"""The connections between a group's leader and its members: framed, and authenticated by the group's secret.

Both prove that they know the secret by a MAC over a number that the other one drew; every frame carries a MAC over its
number and its direction, so none can be made, changed, repeated or left out by others. Nothing is encrypted.
"""

import hashlib
import hmac
import select
import socket
from collections.abc import Callable
from typing import TypeVar

from verification import codec
from verification.errors import BadSignature, Malformed, Unavailable

M = TypeVar("M")
Draw = Callable[[int], bytes]
"""Draws so many random bytes."""

NONCE, TAG, LENGTH, COUNTER = 32, 32, 8, 8
SECRET = 32
"""Bytes of a group's secret."""

SENDING_SECONDS = 600.0
"""How long the other end may take for one frame."""
GREETING_SECONDS = 10.0
"""How long the other end has to prove itself."""
MAX_FRAME = 1 << 40
"""Bytes of the largest frame, a program or a tensor, of who has proved to be one of the group."""


class Channel:
    """One end of a connection that has been authenticated."""

    def __init__(self, connection: socket.socket, key: bytes, is_leader: bool) -> None:
        self._socket, self._key = connection, key
        self._ways = (b"leader", b"member") if is_leader else (b"member", b"leader")
        self._sent = self._received = 0

    @property
    def own_address(self) -> str:
        """The address of this machine on the way to the other one."""
        return str(self._socket.getsockname()[0])

    def send(self, message: object) -> None:
        """Send a message; raises Unavailable when the other end is gone."""
        body = codec.encode(message)
        tag = self._tag(self._ways[0], self._sent, body)
        self._sent += 1
        self._socket.settimeout(SENDING_SECONDS)
        try:
            self._socket.sendall(len(body).to_bytes(LENGTH, "big") + tag + body)
        except OSError as error:
            raise Unavailable("a member of the group is gone") from error

    def receive(self, kind: type[M], seconds: float | None = None) -> M:
        """Return the next message, of a kind; raises Unavailable when none comes in time, Violation for another."""
        self._socket.settimeout(seconds)
        length = int.from_bytes(_exactly(self._socket, LENGTH), "big")
        if length > MAX_FRAME:
            raise Malformed(f"a frame of {length} bytes")
        tag, body = _exactly(self._socket, TAG), _exactly(self._socket, length)
        self._socket.settimeout(None)
        if not hmac.compare_digest(tag, self._tag(self._ways[1], self._received, body)):
            raise BadSignature("a frame with a wrong MAC")
        self._received += 1
        return codec.decode(kind, body, MAX_FRAME)

    def is_readable(self) -> bool:
        """Return whether something has come, or the end."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _tag(self, way: bytes, number: int, body: bytes) -> bytes:
        return _mac(self._key, way, number.to_bytes(COUNTER, "big"), body)


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


def _mac(key: bytes, *parts: bytes) -> bytes:
    message = b"".join(len(part).to_bytes(LENGTH, "big") + part for part in parts)
    return hmac.new(key, message, hashlib.sha256).digest()


def _exactly(connection: socket.socket, count: int) -> bytes:
    """Return the next bytes; raises Unavailable where the connection ends before."""
    parts, missing = [], count
    while missing:
        try:
            part = connection.recv(min(missing, 1 << 20))
        except OSError as error:
            raise Unavailable("the other end of a group's connection is silent") from error
        if not part:
            raise Unavailable("the other end of a group's connection is gone")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
