"""`demo`: a whole swarm on this machine, every peer its own processes, over loopback.

It trains a model, catches a cheat if there is one, and leaves the model and a report.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.live import Live
from rich.text import Text

from p2p.identity import load
from trainer.commands.console import Console
from trainer.commands.ending import Cheat, checks
from trainer.commands.evaluate import export_and_evaluate
from trainer.commands.export import card_of
from trainer.commands.report import read_ledger, write_report
from trainer.commands.scene import Scene, Seat, Staging, in_one_folder
from trainer.commands.swarm_view import SwarmView
from trainer.events import EventLog, Tail
from trainer.folder import RunFolder
from trainer.lifetimes import ended_by_signals
from trainer.logs.run_log import RunLog
from trainer.programs.devices import require_device
from trainer.programs.options import peer_options
from trainer.rounds.cheats import CHEATS, conduct_named, is_for_members, names_in, roles_of
from trainer.rounds.engine import Conduct
from trainer.runs.create import Created, create_run
from trainer.runs.facts import ModelFacts
from trainer.runs.job import JobFile, parse_job
from trainer.runs.ledgers import genesis_of
from trainer.runs.states import stored_bundle
from verification.errors import UserError
from verification.ledger.port import Ledger
from verification.report.terminal import summary
from verification.signing import checksum
from verification.state import Stage
from verification.statements import VERIFIER, WORKER

CHEAT_FROM = 3
MISSED_CHANCE = 1e-4
"""Highest chance that no audit before the last round's hits a cheating worker."""
REFRESH_SECONDS = 0.25
TIMEOUT_SECONDS = 1800
BATCH = 4
"""Records of an inner step."""
MODEL = """\
model_type = "llama"
vocab_size = 256
hidden_size = 192
intermediate_size = 512
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 4
max_position_embeddings = 256
tie_word_embeddings = false
bos_token_id = 0
eos_token_id = 0
"""
"""The demo's model, as Hugging Face's config in TOML."""


@dataclass(frozen=True)
class DemoSettings:
    """What a user may choose, and `late`, how many workers the run does not wait for, `guests`, how many accounts are
    for others, in how many parts a batch is taken, the model's config, and where the run is logged.

    `posts` are the shards, from 1 on, that the first workers hold: as many of each as there are crews.
    """

    out: Path
    cheat: str
    rounds: int
    workers: int
    verifiers: int
    seed: int
    text: Path | None
    device: str = "cpu"
    late: int = 0
    guests: int = 0
    accumulate: int = 1
    model: str = MODEL
    log_to: tuple[str, ...] = ()
    posts: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """Return how many contributions a round has: a crew's members share one."""
        crews = len(self.posts) // max(self.posts, default=1)
        return self.workers - len(self.posts) + crews

    @property
    def names(self) -> list[str]:
        """Return what the cheat plays; raises UserError for an unknown cheat."""
        return names_in(self.cheat)

    @property
    def cheat_number(self) -> int | None:
        """Return the number of the peer that cheats: the last one of the role that the cheat is for."""
        if not self.names:
            return None
        if is_for_members(self.names):
            return self.posts.index(shard_for(self.names, max(self.posts)))
        return self.workers - 1 if WORKER in roles_of(self.names) else self.workers + self.verifiers - 1

    @property
    def conduct(self) -> Conduct | None:
        """Return how the cheat trains; None where it also says what no machine computes."""
        is_training = all(name in CHEATS for name in self.names)
        return conduct_named(self.cheat, CHEAT_FROM) if is_training else None

    @property
    def promised(self) -> int:
        """Return how many verifiers the run waits for: not the one that cheats, since it may end excluded."""
        is_verifier = self.cheat_number is not None and self.cheat_number >= self.workers
        return max(1, self.verifiers - is_verifier)

    @property
    def cheated_rounds(self) -> int:
        """Return in how many rounds before the last, which is always audited, the cheat plays."""
        once = [CHEATS[name].rounds for name in self.names if name in CHEATS]
        return max(1, min([self.rounds - 1 - CHEAT_FROM, *(count for count in once if count is not None)]))


def shard_for(names: Sequence[str], shards: int) -> int:
    """Return the shard, of so many, whose member plays cheats of crews: the first hands activations on, the last hands
    gradients back."""
    return 1 if "false-activations" in names else shards


def audit_rate(rounds: int, verifiers: int) -> float:
    """Return the rate per verifier at which a cheat in `rounds` rounds is missed with chance `MISSED_CHANCE`.

    (1 - q) ** (verifiers * rounds) = MISSED_CHANCE.
    """
    chances = verifiers * rounds
    return float(min(1.0, round(1 - MISSED_CHANCE ** (1 / chances), 3) + 0.001))


def demo_job(settings: DemoSettings) -> tuple[str, JobFile]:
    """Return the demo's job file as text and checked."""
    text = JOB.format(
        seed=settings.seed,
        model=settings.model,
        data='builtin = "python-reference"'
        if settings.text is None
        else f"text = {json.dumps(str(settings.text.resolve()), ensure_ascii=False)}",
        rounds=settings.rounds,
        batch=BATCH,
        accumulate=settings.accumulate,
        workers=settings.slots + settings.guests,
        min_workers=settings.slots - settings.late,
        crews=f"crews = [{max(settings.posts)}]" if settings.posts else "",
        leaf_every=1 if settings.posts else 4,
        verifiers=settings.verifiers,
        peers=settings.workers + settings.verifiers + settings.guests,
        min_verifiers=settings.promised,
        audit_rate=audit_rate(settings.cheated_rounds, settings.verifiers),
        colluding=0.34 if settings.promised > 1 else 0,
    )
    if settings.guests or WAITED_FOR.intersection(settings.names):
        text += HASTE
    return text, parse_job(text, "the demo's job")


HEADING = "# The job of `proofswarm demo`."
JOB = (
    HEADING
    + """
title = "proofswarm demo"
seed = {seed}

[model.config]
{model}
[data]
{data}
length = 64

[training]
rounds = {rounds}
max_steps = 8
leaf_every = {leaf_every}
batch = {batch}
accumulate = {accumulate}
learning_rate = 0.003
round_warmup = 2

[swarm]
workers = {workers}
verifiers = {verifiers}
min_workers = {min_workers}
min_verifiers = {min_verifiers}
audit_rate = {audit_rate}
{crews}

[economics]
colluding = {colluding}

[accounts]
peers = {peers}
"""
)
HASTE = """
[windows]
commit = 45
attest = 30
seal = 30
verdict = 90
opening = 30
reveal = 30
clock = 60
silence = 60
"""
"""Of a demo whose cheat lets the law wait, or stays silent until it is convicted, as a guest may that just leaves."""
WAITED_FOR = {
    "withhold-opening", "never-commit", "dawdle", "grief", "invent-verdicts", "copy-verdicts", "withhold-reveal",
    "withhold-link",
}  # fmt: skip


def run_demo(settings: DemoSettings, staging: Staging = in_one_folder) -> int:
    """Run the demo and return the exit status: 0 only if all that it must show holds. Raises UserError."""
    _require_sense(settings)
    require_device(peer_options(settings.device))
    console = Console()
    folder = _make_run(settings, console)
    seats = cast(folder, settings)
    log = RunLog(folder, lambda: [seat.log for seat in seats], partial(console.print, soft_wrap=True))
    with ended_by_signals(), closing(log):
        log.open(settings.log_to, genesis_of(folder).run)
        with staging(folder, seats) as scene:
            _watch(scene, console, log)
    _judge(scene)
    report = write_report(folder)
    console.print(summary(report))
    found = checks(report, _cheats(scene, settings), {checksum(seat.account) for seat in scene.seats})
    with console.status(Text("")) as status:
        found += scene.checks(lambda line: status.update(Text(line)))
    for holds, line in found:
        console.print(f"  {'✓' if holds else '✕'} {line}", style=None if holds else "red")
    _print_places(console, folder)
    return 0 if report.result.ok and all(holds for holds, _ in found) else 1


def _require_sense(settings: DemoSettings) -> None:
    """Raise UserError for a cheat that could not cheat, or whom nobody could catch."""
    if settings.names and settings.rounds < CHEAT_FROM + 2:
        raise UserError(
            f"cheating begins in round {CHEAT_FROM}: take --rounds {CHEAT_FROM + 2} or more, or --cheat none"
        )
    number = settings.cheat_number
    if number is not None and number >= settings.workers and settings.verifiers < 2:
        raise UserError("one verifier cheats, and somebody must audit: take --verifiers 2 or more")


def cast(folder: RunFolder, settings: DemoSettings) -> list[Seat]:
    """Return the demo's peers, workers first."""
    seats = []
    for number, role in enumerate([WORKER] * settings.workers + [VERIFIER] * settings.verifiers):
        name, options = f"peer-{number}", ["--device", settings.device]
        if number < len(settings.posts):
            options += ["--shard", str(settings.posts[number])]
        if number == settings.cheat_number:
            options += ["--cheat", settings.cheat, "--cheat-from", str(CHEAT_FROM)]
        account = load(folder.keys / f"{name}.key").address
        seats.append(Seat(name, account, role, options, folder, name))
    return seats


def _cheats(scene: Scene, settings: DemoSettings) -> dict[str, Cheat]:
    """Return which of the demo's own peers was told to cheat, by account."""
    if settings.cheat_number is None:
        return {}
    account = scene.seats[settings.cheat_number].account
    return {checksum(account): Cheat(tuple(settings.names), CHEAT_FROM)}


def _make_run(settings: DemoSettings, console: Console) -> RunFolder:
    if settings.out.is_dir() and any(settings.out.iterdir()):
        _remove_earlier(RunFolder(settings.out))
    text, job = demo_job(settings)
    console.print(
        f"proofswarm demo: {settings.workers} workers, {settings.verifiers} verifiers, {settings.rounds} rounds"
    )
    with console.status(Text("making the run")) as status:
        created: Created = create_run(
            job, Path.cwd(), settings.out, tell=lambda line: status.update(Text(line))
        )
    created.folder.job.write_text(text, encoding="utf-8")
    rate = job.swarm.audit_rate
    console.print(
        f"each verifier audits {100 * rate:.1f}% of all worker-rounds in secret: cheating from round {CHEAT_FROM} "
        f"is missed with probability below {MISSED_CHANCE:g}"
    )
    return created.folder


def _remove_earlier(folder: RunFolder) -> None:
    """Delete an earlier demo, and nothing else; raises UserError."""
    is_demo = folder.job.is_file() and folder.job.read_text(encoding="utf-8").startswith(HEADING)
    if not is_demo:
        raise UserError(f"{folder.path} holds something else than a demo: choose another folder with --out")
    shutil.rmtree(folder.path)


def _watch(scene: Scene, console: Console, log: RunLog) -> None:
    """Draw and log until every peer has finished; raises UserError when one failed or the run takes too long."""
    view = SwarmView(time.monotonic(), time.monotonic)
    for seat in scene.seats:
        view.add_peer(checksum(seat.account), seat.name)
    tails = [Tail(seat.log) for seat in scene.seats]
    ledger = read_ledger(scene.folder)
    said = ""
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while not all(seat.is_done for seat in scene.seats):
            _check(scene.seats, view)
            _take_in(ledger, view, log)
            for tail in tails:
                for event in tail.read():
                    view.take_event(event)
            scene.act(ledger.state, partial(console.print, soft_wrap=True))
            if console.is_terminal:
                live.update(view.draw(ledger.state))
            elif (line := view.line(ledger.state)) != said:
                console.print(line)
                said = line
            time.sleep(REFRESH_SECONDS)
    _take_in(ledger, view, log)
    ended = ledger.state.stage is Stage.ENDED
    ledger.close()
    _check(scene.seats, view)
    if not ended:
        raise UserError(f"the peers stopped before the run ended: see {scene.seats[0].output}")


def _take_in(ledger: Ledger, view: SwarmView, log: RunLog) -> None:
    """Read what the ledger has gained."""
    ledger.catch_up()
    entries = ledger.entries()
    log.take(entries)
    for entry in entries:
        for effect in entry.effects:
            view.take_effect(entry.at, effect)


def _check(seats: Sequence[Seat], view: SwarmView) -> None:
    for seat in seats:
        if seat.process is not None and seat.process.poll():
            lines = seat.output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise UserError(f"{seat.name} failed ({lines[-1]}): see {seat.output}")
    if time.monotonic() - view.began > TIMEOUT_SECONDS:
        raise UserError(f"the demo took over {TIMEOUT_SECONDS} s: see {seats[0].output}")


def _judge(scene: Scene) -> None:
    """Export the final model, look at it before and after, and put that on record beside the peers' events."""
    folder = scene.folder
    ledger = read_ledger(folder)
    state, now = ledger.state, ledger.now()
    ledger.close()
    before = stored_bundle([folder.blobs], state.manifest.start)
    last = state.current.sealed if state.rounds else None
    if last is None:
        raise UserError("no round was completed, so there is no model")
    stores = [store for seat in scene.seats for store in seat.folder.stores()]
    figures = export_and_evaluate(folder, before, stored_bundle(stores, last))
    facts, place = ModelFacts.read(folder), f"after round {state.current.number}"
    card = card_of(state, facts, last.digest, place, "float32")
    (folder.path / "model" / "README.md").write_text(card, encoding="utf-8")
    events = EventLog(folder.log("submitter"), checksum(state.submitter))
    events.write(now, "evaluated", **figures)
    events.close()


def _print_places(console: Console, folder: RunFolder) -> None:
    for path, what in (
        ("report.html", "the report"),
        ("report.json", "the same for programs"),
        ("model", "the model"),
    ):
        console.print(f"  {folder.path / path}  {what}", soft_wrap=True)
    for proof in sorted(folder.evidence.glob("*.evidence"))[:1]:
        console.print(f"  {proof}  the proof: check it with 'proofswarm verify {proof}'", soft_wrap=True)
