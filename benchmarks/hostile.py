"""A real run while a hostile stranger, and then a hostile member, do all that our own code has to refuse.

    proofswarm bench hostile [--minutes 10] [--json FILE]

Host and peers are processes that share no folder. Undisturbed phases, attacked ones and ones in which a process burns
as much of the processor as the attacker did take turns in one run; rounds, memory and logs of each are compared.
"""

import math
import os
import socket
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.assault import attack, give_way
from benchmarks.attacks import Orders
from benchmarks.besieged import MEMBER, SAMPLE_SECONDS, Swarm
from benchmarks.processes import kept, processor_seconds, resident_bytes
from benchmarks.record import publish
from p2p.identity import Identity, load
from trainer.commands.console import Console
from trainer.runs.library import published
from verification.effects import RoundOpened
from verification.errors import UserError
from verification.ledger.log import STATEMENT
from verification.ledger.port import Ledger
from verification.units import Millis

RATES = {"stranger": 30.0, "member": 30.0}
"""Attacks a second of each, on all connections together."""
QUIET, BURNING = "undisturbed", "burning for the "
LONGEST_PHASE = 120.0
PHASES = 2
"""Attacked phases of each attacker, at least."""
OTHER_PHASES, LEAST_SECONDS = 0.25, 10.0
"""Length of an undisturbed or burning phase for that of an attacked one, and at least."""
SETTLING = 5.0
"""Seconds between two phases that count for neither."""
SLOWDOWN, MEMORY, LOG = 1.2, 64e6, 1e6
"""What must hold: rounds take at most so many times as long, no process grows by more bytes, and no log by more beside
what it grows by in undisturbed rounds."""
ATTAINED = 0.5
"""Share of its rate that an attacker must have attained for that to say anything."""
BEFORE = Millis(0)


@dataclass
class Phase:
    """A stretch of the run: `who` disturbs it, from ledger time `began` to `ended`.

    `peaks` are the largest resident bytes of each process, `grown` the bytes that were added to each log, `cost` the
    processor seconds of whoever disturbs, `used` those of each process of the run.
    """

    who: str
    began: Millis
    ended: Millis = BEFORE
    seconds: float = 0.0
    cost: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)


class Trial:
    """Phases of one run, one after the other."""

    def __init__(self, swarm: Swarm, member: Identity, listen: str) -> None:
        self._swarm, self._member, self._listen = swarm, member, listen
        self.phases: list[Phase] = []

    def quiet(self, seconds: float) -> None:
        """Let the run go on undisturbed."""
        self._watch(Phase(QUIET, self._now()), seconds, None)

    def attacked(self, who: str, seconds: float) -> None:
        """Have a stranger or the member attack."""
        with _process(attack, self._orders(who)) as (process, line):
            phase = Phase(who, self._now())
            line.send("go")
            self._watch(phase, seconds, process.pid)
            line.send("stop")
            phase.counts = line.recv()

    def burning(self, seconds: float) -> None:
        """Have a process burn what the last attacker used."""
        last = self.phases[-1]
        with _process(burn, last.cost / last.seconds) as (process, line):
            phase = Phase(BURNING + last.who, self._now())
            line.send("go")
            self._watch(phase, seconds, process.pid)

    def _watch(self, phase: Phase, seconds: float, pid: int | None) -> None:
        """Look at the processes for a while, and put the phase on record."""
        swarm, began = self._swarm, time.monotonic()
        pids = swarm.pids | ({} if pid is None else {"": pid})
        sizes, used = swarm.sizes(), {name: processor_seconds(each) for name, each in pids.items()}
        peaks: Counter[str] = Counter()
        while (passed := time.monotonic() - began) < seconds:
            for name, each in swarm.pids.items():
                peaks[name] = max(peaks[name], resident_bytes(each))
            swarm.check()
            time.sleep(min(SAMPLE_SECONDS, seconds - passed))
        phase.ended, phase.seconds = self._now(), passed
        phase.used = {name: processor_seconds(each) - used[name] for name, each in pids.items()}
        phase.cost = phase.used.pop("", 0.0)
        phase.peaks = dict(peaks)
        phase.grown = {name: size - sizes[name] for name, size in swarm.sizes().items()}
        self.phases.append(phase)
        time.sleep(SETTLING)

    def _now(self) -> Millis:
        self._swarm.ledger.catch_up()
        return self._swarm.ledger.now()

    def _orders(self, who: str) -> Orders:
        ledger, is_member = self._swarm.ledger, who == "member"
        state = ledger.state
        known = next(each for each in ledger.records(0, 64) if each.kind == STATEMENT)
        blobs, rate = published(state.manifest), RATES[who]
        own = (self._member.secret, self._listen) if is_member else (None, None)
        return Orders(
            self._swarm.targets(), state.run, state.chain, state.head, known.data, blobs, rate, *own
        )


@contextmanager
def _process(work: Callable[..., None], argument: object) -> Iterator[tuple[SpawnProcess, Any]]:
    """Run a function in a process of its own, which waits until it is told to begin."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=kept, args=(os.getpid(), work, argument, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


def burn(share: float, line: Connection) -> None:
    """Use a share of one core until killed, as willing to wait as an attacker."""
    give_way()
    line.send("ready")
    line.recv()
    while True:
        began, until = time.monotonic(), time.process_time() + share / 10
        while time.process_time() < until:
            pass
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))


def run(minutes: float, json: Path | None) -> int:
    """Play all phases, print what came of them and return the exit status: 0 where everything holds."""
    console = Console()
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with console.status("starting a run"):
            swarm = Swarm(base, stack)
            member, port = load(swarm.folder.keys / f"{MEMBER}.key"), _free_port()
            listen = f"/ip4/127.0.0.1/tcp/{port}"
            swarm.join(member, listen)
        trial = Trial(swarm, member, listen)
        for seconds, who in plan(minutes * 60):
            with console.status(f"{who}, {seconds:.0f} s"):
                _play(trial, who, seconds)
        take_rounds(trial.phases, swarm.ledger)
    if not all(rounds_by(trial.phases).values()):
        raise UserError("rounds take longer than phases on this machine: take more --minutes")
    rows = [row_of(phase) for phase in trial.phases]
    summary = summarise(trial.phases)
    console.print(_table(trial.phases))
    console.print(_attacks_table(trial.phases))
    publish(rows, summary, console, json)
    return 0 if summary["holds"] else 1


def plan(seconds: float) -> list[tuple[float, str]]:
    """Return the phases, each attacker's as long as was asked for in all, and in turn so that drift reaches all."""
    times = max(PHASES, math.ceil(seconds / LONGEST_PHASE))
    cycle = [QUIET, "stranger", BURNING, QUIET, "member", BURNING]
    longest = seconds / times
    other = max(LEAST_SECONDS, OTHER_PHASES * longest)
    return [(longest if who in RATES else other, who) for who in [*cycle * times, QUIET]]


def _play(trial: Trial, who: str, seconds: float) -> None:
    if who == QUIET:
        trial.quiet(seconds)
    elif who == BURNING:
        trial.burning(seconds)
    else:
        trial.attacked(who, seconds)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def take_rounds(phases: Sequence[Phase], ledger: Ledger) -> None:
    """Give each phase the seconds of the rounds that began and ended in it."""
    ledger.catch_up()
    opened = [entry.at for entry in ledger.entries() for e in entry.effects if isinstance(e, RoundOpened)]
    for phase in phases:
        for began, ended in pairwise(opened):
            if phase.began <= began and ended <= phase.ended:
                phase.rounds.append((ended - began) / 1000)


def summarise(phases: Sequence[Phase]) -> dict[str, Any]:
    """Return by how much rounds, memory and logs grew under each attacker, and whether all holds.

    It does not where an attacker had too little of the processor to attack at its rate: that would prove nothing.
    """
    rounds = rounds_by(phases)
    usual = statistics.median(rounds[QUIET])
    summary: dict[str, Any] = {"round_seconds": round(usual, 3)}
    holds = True
    for who in RATES:
        mine = [phase for phase in phases if phase.who == who]
        slower, burnt = (statistics.median(rounds[name]) for name in (who, BURNING + who))
        memory, log = growth_of_memory(phases, who), growth_of_logs(phases, who)
        attacks, lasted = sum(map(attacks_in, mine)), sum(phase.seconds for phase in mine)
        larger, longer = max(memory, key=memory.__getitem__), max(log, key=log.__getitem__)
        summary |= {
            f"{who}_over_undisturbed": round(slower / usual, 3),
            f"{who}_over_burning": round(slower / burnt, 3),
            f"{who}_attacks": attacks,
            f"{who}_attacks_a_second": round(attacks / lasted, 1),
            f"{who}_processor_share": round(sum(phase.cost for phase in mine) / lasted, 3),
            f"{who}_memory_growth_mb": round(memory[larger] / 1e6, 1),
            f"{who}_memory_growth_of": larger,
            f"{who}_log_growth_kb": round(log[longer] / 1e3, 1),
            f"{who}_log_growth_of": longer,
        }
        holds &= slower <= SLOWDOWN * usual and memory[larger] <= MEMORY and log[longer] <= LOG
        holds &= attacks >= ATTAINED * RATES[who] * lasted
    return summary | {"holds": holds}


def attacks_in(phase: Phase) -> int:
    """Return how many attacks were made in a phase."""
    return sum(sum(ends.values()) for ends in phase.counts.values())


def rounds_by(phases: Sequence[Phase]) -> dict[str, list[float]]:
    """Return the seconds of all rounds by who disturbed them."""
    rounds = defaultdict[str, list[float]](list)
    for phase in phases:
        rounds[phase.who] += phase.rounds
    return rounds


def growth_of_memory(phases: Sequence[Phase], who: str) -> dict[str, int]:
    """Return by how much each process's peak was above that of the undisturbed phase before, at most."""
    growth: dict[str, int] = {}
    for number, phase in enumerate(phases):
        if phase.who == who:
            before = next(each for each in reversed(phases[:number]) if each.who == QUIET)
            for name, peak in phase.peaks.items():
                growth[name] = max(growth.get(name, 0), peak - before.peaks[name])
    return growth


def growth_of_logs(phases: Sequence[Phase], who: str) -> dict[str, float]:
    """Return the bytes by which each log grew beside what undisturbed rounds write."""
    rounds, grown = rounds_by(phases), defaultdict[str, Counter[str]](Counter)
    for phase in phases:
        grown[phase.who].update(phase.grown)
    share = len(rounds[who]) / len(rounds[QUIET])
    return {name: size - share * grown[QUIET][name] for name, size in grown[who].items()}


def row_of(phase: Phase) -> dict[str, Any]:
    """Return a phase for the record."""
    return {**vars(phase), "quartiles": _quartiles(phase.rounds)}


def _quartiles(rounds: Sequence[float]) -> list[float]:
    return statistics.quantiles(rounds, n=4) if len(rounds) > 1 else list(rounds) * 3


def _table(phases: Sequence[Phase]) -> Table:
    table = Table(
        "phases", "rounds", "s a round", "quartiles", "its processor", "the run's", title_justify="left"
    )
    rounds = rounds_by(phases)
    for who, seconds in rounds.items():
        mine = [phase for phase in phases if phase.who == who]
        low, middle, high = _quartiles(seconds)
        lasted = sum(phase.seconds for phase in mine)
        shares = [sum(phase.cost for phase in mine), sum(sum(phase.used.values()) for phase in mine)]
        table.add_row(
            who, str(len(seconds)), f"{middle:.2f}", f"{low:.2f} to {high:.2f}",
            *(f"{100 * each / lasted:.0f}%" for each in shares),
        )  # fmt: skip
    return table


def _attacks_table(phases: Sequence[Phase]) -> Table:
    table = Table("attack", "by", "how it ended", title_justify="left")
    totals = defaultdict[tuple[str, str], Counter[str]](Counter)
    for phase in phases:
        for name, outcomes in phase.counts.items():
            totals[name, phase.who].update(outcomes)
    for (name, who), outcomes in sorted(totals.items()):
        table.add_row(
            name, who, ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.most_common())
        )
    return table
