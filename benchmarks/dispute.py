"""A dispute over a real step: faults planted in single numbers of a Llama, each brought before the law and named.

    proofswarm bench dispute [--model d512] [--json FILE]

An accused whose machine gets one number of a node wrong plays against an honest challenger, by the actors, statements
and law of a run; of all that reads the wrong number it lists digests that nobody comes to. Told are the number, or the
terms of it, at which the dispute ends, what both put on the ledger, and what the law takes for a statement. The same is
done for a program of a billion parameters (`benchmarks.billion`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks import billion
from benchmarks.faults import Fault, faults
from benchmarks.hearing import ACCUSED, CHALLENGER, Case, Heard, hear
from benchmarks.machines import Faulty, Honest, KeepingEngine
from benchmarks.record import publish
from benchmarks.trainers import MODELS, RATE, Recipe
from simulator.cast import job_of
from simulator.duel import FIRST, Claim, contest, contest_seal, sealed_round
from simulator.toy import minimal
from trainer.commands.console import Console
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.schedule import Schedule
from trainer.rounds.training import Rounds
from trainer.runs.tasks import causal_lm_loss
from verification.claims import Judged
from verification.digest import ZERO
from verification.manifest import BundleRef, DataRef, Manifest, Place, ProgramRef, Programs
from verification.outer import mixture, outer_inputs
from verification.program import digest_of_program, encode_program
from verification.state import State
from verification.statements import Body
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import Amount, Count

STEPS, BATCH, LENGTH, RECORDS = 2, 2, 24, 4096
Tell = Callable[[str], None]


class Court:
    """What all cases share: a run, the law's programs, and an honest challenger that computes nothing twice."""

    def __init__(
        self, run: TracedRun, data: Bundle, tell: Tell = lambda said: None, only: Sequence[str] = ()
    ) -> None:
        """`data` holds the records; `tell` hears how far it is; `only` names the faults to prepare, none for all."""
        programs = (run.prologue, run.inner, run.epilogue, run.outer)
        self.run, self._tell = run, tell
        encoded = {digest_of_program(program): encode_program(program) for program in programs}
        self.manifest = _manifest(Programs(*(ProgramRef(d, d) for d in encoded)), run.start, data)
        self.engine = KeepingEngine(encoded)
        rounds = Rounds(self.engine, self.manifest, data)
        job = job_of(self.state(), FIRST, ACCUSED)
        self.challenger = Honest(self.engine, rounds, job, run.start)
        self.faults = [fault for fault in faults(run) if not only or fault.name in only]
        tell("the honest machine's last step, node by node")
        self._trace(Place.STEP, STEPS)
        tell("the round around it")
        self._trace(Place.PROLOGUE)
        self._trace(Place.EPILOGUE)
        self.truth = self.challenger.claim()
        self.states = self.challenger.states(tuple(range(1, STEPS + 1)))
        tell("the outer step")
        self.challenger.outer = self._outer_inputs()
        self._trace(Place.OUTER)
        self.sealed = self.engine.digest(self.challenger.made(Place.OUTER))

    def _trace(self, place: Place, step: int = 0) -> None:
        nodes = {fault.node for fault in self.faults if fault.place is place}
        self.challenger.trace(place, step, sorted(nodes))

    def state(self) -> State:
        """Return a state before anything has been said of the round."""
        return sealed_round(self.manifest, "bench", ACCUSED, CHALLENGER, STEPS, Amount(10**9))

    def case(self, fault: Fault) -> Case:
        """Return a dispute about a fault: the accused claims something else, and the challenger knows better."""
        right = self.challenger.traced[fault.place]
        accused = Faulty(self.challenger.kept[fault.place, fault.node], right, fault)
        assert accused.traced.outputs != right.outputs, f"{fault.name} changes nothing"
        accused.states = (*self.states[:-1], accused.end)
        state, library = self.state(), self.engine.executor
        if fault.place is Place.OUTER:
            said: tuple[Body, ...] = contest_seal(state, accused.end, self.sealed, self.truth[1], library)
        else:
            said = contest(state, self._claim(fault.place, accused), self.truth, library)
        return Case(state, library, said, accused.compute, self.challenger.compute)

    def _claim(self, place: Place, accused: Faulty) -> Claim:
        """Return what the accused opens: with what is wrong first; what it says after that plays no part."""
        (begun, ended), contribution = self.truth
        if place is Place.PROLOGUE:
            return (accused.end, ended), contribution
        if place is Place.STEP:
            return (begun, accused.end), contribution if accused.traced.failed is None else accused.end
        return (begun, ended), accused.end

    def is_named(self, fault: Fault, heard: Heard) -> bool:
        """Return whether a dispute has ended at what is wrong: a number, or terms of it with the one that was lost."""
        claim = heard.dispute.game.claim
        if not (heard.is_about(fault.node) and isinstance(claim, Judged)):
            return False
        return fault.wrong.is_named(claim, self.challenger.kept[fault.place, fault.node].held)

    def _outer_inputs(self) -> list[Tensor | None]:
        """Lay out the round's outer step, with the accused's contribution alone."""
        contribution = self.engine.dump(self.challenger.made(Place.EPILOGUE))
        state, end = self.state(), self.truth[1]
        contest_seal(state, ZERO, end, end, self.engine.executor)
        mixed = mixture(state, state.rounds[FIRST])
        entries = {part.slot: (part.weight, contribution.tensors) for part in mixed.parts}
        return outer_inputs(int(self.manifest.work.slots), self.run.start.tensors, entries, mixed.ballast)


def _manifest(programs: Programs, start: Bundle, data: Bundle) -> Manifest:
    frame = minimal(max_steps=STEPS, leaf_every=STEPS, batch=BATCH, slots=1, min_workers=1)
    (records,) = data.tensors
    reference = DataRef(tensor_digest(records), ZERO, records.shape[0], records.shape[1])
    start_ref = BundleRef(digest_of(start), ZERO)
    return replace(
        frame, arithmetic="exact", title="a dispute", programs=programs, data=reference, start=start_ref
    )


def trace_model(recipe: Recipe) -> tuple[TracedRun, Bundle, int]:
    """Return the programs of a Llama, its data, and its number of parameters."""
    model = recipe.model(0, "eager")
    schedule = Schedule(RATE, STEPS)  # not warmed up, so that two steps change what a contribution holds
    config = TraceConfig(RECORDS, LENGTH, BATCH, STEPS, 2, 12, recipe.method.adamw, schedule, 0.7, 0.6)
    records = torch.randint(0, 256, (RECORDS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    data = Tensor("uint8", (Count(RECORDS), Count(LENGTH + 1)), records.to(torch.uint8).numpy().tobytes())
    count = sum(parameter.numel() for parameter in model.parameters())
    return trace_run(model, causal_lm_loss, config), Bundle((data,)), count


def measure(court: Court, fault: Fault) -> dict[str, Any]:
    """Return one row: the fault, at what the dispute about it ended, bytes and times."""
    heard = hear(court.case(fault))
    return {"fault": fault.name, "named": court.is_named(fault, heard), **heard.row}


def time_one(model: str, name: str, threads: int) -> dict[str, Any]:
    """Return a row of one fault as `measure` does, with the seconds that all took once the model was traced.

    Those are both sides' re-execution of the round, each of its nodes' digests once, and the dispute itself.
    """
    torch.set_num_threads(threads)
    run, data, _ = trace_model(MODELS[model])
    began = time.perf_counter()
    court = Court(run, data, only=[name])
    (fault,) = court.faults
    row = measure(court, fault)
    return row | {"seconds": time.perf_counter() - began}


def summarise(parameters: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures over all faults."""
    return {
        "parameters": parameters,
        "kinds": len(rows),
        "named": sum(row["named"] for row in rows),
        "evidence_bytes_max": max(row["evidence_bytes"] for row in rows),
        "law_milliseconds_max": max(row["law_milliseconds"] for row in rows),
        "exchanges_max": max(row["exchanges"] for row in rows),
        "verify_seconds_max": max(row["verify_seconds"] for row in rows),
        "file_bytes_max": max(row["file_bytes"] for row in rows),
    }


def run_disputes(model: str, json: Path | None) -> int:
    """Bring every fault before the law, print the table, and return 0 when each was named."""
    console, began = Console(), time.monotonic()

    def tell(said: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {said}", highlight=False)

    tell(f"tracing {model}")
    run, data, parameters = trace_model(MODELS[model])
    tell(f"{parameters:,} parameters, {len(run.inner.nodes):,} nodes an inner step")
    court = Court(run, data, tell)
    rows: list[dict[str, Any]] = []
    for fault in court.faults:
        rows.append(measure(court, fault))
        named = "named" if rows[-1]["named"] else "NOT named"
        tell(f"{fault.name}: {named}, {rows[-1]['judged']} of node {rows[-1]['node']}")
    large = billion.run(tell)
    console.print(table_of("one wrong number before the law", rows))
    largest = [row for row in large if row["parameters"] == large[-1]["parameters"]]
    console.print(table_of(f"one of {largest[0]['parameters']:,} parameters that no machine holds", largest))
    summary = summarise(parameters, rows)
    summary |= {f"billion_{k}": v for k, v in summarise(largest[0]["parameters"], largest).items()}
    publish(rows, summary, console, json, more={"billion": large})
    return 0 if all(row["named"] for row in (*rows, *large)) else 1


def table_of(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows for people."""
    table = Table(title=title, box=None)
    for heading in ("fault", "node", "statements", "evidence", "law", "file", "checked"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(
            row["fault"], str(row["node"]), str(row["exchanges"]), f"{row['evidence_bytes'] / 1e3:.1f} kB",
            f"{row['law_milliseconds']:.1f} ms", f"{row['file_bytes'] / 1e3:.1f} kB",
            f"{1000 * row['verify_seconds']:.0f} ms",
        )  # fmt: skip
    return table
