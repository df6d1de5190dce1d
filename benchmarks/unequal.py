"""Machines of unequal speed in one run: what the swarm trains of what they could train by themselves.

    proofswarm bench unequal [--speeds 1,0.5,0.25,0.125] [--step-seconds 0.25] [--json FILE] [--plot FILE]

Workers on hosts of a laboratory, each of which keeps a pace of its own: a step really runs, and then waits until its
time is over. A worker measures its speed when it joins, as any peer does, and the law assigns steps by it. Newcomers
begin with one leaf and double with every round that they deliver, so what counts begins when all may do what their
speed gives; the rounds before are rows too.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.curves import library
from benchmarks.opponents.ours import Ours
from benchmarks.opponents.plan import Plan
from benchmarks.opponents.running import Tell, Watcher
from benchmarks.record import publish
from benchmarks.wan import Telling
from trainer.commands.console import Console
from trainer.hosts.net import laboratory
from trainer.hosts.system import obstacle
from verification.errors import UserError
from verification.state import State
from verification.units import Address

Row = dict[str, Any]


def run(plan: Plan, json: Path | None, plot: Path | None) -> None:
    """Measure, print and write; raises UserError where there can be no laboratory, or the run does not end."""
    if reason := obstacle():
        raise UserError(f"bench unequal: {reason}")
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="proofswarm-unequal-") as work,
        console.status(Text("")) as status,
    ):
        rows = measure(plan, Path(work), Telling(console, status))
    console.print(table(rows, plan))
    publish(rows, summarise(rows, plan), console, json, plot, lambda rows, path: draw(rows, plan, path))


def measure(plan: Plan, work: Path, tell: Tell) -> list[Row]:
    """Play the run and return a row for each round; raises UserError where it does not end within its limit."""
    tell("making a run")
    start = plan.start("ours", work / "start")
    with laboratory() as lab:
        names = [*(f"peer-{number}" for number in range(plan.peers)), "verifier", "server"]
        hosts = [lab.public(name) for name in names]
        running = Ours(start.folder, plan.task(work, hosts), hosts)
        watcher = Watcher(running, plan.task(work, hosts), tell)
        is_whole, failure, _ = watcher.watch(plan.limit, plan.tokens_of_a_step)
        if not is_whole or running.ended is None:
            raise UserError(f"bench unequal: {failure or f'stopped after {plan.limit:.0f} s: raise --limit'}")
        return rows_of(running.ended, running.accounts(), running.synced(), plan)


def rows_of(state: State, accounts: Sequence[Address], synced: Mapping[int, float], plan: Plan) -> list[Row]:
    """Return a row for each round between two states: its seconds, and the steps by rank that counted in it.

    `synced` is when the state after so many rounds was there, in seconds.
    """
    rows = []
    for (before, began), (after, ended) in pairwise(synced.items()):
        counted = [0] * len(accounts)
        for worked in state.rounds[before:after]:
            for rank, account in enumerate(accounts):
                if worked.was_included(account):
                    counted[rank] += int(worked.assignments[account].steps)
        seconds, fastest = ended - began, max(plan.speeds)
        possible = seconds * sum(plan.speeds) / plan.step_seconds
        rows.append(
            {
                "round": before,
                "seconds": round(seconds, 3),
                "steps": counted,
                "busy": [
                    round(steps * plan.step_seconds / speed / seconds, 4)
                    for steps, speed in zip(counted, plan.speeds, strict=True)
                ],
                "efficiency": round(sum(counted) / possible, 4),
                "is_grown": counted[plan.speeds.index(fastest)] == plan.local_steps * (after - before),
            }
        )
    return rows


def grown(rows: Sequence[Row]) -> list[Row]:
    """Return the rounds from the first one on in which the fastest did all that a round has."""
    first = next((place for place, row in enumerate(rows) if row["is_grown"]), len(rows))
    return list(rows[first:])


def summarise(rows: Sequence[Row], plan: Plan) -> dict[str, Any]:
    """Return the figures that count: what was trained in all grown rounds, of what all could by themselves."""
    kept = grown(rows)
    seconds, steps = sum(row["seconds"] for row in kept), sum(sum(row["steps"]) for row in kept)
    possible = seconds * sum(plan.speeds) / plan.step_seconds
    return {
        "speeds": list(plan.speeds),
        "step_seconds": plan.step_seconds,
        "rounds": len(kept),
        "steps_a_second": round(steps / seconds, 3) if kept else None,
        "heterogeneous_efficiency": round(steps / possible, 4) if kept else None,
    }


def table(rows: Sequence[Row], plan: Plan) -> Table:
    """Return the rounds for people."""
    caption = (
        f"compute is emulated: a step really runs and then waits until {plan.step_seconds:g} s over the speed have "
        "passed; busy: inner steps over the wall's time, by speed"
    )
    made = Table(box=None, header_style="dim", caption=caption, caption_justify="left")
    for name in ("round", "seconds", "steps", "busy", "of what all could"):
        made.add_column(name, justify="right")
    for row in rows:
        steps, busy = "/".join(map(str, row["steps"])), "/".join(f"{share:.0%}" for share in row["busy"])
        made.add_row(str(row["round"]), f"{row['seconds']:.1f}", steps, busy, f"{row['efficiency']:.1%}")
    return made


def draw(rows: Sequence[Row], plan: Plan, path: Path) -> None:
    """Draw each worker's share of time in inner steps by round; raises UserError without matplotlib."""
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for rank, speed in enumerate(plan.speeds):
        axes.plot(
            [row["round"] for row in rows],
            [row["busy"][rank] for row in rows],
            "o-",
            ms=3,
            label=f"{speed:g}",
        )
    axes.plot([row["round"] for row in rows], [row["efficiency"] for row in rows], "k-", lw=2, label="all")
    axes.set(ylim=(0, 1.02), xlabel="round", ylabel="of a worker's time in inner steps")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    axes.legend(title="speed", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
