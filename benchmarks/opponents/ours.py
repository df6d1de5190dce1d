"""This project on hosts of a laboratory: a served ledger, workers that keep a pace, and a verifier."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import Any

from benchmarks.opponents.course import Report
from benchmarks.opponents.task import Task
from p2p.identity import load
from trainer.commands.hosted import Hosted
from trainer.commands.report import read_state
from trainer.commands.scene import Seat
from trainer.events import Tail
from trainer.folder import RunFolder
from trainer.hosts.net import Host
from trainer.lifetimes import python
from trainer.runs.create import create_run
from trainer.runs.job import parse_job
from trainer.runs.states import stored_bundle
from verification.state import State
from verification.statements import VERIFIER, WORKER
from verification.tensors import Bundle
from verification.units import Address

VERIFIERS = 1
VARIANTS: dict[str, str] = {
    "ours": "",
    "ours-4bit": 'compression = "dense-4"',
    "ours-top-k": 'compression = "top-k"',
    "ours-low-rank": 'compression = "low-rank"',
    "ours-overlap": "overlap = true",
    "ours-low-rank-overlap": 'compression = "low-rank"\noverlap = true',
}
"""What is compared of ours: each name's own lines of [training]."""
OVERLAPPING = ("ours-overlap", "ours-low-rank-overlap")
"""Those that train while bytes travel."""
SYNCED = ("state", "ended")
"""Events of a peer that has the state after a round."""

JOB = """
title = "proofswarm bench wan"
seed = {seed}

[model.config]
{config}
[data]
builtin = "python-reference"
length = {length}

[training]
rounds = {rounds}
max_steps = {local_steps}
leaf_every = {leaf_every}
batch = {batch}
learning_rate = {learning_rate}
warmup = {warmup}
{variant}
[swarm]
workers = {peers}
min_workers = {peers}
verifiers = {verifiers}
min_verifiers = {verifiers}
audit_rate = {audit_rate}
miss_limit = 20

[economics]
colluding = 0

[accounts]
peers = {accounts}
"""
"""Where a round is one leaf everybody does all its steps from the first one on: otherwise newcomers begin with a leaf,
and shares follow speed."""

WINDOWS = """
[windows]
commit = 1800
attest = 1800
seal = 1800
verdict = 1800
opening = 1800
reveal = 1800
clock = 1800
stall = 20000
silence = 20000
"""
"""So long that no link and no step of a bench ends one: everybody here is honest."""


def job_text(task: Mapping[str, Any], variant: str = "ours") -> str:
    """Return the job file of a training that `wan.Plan` describes, of a variant of ours."""
    config = "".join(f"{key} = {dumps(value)}\n" for key, value in task["config"].items())
    text = JOB.format(
        **{**task, "config": config}, variant=VARIANTS[variant], verifiers=VERIFIERS,
        accounts=task["peers"] + VERIFIERS,
    )  # fmt: skip
    return text + WINDOWS


def make_run(text: str, out: Path) -> RunFolder:
    """Make the run of a job; it is too short, and audited too rarely, to be sound. Raises UserError."""
    return create_run(parse_job(text, "the bench's job"), Path.cwd(), out, accept_unsound=True).folder


@dataclass
class PacedSeat(Seat):
    """A worker that keeps a pace and reports its steps."""

    report: Path = field(default_factory=Path)
    step_seconds: float = 0.0
    core: int = -1

    def command(self, *options: str) -> list[str]:
        """Return the command by which it takes part; `options` are those of `join`."""
        _, ticket, _, folder, _, listen = options
        pace = (str(self.report), str(self.step_seconds), str(self.core))
        return python("-m", "benchmarks.opponents.peer", *pace, ticket, folder, listen)


class Ours:
    """A run of ours on hosts: the last of `hosts` serves the ledger, those before it verify, the first are workers."""

    def __init__(self, template: RunFolder, task: Task, hosts: list[Host]) -> None:
        """`template` is the run as it was made; it is copied, so that it can be run again."""
        folder = RunFolder(Path(shutil.copytree(template.path, Path(task.folder) / "run")))
        *self._verifying, server = hosts[task.peers :]
        self._task, self._workers = task, hosts[: task.peers]
        self._hosted = Hosted(folder, server)
        self._seen: dict[int, dict[int, dict[str, Any]]] = {}
        self._left_out: set[tuple[int, int]] = set()
        self._reports = [Report(self._report(rank)) for rank in range(task.peers)]
        self.last: Bundle | None = None
        """The state after the last round, once the run was stopped there."""
        self.ended: State | None = None
        """The ledger's state, once the run was stopped."""
        self._seats = [self._seat(number) for number in range(task.peers + len(self._verifying))]

    def _seat(self, number: int) -> Seat:
        task, folder, name = self._task, self._hosted.folder, f"peer-{number}"
        account = load(folder.keys / f"{name}.key").address
        if number >= task.peers:
            return Seat(name, account, VERIFIER, ["--device", "cpu", "--accept-unsound"], folder, name)
        core = task.cores[number] if task.cores else -1
        return PacedSeat(
            name, account, WORKER, [], folder, name, report=self._report(number), step_seconds=task.seconds_of(number),
            core=core,
        )  # fmt: skip

    def _report(self, rank: int) -> Path:
        return Path(self._task.folder) / f"peer-{rank}.jsonl"

    def start(self) -> None:
        """Serve the ledger, invite everybody, and start them."""
        self._hosted.serve()
        self._hosted.invite(self._seats)
        self._events = [Tail(seat.log) for seat in self._seats]
        for seat, host in zip(self._seats, [*self._workers, *self._verifying], strict=True):
            self._hosted.start(seat, host)

    def failure(self) -> str:
        """Return which peer has ended before its time, with its last words; nothing if none has."""
        for seat in self._seats:
            if seat.process is not None and seat.process.poll():
                words = seat.output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
                return f"{seat.name}: {words[-1]}"
        return ""

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """Return a worker's report: its steps as it told them, and its syncs by the states that it says it has.

        Its clock for these is the ledger's, so they are given the time at which they are seen first. The steps of a
        round that did not count are no sync's.
        """
        told = self._reports[rank].lines()
        begun = [{**line, "kind": "begun"} for line in told[:1]]
        return [*begun, *told, *self._syncs(rank, steps_by_round(told))]

    def _syncs(self, rank: int, steps: Mapping[int, int]) -> list[dict[str, Any]]:
        seen = self._seen.setdefault(rank, {})
        for event in self._events[rank].read():
            if event["kind"] in SYNCED and event["round"] > 0 and event["round"] not in seen:
                moved = self._workers[rank].moved()
                seen[event["round"]] = {
                    "at": time.monotonic(), "sent": moved.sent_bytes, "received": moved.received_bytes
                }  # fmt: skip
        counted = {number: 0 if (rank, number) in self._left_out else done for number, done in steps.items()}
        return [
            {"kind": "sync", "steps": sum(done for each, done in counted.items() if each < number), **then}
            for number, then in seen.items()
        ]

    def accounts(self) -> list[Address]:
        """Return the workers' accounts, by rank."""
        return [seat.account for seat in self._seats[: self._task.peers]]

    def synced(self) -> dict[int, float]:
        """Return when the first worker had the state after so many rounds, on the machine's monotonic clock."""
        numbers = {number for seen in self._seen.values() for number in seen}
        every = self._seen.values()
        return {n: min(float(seen[n]["at"]) for seen in every if n in seen) for n in sorted(numbers)}

    @property
    def left_out(self) -> int:
        """Return how many contributions did not count, once the run was stopped."""
        return len(self._left_out)

    def is_over(self) -> bool:
        """Return whether every worker has the state after the last round."""
        ranks = range(self._task.peers)
        return all(self._task.rounds in self._seen.get(rank, {}) for rank in ranks)

    def stop(self) -> None:
        """Learn from the ledger which contributions did not count, and end everybody."""
        self.ended = state = read_state(self._hosted.folder)
        for worked in state.rounds:
            for rank, seat in enumerate(self._seats[: self._task.peers]):
                if worked.sealed is not None and not worked.was_included(seat.account):
                    self._left_out.add((rank, int(worked.number)))
        if self.is_over():
            stores = [store for seat in self._seats for store in seat.folder.stores()]
            sealed = state.rounds[self._task.rounds - 1].sealed
            assert sealed is not None
            self.last = stored_bundle(stores, sealed)
        for host in (*self._workers, *self._verifying):
            host.kill()
        self._hosted.kill()


def steps_by_round(told: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return how many steps a worker reports of each round; of one that it made twice those of the last time."""
    found, number = dict[int, int](), -1
    for line in told:
        if line["kind"] == "round":
            number = int(line["number"])
            found[number] = 0
        else:
            found[number] += 1
    return found
