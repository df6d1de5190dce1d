"""The run that `bench hostile` attacks: a host and honest peers as processes, none of which shares a folder."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from p2p.identity import Identity, load
from p2p.transport import make_host
from trainer.commands.report import read_ledger
from trainer.events import older, read_events
from trainer.folder import RunFolder
from trainer.lifetimes import held, python
from trainer.runs.create import create_run
from trainer.runs.job import parse_job
from verification import law
from verification.digest import ZERO
from verification.errors import UserError
from verification.ledger.port import Ledger
from verification.signed import make_statement, sign_statement
from verification.state import Standing
from verification.statements import VERIFIER, WORKER, Join
from verification.units import Amount, Count

SAMPLE_SECONDS = 0.5
START_SECONDS = 600.0
HONEST = (WORKER, WORKER, VERIFIER)
MEMBER = f"peer-{len(HONEST)}"
"""The hostile member's key. It joins as a worker and goes away: what a silent member costs is for the law to bound."""
JOB = """
title = "a run that is attacked"

[model.config]
model_type = "llama"
vocab_size = 256
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 1
num_attention_heads = 4
num_key_value_heads = 4
max_position_embeddings = 64
tie_word_embeddings = false
bos_token_id = 0
eos_token_id = 0

[data]
builtin = "python-reference"
length = 32

[training]
rounds = 4000
max_steps = 8
leaf_every = 4
batch = 4

[swarm]
workers = 3
verifiers = 1
min_workers = 2
min_verifiers = 1
audit_rate = 0.3
miss_limit = 1

[economics]
colluding = 0

[windows]
commit = 40
attest = 20
seal = 40

[accounts]
peers = 4
"""


class Swarm:
    """Host and peers as processes, none of which shares a folder with another."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        """Make the run and start everybody; they are ended with the stack."""
        (base / "host").mkdir()
        self.folder = create_run(parse_job(JOB, "the benchmark's job"), base, base / "host" / "run").folder
        self.pids: dict[str, int] = {}
        self.logs: dict[str, Path] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = stack
        self._start("host", base / "host", "run", "serve", str(self.folder.path))
        options = self._host_options()
        self.address, self._peers = options[1], list[RunFolder]()
        for number, role in enumerate(HONEST):
            own = RunFolder(base / f"machine-{number}" / "run")
            own.keys.mkdir(parents=True)
            key = (self.folder.keys / f"peer-{number}.key").rename(own.keys / f"peer-{number}.key")
            arguments = ("--run", str(own.path), "--key", str(key), "--role", role, "--accept-unsound")
            self._start(key.stem, own.path.parent, "peer", *arguments, *options)
            self.logs[f"{key.stem}'s events"] = own.log(key.stem)
            self._peers.append(own)
        self.ledger: Ledger = read_ledger(self.folder)
        stack.callback(self.ledger.close)

    def join(self, identity: Identity, listen: str) -> None:
        """Make a hostile account a member once all honest ones are, and wait until rounds go on without it.

        Before, a round could need its work to have enough workers, and would stand still until the run stalls.
        """
        self.wait(lambda: len(self.ledger.state.members) == len(HONEST))
        endpoint = f"{listen}/p2p/{make_host(identity).get_id()}"
        state = self.ledger.state
        stake = Amount(state.manifest.money.worker_stake)
        body = Join(WORKER, stake, Count(1), ZERO, endpoint)
        statement = make_statement(state.chain, state.run, law.head_of(state, body.round), body)
        self.ledger.submit(sign_statement(identity.secret, statement))
        self.wait(lambda: self.ledger.state.members[identity.address].standing is Standing.AWAY)
        rounds = len(self.ledger.state.rounds)
        self.wait(lambda: len(self.ledger.state.rounds) > rounds + 2)
        for own, number in zip(self._peers, range(len(HONEST)), strict=True):
            (started,) = (e for e in read_events(own.log(f"peer-{number}")) if e["kind"] == "started")
            self.pids[f"peer-{number}'s compute"] = started["compute"]

    def wait(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds on the ledger; raises UserError when a process ends or it takes too long."""
        began = time.monotonic()
        while not holds():
            self.check()
            if time.monotonic() - began > START_SECONDS:
                raise UserError(f"the run stands still after {len(self.ledger.state.rounds)} rounds")
            time.sleep(SAMPLE_SECONDS)
            self.ledger.catch_up()

    def check(self) -> None:
        """Raise UserError when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                lines = self.logs[name].read_text(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"{name} ended with status {process.returncode}: {' '.join(lines)}")

    def targets(self) -> tuple[str, ...]:
        """Return the addresses of the host, then of all honest peers."""
        honest = [own.keys / f"peer-{number}.key" for number, own in enumerate(self._peers)]
        members = self.ledger.state.members
        return self.address, *(members[load(key).address].endpoint for key in honest)

    def sizes(self) -> dict[str, int]:
        """Return the bytes that were ever written to each log, but for what was set aside twice."""
        return {
            name: sum(each.stat().st_size for each in (path, older(path)) if each.exists())
            for name, path in self.logs.items()
        }

    def _start(self, name: str, folder: Path, *arguments: str) -> None:
        output = folder / f"{name}.log"
        with output.open("wb") as log:
            command = python("-m", "trainer.cli", *arguments)
            process = subprocess.Popen(held(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pids[name], self.logs[name], self._processes[name] = process.pid, output, process
        self._stack.callback(_end, process)

    def _host_options(self) -> tuple[str, ...]:
        """Return the options by which the host's second line tells that it is followed."""
        began = time.monotonic()
        while "--run-id" not in (text := self.logs["host"].read_text()):
            self.check()
            if time.monotonic() - began > START_SECONDS:
                raise UserError("the host does not say where it is")
            time.sleep(SAMPLE_SECONDS)
        words = text.split()
        return tuple(words[words.index("--ledger") : words.index("--run-id") + 2])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
