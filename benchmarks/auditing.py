"""What verification costs beside the training alone: leaves' digests, steps made twice, audits.

    proofswarm bench audit [--model d256] [--steps 100] [--leaf-every 100] [--rate 0.05] [--json FILE]

A worker's round as peers compute it, by a run's own programs, in turn with the same round in which nothing is hashed
and no step is made twice. An audit is the first of these over again, on another machine. So at a rate q training costs
(round + check) * (1 + q) over the bare round; `check` is what a step made twice takes (SPEC.md 9.6), in the share of
rounds whose beacons draw it. Audits take a round's public inputs, which every member has: no tensor moves for them.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from benchmarks.opponents.plan import Plan
from benchmarks.record import publish
from p2p.blobs import BlobStore
from p2p.bundles import open_bundle
from trainer.commands.console import Console
from trainer.compute.orders import Prepare
from trainer.compute.process import ComputeProcess
from trainer.folder import RunFolder
from trainer.programs.options import peer_options
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds, Start
from trainer.runs.ledgers import genesis_of
from verification import codec
from verification.digest import ZERO, integer, tagged
from verification.errors import UserError
from verification.honest.selfcheck import checked_step
from verification.units import Address, Count, Digest, Round

SEED = 0
BEACONS = 100_000
"""Beacons over which the share of rounds with a step made twice is counted."""
LIMIT = 1 << 36
Row = dict[str, Any]


class Unhashed(TorchEngine):
    """A machine that trains and proves nothing."""

    def digest(self, handle: list[torch.Tensor]) -> Digest:
        """Return zeros."""
        return ZERO


@dataclass(frozen=True)
class Measured:
    """Seconds of rounds as a peer computes them and bare, in turn; those that a step made twice adds to one."""

    proven: list[float]
    bare: list[float]
    check: float

    def row(self, plan: Plan, rate: float) -> Row:
        """Return the figures: what each part adds to a bare round, as a share of it, and all together."""
        bare = statistics.median(self.bare)
        over = statistics.median(map(truediv, self.proven, self.bare))
        checks = self.check / bare * _share_of_checks(plan, self.check / (bare / plan.local_steps))
        return {
            "model": plan.model,
            "steps": plan.local_steps,
            "leaf_every": plan.leaf_every,
            "rate": rate,
            "bare_seconds": self.bare,
            "proven_seconds": self.proven,
            "check_seconds": self.check,
            "leaves": round(over - 1, 4),
            "checks": round(checks, 4),
            "audits": round(rate * (over + checks), 4),
            "verification_cost": round((over + checks) * (1 + rate), 4),
        }


def _share_of_checks(plan: Plan, steps: float) -> float:
    """Return in which share of rounds a step is made twice that takes as long as so many others."""
    draw = random.Random(SEED)
    beacons = (tagged("bench", integer(number)) for number in range(BEACONS))
    drawn = (
        checked_step(beacon, plan.local_steps, round(1000 * steps), draw.randrange) for beacon in beacons
    )
    return sum(map(bool, drawn)) / BEACONS


def run(plan: Plan, rate: float, rounds: int, threads: int, json: Path | None) -> None:
    """Measure, print and write; raises UserError where a file cannot be written."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="proofswarm-audit-") as work:
        console.print("making a run")
        folder = plan.start("ours", Path(work) / "run").folder
        row = measure(folder, plan, rounds, threads, console).row(plan, rate)
    console.print(table(row))
    publish([row], {"verification_cost": row["verification_cost"], "rate": rate}, console, json)


def measure(folder: RunFolder, plan: Plan, rounds: int, threads: int, console: Console) -> Measured:
    """Compute rounds in both ways, in turn; raises UserError where the machine is not exact."""
    manifest = genesis_of(folder).manifest
    order = Prepare(codec.encode(manifest), str(folder.blobs), Count(threads), peer_options())
    peer, idle = ComputeProcess(order), ComputeProcess(order, engine=Unhashed)
    if not peer.measure().golden:
        raise UserError("the machine does not reproduce the run's golden step")
    start = open_bundle(BlobStore(folder.blobs), manifest.start, LIMIT)
    idle.rounds.digests_after(_job(0, plan), start, (1,))  # loops are built before anything is timed
    proven, bare, checked = list[float](), list[float](), list[float]()
    for number in track(range(rounds), "rounds", console=console, disable=not console.is_terminal):
        job = _job(number, plan)
        proven.append(_seconds(lambda: peer.rounds.run(job, start)))  # noqa: B023
        bare.append(_seconds(lambda: idle.rounds.run(job, start)))  # noqa: B023
        checked.append(_seconds(lambda: _one(peer.rounds, job, start, 1)))  # noqa: B023
        checked[-1] -= _seconds(lambda: _one(peer.rounds, job, start, 0))  # noqa: B023
    return Measured(proven, bare, max(0.0, statistics.median(checked)))


def _one(rounds: Rounds, job: Job, start: Start, checked: int) -> None:
    """Compute the first step of a round, in two ways if it is checked."""
    rounds.run(Job(job.number, job.worker, job.beacon, 1), start, checked=checked)


def _job(number: int, plan: Plan) -> Job:
    return Job(Round(0), Address(bytes(20)), tagged("beacon", integer(number)), plan.local_steps)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(row: Row) -> Table:
    """Return the row for people."""
    made = Table(
        box=None,
        header_style="dim",
        caption="shares of a round in which nothing is proven",
        caption_justify="left",
    )
    for name in (
        "round, s",
        "leaves",
        "steps made twice",
        f"audits at {row['rate']:.0%}",
        "all over training alone",
    ):
        made.add_column(name, justify="right")
    shares = [f"{row[name]:.1%}" for name in ("leaves", "checks", "audits")]
    made.add_row(f"{statistics.median(row['bare_seconds']):.2f}", *shares, f"{row['verification_cost']:.3f}")
    return made
