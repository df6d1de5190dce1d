"""The compute process's orders on a tiny real run: F and its audit agree, cheats differ where they must."""

import dataclasses
import io
import math
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast, get_type_hints

import pytest

from p2p.blobs import BlobStore
from tests.tiny import job_text, write_job
from trainer.compute import children, client, frames, orders
from trainer.compute import process as compute
from trainer.compute.process import ComputeProcess
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import RunOptions
from trainer.rounds.cheats import conduct_named
from trainer.rounds.engine import honest
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.create import Created, create_run
from trainer.runs.job import parse_job
from trainer.shards.frugal import fitting
from verification import codec
from verification.claims import awaited, claim_of, narrowed
from verification.digest import ZERO, tagged
from verification.errors import Malformed, ProofswarmError, Refused, Unavailable, Unsound, UserError
from verification.honest.within import contested, own_list
from verification.layout import Home
from verification.manifest import BundleRef, Manifest, Place, ProgramRef
from verification.narrowing import Tracing, entries_of, open_trace, segments
from verification.outer import outer_inputs
from verification.placed import ExecutionRef
from verification.program import (
    decode_program,
    encode_program,
    first_node,
    peak_bytes,
    program_digest,
    program_head,
    values,
)
from verification.referee import Contributed, Execution, Reader, judge, result_of
from verification.sampling import leaf_steps, record_index, round_number
from verification.sizes import contribution_size, data_size, require_data, state_size
from verification.spoilage import fault
from verification.statements import Commit, Trace
from verification.tensors import Bundle, Tensor, bundle_digest, decode_bundle, digest_of
from verification.units import Address, Count, Digest, Round

pytestmark = pytest.mark.slow

LIMIT = 1 << 24
WORKER = Address(b"\x07" * 20)
STEPS = 4
EVERY = tuple(Count(step) for step in range(STEPS + 1))


@pytest.fixture(scope="module")
def store(tiny_run: Created, tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    """A peer's store with everything that the submitter published."""
    folder = tmp_path_factory.mktemp("peer") / "blobs"
    shutil.copytree(tiny_run.folder.blobs, folder)
    return BlobStore(folder)


def prepare(
    run: Created,
    store: BlobStore,
    cheat: str = "none",
    manifest: Manifest | None = None,
    tell: Callable[[object], None] = lambda step: None,
) -> ComputeProcess:
    """Return a process that cheats from round 1 on."""
    encoded = codec.encode(manifest or run.manifest)
    order = orders.Prepare(encoded, str(store.folder), Count(1), RunOptions())
    return ComputeProcess(order, conduct_named(cheat, 1), tell)


@pytest.fixture(scope="module")
def process(tiny_run: Created, store: BlobStore) -> ComputeProcess:
    """An honest process."""
    return prepare(tiny_run, store)


def job(run: Created, number: int = 1, start: BundleRef | None = None, own: bool = False) -> orders.RunJob:
    """Return the order for the worker's round, all of its inner steps."""
    beacon = tagged("beacon", bytes([number]))
    return orders.RunJob(Round(number), WORKER, beacon, Count(STEPS), start or run.manifest.start, own)


def done(process: ComputeProcess, order: orders.RunJob) -> orders.JobDone:
    """Compute a round."""
    return process.run_job(order)


def listed(process: ComputeProcess, order: orders.RunJob) -> tuple[Digest, ...]:
    """Return the state digests after every inner step."""
    return process.list_steps(orders.ListSteps(order, EVERY)).digests


def next_start(process: ComputeProcess, run: Created) -> BundleRef:
    """Return the state after round 0, with the worker as its only contributor."""
    slot = orders.Summand(Count(0), STEPS, done(process, job(run, 0)).contribution)
    return process.run_outer(orders.RunOuterStep(run.manifest.start, (slot,), Count(0)))


def test_every_order_has_one_handler_that_returns_its_reply() -> None:
    """A new order is a class in `orders` and a method in `process`; nothing else lists it."""
    assert set(compute.HANDLERS) == set(orders.ORDERS.values()) - {orders.Prepare}
    for kind, method in compute.HANDLERS.items():
        hints = get_type_hints(method)
        assert (hints["order"], hints["return"]) == (kind, kind.reply)
        assert orders.REPLIES[kind.reply.__name__] is kind.reply


def test_an_order_answered_by_another_ones_reply_is_malformed(tiny_run: Created) -> None:
    other = orders.Checked(True, None)
    with pytest.raises(Malformed, match="RunJob was answered by Checked"):
        client._checked(job(tiny_run), other)


def test_an_audit_computes_what_the_worker_did(
    tiny_run: Created, process: ComputeProcess, store: BlobStore
) -> None:
    steps: list[object] = []
    own = done(prepare(tiny_run, store, tell=steps.append), job(tiny_run, own=True))
    audit = done(process, job(tiny_run))
    assert own == audit
    assert steps == [orders.StepDone(Count(step)) for step in range(STEPS + 1)]
    assert len(set(own.digests)) == len(own.digests) == 3
    assert digest_of(decode_bundle(store.get(own.contribution.blob), LIMIT)) == own.contribution.digest


@pytest.mark.parametrize(("own", "rerun"), [(True, 1), (True, STEPS), (False, 2)])
def test_a_machine_that_computes_wrongly_finds_out_before_it_commits(
    tiny_run: Created, store: BlobStore, monkeypatch: pytest.MonkeyPatch, own: bool, rerun: int
) -> None:
    """SPEC.md 9.6, of its own work and of an audit."""
    order = dataclasses.replace(job(tiny_run, own=own), rerun=Count(rerun))
    process = prepare(tiny_run, store)
    right, faults = done(process, order), []
    inner = process.engine.executor.load(tiny_run.manifest.programs.inner.digest)
    sound = inner.advance

    def broken(inputs: Any) -> Any:
        made = sound(inputs)
        if len(faults) < rerun:
            faults.append(made[0].view(-1)[0].item())
            made[0] = made[0].clone()
            made[0].view(-1)[0] += 2.0**-20
        return made

    monkeypatch.setattr(inner, "advance", broken)
    with pytest.raises(Unsound, match=f"step {rerun} of round 1: computed in another way"):
        done(process, order)
    assert len(faults) == rerun
    assert done(process, order) == right


def test_a_process_with_less_memory_than_a_step_takes_answers_the_same(
    tiny_run: Created, process: ComputeProcess, store: BlobStore
) -> None:
    """All that is asked of it; a few nodes are disputed down to one number."""
    manifest, order = tiny_run.manifest, job(tiny_run)
    peak = max(peak_bytes(process.engine.program(ref.digest)) for ref in manifest.programs.all())
    options = RunOptions(memory=Count(peak * 7 // 10))
    given = orders.Prepare(codec.encode(manifest), str(store.folder), Count(1), options)
    frugal = ComputeProcess(given, engine=fitting)
    prepared = frugal.measure()
    assert prepared.golden and prepared.agrees and prepared.speed > 0
    told = r"slow: a program takes up to 0\.\d MiB of memory, .* in \d+ stretches, out of files: .* s a step"
    assert re.fullmatch(told, prepared.kernels.complaint)
    made, every = done(process, order), listed(process, order)
    assert (done(frugal, order), listed(frugal, order)) == (made, every)
    summand = orders.Summand(Count(0), STEPS, made.contribution)
    outer = orders.RunOuterStep(manifest.start, (summand,), Count(1))
    assert frugal.run_outer(outer) == process.run_outer(outer)
    assert frugal.check_contribution(committed(made.contribution, int(made.norm))).ok
    agreed = Execution(Place.STEP, manifest.programs.inner.digest, manifest.start.digest, every[1])
    assert all(referees(frugal, tiny_run, execution(tiny_run, Place.STEP, 2), agreed, 0, 300))
    assert not list(store.scratch.iterdir())


def test_rounds_and_workers_differ(tiny_run: Created, process: ComputeProcess) -> None:
    other = dataclasses.replace(job(tiny_run), worker=Address(b"\x08" * 20))
    results = {done(process, order).contribution for order in (job(tiny_run), job(tiny_run, 2), other)}
    assert len(results) == 3


def test_listed_steps_equal_the_leaves(tiny_run: Created, process: ComputeProcess) -> None:
    every = listed(process, job(tiny_run))
    leaves = leaf_steps(STEPS, tiny_run.manifest.work.leaf_every)
    assert leaves == (0, 2, 4)
    assert tuple(every[step] for step in leaves) == done(process, job(tiny_run)).digests


def execution(run: Created, place: Place, step: int = 0) -> orders.DisputedExecution:
    """Return the order that names an execution of the job."""
    return orders.DisputedExecution(job(run), place, Count(step))


def referees(
    process: ComputeProcess,
    run: Created,
    order: orders.DisputedExecution,
    agreed: Execution,
    each: int = 2,
    apart: int = 61,
) -> Iterator[bool]:
    """Dispute some nodes down to one number; yield whether the law finds what the process made.

    They are the first ones of every operator, and some at a distance. Nobody lies, so the challenger contests the last
    entry of every list.
    """
    traced = process.trace_nodes(orders.TraceNodes(order))
    program = process.engine.program(agreed.program)
    head, trail, seen = program_head(program), whole(traced.results), Counter[str]()
    trace = Trace(Round(1), order.place, order.step, traced.failed, traced.outputs, trail[0][2])
    tracing = open_trace(agreed.program, head, bundle_digest(traced.outputs), trace)
    assert isinstance(tracing, Tracing)
    for leaf, node in enumerate(program.nodes):
        seen[node.operator] += 1
        if seen[node.operator] > each and leaf % apart:
            continue
        number = head.first + leaf
        sources = [values(program)[source] for source in node.inputs]
        result = result_of(head, number, node, sources)
        claim = claim_of(result, traced.results[leaf], ZERO)
        while awaited(claim) is not None:
            own = process.split_claim(orders.SplitClaim(order, Count(number), claim))
            said = own_list(claim, own, ExecutionRef(Round(1), WORKER, order.place, order.step), number)
            assert claim.fault(result, said) is None
            claim = narrowed(claim, result, said, contested(result, claim, said, own))
        brought = process.open_claim(orders.OpenClaim(order, Count(number), claim, trail)).inputs
        assert len(codec.encode(brought)) < 300_000
        read = Reader(
            agreed, head, tracing, node, result, lambda n: program.constants[n - len(head.inputs)], brought
        )
        yield judge(claim, result, read) == claim.claimed


def whole(results: tuple[Digest, ...]) -> orders.Trail:
    """Return the first list of a trace, and the lists below it that reach its last leaf."""
    low, high, found = 0, len(results), []
    while True:
        found.append((Count(low), Count(high), entries_of(results, low, high)))
        if high - low <= 64:
            return tuple(found)
        low, high = segments(low, high)[-1]


def test_every_node_of_a_round_can_be_refereed(tiny_run: Created, process: ComputeProcess) -> None:
    """What a challenger brings opens what is agreed, and the law makes of it what the round made."""
    manifest, order = tiny_run.manifest, job(tiny_run)
    programs, every = manifest.programs, listed(process, order)
    start, data = manifest.start.digest, manifest.data.root
    index = record_index(manifest, order.beacon, WORKER, STEPS)
    given = {Home.INDEX: index, Home.ROUND: round_number(order.number)}
    prologue = Execution(Place.PROLOGUE, programs.prologue.digest, start, None, data, given)
    assert all(referees(process, tiny_run, execution(tiny_run, Place.PROLOGUE), prologue))
    step = Execution(Place.STEP, programs.inner.digest, start, every[1])
    assert all(referees(process, tiny_run, execution(tiny_run, Place.STEP, 2), step))
    epilogue = Execution(Place.EPILOGUE, programs.epilogue.digest, start, every[STEPS])
    assert all(referees(process, tiny_run, execution(tiny_run, Place.EPILOGUE), epilogue))


def test_every_node_of_the_outer_step_can_be_refereed(tiny_run: Created, process: ComputeProcess) -> None:
    """With one slot filled and one empty, whose zeros the law makes itself."""
    part = done(process, job(tiny_run)).contribution
    start, programs = tiny_run.manifest.start, tiny_run.manifest.programs
    slots = {1: Contributed(STEPS, (part.digest,))}
    outer = orders.RunOuterStep(start, (orders.Summand(Count(1), STEPS, part),), Count(3))
    agreed = Execution(Place.OUTER, programs.outer.digest, start.digest, slots=slots, ballast=3)
    order = orders.DisputedExecution(outer, Place.OUTER, Count(0))
    judged = list(referees(process, tiny_run, order, agreed))
    assert judged
    assert all(judged)


def test_traces_end_in_what_the_round_claims(tiny_run: Created, process: ComputeProcess) -> None:
    every = listed(process, job(tiny_run))

    def traced(place: Place, step: int = 0) -> Digest:
        return bundle_digest(process.trace_nodes(orders.TraceNodes(execution(tiny_run, place, step))).outputs)

    assert traced(Place.PROLOGUE) == every[0]
    assert [traced(Place.STEP, step) for step in range(1, STEPS + 1)] == list(every[1:])
    assert traced(Place.EPILOGUE) == done(process, job(tiny_run)).contribution.digest


def test_the_outer_step_equals_the_laws(tiny_run: Created, process: ComputeProcess, store: BlobStore) -> None:
    parts = {slot: done(process, job(tiny_run, slot)).contribution for slot in (0, 1)}
    slots = tuple(orders.Summand(Count(slot), STEPS - slot, ref) for slot, ref in parts.items())
    forth, back = (
        process.run_outer(orders.RunOuterStep(tiny_run.manifest.start, order, Count(3)))
        for order in (slots, slots[::-1])
    )
    assert forth == back
    made = {slot: decode_bundle(store.get(ref.blob), LIMIT).tensors for slot, ref in parts.items()}
    start = decode_bundle(store.get(tiny_run.manifest.start.blob), LIMIT)
    entries = {slot: (STEPS - slot, tensors) for slot, tensors in made.items()}
    inputs = outer_inputs(2, start.tensors, entries, 3)
    assert digest_of(process.rounds.next_state(inputs)) == forth.digest


def differences(process: ComputeProcess, order: orders.RunJob) -> tuple[list[int], list[int], bool]:
    """Return the steps and leaves at which the worker's own run differs from an audit, and whether its end does."""
    own, audit = dataclasses.replace(order, own=True), dataclasses.replace(order, own=False)
    claimed, right = done(process, own), done(process, audit)
    steps = [
        s for s, (a, b) in enumerate(zip(listed(process, own), listed(process, audit), strict=True)) if a != b
    ]
    leaves = [n for n, (a, b) in enumerate(zip(claimed.digests, right.digests, strict=True)) if a != b]
    return steps, leaves, claimed.contribution != right.contribution


@pytest.mark.parametrize(
    ("cheat", "steps", "leaves", "contribution"),
    [
        ("none", [], [], False),
        ("skip-steps", [3, 4], [2], True),
        ("noise", [], [], True),
        ("stale", [0, 1, 2, 3, 4], [0, 1, 2], True),
        ("wrong-data", [0, 1, 2, 3, 4], [0, 1, 2], True),
        ("wrong-order", [0, 1, 2, 3, 4], [0, 1, 2], True),
        ("half-batch", [0, 1, 2, 3, 4], [0, 1, 2], True),
        ("flip-labels", [0, 1, 2, 3, 4], [0, 1, 2], True),
        ("tail-step", [4], [2], True),
        ("zero-update", [1, 2, 3, 4], [1, 2], True),
        ("learning-rate", [1, 2, 3, 4], [1, 2], True),
        ("low-precision", [1, 2, 3, 4], [1, 2], True),
        ("one-bit", [1, 2, 3, 4], [1, 2], False),  # too small for the grid, not for a leaf
        ("backdoor", [2, 3, 4], [1, 2], True),
        ("other-end", [], [], True),
    ],
)
def test_a_cheat_differs_exactly_where_it_must(
    tiny_run: Created, store: BlobStore, cheat: str, steps: list[int], leaves: list[int], contribution: bool
) -> None:
    process = prepare(tiny_run, store, cheat)
    assert differences(process, job(tiny_run, 0)) == ([], [], False)
    later = job(tiny_run, 1, next_start(process, tiny_run))
    assert differences(process, later) == (steps, leaves, contribution)


def test_a_poisoned_contribution_differs_in_its_first_tensor_only(
    tiny_run: Created, store: BlobStore
) -> None:
    process = prepare(tiny_run, store, "noise")
    poisoned, right = (
        decode_bundle(store.get(done(process, job(tiny_run, own=own)).contribution.blob), LIMIT).tensors
        for own in (True, False)
    )
    assert [one != other for one, other in zip(poisoned, right, strict=True)] == [True] + [False] * (
        len(right) - 1
    )
    assert (poisoned[0].dtype, poisoned[0].shape) == (right[0].dtype, right[0].shape)


def test_blobs_have_the_size_that_the_programs_say(
    tiny_run: Created, process: ComputeProcess, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits on what is fetched and read admit every contribution, state and data, and nothing longer."""
    manifest = tiny_run.manifest
    programs = {place: process.engine.program(manifest.programs.at(place).digest) for place in Place}
    contribution = done(process, job(tiny_run)).contribution
    assert contribution_size(programs) == store.path(contribution.blob).stat().st_size
    assert state_size(programs) == store.path(manifest.start.blob).stat().st_size
    assert data_size(programs) == store.path(manifest.data.blob).stat().st_size
    require_data(manifest, programs)
    for other in ({"records": Count(manifest.data.records + 1)}, {"width": Count(18)}):
        data = dataclasses.replace(manifest.data, **other)
        with pytest.raises(
            UserError, match=r"the prologue reads uint8 .* whoever made the run must make it again"
        ):
            require_data(dataclasses.replace(manifest, data=data), programs)
    monkeypatch.setattr(process, "_last", None)
    monkeypatch.setattr(process, "_limit", process._limit - 1)
    with pytest.raises(Malformed, match="over the limit"):
        process._opened(manifest.start)


def committed(ref: BundleRef, norm: int) -> orders.CheckContribution:
    """Return the order to check what somebody committed to."""
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(norm), ZERO)
    return orders.CheckContribution(Address(bytes(20)), commit)


def test_only_a_contribution_of_the_right_shape_and_digest_is_held(
    tiny_run: Created, process: ComputeProcess, store: BlobStore
) -> None:
    right = done(process, job(tiny_run)).contribution
    tensors = decode_bundle(store.get(right.blob), LIMIT).tensors
    first = tensors[0]
    flat = Tensor(first.dtype, (Count(math.prod(first.shape)),), first.data)
    wrong = map(Bundle, (tensors[:-1], (*tensors, first), (flat, *tensors[1:]), tensors[::-1]))
    kept = [BundleRef(digest_of(bundle), store.put(codec.encode(bundle))) for bundle in wrong]
    kept += [BundleRef(tagged("other"), right.blob), BundleRef(right.digest, store.put(b"junk"))]

    norm = int.from_bytes(tensors[-2].data, "little")
    lie = Tensor(tensors[-2].dtype, tensors[-2].shape, (norm + 1).to_bytes(8, "little"))
    lying = Bundle((*tensors[:-2], lie, tensors[-1]))

    def check(ref: BundleRef, said: int = norm) -> orders.Checked:
        return process.check_contribution(committed(ref, said))

    assert check(right) == orders.Checked(True, None)
    assert check(BundleRef(digest_of(lying), store.put(codec.encode(lying))), norm + 1) == orders.Checked(
        False, None
    )
    outputs, _ = process._contribution_at(None)
    for checked, ref, said in [
        (check(right, norm + 1), right, norm + 1),
        *((check(ref), ref, norm) for ref in kept),
    ]:
        assert not checked.ok
        assert checked.spoiled is not None
        assert fault(committed(ref, said).commit, outputs, checked.spoiled)
    with pytest.raises(Unavailable):
        check(BundleRef(right.digest, tagged("missing")))


def test_the_golden_step_is_reproduced_or_told(
    tiny_run: Created, process: ComputeProcess, store: BlobStore
) -> None:
    prepared = process.measure()
    assert prepared.golden and prepared.agrees and prepared.speed > 0
    assert prepared.kernels.products and not prepared.kernels.compiled
    other = dataclasses.replace(tiny_run.manifest, golden=tagged("other machine"))
    assert not prepare(tiny_run, store, manifest=other).measure().golden


def test_a_step_that_differs_on_drawn_numbers_alone_is_told(
    tiny_run: Created, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden step begins with moments of zero, which a fault may leave alone."""
    process, inner, faults = prepare(tiny_run, store), tiny_run.manifest.programs.inner.digest, []
    sound = process.engine.again

    def broken(digest: Digest, inputs: Any) -> Any:
        faults.append(digest)
        return [tagged("another"), *sound(digest, inputs)[1:]]

    monkeypatch.setattr(process.engine, "again", broken)
    prepared = process.measure()
    assert prepared.golden and not prepared.agrees
    assert faults == [inner]


@pytest.mark.parametrize("place", [0, 17])
def test_an_operator_outside_the_list_is_refused_before_anything_runs(
    tiny_run: Created, store: BlobStore, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    manifest, runs = tiny_run.manifest, []
    monkeypatch.setattr(LoadedProgram, "run", lambda *_: runs.append(1))
    program = decode_program(store.get(manifest.programs.inner.blob))
    nodes = list(program.nodes)
    nodes[place] = dataclasses.replace(nodes[place], operator="os.system")
    encoded = encode_program(dataclasses.replace(program, nodes=tuple(nodes)))
    reference = ProgramRef(program_digest(encoded), store.put(encoded))
    programs = dataclasses.replace(manifest.programs, inner=reference)
    with pytest.raises(Malformed, match=rf"node {first_node(program) + place}\b.*os\.system"):
        prepare(tiny_run, store, manifest=dataclasses.replace(manifest, programs=programs))
    assert not runs


def test_a_program_above_the_memory_limit_is_refused_before_anything_runs(
    tiny_run: Created, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setattr(LoadedProgram, "run", lambda *_: runs.append(1))
    inner = tiny_run.manifest.programs.inner
    engine = TorchEngine({inner.digest: store.get(inner.blob)}, RunOptions(memory=Count(100_000)))
    with pytest.raises(Refused, match=r"limit 100000; its largest value is node \d+"):
        engine.run(inner.digest, [[]])
    assert not runs


def test_blobs_that_are_not_what_the_manifest_says_are_refused(tiny_run: Created, store: BlobStore) -> None:
    manifest = tiny_run.manifest
    swapped = dataclasses.replace(
        manifest.programs, inner=ProgramRef(manifest.programs.inner.digest, manifest.programs.outer.blob)
    )
    with pytest.raises(Malformed, match="another digest than the manifest says"):
        prepare(tiny_run, store, manifest=dataclasses.replace(manifest, programs=swapped))


def answers(*messages: object, sink: io.BytesIO | None = None) -> list[object]:
    """Return what the serving loop answers to orders, and writes to `sink`."""
    source = io.BytesIO(b"".join(frames.pack(number, message) for number, message in enumerate(messages)))
    sink = sink or io.BytesIO()
    compute.Server(source, sink, honest, TorchEngine).serve()
    sink.seek(0)
    found = iter(lambda: frames.read(sink), None)
    return [codec.decode(orders.REPLIES[frame.kind], frame.body, frames.MAX_FRAME) for frame in found]


def test_the_serving_loop_answers_errors_and_goes_on(tiny_run: Created, store: BlobStore) -> None:
    missing = committed(BundleRef(tagged("no"), tagged("such")), 0)
    good = orders.Prepare(codec.encode(tiny_run.manifest), str(store.folder), Count(1), RunOptions())
    early, prepared, unavailable, again = answers(missing, good, missing, missing)
    assert early == orders.Failed("Malformed", "the first order must be Prepare", -1)
    assert isinstance(prepared, orders.Prepared) and prepared.golden
    for reply in (unavailable, again):
        assert isinstance(reply, orders.Failed)
        assert (reply.kind, reply.node) == ("Unavailable", -1)


class GivesUp(io.BytesIO):
    """A node that has no more use for the first job once it hears of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = 0

    def write(self, data: Any) -> int:
        if b"StepDone" in data and not self.given_up:
            self.given_up += 1
            signal.raise_signal(children.ABANDON)
        return super().write(data)


def test_a_job_that_nobody_waits_for_ends_after_its_step(tiny_run: Created, store: BlobStore) -> None:
    good = orders.Prepare(codec.encode(tiny_run.manifest), str(store.folder), Count(1), RunOptions())
    order, node = job(tiny_run), GivesUp()
    _, step, given_up, *rest = answers(good, order, order, sink=node)
    assert step == orders.StepDone(Count(0))
    assert given_up == orders.Failed("Unavailable", "nobody waits for the job any more", -1)
    assert rest[:-1] == [orders.StepDone(Count(number)) for number in range(STEPS + 1)]
    assert isinstance(rest[-1], orders.JobDone), "the next one is done whole"
    assert node.given_up == 1


class Hurries(io.BytesIO):
    """A node that sends what follows once it hears of a job's first step, and hears no more before that has come."""

    def __init__(self, first: bytes, then: bytes) -> None:
        super().__init__(first + then)
        self._first = len(first)
        self._told, self._taken = threading.Event(), threading.Event()
        self.heard = io.BytesIO()
        self.hurried = 0

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= self._first:
            self._told.wait()
        data = super().read(size)
        if not data:
            self._taken.set()
        return data

    def note(self, data: bytes) -> int:
        """Hear an answer."""
        if b"StepDone" in data and not self.hurried:
            self.hurried += 1
            self._told.set()
            self._taken.wait()
        return self.heard.write(data)


def test_what_comes_while_a_job_runs_is_done_before_its_next_step_but_for_another_job(
    tiny_run: Created, store: BlobStore
) -> None:
    """An attestation and a next state are waited for by everyone, and a job takes as long as a round."""
    good = orders.Prepare(codec.encode(tiny_run.manifest), str(store.folder), Count(1), RunOptions())
    missing, order = committed(BundleRef(tagged("no"), tagged("such")), 0), job(tiny_run)
    node = Hurries(
        frames.pack(1, good) + frames.pack(2, order), frames.pack(3, order) + frames.pack(4, missing)
    )
    sink = SimpleNamespace(write=node.note, flush=lambda: None)
    compute.Server(node, cast(BinaryIO, sink), honest, TorchEngine).serve()
    node.heard.seek(0)
    answered = [(frame.order, frame.kind) for frame in iter(lambda: frames.read(node.heard), None)]
    steps = ["StepDone"] * STEPS
    assert answered == [
        (1, "Prepared"), (2, "StepDone"), (4, "Failed"), *((2, kind) for kind in [*steps, "JobDone"]),
        *((3, kind) for kind in ["StepDone", *steps, "JobDone"]),
    ]  # fmt: skip
    assert node.hurried == 1


def test_a_model_of_other_sizes_is_another_run(tiny_run: Created, tmp_path: Path) -> None:
    write_job(tmp_path)
    other = create_run(
        parse_job(job_text({"model.config.num_hidden_layers": 2}), "j"), tmp_path, tmp_path / "run"
    )
    assert other.manifest.programs.inner != tiny_run.manifest.programs.inner
    assert other.manifest.golden != tiny_run.manifest.golden
    with pytest.raises(ProofswarmError):
        prepare(other, BlobStore(tiny_run.folder.blobs))
