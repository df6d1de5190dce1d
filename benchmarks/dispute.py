"""A dispute over a real step: faults planted in single nodes of a Llama, each brought before the law and named.

    proofswarm bench dispute [--model d512] [--json FILE]

An accused whose machine gets one node wrong and goes on from there plays against an honest challenger, by the actors,
statements and law of a run. Printed are the node that the law names, the bytes that both put on the ledger, the seconds
that both compute, and those of the referee: everything that the law itself does, the execution of the node included.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.faults import Fault, faults
from benchmarks.record import write_record
from benchmarks.trainers import MODELS, Recipe
from simulator.cast import job_of
from simulator.duel import FIRST, Party, contest, next_move, sealed_round
from simulator.toy import minimal
from trainer.commands.console import Console
from trainer.programs.interpreter import LoadedProgram, Tap
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.rounds.torch_engine import Tensors, TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.tasks import causal_lm_loss
from verification import disputes, law, signing
from verification.digest import ZERO
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.honest.actions import Computed, OpenNode, Results
from verification.manifest import BundleRef, DataRef, Manifest, ProgramRef, Programs
from verification.program import (
    digest_of_program,
    encode_program,
    first_node,
)
from verification.report.words import trust
from verification.signed import make_statement, open_statement, sign_statement
from verification.state import Ruling, State, Turn
from verification.statements import Body, Evidence
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import Amount, Count, Digest, Millis

STEPS, BATCH, LENGTH, RECORDS = 2, 2, 64, 4096
SECRETS = {"accused": b"\x01" * 32, "challenger": b"\x02" * 32}


class KeepingEngine(TorchEngine):
    """Keeps what a round's programs made and counts in `saved` the seconds that making it again would take.

    Real peers do make it again, with less memory; keyed by the very tensors, which programs never change.
    """

    def __init__(self, programs: Mapping[Digest, bytes]) -> None:
        """As `TorchEngine`."""
        super().__init__(programs)
        self.saved = 0.0
        self._kept: dict[Any, tuple[Any, Any, float]] = {}

    def load(self, bundle: Bundle) -> Tensors:
        """Return the bundle's tensors, the same each time."""
        return self._once(id(bundle), bundle, lambda: super(KeepingEngine, self).load(bundle))

    def run(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None = None
    ) -> Tensors:
        """Run a program, or return what it made of these tensors before."""
        if tap is not None:
            return self.execute(digest, inputs, tap)
        tensors = [tensor for part in inputs for tensor in part]
        key = (digest, *map(id, tensors))
        return self._once(key, tensors, lambda: self.execute(digest, inputs, None))

    def execute(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None
    ) -> Tensors:
        """Run a program."""
        return super().run(digest, inputs, tap)

    def _once(self, key: Any, held: Any, make: Callable[[], Tensors]) -> Tensors:
        """Return what `make` makes; `held` keeps the objects alive whose identity is in the key."""
        if key in self._kept:
            self.saved += self._kept[key][2]
        else:
            began = time.perf_counter()
            made = make()
            self._kept[key] = held, made, time.perf_counter() - began
        found: Tensors = self._kept[key][1]
        return found


class FaultyEngine(KeepingEngine):
    """Runs one program wrongly, and tells of its nodes by the honest program's numbers."""

    def __init__(self, programs: Mapping[Digest, bytes], fault: Fault, honest: Digest) -> None:
        """`honest` is the digest under which the broken program runs."""
        super().__init__(programs)
        self._fault, self._honest, self._broken = fault, honest, LoadedProgram(fault.program)

    def execute(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None
    ) -> Tensors:
        """Run the broken program in the honest one's place."""
        if digest != self._honest:
            return super().execute(digest, inputs, tap)
        numbers = self._fault.numbers

        def translated(number: int, value: torch.Tensor) -> None:
            if tap is not None and number in numbers:
                tap(numbers[number], value)

        filled = self.executor.filled(digest, [tensor for part in inputs for tensor in part])
        return self._broken.run(filled, translated if tap is not None else None)


@dataclass
class Side:
    """One party: what it computes with, and what it knows already, each with the seconds that finding it out took."""

    name: str
    engine: KeepingEngine
    party: Party
    known: dict[Computed, tuple[Any, float]] = field(default_factory=dict)

    def find(self, action: Computed, results: Results) -> tuple[Any, float]:
        """Return what an action gives; what is known from another case counts the seconds that it took then."""
        if action in self.known:
            return self.known[action]
        began, saved = time.perf_counter(), self.engine.saved
        made = self.party.compute(action, results)
        found = made, time.perf_counter() - began + self.engine.saved - saved
        if not isinstance(action, OpenNode):  # which holds a node's inputs, and is about one case alone
            self.known[action] = found
        return found


ACCUSED, CHALLENGER = (signing.address_of(secret) for secret in SECRETS.values())


class Court:
    """What all cases share: a run, the law's executor, and an honest challenger that computes nothing twice."""

    def __init__(self, run: TracedRun, data: Bundle) -> None:
        """`data` holds the records."""
        programs = (run.prologue, run.inner, run.epilogue, run.outer)
        self.run, self.data = run, data
        self.encoded = {digest_of_program(program): encode_program(program) for program in programs}
        refs = [ProgramRef(digest, digest) for digest in self.encoded]
        self.manifest = _manifest(Programs(*refs), run.start, data)
        self.executor = TorchEngine(self.encoded).executor
        for digest in self.encoded:
            self.executor.load(digest)
        self.challenger = self._side("challenger", KeepingEngine(self.encoded))
        self.truth = self.challenger.party.claim()

    def accused(self, fault: Fault) -> Side:
        """Return a party whose machine has a fault."""
        honest = self.manifest.programs.at(fault.place).digest
        return self._side("accused", FaultyEngine(self.encoded, fault, honest))

    def state(self) -> State:
        """Return a state before anything has been said of the round."""
        return sealed_round(self.manifest, "bench", ACCUSED, CHALLENGER, STEPS, Amount(10**9))

    def _side(self, name: str, engine: KeepingEngine) -> Side:
        rounds = Rounds(engine, self.manifest, self.data)
        return Side(name, engine, Party(engine, rounds, job_of(self.state(), FIRST, ACCUSED), self.run.start))


class Hearing:
    """One fault before the law. `sent` and `seconds` are those of both parties in the dispute, by name."""

    def __init__(self, court: Court, fault: Fault) -> None:
        """Let the accused train the round and commit, and the challenger, who knows better, open the dispute."""
        self.accused, self.challenger, self.executor = court.accused(fault), court.challenger, court.executor
        self.sent, self.seconds = dict.fromkeys(SECRETS, 0), dict.fromkeys(SECRETS, 0.0)
        self.results = {name: Results() for name in SECRETS}
        self.referee = self.evidence = 0.0
        self.state = court.state()
        opened = contest(self.state, self.accused.party.claim(), court.truth, self.executor)
        self.log = [self._signed(self.accused, body) for body in opened]

    def play(self) -> None:
        """Play to the ruling."""
        dispute = self.state.disputes[0]
        while dispute.ruling is None:
            side = self.accused if dispute.turn is Turn.LIST else self.challenger
            body = self._next(side)
            data = self._signed(side, body)
            self.sent[side.name] += len(data)
            began = time.perf_counter()
            law.apply(self.state, open_statement(data), Millis(1), self.executor)
            spent = time.perf_counter() - began
            self.referee += spent
            self.evidence = spent if isinstance(body, Evidence) else self.evidence
            self.log.append(data)

    def _signed(self, side: Side, body: Body) -> bytes:
        head = law.head_of(self.state, body.round)
        return sign_statement(SECRETS[side.name], make_statement("bench", self.state.run, head, body))

    def _next(self, side: Side) -> Body:
        """Return a party's next move, and count the seconds of what it needs."""
        results = self.results[side.name]

        def compute(action: Computed) -> Any:
            found, spent = side.find(action, results)
            self.seconds[side.name] += spent
            return found

        return next_move(self.state, results, compute)


def _manifest(programs: Programs, start: Bundle, data: Bundle) -> Manifest:
    frame = minimal(max_steps=STEPS, leaf_every=STEPS, batch=BATCH, slots=2)
    (records,) = data.tensors
    reference = DataRef(tensor_digest(records), ZERO, records.shape[0], records.shape[1])
    start_ref = BundleRef(digest_of(start), ZERO)
    return replace(
        frame, arithmetic="exact", title="a dispute", programs=programs, data=reference, start=start_ref
    )


def trace_model(recipe: Recipe) -> tuple[TracedRun, Bundle, int]:
    """Return the programs of a Llama, its data, and its number of parameters."""
    model = recipe.model(0, "eager")
    config = TraceConfig(RECORDS, LENGTH, BATCH, STEPS, 2, 12, recipe.adamw, 0.7, 0.6)
    records = torch.randint(0, 256, (RECORDS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    data = Tensor("uint8", (Count(RECORDS), Count(LENGTH + 1)), records.to(torch.uint8).numpy().tobytes())
    count = sum(parameter.numel() for parameter in model.parameters())
    return trace_run(model, causal_lm_loss, config), Bundle((data,)), count


def measure(court: Court, fault: Fault, clock: Callable[[], float]) -> dict[str, Any]:
    """Return one row: the fault, the node that the law named, bytes and seconds."""
    case = Hearing(court, fault)
    case.play()
    dispute = case.state.disputes[0]
    found = convictions(case.state, case.log, [], case.executor.program)
    file = pack(found["dispute-1"])
    began = clock()
    finding = verify(file, case.executor)
    node = case.executor.program(disputes.program_of(court.manifest, fault.place)).nodes
    first = first_node(case.executor.program(disputes.program_of(court.manifest, fault.place)))
    return {
        "fault": fault.name,
        "place": fault.place.value,
        "node": dispute.game.node,
        "operator": node[fault.node - first].operator,
        "near": dispute.near,
        "named": dispute.ruling is Ruling.GUILTY and dispute.game.node == fault.node == finding.node,
        "accused_bytes": case.sent["accused"],
        "challenger_bytes": case.sent["challenger"],
        "accused_seconds": case.seconds["accused"],
        "challenger_seconds": case.seconds["challenger"],
        "referee_seconds": case.referee,
        "evidence_seconds": case.evidence,
        "file_bytes": len(file),
        "file_seconds": clock() - began,
        "trust": trust(finding),
    }


def run_disputes(model: str, json: Path | None) -> int:
    """Bring every fault before the law, print the table, and return 0 when each node was named."""
    run, data, parameters = trace_model(MODELS[model])
    console = Console()
    console.print(f"{parameters:,} parameters, {len(run.inner.nodes)} nodes an inner step")
    rows: list[dict[str, Any]] = []
    court = Court(run, data)
    for fault in faults(run):
        rows.append(measure(court, fault, time.perf_counter))
        row = rows[-1]
        console.print(
            f"{fault.name}: node {row['node']} {'named' if row['named'] else 'NOT named'}", highlight=False
        )
    console.print(_table(rows))
    summary = {
        "parameters": parameters,
        "nodes": len(run.inner.nodes),
        "faults": len(rows),
        "named": sum(row["named"] for row in rows),
        "referee_seconds_max": max(row["referee_seconds"] for row in rows),
        "file_seconds_max": max(row["file_seconds"] for row in rows),
        "bytes_max": max(row["accused_bytes"] + row["challenger_bytes"] for row in rows),
    }
    if json is not None:
        write_record(json, rows, summary)
    return 0 if summary["named"] == len(rows) else 1


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="one wrong node before the law", box=None)
    for heading in ("fault", "node", "lists", "evidence", "accused", "challenger", "referee", "file"):
        table.add_column(heading, no_wrap=heading in ("fault", "node"))
    for row in rows:
        seconds = [
            f"{row[name]:.2f} s" for name in ("accused_seconds", "challenger_seconds", "referee_seconds")
        ]
        table.add_row(
            row["fault"], f"{row['node']} {row['operator']}", f"{row['accused_bytes'] / 1e3:.1f} kB",
            f"{row['challenger_bytes'] / 1e6:.2f} MB", *seconds, f"{row['file_seconds']:.2f} s",
        )  # fmt: skip
    return table
