"""What a peer costs the ledger at 100, 1,000 and 10,000 peers, and which kind of statement grows fastest.

    proofswarm bench scale [--peers 100,1000,10000] [--json FILE]

Times are processor seconds of one core. The fold is the law alone: what everyone who reads the log must do.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.record import write_record
from simulator.scale import ROUNDS, SLOTS, VERIFIERS, exponent, fold, grow
from verification.errors import UserError

SEED = 20_261_122
MOST_KINDS = 6


def run(peers: Sequence[int], json: Path | None) -> None:
    """Play and fold a run of each size, print the table and write the record."""
    if min(peers) < 2 * VERIFIERS:
        raise UserError(f"--peers: a run needs {2 * VERIFIERS} peers at least; write for example 100,1000")
    console, rows = Console(), []
    for number in sorted(set(peers)):
        with console.status(f"{number} peers"):
            rows.append(measure(number))
        console.print(
            f"{number} peers: {rows[-1]['seconds_simulated']:.1f} s, fold {rows[-1]['seconds_fold']:.1f} s"
        )
    console.print(_table(rows))
    summary = summarise(rows)
    for name, value in summary.items():
        console.print(f"{name}: {value}", highlight=False)
    if json is not None:
        write_record(json, rows, summary)


def measure(peers: int) -> dict[str, Any]:
    """Return one row: what the run and its fold took."""
    began = time.process_time()
    grown, world = grow(peers, SEED)
    simulated = time.process_time() - began
    kinds = fold(world, time.process_time)
    return {
        "peers": peers,
        "rounds": ROUNDS,
        "slots": SLOTS,
        "verifiers": VERIFIERS,
        "entries": grown.entries,
        "simulated_events": grown.events,
        "log_bytes": grown.log_bytes,
        "seconds_simulated": simulated,
        "seconds_fold": sum(kinds.values()),
        "seconds_by_kind": kinds,
        "head": grown.head.hex(),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the README gives; the first wall is the kind whose share grows fastest."""
    largest = rows[-1]
    summary: dict[str, Any] = {
        "events_per_second": round(largest["entries"] / largest["seconds_fold"]),
        "seconds_per_peer": round(largest["seconds_fold"] / largest["peers"], 5),
        "log_bytes_per_peer_and_round": round(largest["log_bytes"] / largest["peers"] / ROUNDS),
    }
    if len(rows) > 1:
        sizes = [row["peers"] for row in rows]
        summary["cost_growth_exponent"] = round(exponent(sizes, [row["seconds_fold"] for row in rows]), 3)
        growth = {kind: _growth(rows, kind) for kind in _largest_kinds(rows)}
        summary["first_wall"] = max(growth, key=lambda kind: growth[kind])
    return summary


def _growth(rows: Sequence[dict[str, Any]], kind: str) -> float:
    costs = [max(row["seconds_by_kind"].get(kind, 0.0), 1e-6) for row in rows]
    return exponent([row["peers"] for row in rows], costs)


def _largest_kinds(rows: Sequence[dict[str, Any]]) -> list[str]:
    kinds: dict[str, float] = rows[-1]["seconds_by_kind"]
    return sorted(kinds, key=lambda kind: -kinds[kind])[:MOST_KINDS]


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("", *(f"{row['peers']} peers" for row in rows), "growth")
    table.add_row("entries a second", *(f"{row['entries'] / row['seconds_fold']:.0f}" for row in rows), "")
    table.add_row("ms a peer", *(f"{1000 * row['seconds_fold'] / row['peers']:.2f}" for row in rows), "")
    for kind in _largest_kinds(rows):
        growth = f"{_growth(rows, kind):.2f}" if len(rows) > 1 else ""
        table.add_row(f"s in {kind}", *(f"{row['seconds_by_kind'].get(kind, 0):.2f}" for row in rows), growth)
    return table
