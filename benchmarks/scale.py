"""What a peer pays for following the ledger at 100, 1,000 and 10,000 peers, and which resource runs out first.

    proofswarm bench scale [--peers 100,1000,10000] [--json FILE] [--plot FILE]

Every peer folds the whole log, so a round's cost is what each of them pays; one that follows a served ledger pays for
asking as well, and its host for answering (`benchmarks.following`). Times are processor seconds of one core.
"""

import enum
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import following
from benchmarks.curves import library
from benchmarks.processes import pool
from benchmarks.record import publish
from simulator.scale import ROUNDS, SLOTS, VERIFIERS, exponent, fold, grow
from simulator.toy import ToyLibrary
from simulator.world import World
from trainer.commands.console import Console
from verification import codec
from verification.economics import safe_committee
from verification.errors import UserError
from verification.ledger.local import LocalLedger, create
from verification.ledger.log import Genesis
from verification.statements import MAX_STATEMENT
from verification.units import Millis

SEED = 20_261_122
COMMITTEE = safe_committee(340_000, 1_000)
"""The seats that a job file gets by default for a run of 1,000 rounds."""

MOST_SERVED = 1_000
"""Followers of the largest host that is measured: py-libp2p has as many connections."""

LONG = 1_000
"""Rounds of the run for which memory and a newcomer's time are reckoned."""

SERVED_PANELS = {
    "processor seconds": {
        "host": ("host_seconds", "#c8501e"),
        "follower": ("follower_seconds", "#1f4e9c"),
        "hints, each peer": ("hint_seconds", "#777777"),
    },
    "bytes on the wire": {
        "from the host": ("host_bytes_out", "#c8501e"),
        "to a follower": ("follower_bytes_in", "#1f4e9c"),
        "hints from each peer": ("hint_bytes_out", "#777777"),
    },
}
"""What is drawn of served ledgers."""

LIMITS: dict[str, tuple[str, float]] = {
    "time": ("seconds_per_round", 60.0),
    "messages": ("write_seconds_per_round", 60.0),
    "ledger bytes": ("log_bytes_per_round", 75e6),
    "memory": ("memory_long", 16e9),
    "joining": ("seconds_to_join_long", 3600.0),
}
"""What a resource may cost: a round of a minute on one core, on one ledger file and over a line of 10 Mbit/s; 16 GB for
the state of a long run, and an hour for a newcomer to fold it."""


def run(peers: Sequence[int], json: Path | None, plot: Path | None) -> None:
    """Play and fold runs of each size, with and without a committee; print the tables, write record and plot."""
    sizes = sorted(set(peers))
    if min(sizes) < 2 * VERIFIERS:
        raise UserError(f"--peers: a run needs {2 * VERIFIERS} peers at least; write for example 100,1000")
    console = Console()
    with console.status(f"{sizes} peers, with and without a committee"):
        rows = measure_all(sizes)
    with console.status("the same round on a served ledger"):
        served = measure_served([size for size in sizes if size <= MOST_SERVED])
    for committee in (COMMITTEE, 0):
        console.print(_table(_of(rows, committee), _name(committee)))
    if served:
        console.print(_served_table(served))
    summary = summarise(rows) | summarise_served(served)
    publish(rows, summary, console, json, plot, partial(draw, served=served), {"served": served})


def measure_all(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of all sizes with a committee, then without one; up to COMMITTEE peers that is the same run."""
    with pool() as workers:
        drawn = [workers.submit(measure, size, COMMITTEE) for size in sizes]
        everyone = [workers.submit(measure, size, 0) if size > COMMITTEE else None for size in sizes]
        rows = [run.result() for run in drawn]
        return rows + [
            {**row, "committee": 0} if run is None else run.result()
            for row, run in zip(rows, everyone, strict=True)
        ]


def measure_served(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return what following a host costs at some sizes, one after the other, in a process that does nothing else."""
    with pool(1) as workers:
        return [workers.submit(following.measure, size, COMMITTEE, SEED).result() for size in sizes]


def measure(peers: int, committee: int) -> dict[str, Any]:
    """Return one row: what a run, the fold of its log, and its ledger file took."""
    began = time.process_time()
    world = grow(peers, committee, SEED)
    simulated = time.process_time() - began
    folded = fold(world, time.process_time)
    log, seconds = world.ledger.log, sum(folded.kinds.values())
    memory = size_of(world.state)
    return {
        "peers": peers,
        "committee": committee,
        "rounds": ROUNDS,
        "slots": SLOTS,
        "verifiers": VERIFIERS,
        "entries": len(log),
        "simulated_events": world.events,
        "log_bytes": sum(len(line.data) for line in log),
        "seconds_simulated": simulated,
        "seconds_fold": seconds,
        "seconds_by_kind": folded.kinds,
        "entries_per_round": folded.entries,
        "seconds_per_round": folded.seconds,
        "log_bytes_per_round": folded.size,
        "write_seconds_per_round": folded.entries / writes_per_second(world),
        "memory": memory,
        "memory_long": memory * (1 + (LONG - ROUNDS) * folded.entries / len(log)),
        "seconds_to_join_long": seconds + (LONG - ROUNDS) * folded.seconds,
        "head": world.state.head.hex(),
    }


def writes_per_second(world: World, most: int = 1_000) -> float:
    """Return how many statements a second the embedded ledger puts on this disk, each synchronised."""
    first, *lines = world.ledger.log[: most + 1]
    now = [first.at]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        create(path, codec.decode(Genesis, first.data, MAX_STATEMENT), first.at)
        ledger = LocalLedger(path, ToyLibrary(), lambda: Millis(now[0]))
        began = time.perf_counter()
        for line in lines:
            now[0] = line.at
            if line.kind == "tick":
                ledger.tick()
            else:
                ledger.submit(line.data)
        taken = time.perf_counter() - began
        assert ledger.state.head == lines[-1].head
        ledger.close()
    return len(lines) / taken


def size_of(root: object) -> int:
    """Return the bytes of everything reachable from an object, each thing once."""
    seen: set[int] = set()
    queue, total = [root], 0
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type | enum.Enum):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        queue += _parts(item)
    return total


def _parts(item: object) -> list[object]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    return [vars(item)] if hasattr(item, "__dict__") else []


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the README gives; cost is what following a round costs a peer."""
    drawn, everyone = _of(rows, COMMITTEE), _of(rows, 0)
    largest = drawn[-1]
    summary: dict[str, Any] = {
        "events_per_second": round(largest["entries"] / largest["seconds_fold"]),
        "peers": largest["peers"],
        "committee": COMMITTEE,
        "seconds_per_round": round(largest["seconds_per_round"], 3),
        "seconds_per_round_everyone": round(everyone[-1]["seconds_per_round"], 3),
        "log_bytes_per_round": round(largest["log_bytes_per_round"]),
        "log_bytes_per_round_everyone": round(everyone[-1]["log_bytes_per_round"]),
    }
    if len(drawn) > 1:
        for name, group in (("", drawn), ("_everyone", everyone)):
            sizes, costs = ([row[key] for row in group] for key in ("peers", "seconds_per_round"))
            summary[f"cost_growth_exponent{name}"] = round(exponent(sizes, costs), 3)
            reached = walls(group)
            if reached:
                summary[f"first_wall{name}"] = min(reached, key=lambda wall: reached[wall])
                summary[f"first_wall{name}_peers"] = round(min(reached.values()))
    return summary


def walls(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return at how many peers each resource is used up, on the line through the two largest sizes.

    A resource whose use does not grow is left out.
    """
    found, (before, last) = {}, rows[-2:]
    for wall, (key, limit) in LIMITS.items():
        slope = (last[key] - before[key]) / (last["peers"] - before["peers"])
        if slope > 0:
            found[wall] = max(0.0, last["peers"] + (limit - last[key]) / slope)
    return found


def summarise_served(served: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a round costs the largest host and its followers, and what they run out of first."""
    if not served:
        return {}
    largest = served[-1]
    summary = {"followers": largest["peers"]}
    for key in ("follower_seconds", "host_seconds", "follower_bytes_in", "host_bytes_out", "hint_seconds"):
        summary[f"{key}_per_round"] = round(largest[key], 3 if key.endswith("seconds") else None)
    if len(served) > 1:
        reached = following.walls(served)
        first = min(reached, key=lambda wall: reached[wall])
        summary |= {"served_first_wall": first, "served_first_wall_peers": round(reached[first])}
    return summary


def _of(rows: Sequence[dict[str, Any]], committee: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["committee"] == committee]


def _name(committee: int) -> str:
    return f"a committee of {committee} seats" if committee else "everyone attests"


def _table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    columns = [f"{row['peers']} peers" for row in rows]
    table = Table("a round", *columns, "used up at", title=title, title_justify="left")
    reached = walls(rows) if len(rows) > 1 else {}

    for wall, key, units, name in (
        ("time", "seconds_per_round", 1e3, "ms to fold"),
        ("messages", "entries_per_round", 1, "entries"),
        ("ledger bytes", "log_bytes_per_round", 1e-3, "kB of log"),
        ("memory", "memory_long", 1e-6, f"MB of state after {LONG} rounds"),
        ("joining", "seconds_to_join_long", 1, f"s to fold {LONG} rounds"),
    ):
        where = f"{reached[wall]:,.0f} peers" if wall in reached else ""
        table.add_row(name, *(f"{row[key] * units:,.0f}" for row in rows), where)
    return table


def _served_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A round of a minute on a served ledger; hints are what everyone tells everyone beside it."""
    columns = [f"{row['peers']} peers" for row in rows]
    table = Table("a round", *columns, "used up at", title="a served ledger", title_justify="left")
    reached = following.walls(rows) if len(rows) > 1 else {}
    for wall, key, units, name in (
        ("a follower's processor", "follower_seconds", 1, "s of a follower"),
        ("a follower's download", "follower_bytes_in", 1e-3, "kB to a follower"),
        ("", "follower_bytes_out", 1e-3, "kB from a follower"),
        ("the host's processor", "host_seconds", 1, "s of the host"),
        ("the host's upload", "host_bytes_out", 1e-6, "MB from the host"),
        ("", "host_bytes_in", 1e-6, "MB to the host"),
        ("hints, a peer's processor", "hint_seconds", 1, "s of hints, each peer"),
        ("hints, a peer's upload", "hint_bytes_out", 1e-3, "kB of hints from each peer"),
        ("", "idle_look_host_seconds", 1e3, "ms of the host for a look at nothing new"),
        ("", "submit_host_seconds", 1e3, "ms of the host for a statement"),
    ):
        where = f"{reached[wall]:,.0f} peers" if wall in reached else ""
        table.add_row(name, *(f"{row[key] * units:,.2f}" for row in rows), where)
    return table


def draw(rows: Sequence[dict[str, Any]], path: Path, served: Sequence[dict[str, Any]] = ()) -> None:
    """Draw what following a round costs a peer over the number of peers, both axes logarithmic; below it, if there are
    `served` ledgers, what they cost.

    Raises UserError without matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4 if served else 3.2), layout="constrained")
    above, *below = figure.subplots(2 if served else 1, 2, squeeze=False)
    panels = (("seconds_per_round", "processor seconds"), ("log_bytes_per_round", "bytes of log"))
    for axes, (key, label) in zip(above, panels, strict=True):
        for committee, colour in ((0, "#c8501e"), (COMMITTEE, "#1f4e9c")):
            group = _of(rows, committee)
            points = [row["peers"] for row in group], [row[key] for row in group]
            axes.loglog(*points, "o-", color=colour, label=_name(committee))
        axes.set_ylabel(f"{label} a round, each peer")
    for axes, (label, lines) in zip(below[0] if below else (), SERVED_PANELS.items(), strict=False):
        for name, (key, colour) in lines.items():
            axes.loglog(
                [row["peers"] for row in served], [row[key] for row in served], "o-", color=colour, label=name
            )
        axes.set_ylabel(f"{label} a round, served ledger")
    for axes in (*above, *(below[0] if below else ())):
        axes.set_xlabel("peers")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None})
