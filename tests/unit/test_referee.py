"""The law's own compute process: no verdict waits behind a round, and the process runs only while it is needed."""

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p.blobs import BlobStore
from tests.checkout import environment
from trainer.compute import orders
from trainer.compute.client import NORMAL, ComputeClient
from trainer.compute.executor import RemoteExecutor
from trainer.compute.referee import Referee
from trainer.programs.operators import ARITHMETIC
from trainer.programs.options import RunOptions
from trainer.runs.create import Created
from verification import codec
from verification.digest import tagged
from verification.errors import Malformed, Unavailable
from verification.executor import StepFailed
from verification.program import Node
from verification.tensors import Tensor
from verification.units import Address, Count, Round

pytestmark = pytest.mark.slow

FOREVER = 1e9
SUM = Node("add", (Count(0), Count(1)), (), "float32", (Count(1),))
QUOTIENT = Node("divide", (Count(0), Count(1)), (), "float32", (Count(1),))
ONE = Tensor("float32", (Count(1),), bytes.fromhex("0000803f"))
TWO = Tensor("float32", (Count(1),), bytes.fromhex("00000040"))
ZERO = Tensor("float32", (Count(1),), bytes(4))


def case(node: Node, *inputs: Tensor, arithmetic: str = ARITHMETIC) -> orders.ExecuteNode:
    """Return the order to execute a node."""
    return orders.ExecuteNode(arithmetic, Count(7), node, inputs)


@asynccontextmanager
async def sitting(idle: float = FOREVER) -> AsyncIterator[Referee]:
    """Run a referee of this checkout."""
    referee = Referee(1, environment(), idle)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(referee.run)
            yield referee
            nursery.cancel_scope.cancel()


async def test_a_verdict_does_not_wait_behind_a_round(tiny_run: Created, tmp_path: Path) -> None:
    """The round takes for ever: its process is stopped. Without one the verdict is executed there."""
    store = BlobStore(Path(shutil.copytree(tiny_run.folder.blobs, tmp_path / "blobs")))
    first = orders.Prepare(codec.encode(tiny_run.manifest), str(store.folder), Count(1), RunOptions())
    start = tiny_run.manifest.start
    round_ = orders.RunJob(Round(0), Address(bytes(20)), tagged("beacon"), Count(4), start, True)
    ended: list[object] = []

    async with (
        sitting() as referee,
        trio.open_nursery() as nursery,
        ComputeClient(environment()).running(nursery) as bench,
    ):
        executor = RemoteExecutor(bench, referee, store, tiny_run.manifest)

        async def judge() -> Tensor:
            execute: Callable[..., Tensor] = executor.execute_node
            return await trio.to_thread.run_sync(execute, ARITHMETIC, 7, SUM, (ONE, ONE))

        async def compute(*wanted: Any) -> None:
            for order in wanted:
                ended.append(await bench.ask(order, NORMAL))

        assert await judge() == TWO
        assert referee.starts == 0
        await compute(first)
        os.kill(bench.pid, signal.SIGSTOP)
        nursery.start_soon(compute, round_)
        await wait_all_tasks_blocked()
        assert [await judge() for _ in range(3)] == [TWO] * 3
        assert (referee.starts, len(ended)) == (1, 1)
        os.kill(bench.pid, signal.SIGCONT)


async def test_errors_come_as_themselves_and_the_same_process_goes_on() -> None:
    async with sitting() as referee:
        with pytest.raises(StepFailed) as failed:
            await referee.execute(case(QUOTIENT, ZERO, ZERO))
        assert failed.value.node == 7
        with pytest.raises(Malformed, match="divide takes 2 inputs"):
            await referee.execute(case(QUOTIENT, ONE))
        assert await referee.execute(case(SUM, ONE, ONE)) == TWO
        assert referee.starts == 1


async def test_an_idle_process_ends_and_the_next_verdict_starts_another() -> None:
    async with sitting(idle=0) as referee:
        for number in (1, 2):
            assert await referee.execute(case(SUM, ONE, ONE)) == TWO
            assert referee.starts == number


async def test_a_process_that_dies_is_told_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = 0
    ask = ComputeClient.ask

    async def fatal(self: ComputeClient, *order: Any) -> Any:
        nonlocal kills
        if not kills:
            kills += 1
            os.kill(self.pid, signal.SIGKILL)
        return await ask(self, *order)

    monkeypatch.setattr(ComputeClient, "ask", fatal)
    async with sitting() as referee:
        with pytest.raises(Unavailable, match="the compute process has died"):
            await referee.execute(case(SUM, ONE, ONE))
        assert await referee.execute(case(SUM, ONE, ONE)) == TWO
        assert (referee.starts, kills) == (2, 1)
