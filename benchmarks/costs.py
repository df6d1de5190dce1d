"""What a run's model costs a peer, part by part, each in a process of its own, beside PyTorch's step."""

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import trio

from benchmarks import dispute, join
from benchmarks.exact import started
from benchmarks.following import Sockets
from benchmarks.processes import alone, beside, forget_peak, peak_bytes, wait_for_end
from benchmarks.trainers import Recipe
from p2p.blobs import BlobStore
from p2p.bundles import read_bundle
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import generate
from p2p.lists import MAX_BLOB_BYTES
from p2p.transport import PeerAddress
from trainer.commands.demo import DemoSettings, cast, demo_job
from trainer.compute.client import NORMAL, ComputeClient
from trainer.compute.orders import MICRO, JobDone, Prepare, RunJob
from trainer.folder import RunFolder
from trainer.programs.options import peer_options
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.create import create_run
from trainer.runs.ledgers import genesis_of
from verification import codec
from verification.digest import tagged
from verification.errors import UserError
from verification.ledger.local import system_clock
from verification.units import Address, Count, Round

STEPS = 2
"""Inner steps of a round, with a leaf at its end."""
FAULT = "forward product"
"""What is wrong in the dispute."""
DIGESTS = 3
Row = dict[str, Any]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Plan:
    """A model of `benchmarks.trainers`, its recipe as it is trained here, threads, and how many rounds are measured."""

    model: str
    recipe: Recipe
    threads: int
    rounds: int

    def settings(self, folder: Path) -> DemoSettings:
        """Return the demo whose run this is: a worker, a verifier, and a worker that comes later."""
        return DemoSettings(
            folder, "none", join.ROUNDS, 2, 1, 0, None, late=1, model=join.toml_of(self.recipe)
        )


def creating(plan: Plan, folder: Path) -> Row:
    """Make the run in a folder, as `run create` does."""
    seconds, peak = alone(_create, plan, folder)
    return {"create_seconds": seconds, "create_peak_memory": peak}


def _create(plan: Plan, folder: Path) -> float:
    torch.set_num_threads(plan.threads)
    job = demo_job(plan.settings(folder))[1]
    small = {"max_steps": STEPS, "leaf_every": STEPS, "batch": plan.recipe.batch}
    changed = {
        "training": job.training.model_copy(update=small),
        "data": job.data.model_copy(update={"length": plan.recipe.length}),
    }
    began = time.perf_counter()
    create_run(job.model_copy(update=changed), Path.cwd(), folder)
    return time.perf_counter() - began


def stepping(plan: Plan, folder: Path, together: bool) -> Row:
    """Measure a step of PyTorch's and one of a peer's compute process, in turn if they fit `together`.

    Raises UserError where one of them fails.
    """
    changes = {"batch": plan.recipe.batch, "length": plan.recipe.length}
    with TemporaryDirectory(prefix="proofswarm-size-") as logs:
        with started("float32", plan.model, plan.threads, Path(logs), **changes) as native:
            native.answer()
            row = _computing(plan, folder, native.step) if together else {}
            while not native.failure and len(native.seconds) < plan.rounds:
                native.step()
        if native.failure:
            raise UserError(f"PyTorch's step: {native.failure}")
    row |= {"native_seconds": native.seconds, "native_peak_memory": native.peak, "native_loss": native.loss}
    return row if together else row | _computing(plan, folder, _nothing)


def _nothing() -> None:
    """Do nothing between two rounds."""


def _computing(plan: Plan, folder: Path, between: Callable[[], None]) -> Row:
    return _run(partial(_compute, plan, folder, between))


def _run(work: Callable[[], Awaitable[Made]]) -> Made:
    """Return what a task makes; raises what it raises, out of the groups in which nurseries put it."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


async def _compute(plan: Plan, folder: Path, between: Callable[[], None]) -> Row:
    """Compute one round again and again as a peer does, with something else before each; its first step is timed."""
    run, seconds, rounds = RunFolder(folder), list[float](), list[float]()
    manifest = genesis_of(run).manifest
    prepare = Prepare(codec.encode(manifest), str(run.blobs), Count(plan.threads), peer_options())
    job = RunJob(Round(0), Address(bytes(20)), tagged("bench"), Count(STEPS), manifest.start, True)
    async with trio.open_nursery() as nursery, ComputeClient().running(nursery) as compute:
        began = time.perf_counter()
        prepared = await compute.ask(prepare, NORMAL)
        ready, made = time.perf_counter() - began, set[JobDone]()
        if not (prepared.golden and prepared.agrees):
            raise UserError("the machine does not reproduce the run's golden step")
        preparing = peak_bytes(compute.pid)
        forget_peak(compute.pid)  # what the first order frees may stay with the process, and counts then
        for _ in range(plan.rounds):
            between()
            moments = [time.perf_counter()]
            made.add(await compute.ask(job, NORMAL, lambda _: moments.append(time.perf_counter())))  # noqa: B023
            seconds.append(moments[2] - moments[1])
            rounds.append(time.perf_counter() - moments[0])
        peak = peak_bytes(compute.pid)
    (done,) = made
    return {
        "prepare_seconds": ready,
        "prepare_peak_memory": preparing,
        "seconds": seconds,
        "round_seconds": rounds,
        "round_peak_memory": peak,
        "loss": done.loss / MICRO,
        "is_compiled": prepared.kernels.compiled,
    }


def digesting(plan: Plan, folder: Path) -> Row:
    """Measure the digest of the run's start state: parameters and outer momentum."""
    (size, seconds), _ = alone(_digest, plan, folder)
    return {"state_bytes": size, "digest_seconds": seconds}


def _digest(plan: Plan, folder: Path) -> tuple[int, float]:
    torch.set_num_threads(plan.threads)
    store, start = BlobStore(RunFolder(folder).blobs), genesis_of(RunFolder(folder)).manifest.start
    bundle, taken = read_bundle(store, start, MAX_BLOB_BYTES), list[float]()
    for _ in range(DIGESTS):
        engine = TorchEngine({})  # which digests no tensor twice
        handle = engine.load(bundle)
        began = time.perf_counter()
        assert engine.digest(handle) == start.digest
        taken.append(time.perf_counter() - began)
    return store.path(start.blob).stat().st_size, statistics.median(taken)


def fetching(plan: Plan, folder: Path) -> Row:
    """Fetch the run's start state over loopback, from a post office in a process of its own to one in another."""
    with beside(_serve, folder) as (_, address), TemporaryDirectory(prefix="proofswarm-size-") as own:
        (seconds, received), _ = alone(_fetch, folder, Path(own), address)
    return {"fetch_seconds": seconds, "fetch_received_bytes": received}


def _serve(folder: Path, line: Connection) -> None:
    trio.run(_serving, folder, line)


async def _serving(folder: Path, line: Connection) -> None:
    run = RunFolder(folder)
    async with PostOffice(generate(), genesis_of(run).run, system_clock) as post:
        Exchange(BlobStore(run.blobs), post).serve()
        line.send(post.address.multiaddr)
        await trio.to_thread.run_sync(wait_for_end, line)


def _fetch(folder: Path, own: Path, address: str) -> tuple[float, int]:
    return _run(partial(_fetching, folder, own, PeerAddress.parse(address)))


async def _fetching(folder: Path, own: Path, source: PeerAddress) -> tuple[float, int]:
    genesis, sockets = genesis_of(RunFolder(folder)), Sockets()
    trio.socket.set_custom_socket_factory(sockets)
    async with PostOffice(generate(), genesis.run, system_clock) as post:
        began = time.perf_counter()
        await Exchange(BlobStore(own), post).fetch(genesis.manifest.start.blob, [source])
        return time.perf_counter() - began, sockets.carried()[1]


def disputing(plan: Plan, folder: Path) -> Row:
    """Play a dispute about a wrong number of the model's step, by `benchmarks.dispute`."""
    found, peak = alone(dispute.time_one, plan.model, FAULT, plan.threads)
    return {
        "dispute_seconds": found["seconds"],
        "dispute_named": found["named"],
        "dispute_evidence_bytes": found["evidence_bytes"],
        "dispute_peak_memory": peak,
    }


def joining(plan: Plan, folder: Path) -> Row:
    """Let a newcomer join the run by a ticket, on hosts of a laboratory whose links have no limit; raises UserError."""
    seats = cast(RunFolder(folder), plan.settings(folder))
    (row,) = join.measured(RunFolder(folder), seats, None)
    return {name: value for name, value in row.items() if name != "newcomer"}
