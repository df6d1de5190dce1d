"""The node's side of a real compute process: urgency, errors that cross over, and a process that dies."""

import dataclasses
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.checkout import environment
from trainer.compute import frames, orders
from trainer.compute.children import PROCESS
from trainer.compute.client import LATER, NORMAL, SOON, URGENT, ComputeClient
from trainer.exact import native
from trainer.groups.messages import SHARDS
from trainer.lifetimes import python
from trainer.programs.options import RunOptions
from trainer.runs.create import Created
from verification import codec
from verification.digest import ZERO, tagged
from verification.errors import Malformed, Unavailable, UserError
from verification.manifest import BundleRef
from verification.statements import Commit
from verification.units import Address, Count, Round

pytestmark = pytest.mark.slow
LIMIT = 1 << 24
MISSING = orders.CheckContribution(
    Address(bytes(20)), Commit(Round(0), ZERO, ZERO, BundleRef(tagged("no"), tagged("such")), Count(0), ZERO)
)


@asynccontextmanager
async def bench(
    program: Sequence[str] = PROCESS, **variables: str
) -> AsyncIterator[tuple[ComputeClient, trio.Nursery]]:
    """Run a compute process of this checkout, with more environment variables."""
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            async with ComputeClient(environment(**variables), program).running(nursery) as running:
                yield running, nursery
            nursery.cancel_scope.cancel()


def prepare(run: Created, folder: Path) -> orders.Prepare:
    """Return the first order, on a copy of the run's blobs."""
    store = folder / "blobs"
    if not store.exists():
        shutil.copytree(run.folder.blobs, store)
    return orders.Prepare(codec.encode(run.manifest), str(store), Count(1), RunOptions())


def job(run: Created) -> orders.RunJob:
    """Return an order that takes a while."""
    return orders.RunJob(Round(0), Address(bytes(20)), tagged("beacon"), Count(4), run.manifest.start, True)


FLUSHES = """
#if defined __x86_64__
#include <xmmintrin.h>
static void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
#elif defined __aarch64__
static void flush(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1ul << 24));
}
#endif
__attribute__((constructor)) static void load(void) { flush(); }
"""
"""What the start-up code of -ffast-math does in the process that loads it."""


async def test_a_process_that_flushes_subnormals_does_nothing(tiny_run: Created, tmp_path: Path) -> None:
    command, library = native.compiler(), tmp_path / "fast.so"
    if command is None or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no compiler, or no processor that this test knows how to make flush")
    (tmp_path / "fast.c").write_text(FLUSHES)
    await trio.run_process([command, "-shared", "-fPIC", tmp_path / "fast.c", "-o", library])
    async with bench(LD_PRELOAD=str(library)) as (compute, _):
        for order in (prepare(tiny_run, tmp_path), job(tiny_run)):
            with pytest.raises(UserError, match=r"subnormal numbers are flushed .* look at LD_PRELOAD"):
                await compute.ask(order, NORMAL)


async def test_errors_cross_over_as_themselves_and_harm_nothing(tiny_run: Created, tmp_path: Path) -> None:
    async with bench() as (compute, _):
        with pytest.raises(Malformed, match="the first order must be Prepare"):
            await compute.ask(MISSING, NORMAL)
        assert (await compute.ask(prepare(tiny_run, tmp_path), NORMAL)).golden
        with pytest.raises(Unavailable, match="is not in the store"):
            await compute.ask(MISSING, NORMAL)
        assert (await compute.ask(job(tiny_run), NORMAL)).norm > 0


async def test_the_most_urgent_goes_first_and_a_cancelled_one_leaves_no_trace(
    tiny_run: Created, tmp_path: Path
) -> None:
    ended: list[str] = []
    steps: list[orders.News] = []
    scope = trio.CancelScope()

    async with bench() as (compute, nursery):
        first = prepare(tiny_run, tmp_path)
        await compute.ask(first, NORMAL)

        async def ask(name: str, urgency: int) -> None:
            result = await compute.ask(job(tiny_run), urgency, steps.append)
            assert len(result.digests) == 3
            ended.append(name)

        async def given_up() -> None:
            with scope:
                await ask("given up", URGENT)

        os.kill(compute.pid, signal.SIGSTOP)  # it is busy until everyone has asked
        async with trio.open_nursery() as asking:
            for name, urgency in (
                ("running", LATER), ("later", LATER), ("normal", NORMAL), ("second normal", NORMAL), ("soon", SOON),
            ):  # fmt: skip
                asking.start_soon(ask, name, urgency)
                await wait_all_tasks_blocked()
            asking.start_soon(given_up)
            await wait_all_tasks_blocked()
            assert not ended
            scope.cancel()
            asking.start_soon(ask, "urgent", URGENT)
            await wait_all_tasks_blocked()
            os.kill(compute.pid, signal.SIGCONT)
        assert ended == ["running", "urgent", "soon", "normal", "second normal", "later"]
        assert [news.step for news in steps if isinstance(news, orders.StepDone)] == [0, 1, 2, 3, 4] * 6
        assert nursery.cancel_scope.cancel_called is False


async def test_an_order_given_up_while_it_runs_still_takes_its_own_reply(
    tiny_run: Created, tmp_path: Path
) -> None:
    async with bench() as (compute, _):
        await compute.ask(prepare(tiny_run, tmp_path), NORMAL)
        with trio.CancelScope() as scope:
            await compute.ask(job(tiny_run), NORMAL, lambda step: scope.cancel())
        assert scope.cancel_called
        with pytest.raises(Unavailable, match="is not in the store"):
            await compute.ask(MISSING, NORMAL)


async def test_an_urgent_order_goes_to_a_process_that_runs_a_job(tiny_run: Created, tmp_path: Path) -> None:
    """Others wait for it, and a job takes as long as a round."""
    told: list[str] = []
    async with bench() as (compute, _):
        await compute.ask(prepare(tiny_run, tmp_path), NORMAL)
        alone = await compute.ask(job(tiny_run), NORMAL)

        async def ask(name: str, urgency: int) -> None:
            with pytest.raises(Unavailable, match="is not in the store"):
                await compute.ask(MISSING, urgency)
            told.append(name)

        async def work() -> None:
            assert await compute.ask(job(tiny_run), NORMAL) == alone, "what came between changes nothing"

        os.kill(compute.pid, signal.SIGSTOP)  # it is busy until everyone has asked
        async with trio.open_nursery() as asking:
            for start in (work, partial(ask, "soon", SOON), partial(ask, "urgent", URGENT)):
                asking.start_soon(start)
                await wait_all_tasks_blocked()
            os.kill(compute.pid, signal.SIGCONT)
    assert told == ["urgent", "soon"]


async def test_a_process_that_dies_is_told_to_everyone_who_waits(tiny_run: Created, tmp_path: Path) -> None:
    kills, told = 0, []
    async with bench() as (compute, _):
        await compute.ask(prepare(tiny_run, tmp_path), NORMAL)

        async def ask(order: object) -> None:
            with pytest.raises(Unavailable, match="the compute process has died"):
                await compute.ask(order, NORMAL)
            told.append(order)

        async def watch() -> None:
            with pytest.raises(Unavailable, match=r"ended with status -9; start this peer again"):
                await compute.watch()
            told.append("watch")

        os.kill(compute.pid, signal.SIGSTOP)  # it answers nothing before it dies
        async with trio.open_nursery() as asking:
            asking.start_soon(watch)
            for order in (job(tiny_run), MISSING):
                asking.start_soon(ask, order)
            await wait_all_tasks_blocked()
            os.kill(compute.pid, signal.SIGKILL)
            kills += 1
        await ask(MISSING)
    assert kills == 1
    assert len(told) == 4


async def test_a_process_whose_run_is_given_up_before_it_is_loaded_is_no_death(
    tiny_run: Created, tmp_path: Path
) -> None:
    """As when a peer is interrupted while it waits for the machines of its group."""
    ticket = tmp_path / "ticket"
    async with bench(("trainer.groups.process", "2", "127.0.0.1", "0", SHARDS, str(ticket))) as (
        compute,
        nursery,
    ):
        nursery.start_soon(compute.watch)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(compute.ask, prepare(tiny_run, tmp_path), SOON)
                await wait_all_tasks_blocked()
                scope.cancel()
        assert await compute._ended() == -signal.SIGKILL


def test_a_process_ends_with_its_node_though_it_waits_for_others(tiny_run: Created, tmp_path: Path) -> None:
    program = ("trainer.groups.process", "2", "127.0.0.1", "0", SHARDS, str(tmp_path / "ticket"))
    command = python("-m", *program)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as alone:
        assert alone.stdin is not None and alone.stderr is not None
        alone.stdin.write(frames.pack(Count(1), prepare(tiny_run, tmp_path)))
        alone.stdin.flush()
        while b"the group waits for 1 more" not in alone.stderr.readline():
            assert alone.poll() is None
        alone.stdin.close()
        assert alone.wait(60) == 0


async def test_closing_is_no_death(tiny_run: Created, tmp_path: Path) -> None:
    async with bench() as (compute, nursery):
        await compute.ask(prepare(tiny_run, tmp_path), NORMAL)
        nursery.start_soon(compute.watch)
        pid = compute.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_another_door_computes_own_rounds_with_a_cheats_engine_and_no_audits(
    tiny_run: Created, tmp_path: Path
) -> None:
    """It keeps quiet about the step that it left out, also when it is told to look for faults there."""
    async with bench(("trainer.shards.cheating", "tail-step", "0")) as (compute, _):
        await compute.ask(prepare(tiny_run, tmp_path), NORMAL)
        own, audit = [
            (await compute.ask(dataclasses.replace(job(tiny_run), own=own, rerun=Count(4)), NORMAL)).digests
            for own in (True, False)
        ]
    assert own[:2] == audit[:2]
    assert own[2] != audit[2]
