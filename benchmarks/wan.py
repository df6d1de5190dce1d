"""Training over slow links, ours beside what people use: tokens a second, utilisation, bytes, loss.

    proofswarm bench wan [--links 10,50,100,1000] [--opponents ours,ddp,torchft,hivemind] [--peers 2] [--json FILE]

Every peer is on a host of a laboratory with a link of its own, limited in both directions and tried by a transfer. All
start from the same weights and train on as many tokens of the same records with AdamW at the same rates. Peers never
share a core: each has one to itself, or a step's time is stated, which the table says, and a step that really took less
waits for the rest of it. Rows are written as they come.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.status import Status
from rich.text import Text

from benchmarks.links import limited
from benchmarks.opponents import ours
from benchmarks.opponents.course import Trained
from benchmarks.opponents.environments import python_of
from benchmarks.opponents.plan import Plan
from benchmarks.opponents.running import Running, Tell, Theirs, Watcher
from benchmarks.opponents.starting import Start
from benchmarks.opponents.task import Shared
from benchmarks.prediction import Setting, seconds_per_step
from benchmarks.record import publish, write_record
from benchmarks.wan_plot import draw
from benchmarks.wan_rows import Measured, line_of, remarks, rows_of, summarise, table
from trainer.commands.console import Console
from trainer.hosts.net import Host, laboratory
from trainer.hosts.system import obstacle
from verification.errors import UserError

THEIRS = {"ddp": "ddp", "torchft": "diloco", "hivemind": "collaborative"}
"""Other opponents than ours, and the module of `benchmarks.opponents` that is a peer of each."""
OPPONENTS = (*ours.VARIANTS, *THEIRS)
TOLD_SECONDS = 30.0
"""Between two lines about a training that goes on, where there is no terminal to draw on."""


def run(
    plan: Plan, links: Sequence[float], opponents: Sequence[str], json: Path | None, plot: Path | None
) -> None:
    """Measure, print and write; raises UserError where there can be no laboratory, or an opponent is not to be had."""
    if reason := obstacle():
        raise UserError(f"bench wan: {reason}")
    plan.require_cores()
    console, measured = Console(), list[Measured]()
    with tempfile.TemporaryDirectory(prefix="proofswarm-wan-") as work, console.status(Text("")) as status:
        tell = Telling(console, status)
        tell("making a run, and environments where opponents need one")
        variants = [name for name in ours.VARIANTS if name == "ours" or name in opponents]
        starts = {name: plan.start(name, Path(work, f"start-{name}")) for name in variants}
        pythons = {name: python_of(name) for name in opponents if name in THEIRS}
        for mbit in links:
            for opponent in opponents:
                folder = Path(work, f"{opponent}-{mbit:g}")
                folder.mkdir()
                start = starts.get(opponent, starts["ours"])
                tell.title = f"{opponent}, {mbit:g} Mbit/s: "
                measured.append(measure(plan, opponent, mbit, start, pythons.get(opponent, ""), folder, tell))
                rows = rows_of(measured)
                console.print(line_of(rows[-1]))
                if json is not None:
                    write_record(json, rows, summarise(rows))
    rows = rows_of(measured)
    console.print(table(rows))
    for line in remarks(rows):
        console.print(line)
    publish(rows, summarise(rows), console, json, plot, draw)


class Telling:
    """Tells what goes on: at once on a terminal, and otherwise a line now and then."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status, self._told = console, status, -TOLD_SECONDS
        self.title = ""

    def __call__(self, line: str) -> None:
        self._status.update(Text(self.title + line))
        if not self._console.is_terminal and time.monotonic() > self._told + TOLD_SECONDS:
            self._told = time.monotonic()
            self._console.print(self.title + line)


def measure(
    plan: Plan, opponent: str, mbit: float, start: Start, python: str, folder: Path, tell: Tell
) -> Measured:
    """Train one opponent over links of `mbit`; `python` is that of its environment. Raises UserError for bad links."""
    with laboratory() as lab:
        names = [f"peer-{number}" for number in range(plan.peers)]
        names += ["verifier", "server"] if opponent in ours.VARIANTS else ["server"]
        hosts = [lab.public(name) for name in names]
        tell("trying the links")
        carried = limited(hosts, mbit)
        running = opponent_on(plan, opponent, start, python, folder, hosts)
        watcher = Watcher(running, plan.task(folder, hosts), tell)
        is_whole, failure, trained = watcher.watch(plan.limit, plan.tokens_of_a_step)
        own = running if isinstance(running, ours.Ours) else None
        state = own.last if own else start.state_in(Shared(folder).end)
    formula = opponent if own is None else "ours-overlap" if opponent in ours.OVERLAPPING else "ours"
    predicted = predict(plan, formula, mbit, start, trained) if trained else None
    held_out, left_out = start.judge(state) if is_whole else None, own.left_out if own else 0
    return Measured(
        plan.described, opponent, mbit, carried, predicted, trained, is_whole, failure, held_out, left_out
    )


def predict(plan: Plan, formula: str, mbit: float, start: Start, trained: Trained) -> float:
    """Return the tokens a second that bytes, link and step alone would give."""
    setting = Setting(
        plan.peers, mbit, trained.step_seconds, plan.local_steps, start.parameters, start.contribution,
        ours.VERIFIERS,
    )  # fmt: skip
    return plan.peers * plan.tokens_of_a_step / seconds_per_step(formula, setting)


def opponent_on(
    plan: Plan, opponent: str, start: Start, python: str, folder: Path, hosts: list[Host]
) -> Running:
    """Return an opponent on hosts, ready to start."""
    task = plan.task(folder, hosts)
    if opponent in ours.VARIANTS:
        return ours.Ours(start.folder, task, hosts)
    start.write(Shared(folder))
    lighthouse = str(Path(python).with_name("torchft_lighthouse"))
    beside = [lighthouse, "--min_replicas", str(plan.peers)] if opponent == "torchft" else []
    return Theirs(THEIRS[opponent], python, task, hosts, beside)
