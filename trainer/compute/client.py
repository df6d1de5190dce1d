"""The node's side of the compute process: one order at a time, the most urgent first, within a job too."""

import heapq
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO, Self, TypeVar, cast

import trio

from trainer.compute import children, frames, orders
from trainer.compute.children import PROCESS
from verification import codec, errors
from verification.errors import Malformed, ProofswarmError, Unavailable
from verification.library import StepFailed

R = TypeVar("R")
Replies = trio.MemoryReceiveChannel[frames.Frame]
Hear = Callable[[orders.News], None]
URGENT, SOON, NORMAL, LATER = range(4)


class ComputeClient:
    """Runs a compute process and passes orders to it."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = PROCESS,
        started: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """`running` starts the process, the module and the arguments in `program`, unless it is `started` already."""
        self._environment = environment
        self._program = program
        self._process = started
        self._orders: trio.abc.SendStream
        self._numbers = itertools.count(1)
        self._queue: list[tuple[int, int, trio.Event]] = []
        self._busy = self._runs_job = self._closing = self._is_dead = False
        self._sending = trio.Lock()
        self._replies: dict[int, trio.MemorySendChannel[frames.Frame]] = {}

    @asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[Self]:
        """Start the process, and end it at the end; `nursery` holds the task that reads from it."""
        if self._process is None:
            self._process = children.start(self._program, self._environment)
        self._orders = _taken(self._process.stdin)
        nursery.start_soon(self._read, _taken(self._process.stdout))
        try:
            yield self
        finally:
            await self._close()

    async def _close(self) -> None:
        assert self._process is not None
        self._closing = True
        with trio.CancelScope(shield=True):
            await self._orders.aclose()
            with trio.move_on_after(2):
                await self._ended()
            if self._process.returncode is None:
                self._kill()
                await self._ended()

    def _kill(self) -> None:
        assert self._process is not None
        self._closing = True
        self._process.kill()

    async def _ended(self) -> int:
        """Wait for the process to end, and return its status."""
        assert self._process is not None
        wait, own = self._process.wait, trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(wait, abandon_on_cancel=True, limiter=own)  # type: ignore[call-arg]

    @property
    def pid(self) -> int:
        """The compute process's id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        """Whether an order would be done at once."""
        return not self._busy

    async def watch(self) -> None:
        """Wait for the process to end; raises Unavailable when it did so before its time (out of memory, killed)."""
        status = await self._ended()
        if not self._closing:
            raise Unavailable(f"the compute process ended with status {status}; start this peer again")

    async def ask(
        self,
        order: orders.Order[R],
        urgency: int,
        hear: Hear | None = None,
    ) -> R:
        """Return the reply to an order; raises what the other side raised, Unavailable when it has died.

        `hear` is told a job's news. An urgent order that is no job itself is done between two steps of a job, or while
        that waits. Cancelled it returns when the other side is free: at once where that waits, and from a job after a
        step.
        """
        is_job = isinstance(order, orders.Job)
        if self._runs_job and urgency == URGENT and not is_job:
            return _checked(order, await self._asked(order, hear))
        await self._enter(urgency)
        self._runs_job = is_job
        try:
            return _checked(order, await self._asked(order, hear))
        finally:
            self._runs_job = False
            self._leave()

    async def _asked(self, order: orders.Order[R], hear: Hear | None) -> object:
        number = next(self._numbers)
        sender, replies = trio.open_memory_channel[frames.Frame](16)
        try:
            if self._is_dead:
                raise trio.EndOfChannel
            self._replies[number] = sender
            with trio.CancelScope(shield=True):
                async with self._sending:
                    await self._orders.send_all(frames.pack(number, order))
            return await self._reply(order, replies, hear)
        except (trio.BrokenResourceError, trio.EndOfChannel) as error:
            raise Unavailable("the compute process has died") from error
        finally:
            self._replies.pop(number, None)

    async def _reply(self, order: orders.Order[R], replies: Replies, hear: Hear | None) -> object:
        try:
            return await _last_frame(replies, hear)
        except trio.Cancelled:
            if isinstance(order, orders.Job):
                os.kill(self.pid, children.ABANDON)
            elif isinstance(
                order, orders.Prepare
            ):  # a peer that ends before it begins: its group may be incomplete
                self._kill()
            with trio.CancelScope(shield=True), suppress(trio.EndOfChannel):
                await _last_frame(replies)  # the other side is not free before it has replied
            raise

    async def _read(self, source: trio.abc.ReceiveStream) -> None:
        """Hand each reply to who waits for it; at the end nobody waits any more."""
        async with source:
            async for frame in frames.frames(source):
                await self._replies[int(frame.order)].send(frame)
        self._is_dead = True
        for sender in self._replies.values():
            sender.close()

    async def _enter(self, urgency: int) -> None:
        if self._busy:
            turn = trio.Event()
            entry = (urgency, next(self._numbers), turn)
            heapq.heappush(self._queue, entry)
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._leave()
                else:
                    self._queue.remove(entry)
                    heapq.heapify(self._queue)
                raise
        self._busy = True

    def _leave(self) -> None:
        if self._queue:
            heapq.heappop(self._queue)[2].set()
        else:
            self._busy = False


async def _last_frame(replies: Replies, hear: Hear | None = None) -> object:
    while True:
        frame = await replies.receive()
        reply = codec.decode(orders.REPLIES[frame.kind], frame.body, frames.MAX_FRAME)
        if not isinstance(reply, orders.News):
            return reply
        if hear is not None:
            hear(reply)


def _taken(pipe: IO[bytes] | None) -> trio.lowlevel.FdStream:
    """Return a process's pipe as a stream of trio's, which closes it."""
    assert pipe is not None
    with pipe:
        return trio.lowlevel.FdStream(os.dup(pipe.fileno()))


def _checked(order: orders.Order[R], reply: object) -> R:
    if not isinstance(reply, orders.Failed):
        if not isinstance(reply, order.reply):
            raise Malformed(f"{type(order).__name__} was answered by {type(reply).__name__}")
        return cast(R, reply)
    if reply.kind == StepFailed.__name__:
        raise StepFailed(reply.node)
    kind = getattr(errors, reply.kind, ProofswarmError)
    raise kind(reply.message)
