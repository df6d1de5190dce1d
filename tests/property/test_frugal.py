"""A machine with less memory than a step takes against one with enough: the same digests, within what it may take."""

import functools
import math
import os
import shutil
import tempfile
import weakref
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.toy import minimal
from tests import zoo
from tests.shards import EXPERTS
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.rounds import reexecution
from trainer.rounds.engine import Engine, Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Disputed, Rounds
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from trainer.shards import spool
from trainer.shards.frugal import FrugalEngine, fitting
from trainer.shards.stretches import stretches_of
from verification.digest import ZERO, tagged
from verification.errors import NoRoom, Refused
from verification.library import StepFailed
from verification.manifest import BundleRef, DataRef, Manifest, Place, ProgramRef, Programs
from verification.outer import outer_inputs
from verification.program import Program, encode_program, first_node, peak_bytes, program_digest, values
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import Address, Count, Digest, Round

pytestmark = pytest.mark.slow
Usage = namedtuple("Usage", "total used free")
STEPS = 2
SIZES = {
    "llama": replace(zoo.JOB, records=6, length=6, batch=2, max_steps=STEPS),
    "gpt2": replace(zoo.JOB, records=6, length=6, batch=2, max_steps=STEPS, accumulate=2),
    "experts": replace(zoo.JOB, records=6, length=3, batch=1, max_steps=STEPS, slots=2),
}
"""What the models are traced for: small enough that no single operation takes two fifths of a step's memory."""
CONFIGS = {
    "llama": zoo.CONFIGS["llama"],
    "gpt2": zoo.CONFIGS["gpt2"],
    "experts": EXPERTS | {"num_hidden_layers": 2},
}
"""GPT-2's embedding is its head too, and its gradient a mean over two parts of the batch."""
JOB = Job(Round(0), Address(bytes(20)), tagged("beacon"), STEPS)


@functools.cache
def traced(name: str) -> TracedRun:
    """A model's programs."""
    return trace_run(build_model(CONFIGS[name], 1), causal_lm_loss, SIZES[name])


def encoded(run: TracedRun) -> dict[Digest, bytes]:
    """A run's programs by their digests, in the order of a manifest."""
    texts = [encode_program(each) for each in (run.prologue, run.inner, run.epilogue, run.outer)]
    return {program_digest(text): text for text in texts}


def data(name: str) -> Bundle:
    """The records of a run."""
    shape = Count(SIZES[name].records), Count(SIZES[name].length + 1)
    return Bundle((Tensor("uint8", shape, bytes(97 + 7 * n % 23 for n in range(math.prod(shape)))),))


def manifest_of(name: str) -> Manifest:
    """A manifest that names a run's programs, data and start."""
    run, job, (records,) = traced(name), SIZES[name], data(name).tensors
    frame = minimal(max_steps=STEPS, leaf_every=1, batch=job.batch, slots=job.slots - 1, min_workers=1)
    return replace(
        frame,
        arithmetic="exact",
        programs=Programs(*(ProgramRef(digest, digest) for digest in encoded(run))),
        data=DataRef(tensor_digest(records), ZERO, records.shape[0], records.shape[1]),
        start=BundleRef(digest_of(run.start), ZERO),
    )


def mapped(folder: Path) -> int:
    """How many files of a folder this process has mapped."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(f"{folder}/value-")


def little(run: TracedRun, share: float, folder: Path, loops: Loops = Loops.NEVER) -> RunOptions:
    """Options that allow a share of what an inner step takes."""
    return RunOptions(memory=Count(int(share * peak_bytes(run.inner))), scratch=str(folder), loops=loops)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing is left."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def computed(engine: Engine, name: str, held: list[int], folder: Path) -> list[object]:
    """All that a peer computes of a round, and notes how many files are mapped at its steps."""
    rounds, start = Rounds(engine, manifest_of(name), data(name)), traced(name).start.tensors
    outcome = rounds.run(JOB, start, lambda step: held.append(mapped(folder)), checked=STEPS)
    assert outcome.contribution is not None
    slots, made = SIZES[name].slots - 1, outcome.contribution.tensors
    inputs = outer_inputs(slots, start, {slot: (3 + slot, made) for slot in range(slots)}, 1)
    return [
        rounds.golden(start),
        outcome.digests,
        digest_of(outcome.contribution),
        outcome.loss,
        rounds.digests_after(JOB, start, (1, 2)),
        digest_of(rounds.next_state(inputs)),
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_fifths_of_the_memory_make_the_same_round(name: str, folder: Path) -> None:
    run, held, none = traced(name), list[int](), list[int]()
    options = little(run, 0.4, folder)
    inner = manifest_of(name).programs.inner.digest
    with pytest.raises(Refused, match=rf"needs {peak_bytes(run.inner)} bytes, limit {options.memory}"):
        TorchEngine(encoded(run), options).program(inner)
    engine = fitting(encoded(run), options)
    assert isinstance(engine, FrugalEngine)
    assert engine.shortage.startswith("a program takes up to ")
    assert computed(engine, name, held, folder) == computed(TorchEngine(encoded(run)), name, none, folder)
    large = sum(len(tensor.data) > spool.PAGE for tensor in run.start.tensors[: len(run.parameter_names)])
    assert len(held) == 1 + STEPS
    assert min(held) >= large > 0 == max(none)
    del engine
    assert mapped(folder) == 0
    assert type(fitting(encoded(run), replace(options, memory=None))) is TorchEngine


def test_compiled_loops_make_the_same_stretches(folder: Path) -> None:
    run = traced("llama")
    engine, inner = FrugalEngine(encoded(run), little(run, 0.7, folder, Loops.ALWAYS)), manifest_of("llama")
    assert engine.compiled(inner.programs.inner.digest) == (True, "")
    held = list[int]()
    assert computed(engine, "llama", held, folder) == computed(
        TorchEngine(encoded(run)), "llama", held, folder
    )


def disputed(engine: Engine, name: str, place: Place) -> Disputed:
    """An execution of the round."""
    return Rounds(engine, manifest_of(name), data(name)).disputed(JOB, traced(name).start.tensors, place, 2)


def test_a_dispute_is_told_the_same_from_the_trace_down_to_a_number(folder: Path) -> None:
    run = traced("llama")
    engines = FrugalEngine(encoded(run), little(run, 0.4, folder)), TorchEngine(encoded(run))
    number = next(n for n, each in enumerate(values(run.inner)) if getattr(each, "operator", "") == "product")
    said = []
    for engine in engines:
        traces = {
            place: reexecution.trace(engine, disputed(engine, "llama", place)) for place in list(Place)[:3]
        }
        execution = disputed(engine, "llama", Place.STEP)
        holding = reexecution.hold(engine, execution, number)
        results = traces[Place.STEP].results
        proved = [reexecution.open_value(engine, execution, results, port, ()) for port in (0, 1)]
        made = holding.held.made
        said.append((traces, proved, made and digest_of(Bundle((made,)))))
        assert len(results) == len(run.inner.nodes)
    assert said[0] == said[1]


@settings(max_examples=2, deadline=None, derandomize=True)
@given(share=st.floats(0.32, 1.0))
def test_stretches_run_each_node_once_in_order_and_fit(share: float) -> None:
    program = traced("llama").inner
    memory, first = int(share * peak_bytes(program)), first_node(program)
    stretches = stretches_of(program, memory)
    own = [number for each in stretches for number in each.nodes if number >= each.first]
    assert own == list(range(first, first + len(program.nodes)))
    known = set(range(first))
    for each in stretches:
        assert each.need <= memory
        assert known.issuperset(each.reads)
        known = (known | set(each.makes)) - set(each.last)
    assert known.issuperset(int(output.source) for output in program.outputs)


def test_what_lives_in_memory_at_a_time_is_less_than_was_allowed(folder: Path) -> None:
    """By what every node makes, as long as anybody has it; what lies in files and views of others takes none."""
    run = traced("llama")
    options, inner = little(run, 0.4, folder), manifest_of("llama").programs.inner.digest
    engine, alive = FrugalEngine(encoded(run), options), list[weakref.ref[torch.Tensor]]()
    peaks = list[int]()

    def count(number: int, value: torch.Tensor) -> None:
        alive.append(weakref.ref(value))
        storages = [each.untyped_storage() for held in alive if (each := held()) is not None]
        places = {each.data_ptr(): each.nbytes() for each in storages if each.filename is None}
        peaks.append(sum(places.values()))

    engine.run(inner, [disputed(engine, "llama", Place.STEP).inputs], count)
    assert options.memory is not None
    assert 0 < max(peaks) <= options.memory
    assert len(peaks) == len(run.inner.nodes)


def test_a_step_that_fails_does_so_at_the_same_node(folder: Path) -> None:
    run = traced("llama")
    engine, inner = FrugalEngine(encoded(run), little(run, 0.4, folder)), manifest_of("llama").programs.inner
    inputs = [each.clone() for each in disputed(TorchEngine(encoded(run)), "llama", Place.STEP).inputs]
    names = [port.name for port in run.inner.inputs]
    inputs[names.index("working/parameter/model.norm.weight")][3] = torch.nan
    with pytest.raises(StepFailed) as whole:
        LoadedProgram(run.inner).run(inputs)
    with pytest.raises(StepFailed) as some:
        engine.run(inner.digest, [inputs])
    assert (some.value.node, str(some.value)) == (whole.value.node, str(whole.value))
    told = Disputed(Place.STEP, inner.digest, inputs)
    assert reexecution.trace(engine, told) == reexecution.trace(TorchEngine(encoded(run)), told)


def unread() -> Program:
    """x -> sums in turn; between them constants are divided by zero, and no node reads it."""
    b = Builder()
    sums, zero = [b.port("x", "float32", (4096,))], b.constant(torch.zeros(()))
    for _ in range(4):
        sums.append(b.add(sums[-1], sums[0]))
    nothing = b.divide(zero, zero)
    for each in sums[:-1]:
        sums[-1] = b.add(sums[-1], each)
    made = b.finish("inner", [("sum", sums[-1]), ("nothing", nothing)])
    return replace(made, outputs=made.outputs[:1])


def test_what_nothing_reads_ends_a_step_too(folder: Path) -> None:
    program = unread()
    text, x, memory = encode_program(program), torch.arange(4096.0), peak_bytes(program) * 3 // 4
    engine = FrugalEngine({program_digest(text): text}, RunOptions(memory=Count(memory), scratch=str(folder)))
    with pytest.raises(StepFailed) as whole:
        LoadedProgram(program).run([x])
    with pytest.raises(StepFailed) as some:
        engine.run(program_digest(text), [[x]])
    assert some.value.node == whole.value.node == first_node(program) + 4
    assert len(stretches_of(program, memory)) > 1


def test_too_little_memory_is_refused_with_the_node_that_needs_more(folder: Path) -> None:
    with pytest.raises(Refused, match=r"^node \d+ of the \w+ program alone needs \d+ bytes, limit \d+$"):
        fitting(encoded(traced("llama")), little(traced("llama"), 0.05, folder))


def test_small_tensors_and_those_in_files_get_no_file(folder: Path) -> None:
    kept, block = spool.Spool(folder), torch.arange(1 << 16, dtype=torch.float32)
    large = kept.keep(block.view(256, 256))
    assert torch.equal(large, block.view(256, 256))
    assert kept.keep(large) is large and mapped(folder) == 1
    small = kept.keep(block[5:7])
    assert small.untyped_storage().nbytes() == 8 and small.tolist() == [5, 6]
    flags = kept.keep(block.view(256, 256).t() > 9)
    assert torch.equal(flags, block.view(256, 256).t() > 9)
    assert (kept.written, mapped(folder)) == (block.nbytes + flags.nbytes, 2)
    del large, flags
    assert mapped(folder) == 0


def test_a_disk_without_room_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system says so beforehand, and where it says so while bytes are written."""
    kept, faults, large = spool.Spool(folder), list[str](), torch.ones(1 << 12)

    def full(dir: Path, prefix: str) -> tuple[int, str]:
        faults.append(str(dir / f"{prefix}full"))
        Path(faults[-1]).touch()
        return os.open("/dev/full", os.O_WRONLY), faults[-1]

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkstemp", full)
        with pytest.raises(NoRoom, match="its disk is full: free space there"):
            kept.keep(large)
    assert len(faults) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: faults.append(path) or Usage(1 << 30, 1 << 30, 9))
    with pytest.raises(NoRoom, match="free space there"):
        kept.keep(large)
    assert len(faults) == 2 and kept.written == 0
