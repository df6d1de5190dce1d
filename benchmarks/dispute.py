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

from benchmarks.record import write_record
from benchmarks.trainers import MODELS, Recipe
from simulator.toy import minimal
from trainer.commands.console import Console
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram, Tap
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.rounds import reexecution
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import Tensors, TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.tasks import causal_lm_loss
from verification import disputes, law, signing
from verification.audits import salted_root
from verification.digest import ZERO, tagged
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.honest.actions import (
    FetchState,
    ListStates,
    OpenNode,
    OpenValue,
    Results,
    Say,
    TraceProgram,
)
from verification.honest.moves import moves_in
from verification.manifest import BundleRef, DataRef, Manifest, Place, ProgramRef, Programs
from verification.placed import ExecutionRef
from verification.program import (
    Node,
    Output,
    Program,
    digest_of_program,
    encode_program,
    first_node,
)
from verification.report.words import trust
from verification.signed import make_statement, open_statement, sign_statement
from verification.state import Assignment, Member, Phase, RoundState, Ruling, Stage, State, Turn
from verification.statements import VERIFIER, WORKER, Body, Commit, Evidence, Opening, Reveal
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import Address, Amount, Count, Digest, Millis, Round

FIRST = Round(0)
STEPS, BATCH, LENGTH, RECORDS = 2, 2, 64, 4096
SECRETS = {"accused": b"\x01" * 32, "challenger": b"\x02" * 32}


Claim = tuple[tuple[Digest, ...], Digest]
"""The state digests at a round's leaves, and the contribution's."""


@dataclass(frozen=True)
class Fault:
    """A wrong node: `program` runs in place of the honest one, `numbers` maps its nodes to the honest numbers."""

    name: str
    place: Place
    node: int
    program: Program
    numbers: Mapping[int, int]


def after(name: str, place: Place, program: Program, leaf: int) -> Fault:
    """Return the fault that adds 1/64 to a node's float32 result."""
    return _with_node(name, place, program, leaf, leaf + 1, ("add", 0.015625, "float32"))


def before(name: str, place: Place, program: Program, leaf: int, source: int) -> Fault:
    """Return the fault that hands a node zeros in place of its int64 input `source`."""
    return _with_node(name, place, program, leaf, leaf, ("multiply", 0, "int64"), source)


def _with_node(
    name: str,
    place: Place,
    program: Program,
    leaf: int,
    at: int,
    change: tuple[str, float, str],
    source: int | None = None,
) -> Fault:
    """Return a fault by one more constant and one more node at position `at`."""  # fmt: skip
    first, constants = first_node(program), len(program.inputs) + len(program.constants)
    operator, number, dtype = change
    constant = Tensor(dtype, (), torch.tensor(number, dtype=getattr(torch, dtype)).numpy().tobytes())
    changed = first + leaf if source is None else source

    def moved(value: int, reader: int) -> Count:
        new = value if value < first else value + 1 + (value >= first + at)
        is_changed = value == changed and (reader >= at if source is None else reader == leaf)
        return Count(first + 1 + at if is_changed else new)

    nodes = [
        replace(node, inputs=tuple(moved(int(value), place) for value in node.inputs))
        for place, node in enumerate(program.nodes)
    ]
    sized: Any = program.nodes[changed - first] if changed >= first else program.inputs[changed]
    inner = Count(changed if changed < first else changed + 1)
    extra = Node(operator, (inner, Count(constants)), (), dtype, sized.shape)
    outputs = tuple(Output(o.name, moved(int(o.source), len(nodes))) for o in program.outputs)
    broken = replace(
        program,
        constants=(*program.constants, constant),
        nodes=(*nodes[:at], extra, *nodes[at:]),
        outputs=outputs,
    )
    numbers = {first + 1 + n + (n >= at): first + n for n in range(len(nodes))}
    if source is None:
        numbers[first + 1 + at] = numbers.pop(first + 1 + leaf)
    return Fault(name, place, first + leaf, broken, numbers)


def constant(name: str, place: Place, program: Program) -> Fault:
    """Return the fault of a machine that holds another value of the constant that is read last."""
    count, first = len(program.inputs), first_node(program)
    reads = [
        min((leaf for leaf, node in enumerate(program.nodes) if number in node.inputs), default=-1)
        for number in range(count, first)
    ]
    chosen = max(
        (n for n, c in enumerate(program.constants) if c.dtype == "float32" and not c.shape),
        key=lambda n: reads[n],
    )
    value = to_torch(program.constants[chosen]) * 1.5
    wrong = replace(program.constants[chosen], data=value.numpy().tobytes())
    constants = (*program.constants[:chosen], wrong, *program.constants[chosen + 1 :])
    numbers = {number: number for number in range(first, first + len(program.nodes))}
    return Fault(name, place, first + reads[chosen], replace(program, constants=constants), numbers)


def faults(run: TracedRun) -> list[Fault]:
    """Return one fault for every kind of node that matters."""
    inner, first = run.inner, first_node(run.inner)

    def leaves(program: Program, operator: str) -> list[int]:
        return [leaf for leaf, node in enumerate(program.nodes) if node.operator == operator]

    updated = [o for o in inner.outputs if o.name.startswith("working/parameter/") and "mlp" in o.name]
    (gather,), step = leaves(run.prologue, "gather"), Place.STEP
    index = int(run.prologue.nodes[gather].inputs[1])
    return [
        after("forward product", step, inner, leaves(inner, "product")[0]),
        after("softmax", step, inner, leaves(inner, "exp")[0]),
        after("backward product", step, inner, leaves(inner, "product")[-1]),
        after("embedding gradient", step, inner, leaves(inner, "scatter_sum")[-1]),
        after("optimizer update", step, inner, int(updated[-1].source) - first),
        constant("constant", step, inner),
        before("gather", Place.PROLOGUE, run.prologue, gather, index),
        after("compression", Place.EPILOGUE, run.epilogue, leaves(run.epilogue, "round")[0]),
    ]


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


class BrokenEngine(KeepingEngine):
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
    rounds: Rounds
    known: dict[Any, tuple[Any, float]] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        """Return the account."""
        return signing.address_of(SECRETS[self.name])


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
        sound = KeepingEngine(self.encoded)
        self.challenger = Side("challenger", sound, Rounds(sound, self.manifest, data))

    def accused(self, fault: Fault) -> Side:
        """Return a party whose machine has a fault."""
        honest = self.manifest.programs.at(fault.place).digest
        broken = BrokenEngine(self.encoded, fault, honest)
        return Side("accused", broken, Rounds(broken, self.manifest, self.data))


class Case:
    """One fault before the law. `sent` and `seconds` are those of both parties in the dispute, by name."""

    def __init__(self, court: Court, fault: Fault) -> None:
        """Let both train the round; the accused commits, the challenger audits, and the dispute opens."""
        self.accused, self.challenger = court.accused(fault), court.challenger
        self.manifest, self.executor, self.start = court.manifest, court.executor, court.run.start
        self.results = {"accused": Results(), "challenger": Results()}
        self.sent = {"accused": 0, "challenger": 0}
        self.seconds = {"accused": 0.0, "challenger": 0.0}
        self.referee = self.evidence = 0.0
        self.log: list[bytes] = []
        self.state = self._opened()

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

    def _opened(self) -> State:
        state = law.found(self.manifest, "bench", Address(b"s" * 20), {}, Amount(10**9), Millis(0))
        state.stage, state.active_at = Stage.DRAINING, Millis(10**12)
        for side, role in ((self.accused, WORKER), (self.challenger, VERIFIER)):
            state.members[side.address] = Member(side.address, role, Amount(10_000), 1, ZERO, "", Round(-1))
        worked = RoundState(
            FIRST, self.manifest.start, state.beacon, tagged("head"), Millis(0), Millis(0), {},
            {self.accused.address: Assignment(0, STEPS, Amount(10_000))}, phase=Phase.SEALED, reserve=Amount(10**6),
        )  # fmt: skip
        state.rounds.append(worked)
        job = self._job(state)
        mine, end = self._work(self.accused, job)
        right, true_end = self._work(self.challenger, job)
        salts = (ZERO,) * len(mine)
        leaves = salted_root(state.run, FIRST, mine, salts)
        start = self.manifest.start.digest
        commit = Commit(FIRST, start, leaves, BundleRef(end, end), Count(0), ZERO)
        opening = Opening(FIRST, mine, salts)
        worked.commits[self.accused.address] = commit
        self.state = state
        self.log += [self._signed(self.accused, body) for body in (commit, opening)]
        reveal = Reveal(FIRST, FIRST, self.accused.address, right, true_end, ZERO)
        disputes.open_from_audit(state, self.challenger.address, opening, reveal, Millis(0))
        return state

    def _job(self, state: State) -> Job:
        return Job(FIRST, self.accused.address, state.rounds[0].beacon, STEPS)

    def _work(self, side: Side, job: Job) -> Claim:
        if job not in side.known:
            outcome = side.rounds.run(job, self.start)
            assert outcome.contribution is not None
            side.known[job] = (outcome.digests, digest_of(outcome.contribution)), 0.0
        found: Claim = side.known[job][0]
        return found

    def _signed(self, side: Side, body: Body) -> bytes:
        head = law.head_of(self.state, body.round)
        return sign_statement(SECRETS[side.name], make_statement("bench", self.state.run, head, body))

    def _next(self, side: Side) -> Body:
        """Return a party's next move; what it knows from another case counts the seconds that it took then."""
        results = self.results[side.name]
        results.done[FetchState(FIRST)] = True
        while True:
            (action,) = moves_in(self.state, self.state.disputes[0], results)
            if isinstance(action, Say):
                return action.body
            found, spent = side.known.get(action, (None, 0.0))
            if found is None:
                began, saved = time.perf_counter(), side.engine.saved
                found = self._compute(side, action)
                spent = time.perf_counter() - began + side.engine.saved - saved
                if not isinstance(
                    action, OpenNode
                ):  # which holds a node's inputs, and is about one case alone
                    side.known[action] = found, spent
            self.seconds[side.name] += spent
            results.done[action] = found

    def _compute(self, side: Side, action: Any) -> Any:
        job = self._job(self.state)
        if isinstance(action, ListStates):
            return side.rounds.digests_after(job, self.start, action.steps)
        execution: ExecutionRef = action.execution
        disputed = side.rounds.disputed(job, self.start, execution.place, execution.step)
        if isinstance(action, TraceProgram):
            return reexecution.trace(side.engine, disputed)
        results = self.results[side.name].done[TraceProgram(execution)].results
        match action:
            case OpenNode(_, node, trail):
                return reexecution.open_node(side.engine, disputed, results, node, trail)
            case OpenValue(_, value, trail):
                return reexecution.open_value(side.engine, disputed, results, value, trail)


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
    case = Case(court, fault)
    case.play()
    dispute = case.state.disputes[0]
    found = convictions(case.state, case.log, [], case.executor.program)
    file = pack(found["dispute-1"])
    began = clock()
    finding = verify(file, case.executor)
    node = case.executor.program(disputes.program_of(case.manifest, fault.place)).nodes
    first = first_node(case.executor.program(disputes.program_of(case.manifest, fault.place)))
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
