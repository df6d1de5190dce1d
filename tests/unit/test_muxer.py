"""A connection goes on reading while it cannot write, within bounds."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_ACK,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)

from p2p.identity import Identity
from p2p.muxer import ANSWERS, BoundedYamux, Overrun
from tests.patience import ANSWER

PEER = Identity(bytes([2]) * 32).peer_id
STREAMS, BULK = 8, bytes(DEFAULT_WINDOW_SIZE)


def frame(kind: int, flags: int, number: int, length: int) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, number, length)


PING = frame(TYPE_PING, FLAG_SYN, 0, 1)


class Wire:
    """A secured connection over a stream of trio's."""

    def __init__(self, stream: trio.abc.Stream, is_initiator: bool = False) -> None:
        self._stream, self.is_initiator = stream, is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()


class Judge:
    """Raises what is wrong, and keeps it."""

    def __init__(self) -> None:
        self.wrongs: list[str] = []

    def __call__(self, connection: BoundedYamux, wrong: str | None, size: int, is_new: bool) -> None:
        if wrong:
            self.wrongs.append(wrong)
            raise Overrun(wrong)


def connection_over(wire: Wire, judge: Judge | None = None, streams: int = STREAMS) -> BoundedYamux:
    return BoundedYamux(wire, PEER, judge or Judge(), streams)


@asynccontextmanager
async def running(*connections: BoundedYamux) -> AsyncIterator[trio.Nursery]:
    """Run connections until they end."""
    with trio.fail_after(ANSWER):
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.start)
            yield nursery


async def send_bulk(connection: BoundedYamux) -> None:
    stream = await connection.open_stream()
    await stream.write(BULK)
    await stream.close()


async def take_bulk(connection: BoundedYamux, taken: list[int]) -> None:
    stream, size = await connection.accept_stream(), 0
    while size < len(BULK):
        size += len(await stream.read(len(BULK)))
    taken.append(size)


async def test_both_sides_send_bulk_over_a_link_that_holds_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each waited until it had answered the other's new streams, and did not read meanwhile."""
    ends, taken = trio.testing.lockstep_stream_pair(), list[int]()
    both = [connection_over(Wire(end, number == 0)) for number, end in enumerate(ends)]
    async with running(*both) as nursery:
        async with trio.open_nursery() as exchanges:
            for connection in both * STREAMS:
                exchanges.start_soon(send_bulk, connection)
                exchanges.start_soon(take_bulk, connection, taken)
        nursery.cancel_scope.cancel()
    assert taken == [len(BULK)] * 2 * STREAMS


async def test_an_answer_is_written_before_what_the_new_stream_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mine, other = trio.testing.lockstep_stream_pair()
    connection = connection_over(Wire(mine))
    expected = (
        frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 2, 0)
        + frame(TYPE_WINDOW_UPDATE, FLAG_ACK, 1, 0)
        + frame(TYPE_PING, FLAG_ACK, 0, 1)
        + (frame(TYPE_DATA, 0, 1, 2) + b"ab")
    )
    async with running(connection) as nursery:
        nursery.start_soon(connection.open_stream)
        await trio.testing.wait_all_tasks_blocked()  # it holds the way out, since nobody reads
        await other.send_all(frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 1, 0) + PING)
        nursery.start_soon((await connection.accept_stream()).write, b"ab")
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join([await other.receive_some(1) for _ in expected]) == expected
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("asks", [PING, frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 1, 0)], ids=["ping", "stream"])
async def test_who_asks_and_takes_no_answer_is_cut_off(
    asks: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream that is there already is answered, too."""
    mine, other = trio.testing.lockstep_stream_pair()
    judge, tasks = Judge(), trio.lowlevel.current_statistics().tasks_living
    connection = connection_over(Wire(mine), judge)
    async with running(connection):
        await other.send_all(asks * ANSWERS)
        await trio.testing.wait_all_tasks_blocked()
        assert judge.wrongs == [] and not connection.is_closed
        with pytest.raises(trio.BrokenResourceError):
            await other.send_all(asks * ANSWERS)
    assert judge.wrongs == [f"more than {ANSWERS} answers that are not taken"]
    assert connection.is_closed and trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_ping_is_no_stream(autojump_clock: trio.testing.MockClock) -> None:
    """It harms nobody where all streams that the other side may have are open."""
    mine, other = trio.testing.lockstep_stream_pair()
    judge = Judge()
    async with running(connection_over(Wire(mine), judge, streams=1)) as nursery:
        await other.send_all(frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 1, 0) + PING)
        await trio.testing.wait_all_tasks_blocked()
        assert judge.wrongs == []
        await other.send_all(frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 3, 0))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert judge.wrongs == ["more than 1 streams on one connection"]


@pytest.mark.parametrize("is_own", [True, False], ids=["this side", "other side"])
async def test_a_connection_ends_while_answers_wait(
    is_own: bool, autojump_clock: trio.testing.MockClock
) -> None:
    mine, other = trio.testing.lockstep_stream_pair()
    connection, tasks = connection_over(Wire(mine)), trio.lowlevel.current_statistics().tasks_living
    async with running(connection):
        await other.send_all(2 * PING)
        await trio.testing.wait_all_tasks_blocked()
        await (connection.hang_up() if is_own else other.aclose())
    assert connection.is_closed and trio.lowlevel.current_statistics().tasks_living == tasks
