"""The node's side of the compute process: one order at a time, the most urgent first."""

import heapq
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self, TypeVar, cast

import trio

from trainer.compute import frames, orders
from trainer.compute.children import python
from verification import codec, errors
from verification.errors import Malformed, ProofswarmError, Unavailable
from verification.library import StepFailed

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""Settings of glibc's allocator: freed memory stays with the process. A step frees and takes the same hundreds of
megabytes again and again, and giving them back each time costs more than the arithmetic on them."""

R = TypeVar("R")
PROCESS = ("trainer.compute.process",)
"""Module and arguments of the process that does the orders."""

URGENT, SOON, NORMAL, LATER = range(4)


class ComputeClient:
    """Runs a compute process and passes orders to it."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, program: Sequence[str] = PROCESS
    ) -> None:
        """`running` starts the process: the module and the arguments in `program`."""
        self._environment = environment
        self._program = program
        self._process: trio.Process | None = None
        self._numbers = itertools.count(1)
        self._queue: list[tuple[int, int, trio.Event]] = []
        self._busy = self._closing = False
        self._replies: trio.MemoryReceiveChannel[frames.Frame]

    @asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[Self]:
        """Start the process, and end it at the end; `nursery` holds the task that reads from it."""
        command = python("-m", *self._program)
        environment = ALLOCATOR | dict(os.environ if self._environment is None else self._environment)
        self._process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )  # fmt: skip
        sender, self._replies = trio.open_memory_channel[frames.Frame](16)
        nursery.start_soon(self._read, sender)
        try:
            yield self
        finally:
            await self._close()

    async def _close(self) -> None:
        assert self._process is not None
        self._closing = True
        with trio.CancelScope(shield=True):
            assert self._process.stdin is not None
            await self._process.stdin.aclose()
            with trio.move_on_after(2):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

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
        assert self._process is not None
        status = await self._process.wait()
        if not self._closing:
            raise Unavailable(f"the compute process ended with status {status}; start this peer again")

    async def ask(
        self, order: orders.Order[R], urgency: int, on_step: Callable[[int], None] | None = None
    ) -> R:
        """Return the reply to an order; raises what the other side raised, Unavailable when it has died."""
        await self._enter(urgency)
        try:
            with trio.CancelScope(shield=True):  # a reply that nobody reads would be taken for the next one's
                return await self._exchange(order, on_step)
        finally:
            self._leave()

    async def _exchange(self, order: orders.Order[R], on_step: Callable[[int], None] | None) -> R:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(frames.pack(next(self._numbers), order))
            while True:
                frame = await self._replies.receive()
                reply = codec.decode(orders.REPLIES[frame.kind], frame.body, frames.MAX_FRAME)
                if not isinstance(reply, orders.StepDone):
                    return _checked(order, reply)
                if on_step is not None:
                    on_step(reply.step)
        except (trio.BrokenResourceError, trio.EndOfChannel) as error:
            raise Unavailable("the compute process has died") from error

    async def _read(self, sender: trio.MemorySendChannel[frames.Frame]) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async with sender:
            async for frame in frames.frames(self._process.stdout):
                await sender.send(frame)

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


def _checked(order: orders.Order[R], reply: object) -> R:
    if not isinstance(reply, orders.Failed):
        if not isinstance(reply, order.reply):
            raise Malformed(f"{type(order).__name__} was answered by {type(reply).__name__}")
        return cast(R, reply)
    if reply.kind == StepFailed.__name__:
        raise StepFailed(reply.node)
    kind = getattr(errors, reply.kind, ProofswarmError)
    raise kind(reply.message)
