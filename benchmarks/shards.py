"""One owner's machines hold a model in parts: what they train together of what each could by itself.

    proofswarm bench shards [--parts 48] [--bits 8] [--speed 50] [--links 1000,100] [--json FILE]

A real inner step is cut over the machines. Its segments run in their order in a process for each stage, and take their
work units over a stated speed, as a machine of that speed would take, but compute nothing; the values that cross travel
for real, over links of a laboratory that are as slow as stated, or from memory to memory. What rounding them to so many
bits costs in loss is measured on a small model that really trains.
"""

import json as js
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.convergence import plan_of, train
from benchmarks.links import LOOK_SECONDS, limited
from benchmarks.opponents.running import Tell
from benchmarks.record import publish, write_record
from benchmarks.staged import ROOM, Part, Scene, neighbours_of, parts_of, play
from benchmarks.trainers import MODELS, RATE
from benchmarks.wan import Telling
from trainer.commands.console import Console
from trainer.hosts.net import laboratory
from trainer.hosts.system import obstacle
from trainer.lifetimes import python
from trainer.programs.tracing.capture import TraceConfig, trace_run
from trainer.programs.tracing.optimiser import AdamW
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.boundaries import blocks_of, boundaries_of
from trainer.runs.job import BoundariesSection
from trainer.runs.tasks import causal_lm_loss
from trainer.shards.cut import INNER, Machine, cut_at, cut_for
from trainer.shards.mail import Mail
from trainer.shards.memory import peak_of
from trainer.shards.segments import Pieces
from trainer.shards.stage import Stage
from verification import codec
from verification.errors import Unavailable, UserError
from verification.program import Program, peak_bytes, work_units

Row = dict[str, Any]
MUCH = 1 << 50
"""Bytes of memory of a machine that any shard fits."""
GIGA = 10**9
UNEQUAL = ((1.0, 0.5), (1.0, 0.5, 0.5, 0.25))
"""Speeds of machines that are not alike, over that of the fastest."""
EQUAL = 4
"""At most so many machines that are alike."""
BASIC = (EQUAL, 100.0)
"""The stages and the link, in Mbit/s, of the summary."""
LEARNING = (128, 4)
"""Width and layers of the model whose loss is measured; as many boundaries as four machines have."""
ADAMW = AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)


@dataclass(frozen=True)
class Plan:
    """A model by width, and the parts of a step's batch, each a record of `length` tokens; the work units that the
    fastest machine does in a second; how many steps are made, of which the first is not measured. All machines begin
    parts with the first of `leads` (`trainer.shards.memory`), and those of the summary with each. Between all blocks
    hidden states and their gradients are rounded to `bits`, 0: they are not."""

    model: str
    parts: int
    length: int
    speed: float
    steps: int
    leads: tuple[int, ...]
    limit: float
    bits: int = 0

    def inner(self) -> Program:
        """Return the step that is cut; the norm of all of its gradients is bounded."""
        recipe = replace(MODELS[self.model], length=self.length)
        model = recipe.model(0, "eager")
        between = {"count": len(blocks_of(model)) - 1, "bits": self.bits}
        section = BoundariesSection.model_validate(between) if self.bits else None
        schedule = Schedule(RATE, self.steps, "constant", 1)
        config = TraceConfig(
            self.parts,
            self.length,
            self.parts,
            self.steps,
            1,
            12,
            ADAMW,
            schedule,
            0.7,
            0.6,
            accumulate=self.parts,
            boundaries=boundaries_of(model, section),
        )
        return trace_run(model, causal_lm_loss, config).inner

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.parts * self.length


def run(plan: Plan, links: Sequence[float], loss_steps: int, json: Path | None) -> None:
    """Measure, print and write, after each set of machines; raises UserError where there can be no laboratory, or
    stages do not end."""
    if reason := obstacle():
        raise UserError(f"bench shards: {reason}")
    console, rows = Console(), list[Row]()
    with console.status(Text("")) as status:
        tell = Telling(console, status)
        gap = loss_gap(plan.bits, loss_steps, tell) if plan.bits and loss_steps else None
        for made in measure(plan, links, tell):
            rows += made
            if json is not None:
                write_record(json, rows, summarise(rows, gap))
    console.print(table(rows, plan))
    publish(rows, summarise(rows, gap), console, json)


def loss_gap(bits: int, steps: int, tell: Tell) -> float:
    """Return by what part of it the held-out loss of a small model is higher with boundaries, after so many steps."""
    plan = plan_of(steps, steps, 1, *LEARNING)
    losses = []
    for name in ("whole", f"boundaries-{bits}"):
        tell(f"training {steps} steps: {name}")
        losses.append(train(name, plan, 0, lambda: None).held_out[-1])
    return losses[1] / losses[0] - 1


def measure(plan: Plan, links: Sequence[float], tell: Tell) -> Iterator[list[Row]]:
    """Yield the rows of each set of machines, one for each link."""
    tell(f"tracing {plan.model}")
    inner = plan.inner()
    alone = peak_of(cut_at([inner], ()).pieces[INNER], 0)
    alike = [(1.0,) * count for count in range(1, EQUAL + 1)]
    chosen = [(speeds, plan.leads[0]) for speeds in (*alike, *UNEQUAL)]
    for speeds, lead in [*chosen, *((alike[-1], lead) for lead in plan.leads[1:])]:
        yield measure_machines(plan, inner, alone, speeds, lead, links, tell)


def measure_machines(
    plan: Plan,
    inner: Program,
    alone: int,
    speeds: Sequence[float],
    lead: int,
    links: Sequence[float],
    tell: Tell,
) -> list[Row]:
    """Return the rows of machines of some speeds: without a network, and by each link if they are several."""
    machines = "/".join(f"{speed:g}" for speed in speeds)
    tell(f"{machines}: cutting")
    units = [plan.speed * speed for speed in speeds]
    pieces = cut_for([inner], [Machine(MUCH, int(each)) for each in units]).pieces[INNER]
    parts = parts_of(pieces, lead)
    tell(f"{machines}: without a network")
    found: list[tuple[float | None, list[Row]]] = [(None, in_memory(plan, parts, units))]
    for mbit in links if len(speeds) > 1 else ():
        tell(f"{machines}: {mbit:g} Mbit/s")
        try:
            found.append((mbit, on_hosts(plan, parts, units, mbit)))
        except UserError as error:  # a busy machine has no fast links: the other rows are worth having
            tell(f"{machines} at {mbit:g} Mbit/s left out: {error}")
    return [
        {"lead": lead}
        | _memory(pieces, lead, alone)
        | _row(plan, speeds, mbit, told, work_units(inner), _at_a_boundary(pieces, parts))
        for mbit, told in found
    ]


def in_memory(plan: Plan, parts: Sequence[Part], speeds: Sequence[float]) -> list[Row]:
    """Return what each stage tells where values cross from memory to memory."""
    count = len(parts)
    mails = [Mail(neighbours_of(parts, shard), ROOM) for shard in range(count)]
    with ThreadPoolExecutor(count**2 + 1) as pool:
        for giver in range(count):
            for taker in neighbours_of(parts, giver):
                pool.submit(mails[giver].deliver, taker, mails[taker].arrive)
        playing = [
            pool.submit(play, Stage(mail), mail, part, speed, plan.steps)
            for mail, part, speed in zip(mails, parts, speeds, strict=True)
        ]
        told = [each.result() for each in playing]
        for mail in mails:
            mail.close(Unavailable("the steps are made"))
    return told


def on_hosts(plan: Plan, parts: Sequence[Part], speeds: Sequence[float], mbit: float) -> list[Row]:
    """Return what each stage tells on a host of its own; raises UserError where one does not end."""
    with tempfile.TemporaryDirectory(prefix="proofswarm-shards-") as work, laboratory() as lab:
        hosts = [lab.public(f"stage-{number}") for number in range(len(parts))]
        limited(hosts, mbit)
        path = Path(work, "parts")
        path.write_bytes(codec.encode(Scene(tuple(parts), tuple(map(int, speeds)))))
        addresses = [host.ipv4 for host in hosts]
        outputs = [Path(work, f"stage-{number}") for number in range(len(parts))]
        before = [host.moved().sent_bytes for host in hosts]
        until = time.monotonic() + plan.limit
        for shard in reversed(range(len(parts))):
            command = python("-m", "benchmarks.staged", str(path), str(shard), str(plan.steps), *addresses)
            hosts[shard].start(command, outputs[shard])
            _wait(outputs[shard : shard + 1], 1, until)
        _wait(outputs, 2, until)
        moved = [host.moved().sent_bytes - each for host, each in zip(hosts, before, strict=True)]
        told = [js.loads(output.read_text().splitlines()[1]) for output in outputs]
        return [each | {"moved": size} for each, size in zip(told, moved, strict=True)]


def _wait(outputs: Sequence[Path], lines: int, until: float) -> None:
    """Wait until every output has so many lines; raises UserError where a stage fails or is late."""
    while True:
        said = [output.read_text() if output.exists() else "" for output in outputs]
        if time.monotonic() > until or any("Traceback" in each for each in said):
            raise UserError(
                f"a stage does not end, and says {max(said, key=len)[-200:]!r}; raise --limit if it is slow"
            )
        if min(each.count("\n") for each in said) >= lines:
            return
        time.sleep(LOOK_SECONDS)


def _row(
    plan: Plan,
    speeds: Sequence[float],
    mbit: float | None,
    told: Sequence[Row],
    work: int,
    crossing: float,
) -> Row:
    ends = told[0]["ended"]
    seconds = (ends[-1] - ends[1]) / (len(ends) - 2)
    possible = plan.speed * sum(speeds) * plan.tokens / work
    computed, waited = (sum(each[name] for each in told) for name in ("computed", "waited"))
    return {
        "stages": len(speeds),
        "speeds": list(speeds),
        "mbit": mbit,
        "seconds": round(seconds, 3),
        "tokens_a_second": round(plan.tokens / seconds, 1),
        "efficiency": round(plan.tokens / seconds / possible, 4),
        "bubble": round(waited / (computed + waited), 4),
        "boundary_bytes_per_token": round(crossing / plan.tokens),
        "moved_bytes_per_token": _per_token(plan, told),
        "most_arrived": max(each["arrived"] for each in told),
        "most_leaving": max(each["leaving"] for each in told),
    }


def _at_a_boundary(pieces: Pieces, parts: Sequence[Part]) -> float:
    """Return how many bytes cross a boundary in a step; a ring has one more than a line."""
    crossing = sum(each.size * len(each.takers) for part in parts for each in part.sent)
    return crossing / max(1, len(parts) - int(not pieces.layout.is_ring))


def _per_token(plan: Plan, told: Sequence[Row]) -> int | None:
    """Return how many bytes all links carried for a token; None without a network."""
    if "moved" not in told[0]:
        return None
    return int(sum(each["moved"] for each in told) / plan.steps / plan.tokens)


def _memory(pieces: Pieces, lead: int, alone: int) -> Row:
    """Return what each shard needs, and over its share of what one machine needs that has the whole: in the same order,
    and as the program stands, which is what a peer by itself asks for."""
    peaks = [peak_of(pieces, shard, lead) for shard in pieces.layout.shards]
    works = [sum(work_units(each.program) for each in pieces.of(shard)) for shard in pieces.layout.shards]
    over = [peak / (alone * work / sum(works)) for peak, work in zip(peaks, works, strict=True)]
    whole = peak_bytes(pieces.program)
    return {
        "peaks": peaks,
        "alone": alone,
        "whole": whole,
        "memory_over_share": round(max(over), 4),
        "memory_over_whole": round(max(over) * alone / whole, 4),
    }


def summarise(rows: Sequence[Row], gap: float | None = None) -> Row:
    """Return the figures that count, of four machines that are alike; the bars are 0.85, 0.8, 1.2 and 0.01."""
    alike = [row for row in rows if row["speeds"] == [1.0] * BASIC[0]]
    leads = list(dict.fromkeys(row["lead"] for row in alike))
    found: Row = {"loss_gap": None if gap is None else round(gap, 5)}
    for lead in leads:
        own = [row for row in alike if row["lead"] == lead]
        without = next((row for row in own if row["mbit"] is None), None)
        slow = next((row for row in own if row["mbit"] == BASIC[1]), None)
        kept = slow["tokens_a_second"] / without["tokens_a_second"] if without and slow else None
        name = "" if lead == leads[0] else f"_lead_{lead}"
        found |= {
            f"efficiency_4_stages{name}": without and without["efficiency"],
            f"kept_100mbit{name}": kept and round(kept, 4),
            f"memory_over_share{name}": without and without["memory_over_share"],
            f"boundary_bytes_per_token{name}": without and without["boundary_bytes_per_token"],
        }
    return found


def table(rows: Sequence[Row], plan: Plan) -> Table:
    """Return the rows for people."""
    caption = (
        f"{plan.model}, {plan.parts} parts of {plan.length} tokens a step; compute is emulated: a segment waits for "
        f"its work units over the speed, at 1: {plan.speed / GIGA:g} billion a second; what crosses travels for real; "
        "efficiency: of the sum of all speeds; lead: parts that a shard begins more than the next; over share: of what "
        "one machine needs in the same order"
    )
    made = Table(box=None, header_style="dim", caption=caption, caption_justify="left")
    names = (
        "speeds",
        "lead",
        "Mbit/s",
        "tokens/s",
        "efficiency",
        "waits",
        "bytes a boundary and token",
        "peak MB",
        "over share",
    )
    for name in names:
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(
            "/".join(f"{speed:g}" for speed in row["speeds"]),
            str(row["lead"]),
            "no network" if row["mbit"] is None else f"{row['mbit']:g}",
            f"{row['tokens_a_second']:.0f}",
            f"{row['efficiency']:.1%}",
            f"{row['bubble']:.1%}",
            f"{row['boundary_bytes_per_token']:,}" if row["stages"] > 1 else "-",
            "/".join(f"{peak / 1e6:.0f}" for peak in row["peaks"]) + f" of {row['alone'] / 1e6:.0f}",
            f"{row['memory_over_share']:.2f}",
        )
    return made
