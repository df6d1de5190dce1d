"""What others may hold of a peer's memory and connections, in numbers, and turns at bytes of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

MIB = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What connections may hold.

    On one connection the other side may have `streams` open, and `unread` bytes wait for this side to read them; over
    all connections `unread_in_all` bytes wait, of which `unread_of_strangers` on those of non-members. Non-members that
    dialled have `strangers` connections together and `strangers_at_one` from one network address; when there are more,
    the oldest is closed, and each that says nothing for `idle` seconds. From one address `greetings` connections may
    be in the middle of their handshakes.
    """

    streams: int = 64
    unread: int = 4 * MIB
    unread_in_all: int = 64 * MIB
    unread_of_strangers: int = 8 * MIB
    strangers: int = 64
    strangers_at_one: int = 16
    idle: float = 20.0
    greetings: int = 32


class Turns:
    """Bytes that may be in use at a time; who wants more than are free waits, in order of arrival."""

    def __init__(self, size: int) -> None:
        """Begin with `size` free bytes."""
        self._size = self._free = size
        self._first = trio.Lock()
        self._returned = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses or waits for any."""
        return self._free == self._size and not self._first.locked()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Use `size` bytes for a while; who wants more than there are uses all of them."""
        size = min(size, self._size)
        async with self._first:
            while self._free < size:
                self._returned = trio.Event()
                await self._returned.wait()
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._returned.set()
