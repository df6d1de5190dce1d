"""What others may hold of a peer's memory and connections, in numbers, and turns at bytes of it."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

MIB = 1 << 20
GoOn = Callable[[], Awaitable[None]]
"""Waits until what takes long may go on."""


@dataclass(frozen=True)
class Bounds:
    """What connections may hold.

    On one connection the other side may have `streams` open, and `unread` bytes wait for this side to read them; over
    all connections `unread_in_all` bytes wait, of which `unread_of_strangers` on those of non-members. Non-members that
    dialled have `strangers` connections together and `strangers_at_one` from one network address; when there are more,
    the oldest is closed, and each that says nothing for `idle` seconds. From one address `greetings` connections may
    be in the middle of their handshakes, and as many begin at once, one a second from then on; from all addresses
    whence no member ever came `arrivals` at once, and 8 a second. Those of members count only while they are made.
    Who does wrong more often than `wrongs` times at once and every four seconds from then on is cut off, and left alone
    for 5 seconds, and longer each time, up to a minute.
    """

    streams: int = 64
    unread: int = 4 * MIB
    unread_in_all: int = 64 * MIB
    unread_of_strangers: int = 8 * MIB
    strangers: int = 64
    strangers_at_one: int = 16
    idle: float = 20.0
    greetings: int = 32
    arrivals: int = 128
    wrongs: int = 16


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


async def at_once() -> None:
    """Go on without waiting for anybody."""


class Slices:
    """Turns at what takes long: who waits takes the oldest turn once that one has lasted its time."""

    def __init__(self, count: int, seconds: float) -> None:
        """Let `count` have turns at a time, of `seconds` at least."""
        self._count, self._seconds = count, seconds
        self._since: OrderedDict[trio.Lock, float] = OrderedDict()
        self._first, self._left = trio.Lock(), trio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[GoOn]:
        """Wait for a turn; what is yielded waits for the next one where somebody has taken it."""
        mine = (
            trio.Lock()
        )  # one of a turn's tasks waits for all of them: in line each would have a turn of its own
        await self._go_on(mine)
        try:
            yield partial(self._go_on, mine)
        finally:
            if self._since.pop(mine, None) is not None:
                self._left.set()
                self._left = trio.Event()

    async def _go_on(self, mine: trio.Lock) -> None:
        if mine in self._since:
            return
        async with mine:
            if mine not in self._since:
                async with self._first:  # in order of arrival
                    await self._make_room()
                    self._since[mine] = trio.current_time()

    async def _make_room(self) -> None:
        while len(self._since) >= self._count:
            oldest, since = next(iter(self._since.items()))
            with trio.move_on_at(since + self._seconds) as waiting:
                await self._left.wait()
            if waiting.cancelled_caught and self._since.get(oldest) == since:  # it may have left just then
                del self._since[oldest]
