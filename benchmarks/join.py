"""How long a newcomer takes from its ticket to its first commitment, and what that moves over its link.

    proofswarm bench join [--model demo] [--mbit 100] [--newcomers 3] [--json FILE]

On hosts of a laboratory, each a network namespace, a worker and a verifier train a run whose ledger a third serves.
Newcomers come one after the other, each on a host whose link is limited in both directions, and join by a ticket as a
person would. Told are the seconds from the command's start, and the bytes of the link, headers and all, both to the
membership and to the first commitment. A delay is not part of it: many kernels cannot make one.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.record import publish
from benchmarks.trainers import MODELS, Recipe
from p2p.blobs import BlobStore
from trainer.commands.console import Console
from trainer.commands.demo import MODEL, DemoSettings, cast, demo_job
from trainer.commands.hosted import Hosted
from trainer.commands.scene import Seat
from trainer.events import read_events
from trainer.folder import RunFolder
from trainer.hosts.net import Host, Lab, laboratory
from trainer.hosts.system import obstacle
from trainer.runs.create import create_run
from trainer.runs.ledgers import genesis_of
from trainer.runs.library import published
from verification.errors import UserError

ROUNDS = 1000
"""More than there are while newcomers come."""
PATIENCE = 1200.0
"""Longest wait for a newcomer, in seconds."""
LOOK_SECONDS = 0.05
LENGTH = 256
"""Tokens in a row that a model is for; the demo's records have fewer."""


@dataclass(frozen=True)
class Reached:
    """When a newcomer reached a stage, in seconds since its command began, and what its link had carried by then."""

    seconds: float
    received: int
    sent: int


def run(model: str, mbit: float, newcomers: int, json: Path | None) -> None:
    """Measure, print and write; raises UserError where there can be no laboratory."""
    if reason := obstacle():
        raise UserError(f"bench join: {reason}")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="proofswarm-join-") as work:
        settings = DemoSettings(
            Path(work) / "run",
            "none",
            ROUNDS,
            1 + newcomers,
            1,
            0,
            None,
            late=newcomers,
            model=config_of(model),
        )
        console.print("making a run and beginning it")
        folder = create_run(demo_job(settings)[1], Path.cwd(), settings.out).folder
        rows = []
        for row in measured(folder, cast(folder, settings), mbit):
            rows.append({"model": model, "mbit": mbit, **row})
            console.print(_line(rows[-1]))
        store, manifest = BlobStore(folder.blobs), genesis_of(folder).manifest
        size = sum(store.path(blob).stat().st_size for blob in published(manifest))
    console.print(_table(rows))
    publish(rows, _summary(rows, size), console, json)


def measured(folder: RunFolder, seats: Sequence[Seat], mbit: float | None) -> Iterator[dict[str, Any]]:
    """Let the first worker and the verifier train, and yield how each other worker came.

    Without `mbit` links have no limit. Raises UserError where there can be no laboratory, or somebody does not come so
    far.
    """
    resident, *newcomers, verifier = seats
    with laboratory() as lab:
        hosted, home = Hosted(folder, lab.public("ledger")), lab.public(resident.name)
        hosted.serve()
        hosted.invite(seats)
        hosted.start(resident, home)
        hosted.start(verifier, lab.public(verifier.name))
        _wait(resident, home, "committed", time.monotonic())
        for seat in newcomers:
            yield {"newcomer": seat.name, **_join(hosted, lab, seat, mbit)}


def config_of(model: str) -> str:
    """Return a model's config as TOML: the demo's, or one of `benchmarks.trainers`."""
    return MODEL if model == "demo" else toml_of(replace(MODELS[model], length=LENGTH))


def toml_of(recipe: Recipe) -> str:
    """Return the config of a recipe's model as TOML."""
    return "".join(f"{key} = {dumps(value)}\n" for key, value in recipe.config.items())


def _join(hosted: Hosted, lab: Lab, seat: Seat, mbit: float | None) -> dict[str, Any]:
    """Let a newcomer in, and leave it there: rounds would wait for one that is gone. Raises UserError for one that does
    not come so far."""
    host = lab.public(seat.name)
    host.limit(mbit)
    began = time.monotonic()
    hosted.start(seat, host)
    found: dict[str, Any] = {}
    for stage in ("joined", "committed"):
        reached = _wait(seat, host, stage, began)
        found |= {f"{stage}_{name}": value for name, value in vars(reached).items()}
    return found


def _wait(seat: Seat, host: Host, stage: str, began: float) -> Reached:
    while not _has(seat, stage):
        if seat.is_done or time.monotonic() > began + PATIENCE:
            raise UserError(f"{seat.name} has not {stage}: {_last_words(seat)}")
        time.sleep(LOOK_SECONDS)
    moved = host.moved()
    return Reached(round(time.monotonic() - began, 3), moved.received_bytes, moved.sent_bytes)


def _has(seat: Seat, stage: str) -> bool:
    return seat.log.exists() and any(event["kind"] == stage for event in read_events(seat.log))


def _last_words(seat: Seat) -> str:
    return (seat.output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]


def _summary(rows: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
    def median(name: str) -> float:
        return float(round(statistics.median(row[name] for row in rows), 3))

    wire = median("committed_received")
    return {
        "newcomers": len(rows),
        "published_bytes": size,
        "joined_seconds": median("joined_seconds"),
        "joined_received_bytes": median("joined_received"),
        "committed_seconds": median("committed_seconds"),
        "committed_received_bytes": wire,
        "committed_sent_bytes": median("committed_sent"),
        "link_seconds": round(8 * wire / (rows[0]["mbit"] * 1e6), 3),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['newcomer']}: member after {row['joined_seconds']:.1f} s, "
        f"first commitment after {row['committed_seconds']:.1f} s"
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("newcomer", "member, s", "received, MB", "committed, s", "received, MB", "sent, MB"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["newcomer"],
            f"{row['joined_seconds']:.1f}",
            f"{row['joined_received'] / 1e6:.2f}",
            f"{row['committed_seconds']:.1f}",
            f"{row['committed_received'] / 1e6:.2f}",
            f"{row['committed_sent'] / 1e6:.2f}",
        )
    return table
