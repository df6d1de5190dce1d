"""Crews of real models: the manifest of a run that is cut, and members that exchange what crosses."""

import functools
import queue
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from simulator.toy import minimal
from tests import zoo
from tests.shards import RUNS
from trainer.programs.conversion import from_torch
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import TracedRun
from trainer.rounds.engine import Engine, Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import RoundOutcome, Rounds
from trainer.shards.crew import Crews, MemberOutcome
from trainer.shards.cut import Cut, Machine, cut_at, cut_for
from trainer.shards.parts import parts_of
from trainer.shards.programs import Part, Parts
from verification import manifest as law
from verification.digest import ZERO
from verification.layout import per_parameter, summary_of
from verification.manifest import DataRef, Manifest, Place, Post, ProgramRef, Programs, WorkUnits
from verification.program import Program, encode_program, program_digest, work_units
from verification.tensors import Bundle, Tensor, tensor_digest
from verification.units import Address, Count, Digest, Round

STEPS = 2
JOB = Job(Round(1), Address(bytes(range(20))), Digest(b"b" * 32), STEPS)
MUCH = 1 << 40
_ALONE: dict[tuple[Programs, DataRef, tuple[Tensor, ...]], tuple[RoundOutcome, dict[str, Digest]]] = {}


@functools.cache
def traced(name: str) -> TracedRun:
    """A model's programs, made once."""
    return RUNS[name]()


@functools.cache
def equal_cut(name: str, count: int) -> Cut:
    """A model cut into shards of about equal work."""
    run = traced(name)
    programs = (run.prologue, run.inner, run.epilogue, run.outer)
    return cut_for(programs, [Machine(MUCH, 1)] * count)


def cut_with(name: str, ends: tuple[int, ...]) -> Cut:
    """A model cut at some depths."""
    run = traced(name)
    return cut_at((run.prologue, run.inner, run.epilogue, run.outer), ends)


@dataclass(frozen=True)
class Town:
    """A run that is cut, and what engines read of it."""

    manifest: Manifest
    programs: dict[Digest, bytes]
    data: Bundle
    start: tuple[Tensor, ...]
    parts: Parts

    def engine(self, options: RunOptions = NODE_BY_NODE) -> TorchEngine:
        """A machine with nothing loaded."""
        return TorchEngine(self.programs, options)

    def crews(self, engine: Engine | None = None) -> Crews:
        """F of the run's crews."""
        return Crews(engine or self.engine(), self.manifest, self.data)

    def whole(self) -> RoundOutcome:
        """The round of a worker that computes it alone."""
        return Rounds(self.engine(), self.manifest, self.data).run(JOB, self.start)


def reference(program: Program) -> ProgramRef:
    """A program by its digest, as if that were its blob's too."""
    digest = program_digest(encode_program(program))
    return ProgramRef(digest, digest)


def shard_of(part: Part) -> law.Shard:
    """A part as the manifest names it."""
    programs = part.prologue, part.inner, part.epilogue
    units = WorkUnits(*(Count(work_units(program)) for program in programs))
    return law.Shard(*map(reference, programs), units, part.parameters)


def town(name: str, parts: Parts, run: TracedRun | None = None) -> Town:
    """A run of a model, in parts."""
    run = run or traced(name)
    whole = (run.prologue, run.inner, run.epilogue, run.outer)
    own = [each for part in parts.shards for each in (part.prologue, part.inner, part.epilogue)]
    encoded = [encode_program(program) for program in (*whole, *own)]
    records = from_torch(zoo.records(name if name in zoo.NAMES else "llama"))
    job = run.sizes.job
    made = minimal(max_steps=Count(job.max_steps), batch=Count(job.batch), leaf_every=Count(1))
    cut = law.Cut(tuple(map(shard_of, parts.shards)), parts.crossings)
    fields = {field: getattr(made, field) for field in made.__dataclass_fields__} | {
        "programs": Programs(*map(reference, whole)),
        "data": DataRef(tensor_digest(records), ZERO, *records.shape),
        "cuts": (cut,),
    }
    programs = {program_digest(each): each for each in encoded}
    return Town(Manifest(**fields), programs, Bundle((records,)), run.start.tensors, parts)


@functools.cache
def equal_town(name: str, count: int) -> Town:
    """A run of a model in shards of about equal work."""
    return town(name, parts_of(traced(name), equal_cut(name, count)))


def around(inner: Program, place: int) -> Part:
    """A shard of one parameter with an inner program of [parameter, step, ...]."""
    b = Builder()
    start = b.port("parameter", "float32", (2, 2))
    b.port("momentum", "float32", (2, 2))
    b.port("data", "uint8", (4, 3))
    b.port("index", "int64", (2, 1))
    b.port("round", "int64", ())
    prologue = b.finish("prologue", [("parameter", start), ("step", b.scalar(0, "int64"))])
    b = Builder()
    before = b.port("start", "float32", (2, 2))
    b.port("momentum", "float32", (2, 2))
    after = b.port("parameter", "float32", (2, 2))
    b.port("step", "int64", ())
    moved = b.cast(b.subtract(before, after), "int8")
    norm, loss = b.total(b.cast(moved, "int64")), b.scalar(0.0)
    epilogue = b.finish("epilogue", [("contribution", moved), ("norm", norm), ("loss", loss)])
    return Part(prologue, inner, epilogue, (Count(place),))


def parts_before(made: Town, engine: TorchEngine, place: Place, step: int) -> list[list[Any]]:
    """What each shard's program reads at a place of the round."""
    crews = made.crews(engine)
    posts = [Post(Count(0), Count(shard)) for shard in range(len(made.parts.shards))]
    return [list(crews.disputed(JOB, made.start, post, place, step).inputs) for post in posts]


def alone(made: Town) -> tuple[RoundOutcome, dict[str, Digest]]:
    """The round of a worker that computes it alone, and the digests of what its inner steps end with by their ports.

    Made once of a run, however that is cut.
    """
    key = made.manifest.programs, made.manifest.data, made.start
    if key not in _ALONE:
        engine = made.engine()
        ended = (
            Rounds(engine, made.manifest, made.data).disputed(JOB, made.start, Place.EPILOGUE, STEPS).inputs
        )
        inner = engine.program(made.manifest.programs.inner.digest)
        digests = engine.digests(ended[-len(inner.inputs) :])
        ports = zip((port.name for port in inner.inputs), digests, strict=True)
        _ALONE[key] = made.whole(), dict(ports)
    return _ALONE[key]


def assert_is_the_whole(made: Town) -> None:
    """All shards by turns make the last state, the contributions and the loss of the whole round."""
    engine, (whole, ports) = made.engine(), alone(made)
    outcome = made.crews(engine).audit(JOB, made.start, 0)
    assert whole.contribution is not None and outcome.failed is None
    wanted = list(map(tensor_digest, per_parameter(whole.contribution.tensors)))
    found = {
        place: tensor_digest(tensor)
        for part, contribution in zip(made.parts.shards, outcome.contributions, strict=True)
        for place, tensor in zip(part.parameters, per_parameter(contribution.tensors), strict=True)
    }
    assert [found[place] for place in range(len(wanted))] == wanted
    assert sum(outcome.losses) == whole.loss and sorted(outcome.losses)[:-1] == [0.0] * (
        len(outcome.losses) - 1
    )
    assert sum(norm_in(each.tensors) for each in outcome.contributions) == norm_in(whole.contribution.tensors)
    for part, working in zip(
        made.parts.shards, parts_before(made, engine, Place.EPILOGUE, STEPS), strict=True
    ):
        count = len(part.prologue.outputs)
        names = [port.name for port in part.inner.inputs[:count]]
        assert engine.digests(working[-count:]) == [ports[name] for name in names]


def norm_in(contribution: Sequence[Tensor]) -> int:
    """The norm of a contribution."""
    return int.from_bytes(summary_of(contribution, "norm").data, "little")


class Letters:
    """An exchange between threads, which notes every tensor that goes by."""

    def __init__(self, crossings: Sequence[law.Crossing]) -> None:
        self._crossings = crossings
        self._boxes: dict[tuple[int, int], queue.Queue[Tensor]] = defaultdict(queue.Queue)
        self._lock = threading.Lock()
        self.seen: dict[tuple[int, int], Tensor] = {}

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Put one copy into the box for each taker."""
        self.seen[step, crossing] = tensor
        for _ in self._crossings[crossing].takers:
            self._box(step, crossing).put(tensor)

    def take(self, step: int, crossing: int) -> Tensor:
        """Wait for it."""
        return self._box(step, crossing).get(timeout=60)

    def _box(self, step: int, crossing: int) -> "queue.Queue[Tensor]":
        with self._lock:
            return self._boxes[step, crossing]


def together(made: Town) -> tuple[list[MemberOutcome], Letters]:
    """What the members of a crew make of a round, each on a machine and in a thread of its own."""
    letters = Letters(made.parts.crossings)

    def member(shard: int) -> MemberOutcome:
        return made.crews().run(JOB, made.start, Post(Count(0), Count(shard)), letters)

    count = len(made.parts.shards)
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(member, range(count))), letters
