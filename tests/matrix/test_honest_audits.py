"""Ten thousand honest audits, each a real re-execution on another setting of the processor, and not one accusation.

Every peer of a simulated swarm has a process of the exact interpreter with threads, vector width, library modes and
eager or compiled loops of its own; what they make meets in the real law, and statements overtake each other on the way.
"""

import dataclasses
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal, reference
from simulator.world import World
from tests.matrix.auditor import Made, Mix, Part, Setup, Train
from tests.matrix.settings import QUICK, Setting
from trainer.compute import frames
from trainer.lifetimes import python
from trainer.programs.executor import ProgramExecutor
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.optimiser import AdamW
from trainer.programs.tracing.schedule import Schedule
from verification import codec
from verification.digest import integer, tagged
from verification.effects import AuditEnded, DisputeOpened, Slashed
from verification.honest.actions import (
    Computed,
    FetchContribution,
    FetchState,
    RunOuter,
    RunRound,
    Work,
)
from verification.manifest import BundleRef, DataRef, Manifest, ProgramRef, Programs
from verification.operators import ARITHMETIC
from verification.outer import mixture
from verification.program import encode_program, program_digest
from verification.state import Audit, State
from verification.tensors import Bundle, Tensor, tensor_digest
from verification.units import MILLION, Address, Count, Millis, Round

SHUFFLED = Network(latency=(1, 150), notice=(5, 40), lost=20_000, doubled=50_000, poll=100)
"""Statements overtake each other by more than a phase takes."""

SETTINGS = [
    *QUICK,
    Setting(3, "compiled", "avx2", "AVX2", "COMPATIBLE"),
    Setting(1, "eager", "avx512", "AVX512_CORE", None, "Sandybridge"),
    Setting(2, "eager", None, "SSE41", None),
]
WORKERS, VERIFIERS, STEPS, RECORDS, LENGTH = 12, 7, 2, 24, 7


class Bigram(nn.Module):
    """The next byte from the last one, by every kind of exact arithmetic and with sizes that leave tails in vectors."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Linear(12, 21), nn.GELU(), nn.LayerNorm(21), nn.Linear(21, 256))
        self.layers = nn.Sequential(nn.Embedding(256, 12), *layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.layers(tokens)
        return logits


def loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of tokens[:, 1:]."""
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


JOB = TraceConfig(
    records=RECORDS, length=LENGTH, batch=2, max_steps=STEPS, slots=WORKERS + 1, grid_exponent=12,
    optimiser=AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1),
    schedule=Schedule(lr=3e-3, steps=STEPS, round_warmup=2),
    outer_lr=0.7, outer_momentum=0.6,
)  # fmt: skip


class Machine:
    """A process under one setting; `executed` counts the rounds that it has computed."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """The process has been started."""
        self._process = process
        self.executed = 0

    def tell(self, order: object) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(frames.pack(0, order))
        self._process.stdin.flush()

    def ask(self, order: object) -> Made:
        """Send an order and wait for what it makes."""
        self.tell(order)
        assert self._process.stdout is not None
        frame = frames.read(self._process.stdout)  # type: ignore[arg-type]
        assert frame is not None, "the process has died"
        self.executed += isinstance(order, Train)
        return codec.decode(Made, frame.body, frames.MAX_FRAME)


@contextmanager
def started(setting: Setting) -> Iterator[Machine]:
    """Run a process under a setting, and end it."""
    command = python("-m", "tests.matrix.auditor", str(setting.threads), setting.mode)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=setting.environment(), stdin=pipe, stdout=pipe) as process:
        try:
            yield Machine(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


class OnMachine(Actor):
    """An honest peer that computes everything on its own machine, every time; it is not meant to meet a dispute."""

    machine: Machine

    def _compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        match action:
            case FetchState():
                return super()._compute(action, state, blobs)
            case FetchContribution(number, worker):
                commit = state.rounds[number].commits[worker]
                return _norm(blobs.bundles[commit.contribution.digest]) == commit.norm
            case RunRound(number, worker):
                return self._train(state, number, worker, blobs)
            case RunOuter(number):
                return self._mix(state, number, blobs)
        raise AssertionError(f"an honest swarm asks for no {type(action).__name__}")

    def _train(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work:
        worked = state.rounds[number]
        steps, start = Count(worked.assignments[worker].steps), blobs.bundles[worked.start.digest]
        made = self.machine.ask(Train(number, worker, worked.beacon, steps, start))
        return Work(made.digests, blobs.put(made.bundle), _norm(made.bundle))

    def _mix(self, state: State, number: Round, blobs: Blobs) -> BundleRef:
        worked, parts = state.rounds[number], []
        mixed = mixture(state, worked)
        for part in mixed.parts:
            ref = state.rounds[part.number].commits[part.worker].contribution
            parts.append(Part(Count(part.slot), part.weight, blobs.bundles[ref.digest]))
        order = Mix(blobs.bundles[worked.start.digest], tuple(parts), Count(mixed.ballast))
        return blobs.put(self.machine.ask(order).bundle)


class RealWorker(OnMachine, Worker):
    """A worker with a machine."""


class RealVerifier(OnMachine, Verifier):
    """A verifier with a machine."""


def _norm(contribution: Bundle) -> Count:
    return Count(int.from_bytes(contribution.tensors[-2].data, "little"))


def _data() -> Bundle:
    size = RECORDS * (LENGTH + 1)
    return Bundle(
        (Tensor("uint8", (Count(RECORDS), Count(LENGTH + 1)), bytes(i * 37 % 251 for i in range(size))),)
    )


def _manifest(run: TracedRun, seed: int, rounds: int) -> tuple[Manifest, tuple[bytes, ...]]:
    encoded = tuple(map(encode_program, (run.prologue, run.inner, run.epilogue, run.outer)))
    refs = (ProgramRef(digest, digest) for digest in map(program_digest, encoded))
    rules = minimal(
        rounds=rounds, audit_rate=MILLION, slots=WORKERS, min_workers=WORKERS, min_verifiers=VERIFIERS, batch=2,
        max_verifiers=VERIFIERS, max_steps=STEPS, leaf_every=1, committee=5, clip=3_000,
    )  # fmt: skip
    (table,) = _data().tensors
    width, records = table.shape[1], table.shape[0]
    data = DataRef(tensor_digest(table), tensor_digest(table), records, width)
    manifest = dataclasses.replace(
        rules, arithmetic=ARITHMETIC, programs=Programs(*refs), data=data, start=reference(run.start),
        seed=tagged("audits", integer(seed)),
    )  # fmt: skip
    return manifest, encoded


def audited(seed: int, rounds: int, settings: list[Setting]) -> int:
    """Play a run in which everyone audits everyone; return the audits that passed, each executed on a machine."""
    torch.manual_seed(seed)
    run = trace_run(Bigram(), loss, JOB)
    manifest, programs = _manifest(run, seed, rounds)
    actors: list[Actor] = [RealWorker(f"w{i}", speed=40 + 5 * i) for i in range(WORKERS)]
    actors += [RealVerifier(f"v{i}") for i in range(VERIFIERS)]
    with ExitStack() as stack:
        machines = [stack.enter_context(started(setting)) for setting in settings]
        for machine in machines:
            machine.tell(Setup(codec.encode(manifest), programs, _data()))
        for place, actor in enumerate(actors):
            actor.machine = machines[place % len(machines)]  # type: ignore[attr-defined]
        world = World(manifest, actors, random.Random(seed), SHUFFLED)
        world.ledger.library = ProgramExecutor({program_digest(encoded): encoded for encoded in programs})
        world.blobs.put(run.start)
        world.run(limit=1_000_000)
    assert len(world.state.rounds) == rounds
    assert all(len(worked.backing) == 1 for worked in world.state.rounds), "two peers sealed different states"
    assert not world.seen(DisputeOpened)
    assert not world.seen(Slashed)
    outcomes = [audit.outcome for audit in world.seen(AuditEnded)]
    assert set(outcomes) <= {Audit.PASSED, Audit.LOST, Audit.WAITING}
    passed = outcomes.count(Audit.PASSED)
    own = sum(len(worked.commits) for worked in world.state.rounds)
    assert sum(machine.executed for machine in machines) >= passed + own, "an audit was not executed"
    assert world.now > Millis(0)
    return passed


@pytest.mark.slow
def test_honest_audits_accuse_nobody_on_mixed_settings() -> None:
    assert audited(seed=0, rounds=3, settings=SETTINGS[:5]) > 150


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(1, 5))
def test_ten_thousand_honest_audits_accuse_nobody_on_mixed_settings(seed: int) -> None:
    """A quarter of them each."""
    assert audited(seed, rounds=35, settings=SETTINGS) >= 2_500
