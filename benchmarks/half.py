"""A crew trains a model of which no member has memory for the whole.

    proofswarm bench half [--model gpt2-124] [--members 3] [--share 0.5] [--verifier 0.5] [--json FILE]

One run is made, and played twice by real `proofswarm peer` processes. First a worker trains alone, with all the memory
that there is: what its node and its compute process hold at most is what the whole needs. Then a crew does, each member
in a control group that may hold a share of that, and a verifier that may hold another: the system ends who takes more.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import getpid
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.control_groups import ControlGroup, control_group
from benchmarks.join import toml_of
from benchmarks.processes import alone, peak_bytes
from benchmarks.record import publish
from benchmarks.trainers import MODELS
from trainer.commands.console import Console
from trainer.commands.demo import DemoSettings, cast, demo_job
from trainer.commands.report import read_state
from trainer.commands.scene import Seat, in_one_folder
from trainer.events import Event, Tail
from trainer.folder import RunFolder
from trainer.runs.create import create_run
from verification.errors import UserError
from verification.statements import VERIFIER

WHOLE, CREW = "whole", "crew"
"""The two ways in which the run is played."""
LOOK_SECONDS = 0.1
PATIENCE = 7200.0
"""Longest time that one way may take, in seconds."""
TOLD = ("joined", "kernels", "computed", "state", "ended")
"""Kinds of events that leave a line."""
Row = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A model of `benchmarks.trainers`; how many hold it, each with `share` of the whole's memory, and what the
    verifier has of it, 0: all there is. The run has so many rounds of so many steps, a step is a record of `length`
    tokens.
    """

    model: str
    members: int
    share: float
    verifier: float
    rounds: int
    steps: int
    length: int

    def settings(self, folder: Path) -> DemoSettings:
        """Return the demo whose run this is: a crew and a verifier, for whom a round has one contribution."""
        model = toml_of(replace(MODELS[self.model], length=self.length))
        posts = tuple(range(1, self.members + 1))
        return DemoSettings(folder, "none", self.rounds, self.members, 1, 0, None, model=model, posts=posts)

    def seats(self, way: str, folder: RunFolder) -> list[Seat]:
        """Return who takes part in a copy of the run, the verifier last."""
        settings = self.settings(folder.path)
        return cast(folder, settings if way == CREW else replace(settings, workers=1, posts=()))

    def limits(self, need: int) -> list[int | None]:
        """Return the bytes that each peer of the crew's may hold where the whole needs so many."""
        return [int(self.share * need)] * self.members + [int(self.verifier * need) or None]


@dataclass
class Confined(Seat):
    """A peer whose processes are all in one control group."""

    group: ControlGroup | None = None

    def command(self, *options: str) -> list[str]:
        """Return the command by which it takes part, in its group from its first moment on."""
        command = super().command(*options)
        return command if self.group is None else self.group.around(command)


@dataclass
class Watched:
    """A peer, the bytes that its group may hold, and what was seen of it: the most bytes that its node, its compute
    process and its group held, how many processes the system ended, what it wrote down, and why it failed."""

    seat: Confined
    limit: int | None
    node: int = 0
    compute: int = 0
    anonymous: int = 0
    ended: int = 0
    events: list[Event] = field(default_factory=list)
    failure: str = ""

    def __post_init__(self) -> None:
        self._tail = Tail(self.seat.log)

    def look(self) -> list[Event]:
        """Take in how things stand with it, and return what it has written down since the last look."""
        gained = self._tail.read()
        self.events += gained
        process, group = self.seat.process, self.seat.group
        assert process is not None
        assert group is not None
        self.node = max(self.node, _peak(process.pid))
        if (started := _last(self.events, "started")) is not None:
            self.compute = max(self.compute, _peak(started["compute"]))
        self.anonymous, self.ended = max(self.anonymous, group.anonymous()), group.ended()
        if self.ended:
            self.failure = f"the system ended a process of {self.seat.name} for memory"
        elif (status := process.poll() or 0) < 0:
            self.failure = f"{self.seat.name} was ended by signal {-status}"
        elif status:
            self.failure = f"{self.seat.name} failed: {self._last_words()}"
        return gained

    def _last_words(self) -> str:
        lines = self.seat.output.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("proofswarm: ") if lines else "it printed nothing"


def run(plan: Plan, json: Path | None) -> None:
    """Measure, print and write; raises UserError without control groups, or where a peer is refused, ended or stays
    behind, after it has told what was seen."""
    with control_group(_group_name("try"), None):
        pass
    console, began = Console(), time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {line}", soft_wrap=True)

    with tempfile.TemporaryDirectory(prefix="proofswarm-half-") as work:
        rows = measure(plan, Path(work), tell)
    console.print(table_of(rows))
    require_whole(rows)
    publish(rows, summarise(rows, plan), console, json)


def measure(plan: Plan, work: Path, tell: Tell) -> list[Row]:
    """Make the run, play it both ways, and return a row for each peer; nobody's of the crew where the whole fails."""
    tell(f"making a run of {plan.model}")
    alone(make, plan, work / "run")
    rows = play(plan, WHOLE, work, [None, None], tell)
    if any(row["failure"] for row in rows):
        return rows
    need = need_of(rows)
    tell(f"the whole needs {need / 1e9:.2f} GB: a member may hold {plan.share * need / 1e9:.2f}")
    return rows + play(plan, CREW, work, plan.limits(need), tell)


def make(plan: Plan, folder: Path) -> None:
    """Make the run in a folder, as `run create` does; raises UserError."""
    job = demo_job(plan.settings(folder))[1]
    training = {"max_steps": plan.steps, "batch": 1}
    changed = {
        "training": job.training.model_copy(update=training),
        "data": job.data.model_copy(update={"length": plan.length}),
    }
    create_run(job.model_copy(update=changed), Path.cwd(), folder)


def play(plan: Plan, way: str, work: Path, limits: Sequence[int | None], tell: Tell) -> list[Row]:
    """Have peers of such limits play a copy of the run, and return a row for each; raises UserError."""
    folder = RunFolder(work / way)
    shutil.copytree(work / "run", folder.path)
    with ExitStack() as stack:
        peers = []
        for seat, limit in zip(plan.seats(way, folder), limits, strict=True):
            group = stack.enter_context(control_group(_group_name(f"{way}-{seat.name}"), limit))
            peers.append(Watched(Confined(**vars(seat), group=group), limit))
        stack.enter_context(in_one_folder(folder, [peer.seat for peer in peers]))
        watch(way, peers, tell)
    opened = [int(worked.opened_at) for worked in read_state(folder).rounds]
    events = [event for peer in peers for event in peer.events]
    seconds = seconds_of(opened, [event["at"] for event in events if event["kind"] == "ended"])
    shutil.rmtree(folder.path)
    return [row_of(way, peer) | {"round_seconds": seconds} for peer in peers]


def _group_name(name: str) -> str:
    return f"proofswarm-half-{getpid()}-{name}"


def watch(way: str, peers: Sequence[Watched], tell: Tell) -> None:
    """Look at peers until all have ended, one has failed, or they take too long, which is the first one's failure."""
    until = time.monotonic() + PATIENCE
    while not any(peer.failure for peer in peers):
        are_done = all(peer.seat.is_done for peer in peers)
        for peer in peers:
            for event in peer.look():
                if line := told(event):
                    tell(f"{way}: {peer.seat.name}: {line}")
        if are_done:
            return
        if time.monotonic() > until:
            peers[0].failure = f"the peers did not end within {PATIENCE:.0f} s"
        time.sleep(LOOK_SECONDS)


def told(event: Event) -> str:
    """Return a line about an event, nothing about most."""
    match event["kind"]:
        case "joined":
            return f"joined after {event['seconds']:.0f} s"
        case "kernels":
            return str(event["refused"])
        case "computed":
            what = "computed" if event["own"] else "audited"
            return f"{what} round {event['round']} in {event['ms'] / 1000:.1f} s"
        case "state" | "ended":
            return f"state {event['round']} is {event['digest'][:16]}"
    return ""


def row_of(way: str, peer: Watched) -> Row:
    """Return what was seen of a peer: bytes, and of its own rounds or its audits seconds by round."""
    seat, is_verifier = peer.seat, peer.seat.role == VERIFIER
    computed = [event for event in peer.events if event["kind"] == "computed" and event["own"] != is_verifier]
    moved = (_last(peer.events, "traffic") or {"bytes": {}})["bytes"].values()
    return {
        "way": way,
        "peer": seat.name,
        "role": seat.role,
        "shard": shard_of(seat.options),
        "limit": peer.limit,
        "anonymous": peer.anonymous,
        "node_peak_memory": peer.node,
        "compute_peak_memory": peer.compute,
        "ended_for_memory": peer.ended,
        "stretches": (_last(peer.events, "kernels") or {"refused": ""})["refused"],
        "seconds": {str(event["round"]): event["ms"] / 1000 for event in computed},
        "sent": sum(sent for sent, _ in moved),
        "received": sum(received for _, received in moved),
        "digest": (_last(peer.events, "ended") or {"digest": None})["digest"],
        "failure": peer.failure,
    }


def shard_of(options: Sequence[str]) -> int | None:
    """Return the shard, from 1 on, that a peer's options say it holds; None of one that has the whole."""
    return int(options[list(options).index("--shard") + 1]) if "--shard" in options else None


def seconds_of(opened: Sequence[int], ended: Sequence[int]) -> list[float]:
    """Return how many seconds each round took, of when they opened and when peers had the last state, in milliseconds;
    the last round is left out where no peer had that."""
    last = [max(ended)] if ended else []
    return [(after - before) / 1000 for before, after in pairwise([*opened, *last])]


def need_of(rows: Sequence[Row]) -> int:
    """Return the most bytes that the whole worker's node and compute process have held together."""
    return next(resident(row) for row in rows if row["way"] == WHOLE and row["role"] != VERIFIER)


def resident(row: Row) -> int:
    """Return the most bytes that a peer's node and compute process have held, what both have loaded counted twice."""
    return int(row["node_peak_memory"] + row["compute_peak_memory"])


def require_whole(rows: Sequence[Row]) -> None:
    """Raise UserError where a peer was refused or ended, or those of one way did not end with one state."""
    for row in rows:
        if row["failure"]:
            mend = "; if that is for memory, raise --share or --verifier" if row["way"] == CREW else ""
            raise UserError(f"bench half: {row['way']}: {row['failure']}{mend}")
    for way in (WHOLE, CREW):
        ends = {row["digest"] for row in rows if row["way"] == way}
        if len(ends) != 1 or None in ends:
            raise UserError(f"bench half: {way}: the peers did not end with one state, but {len(ends)}")


def summarise(rows: Sequence[Row], plan: Plan) -> dict[str, Any]:
    """Return the figures that count: bytes that the whole needs, what any member and the verifier held of it at most,
    rounds that all members made, and seconds of the crew's median round."""
    need, crew = need_of(rows), [row for row in rows if row["way"] == CREW]
    members = [row for row in crew if row["role"] != VERIFIER]
    (verifier,) = (row for row in crew if row["role"] == VERIFIER)
    return {
        "need_bytes": need,
        "share": plan.share,
        "largest_over_need": round(max(map(resident, members)) / need, 4),
        "anonymous_over_need": round(max(row["anonymous"] for row in members) / need, 4),
        "verifier_over_need": round(resident(verifier) / need, 4),
        "rounds": len(set.intersection(*(set(row["seconds"]) for row in members))),
        "one_digest": len({row["digest"] for row in crew}) == 1,
        "round_seconds": round(statistics.median(members[0]["round_seconds"]), 3),
    }


def table_of(rows: Sequence[Row]) -> Table:
    """Return all peers for people."""
    caption = (
        "memory in GB of 10^9 bytes: the limit of a peer's control group, the most anonymous memory in it, the most "
        "that the compute process held, and its node too; ended: processes, by the system; MB: sent/received"
    )
    made = Table(box=None, header_style="dim", caption=caption, caption_justify="left")
    made.add_column("peer", no_wrap=True)
    for name in ("limit", "anonymous", "compute", "+ node", "ended", "rounds, s", "MB"):
        made.add_column(name, justify="right", no_wrap=name == "MB")
    for row in rows:
        made.add_row(
            f"{row['way']}, {name_of(row)}",
            "none" if row["limit"] is None else f"{row['limit'] / 1e9:.2f}",
            f"{row['anonymous'] / 1e9:.2f}",
            f"{row['compute_peak_memory'] / 1e9:.2f}",
            f"{resident(row) / 1e9:.2f}",
            str(row["ended_for_memory"]),
            ", ".join(f"{seconds:.1f}" for seconds in row["seconds"].values()) or "-",
            f"{row['sent'] / 1e6:.0f}/{row['received'] / 1e6:.0f}",
        )
    return made


def name_of(row: Row) -> str:
    """Return what a peer is called for people: its shard, from 1 on, or its role."""
    return str(row["role"] if row["shard"] is None else f"shard {row['shard']}")


def _peak(process: int) -> int:
    """Return the most bytes that a process has held; 0 of one that has ended."""
    try:
        return peak_bytes(process)
    except (OSError, StopIteration):
        return 0


def _last(events: Sequence[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event["kind"] == kind), None)
