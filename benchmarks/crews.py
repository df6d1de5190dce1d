"""Members of several owners hold a model in parts: what a crew trains over slow links, of what each could by itself.

    proofswarm bench crews [--links 1000,100] [--members 1,2,3,4] [--speed 5] [--json FILE]

Real peers with receipts, audits and a ledger, each on a host of a laboratory, as are a verifier and the ledger. Links
change from round to round, the same for all hosts, so that a crew with and without limits is one swarm minutes apart. A
crew of two, and one whole worker, compute as fast as they can, each with a core to itself for all of its processes.
Since others would share cores, a leg there really runs and then waits until its work units over a stated speed have
passed. The verifier attests every round and audits next to none: it has no machine of its own here.
"""

import json as js
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from benchmarks.crew_play import Cast, play
from benchmarks.crew_rows import Row, Work, judged, rows_of, summarise, table
from benchmarks.opponents.ours import WINDOWS, make_run
from benchmarks.opponents.running import Tell
from benchmarks.record import publish, write_record
from benchmarks.trainers import MODELS, RATE
from benchmarks.wan import Telling
from p2p.blobs import BlobStore
from trainer.commands.console import Console
from trainer.folder import RunFolder
from trainer.hosts.system import obstacle
from trainer.runs.ledgers import genesis_of
from trainer.runs.library import StoredPrograms
from verification.errors import UserError
from verification.program import work_units

GIGA = 10**9
REAL = 2
"""Members of the largest crew whose members have a core each."""
WARMUP = 3
AUDIT_RATE = 0.001
"""Of a round by the verifier: as good as none."""

JOB = """
title = "proofswarm bench crews"
seed = 20261201

[model.config]
{config}
[model.boundaries]
count = {boundaries}
bits = {bits}

[data]
builtin = "python-reference"
length = {length}

[training]
rounds = {rounds}
max_steps = {steps}
batch = {parts}
accumulate = {parts}
learning_rate = {rate}
warmup = {warmup}

[swarm]
crews = {crews}
workers = {workers}
verifiers = 1
min_verifiers = 1
audit_rate = {audit_rate}
miss_limit = 20

[economics]
colluding = 0

[accounts]
peers = {accounts}
"""


@dataclass(frozen=True)
class Plan:
    """What is trained, how, and by whom.

    `model` is one by width, whose step's batch has `parts` parts, each a record of `length` tokens, with boundaries of
    `bits` bits between its blocks. A round has `steps` inner steps, and `rounds` of those go over each link. Where a
    pace is stated it is `speed` work units a second. Of `members` 1 is a whole worker. A crew is stopped after `limit`
    seconds.
    """

    model: str
    parts: int
    length: int
    bits: int
    steps: int
    rounds: int
    speed: float
    limit: float
    members: tuple[int, ...]
    links: tuple[float, ...]

    def job(self) -> str:
        """Return the job of a run for all of the crews."""
        recipe = replace(MODELS[self.model], length=self.length)
        config = "".join(f"{key} = {js.dumps(value)}\n" for key, value in recipe.config.items())
        most = max(self.members)
        text = JOB.format(
            config=config, boundaries=recipe.layers - 1, bits=self.bits, length=self.length, steps=self.steps,
            rounds=len(self.rounds_by_link), parts=self.parts, rate=RATE, warmup=WARMUP, workers=most,
            crews=sorted(set(self.members) - {1}), audit_rate=AUDIT_RATE, accounts=most + 1,
        )  # fmt: skip
        return text + WINDOWS

    @property
    def rounds_by_link(self) -> tuple[float | None, ...]:
        """Return the link of each round, by turns.

        Newcomers do one step in their first round, and twice as many in each after it, so some do not count.
        """
        growing = (self.steps - 1).bit_length()
        return (None,) * growing + (None, *self.links) * self.rounds

    @property
    def work(self) -> Work:
        """Return what a step has but for its work units."""
        return Work(self.parts * self.length, 0, self.parts)

    def casts(self, cuts: Sequence[int]) -> list[Cast]:
        """Return who plays, small crews with cores of their own; `cuts` are how many shards each cut of the run has."""
        cores, made = sorted(os.sched_getaffinity(0)), list[Cast]()
        for members in sorted(set(self.members)):
            own = tuple(cores[:members]) if members <= min(REAL, len(cores)) else ()
            speed, links = 0.0 if own else self.speed, self.rounds_by_link
            if members == 1:
                links = (None,) * (len(links) - len(self.links) * self.rounds)
            made.append(Cast(members, cuts.index(members) if members > 1 else 0, speed, own, links))
        return made


def run(plan: Plan, json: Path | None, template: Path | None = None) -> None:
    """Measure, print and write; raises UserError where there can be no laboratory, or a crew does not end."""
    if reason := obstacle():
        raise UserError(f"bench crews: {reason}")
    console, rows = Console(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="proofswarm-crews-") as work, console.status(Text("")) as status:
        tell = Telling(console, status)
        made = _run_for(plan, template or Path(work, "run"), tell)
        manifest = genesis_of(made).manifest
        library = StoredPrograms(BlobStore(made.blobs), manifest)
        units = work_units(library.program(manifest.programs.inner.digest))
        figures = replace(plan.work, units=units)
        for place, cast in enumerate(plan.casts([len(cut.shards) for cut in manifest.cuts])):
            tell.title = f"{cast.members} members: "
            folder = Path(work, str(place))
            folder.mkdir()
            told = play(made, cast, folder, plan.limit, tell)
            rows += rows_of(told, cast.links, cast.speed, figures)
            found = judged(rows, figures)
            if json is not None:
                write_record(json, found, summarise(found))
    found = judged(rows, figures)
    console.print(table(found, caption_of(plan)))
    publish(found, summarise(found), console, json)


def _run_for(plan: Plan, folder: Path, tell: Tell) -> RunFolder:
    """Return the run of a plan, which is made where there is none yet; raises UserError."""
    if not folder.exists():
        tell("making a run")
        make_run(plan.job(), folder)
    return RunFolder(folder)


def caption_of(plan: Plan) -> str:
    """Return what the table must say."""
    return (
        f"{plan.model}, {plan.parts} parts of {plan.length} tokens a step, {plan.steps} steps a round, boundaries of "
        f"{plan.bits} bits; tokens/s: while inner steps are made; efficiency: of the sum of speeds; schedule: its own; "
        "kept: of the same crew without limits; pace: billions of work units a second, where legs really run and then "
        "wait; receipts, commitments: shares of a round; the verifier attests, and audits as good as nothing"
    )
