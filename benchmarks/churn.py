"""A swarm under faults: real processes killed, stopped, cut off and slowed by a plan, and plans that are simulated.

    proofswarm bench churn [--minutes 10] [--faults N] [--seed S] [--json FILE] [--plot FILE]

Times with faults and without alternate in one run of one swarm, since machines are noisy. `simulator.goodput` says what
is counted; each time with faults is held against the quiet before and after it.
"""

import itertools
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.processes import pool
from benchmarks.record import publish
from benchmarks.stage import PATIENCE_SECONDS, Stage, Watch
from benchmarks.swarm import Link, Links, Loopback, Place, Swarm
from benchmarks.timeline import draw
from p2p.identity import load
from simulator.churn import Churned, churn, deadline_of
from simulator.goodput import measure
from simulator.plan import OF_PROCESSES, Cast, Fault, Kind, make_plan
from trainer.commands.console import Console
from trainer.events import read_events
from trainer.hosts.net import laboratory
from trainer.hosts.system import obstacle
from trainer.runs.create import create_run
from trainer.runs.job import parse_job
from trainer.runs.ledgers import verify_log
from verification.digest import tagged
from verification.errors import UserError
from verification.ledger.local import SqliteCopy, SqliteLog

FAULTS_A_MINUTE = 62 / 30
BLOCK_SECONDS, QUIET_SHARE = 300, 0.25
"""Longest time with faults, and the part of it that the quiet before and after takes."""
KEPT = 0.97
"""The share of the undisturbed goodput that must be kept."""
PLANS, SIMULATED_SECONDS, SIMULATED_FAULTS = 8, 240, 16
"""Plans that are simulated, how long each is, and of how many faults: twice as many a minute."""
WARM_ROUNDS = 5

JOB = """
title = "proofswarm bench churn"
seed = {seed}

[model.config]
model_type = "llama"
vocab_size = 256
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 64
tie_word_embeddings = false
bos_token_id = 0
eos_token_id = 0

[data]
builtin = "python-reference"
length = 32

[training]
rounds = {rounds}
max_steps = 4
leaf_every = 4
batch = 4
round_warmup = 2
{training}

[swarm]
workers = {workers}
verifiers = {verifiers}
min_workers = {workers}
min_verifiers = 1
audit_rate = 0.3
miss_limit = 20

[economics]
colluding = 0

[accounts]
peers = {peers}

[windows]
commit = {double:.1f}
attest = {pace:.1f}
seal = {pace:.1f}
verdict = {long:.1f}
opening = {double:.1f}
reveal = {double:.1f}
clock = 60
stall = 600
silence = 600
"""
"""Short rounds of a small model, so that a few cores hold a swarm; every worker's round is one leaf, so that each that
counts is as much work. Who misses fewer than 20 rounds goes on at once."""
LEAST_PACE = 2.5
"""Seconds of the shortest windows, which are ten together: a job's own are 240, and a start of the ledger's host takes
four, which is no work lost."""
TRIAL_SECONDS, TRIAL_ROUNDS = 30.0, 12
"""Half of the commit window of a trial that measures how long a round takes here, and how many rounds it takes."""


@dataclass(frozen=True)
class Block:
    """A time with faults: the plan, and how many seconds it is for."""

    seconds: float
    plan: tuple[Fault, ...]


def run(
    minutes: float, faults: int | None, seed: int, training: str, json: Path | None, plot: Path | None
) -> int:
    """Simulate plans, play one on a real swarm, print what came of both; return 0 when nothing fell short.

    `training` are lines of the swarm's job.
    """
    console, cast = Console(), Cast(3, 2)
    count = math.ceil(minutes * FAULTS_A_MINUTE) if faults is None else faults
    with (
        tempfile.TemporaryDirectory(prefix="proofswarm-churn-") as folder,
        site(console, cast) as (places, link),
    ):
        blocks = blocks_of(seed, cast, minutes, count, tuple(Kind) if link else OF_PROCESSES)
        simulated = simulate(seed, console)
        job = partial(make_swarm, seed, cast, training)
        trial = job(100 * TRIAL_ROUNDS, TRIAL_SECONDS, Path(folder, "trial"), places, link)
        pace = max(LEAST_PACE, pace_of(trial, console))
        rounds = 600 + int(sum(block.seconds * (1 + 2 * QUIET_SHARE) for block in blocks))
        swarm = job(rounds, pace, Path(folder, "run"), places, link)
        rows, summary, more = play(swarm, blocks, console)
    console.print(table(rows))
    summary |= summarise_simulated(simulated)
    short = shortcomings(summary)
    publish(
        rows, summary, console, json, plot, lambda rows, path: draw(rows, more, summary["deadline"], path),
        more | {"simulated": [asdict(each) for each in simulated]},
    )  # fmt: skip
    for line in short:
        console.print(line, style="red")
    return 1 if short else 0


@contextmanager
def site(console: Console, cast: Cast) -> Iterator[tuple[list[Place], Link | None]]:
    """Give a place to each peer and, last, to the ledger's host, and what harms links, where that can be had."""
    if reason := obstacle():
        console.print(f"{reason}: processes are harmed, links are not")
        places: list[Place] = [Loopback() for _ in (*cast.peers, "host")]
        try:
            yield places, None
        finally:
            for place in places:
                place.kill()
    else:
        with laboratory() as lab:
            hosts = [lab.public(f"peer-{number}") for number in cast.peers]
            yield [*hosts, lab.public("host")], Links(hosts)


def blocks_of(seed: int, cast: Cast, minutes: float, count: int, kinds: Sequence[Kind]) -> list[Block]:
    """Return times with faults of so many minutes and so many faults together; raises UserError."""
    number = math.ceil(60 * minutes / BLOCK_SECONDS)
    seconds, blocks = 60 * minutes / number, []
    for place in range(number):
        share = count * (place + 1) // number - count * place // number
        try:
            plan = make_plan(seed + place, cast, int(1000 * seconds), share, kinds)
        except ValueError as error:
            raise UserError(f"--faults: {error}; take fewer, or more --minutes") from error
        blocks.append(Block(seconds, plan))
    return blocks


def simulate(seed: int, console: Console) -> list[Churned]:
    """Play plans in the simulator, on all cores."""
    cast, length = Cast(4, 2), 1000 * SIMULATED_SECONDS
    with (
        console.status(f"simulating {PLANS} plans of {SIMULATED_FAULTS} faults"),
        pool() as workers,
    ):
        playing = [workers.submit(churn, seed + n, cast, length, SIMULATED_FAULTS) for n in range(PLANS)]
        return [each.result() for each in playing]


def make_swarm(
    seed: int,
    cast: Cast,
    training: str,
    rounds: int,
    pace: float,
    folder: Path,
    places: Sequence[Place],
    link: Link | None,
) -> Swarm:
    """Make a run with windows of once and twice `pace` seconds, and the swarm for it; nothing is started."""
    workers, verifiers = (len(role) for role in cast.roles)
    text = JOB.format(
        seed=seed, rounds=rounds, workers=workers, verifiers=verifiers, peers=workers + verifiers,
        training=training, pace=pace, double=2 * pace, long=6 * pace,
    )  # fmt: skip
    created = create_run(parse_job(text, "the benchmark's job"), folder, folder / "host")
    return Swarm(created.folder, cast, places, link)


@contextmanager
def playing(swarm: Swarm, console: Console, seconds: float) -> Iterator[tuple[Stage, Watch]]:
    """Start a swarm, and end it at the end; show what goes on, which takes so many seconds."""
    columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=seconds)
        said = set[str]()
        try:
            swarm.start()
            watch = Watch(swarm.run)

            def tell(doing: str, seconds: float) -> None:
                told = f"round {len(watch.ended)}: {doing}"
                progress.update(task, description=told, completed=seconds)
                if not console.is_terminal and doing not in said:
                    said.add(doing)
                    console.print(told)

            yield Stage(swarm, watch, tell), watch
        finally:
            swarm.end()
    watch.close()


def pace_of(swarm: Swarm, console: Console) -> float:
    """Return how many seconds a round takes here at most, of a few; raises UserError for a machine that is too busy."""
    with playing(swarm, console, TRIAL_SECONDS) as (stage, watch):
        stage.gather(TRIAL_ROUNDS)
        ends = [one.at for one in watch.ended[TRIAL_ROUNDS // 3 :]]
    return max(later - early for early, later in itertools.pairwise(ends)) / 1000


def play(
    swarm: Swarm, blocks: Sequence[Block], console: Console
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Play the blocks on a swarm, with quiet between; return rows, summary and more rows. Raises UserError."""
    rests = [
        QUIET_SHARE * max(near.seconds for near in blocks[max(0, n - 1) : n + 1])
        for n in range(len(blocks) + 1)
    ]
    with playing(swarm, console, sum(rests) + sum(block.seconds for block in blocks)) as (stage, watch):
        stage.gather(WARM_ROUNDS)
        for rest, block in itertools.zip_longest(rests, blocks):
            stage.rest(rest)
            if block is not None:
                stage.disturb(block.plan, block.seconds)
        states = settle(stage, swarm, watch)
    rows = spans_of(watch, stage, swarm.cast)
    summary = summarise(rows, stage, watch, swarm, states)
    return rows, summary, {"faults": faults_of(watch, stage, swarm), "rounds": rounds_of(watch)}


def settle(stage: Stage, swarm: Swarm, watch: Watch) -> int:
    """Wait until the last quiet is bounded and all have one round's state since; return how many states those are.

    None is in common where that takes too long: 0.
    """
    last = stage.quiet[-1][1]
    stage.wait(lambda: watch.ended[-1].at >= last, PATIENCE_SECONDS)
    number, common = watch.ended[-1].number, dict[int, set[str]]()

    def all_have_one() -> bool:
        held = [states_since(folder.log(f"peer-{peer}"), number) for peer, folder in enumerate(swarm.folders)]
        rounds = set.intersection(*(set(own) for own in held))
        common.update({each: {own[each] for own in held} for each in rounds})
        return bool(common)

    stage.wait(all_have_one, PATIENCE_SECONDS)
    return max((len(digests) for digests in common.values()), default=0)


def states_since(log: Path, number: int) -> dict[int, str]:
    """Return the states that a peer has had, by the round that starts from them, from one round on."""
    had = (event for event in read_events(log) if event["kind"] == "state")
    return {event["round"]: event["digest"] for event in had if event["round"] >= number}


def spans_of(watch: Watch, stage: Stage, cast: Cast) -> list[dict[str, Any]]:
    """Return a row for each time of quiet and of faults, in order."""
    rows = []
    for kind, times in (("quiet", stage.quiet), ("faults", stage.disturbed)):
        for begin, end in times:
            span = measure(watch.ended, cast.roles[0], stage.faults, begin, end)
            struck = sum(begin <= fault.start < end for fault in stage.faults)
            pace = {"rate": span.rate, "seconds_a_round": (span.end - span.begin) / span.rounds / 1000}
            rows.append({"time": kind, "faults": struck, **asdict(span), **pace})
    return sorted(rows, key=lambda row: row["begin"])


def faults_of(watch: Watch, stage: Stage, swarm: Swarm) -> list[dict[str, Any]]:
    """Return a row for each fault: the longest round meanwhile, and how long after it its workers counted again."""
    accounts = [
        load(folder.keys / f"peer-{number}.key").address for number, folder in enumerate(swarm.folders)
    ]
    rows = []
    for fault in sorted(stage.faults):
        until = next((at for at, one in enumerate(watch.ended) if one.at >= fault.end), len(watch.ended) - 1)
        since = next((at for at, one in enumerate(watch.ended) if one.at >= fault.start), until)
        longest = max(b.at - a.at for a, b in itertools.pairwise(watch.ended[max(0, since - 1) : until + 1]))
        workers = {accounts[number] for number in fault.peers if number in swarm.cast.roles[0]}
        again = next((o.at for o in watch.ended if o.at >= fault.end and workers <= set(o.included)), None)
        rows.append(
            {
                **asdict(fault),
                "told": fault.told(),
                "longest_round": longest,
                "counted_again": again - fault.end if workers and again is not None else None,
            }
        )
    return rows


def rounds_of(watch: Watch) -> list[dict[str, Any]]:
    """Return a row for each round: when it ended, and how many contributions counted."""
    return [{"number": one.number, "at": one.at, "counted": one.counted} for one in watch.ended]


def summarise(
    rows: Sequence[dict[str, Any]], stage: Stage, watch: Watch, swarm: Swarm, states: int
) -> dict[str, Any]:
    """Return the figures of a play; seconds, where they are times."""
    calm, busy = ([row for row in rows if row["time"] == time] for time in ("quiet", "faults"))
    shares = [kept_between(*rows[at - 1 : at + 2]) for at, row in enumerate(rows) if row["time"] == "faults"]
    counted = Counter(fault.kind.value for fault in stage.faults)
    return {
        "peers": len(swarm.cast.peers),
        "faults": len(stage.faults),
        "faults_by_kind": dict(sorted(counted.items())),
        "minutes_with_faults": round(sum(row["end"] - row["begin"] for row in busy) / 60_000, 1),
        "rounds": len(watch.ended),
        "seconds_a_round": round(statistics.median(row["seconds_a_round"] for row in calm), 2),
        "goodput_kept": round(statistics.median(shares), 3),
        "goodput_kept_range": [round(min(shares), 3), round(max(shares), 3)],
        "longest_stall": max(row["longest"] for row in busy) / 1000,
        "longest_quiet": max(row["longest"] for row in calm) / 1000,
        "deadline": deadline_of(watch.state.manifest) / 1000,
        "slashed": watch.slashed,
        "lost_statements": lost_statements(swarm),
        "final_states": states,
        "copies_apart": copies_apart(swarm),
        "were_all_back": stage.were_all_back,
    }


def kept_between(before: dict[str, Any], during: dict[str, Any], after: dict[str, Any]) -> float:
    """Return the goodput with faults over that of the quiet before and after."""
    quiet = (before["counted"] + after["counted"]) / (before["worker_ms"] + after["worker_ms"])
    return float(during["counted"] / during["worker_ms"] / quiet)


def lost_statements(swarm: Swarm) -> int:
    """Return how many statements peers have on record as acknowledged that the host's log lacks."""
    log = SqliteLog(swarm.run.ledger)
    logged = {tagged("said", record.data).hex() for record in log.read(-1, verify_log(swarm.run))}
    log.close()
    events = (e for n, folder in enumerate(swarm.folders) for e in read_events(folder.log(f"peer-{n}")))
    return sum(event["digest"] not in logged for event in events if event["kind"] == "said")


def copies_apart(swarm: Swarm) -> int:
    """Return how many peers' copies are not a beginning of the host's log, each recomputed."""
    log, apart = SqliteLog(swarm.run.ledger), 0
    for folder in swarm.folders:
        copy, length = SqliteCopy(folder.ledger), verify_log(folder)
        apart += copy.read(length - 2, 1)[0].head != log.read(length - 2, 1)[0].head
        copy.close()
    log.close()
    return apart


def summarise_simulated(played: Sequence[Churned]) -> dict[str, Any]:
    """Return what all simulated plans came to; seconds, where they are times."""
    return {
        "simulated_faults": sum(sum(each.faults.values()) for each in played),
        "simulated_rounds": sum(each.rounds for each in played),
        "simulated_goodput_kept": round(statistics.median(each.goodput_kept for each in played), 3),
        "simulated_longest_stall": max(each.longest_stall for each in played) / 1000,
        "simulated_deadline": played[0].deadline / 1000,
        "simulated_slashed": sum(each.slashed for each in played),
        "simulated_lost_statements": sum(each.lost_statements for each in played),
        "simulated_states": max(each.states for each in played),
    }


def shortcomings(summary: dict[str, Any]) -> list[str]:
    """Return in words what fell short of what the swarm must show."""
    checks = [
        (summary["goodput_kept"] >= KEPT, f"kept less than {KEPT:.0%} of the goodput"),
        (summary["longest_stall"] <= summary["deadline"], "a round took longer than its windows together"),
        (summary["slashed"] == 0, "an honest peer was slashed"),
        (summary["lost_statements"] == 0, "an acknowledged statement is not in the log"),
        (summary["final_states"] == 1, "peers ended on different states"),
        (summary["were_all_back"], f"not everyone was back within {PATIENCE_SECONDS:g} s"),
        (summary["copies_apart"] == 0, "a peer's copy is another log than the host's"),
        (
            summary["simulated_longest_stall"] <= summary["simulated_deadline"],
            "a simulated round took too long",
        ),
        (summary["simulated_slashed"] == 0, "an honest peer was slashed in the simulator"),
        (summary["simulated_lost_statements"] == 0, "the simulator lost an acknowledged statement"),
        (summary["simulated_states"] == 1, "simulated peers sealed different states"),
    ]
    return [line for holds, line in checks if not holds]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the times of quiet and of faults as a table."""
    drawn = Table(
        "", "seconds", "faults", "rounds", "s a round", "longest", "contributions", "a worker-minute", "kept"
    )
    for at, row in enumerate(rows):
        share = f"{kept_between(*rows[at - 1 : at + 2]):.1%}" if row["time"] == "faults" else ""
        drawn.add_row(
            row["time"], f"{(row['end'] - row['begin']) / 1000:.0f}", str(row["faults"]), str(row["rounds"]),
            f"{row['seconds_a_round']:.2f}", f"{row['longest'] / 1000:.1f}", str(row["counted"]),
            f"{60 * row['rate']:.1f}", share,
        )  # fmt: skip
    return drawn
