"""The compute process's orders on a tiny real run: F and its audit agree, cheats differ where they must."""

import dataclasses
import io
import math
import shutil
from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests.tiny import job_text, write_job
from trainer import compute, frames, orders
from trainer.compute import Workshop
from trainer.create import Created, create_run
from trainer.engine import TorchEngine
from trainer.job import parse_job
from trainer.programs.interpreter import LoadedProgram
from verification import codec
from verification.digest import tagged
from verification.errors import Malformed, ProofswarmError, Refused, Unavailable
from verification.manifest import BundleRef, Manifest, ProgramRef
from verification.outer import outer_inputs
from verification.program import decode_program, encode_program, first_node, program_digest
from verification.sampling import leaf_steps, record_index
from verification.state import Place
from verification.tensors import Bundle, Tensor, decode_bundle, digest_of
from verification.units import Address, Count, Digest, Round

pytestmark = pytest.mark.slow

LIMIT = 1 << 24
MEMORY = Count(1 << 34)
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
    run: Created, store: BlobStore, cheat: str = "none", manifest: Manifest | None = None
) -> Workshop:
    """Return a workshop that cheats from round 1 on."""
    encoded = codec.encode(manifest or run.manifest)
    return Workshop(orders.Prepare(encoded, str(store.folder), Count(1), cheat, Count(1), MEMORY))


@pytest.fixture(scope="module")
def workshop(tiny_run: Created, store: BlobStore) -> Workshop:
    """An honest workshop."""
    return prepare(tiny_run, store)


def job(run: Created, number: int = 1, start: BundleRef | None = None, own: bool = False) -> orders.RunJob:
    """Return the order for the worker's round, all of its inner steps."""
    beacon = tagged("beacon", bytes([number]))
    return orders.RunJob(Round(number), WORKER, beacon, Count(STEPS), start or run.manifest.start, own)


def done(workshop: Workshop, order: orders.RunJob) -> orders.JobDone:
    """Compute a round."""
    return workshop.run_job(order, lambda answer: None)


def listed(workshop: Workshop, order: orders.RunJob) -> tuple[Digest, ...]:
    """Return the state digests after every inner step."""
    return workshop.list_steps(orders.ListSteps(order, EVERY)).digests


def next_start(workshop: Workshop, run: Created) -> BundleRef:
    """Return the state after round 0, with the worker as its only contributor."""
    slot = orders.Slot(Count(0), Count(STEPS), done(workshop, job(run, 0)).contribution)
    return workshop.run_outer(orders.RunOuterStep(run.manifest.start, (slot,))).ref


def test_an_audit_computes_what_the_worker_did(
    tiny_run: Created, workshop: Workshop, store: BlobStore
) -> None:
    steps: list[object] = []
    own = workshop.run_job(job(tiny_run, own=True), steps.append)
    audit = done(prepare(tiny_run, store), job(tiny_run))
    assert own == audit
    assert steps == [orders.StepDone(Count(step)) for step in range(STEPS + 1)]
    assert len(set(own.digests)) == len(own.digests) == 3
    assert digest_of(decode_bundle(store.get(own.contribution.blob), LIMIT)) == own.contribution.digest


def test_rounds_and_workers_differ(tiny_run: Created, workshop: Workshop) -> None:
    other = dataclasses.replace(job(tiny_run), worker=Address(b"\x08" * 20))
    results = {done(workshop, order).contribution for order in (job(tiny_run), job(tiny_run, 2), other)}
    assert len(results) == 3


def test_listed_steps_equal_the_leaves(tiny_run: Created, workshop: Workshop) -> None:
    every = listed(workshop, job(tiny_run))
    leaves = leaf_steps(STEPS, tiny_run.manifest.work.leaf_every)
    assert leaves == (0, 2, 4)
    assert tuple(every[step] for step in leaves) == done(workshop, job(tiny_run)).digests


def execute(workshop: Workshop, program: ProgramRef, *inputs: Tensor | None) -> Digest:
    """Return the digest of what a program gives."""
    return digest_of(workshop.execute(orders.Execute(program.digest, inputs)).outputs)


def made(workshop: Workshop, run: Created, place: Place, step: int = 0) -> tuple[Bundle, ...]:
    """Return the inputs of one execution."""
    return workshop.make_inputs(orders.MakeInputs(job(run), place.value, Count(step))).bundles


def test_made_inputs_reproduce_every_claim(tiny_run: Created, workshop: Workshop) -> None:
    manifest, order = tiny_run.manifest, job(tiny_run)
    every, result = listed(workshop, order), done(workshop, order)
    start, data = made(workshop, tiny_run, Place.PROLOGUE)
    index = record_index(manifest, order.beacon, WORKER, STEPS)
    prologue = execute(workshop, manifest.programs.prologue, *start.tensors, *data.tensors, index)
    assert prologue == every[0]
    for step in range(STEPS):
        (working,) = made(workshop, tiny_run, Place.STEP, step)
        assert digest_of(working) == every[step]
        assert execute(workshop, manifest.programs.inner, *working.tensors) == every[step + 1]
    start, working = made(workshop, tiny_run, Place.EPILOGUE, STEPS)
    claimed = execute(workshop, manifest.programs.epilogue, *start.tensors, *working.tensors)
    assert claimed == result.contribution.digest


def test_the_outer_step_equals_the_laws(tiny_run: Created, workshop: Workshop, store: BlobStore) -> None:
    parts = {slot: done(workshop, job(tiny_run, slot)).contribution for slot in (0, 1)}
    slots = tuple(orders.Slot(Count(slot), Count(STEPS - slot), ref) for slot, ref in parts.items())
    forth, back = (
        workshop.run_outer(orders.RunOuterStep(tiny_run.manifest.start, order)).ref
        for order in (slots, slots[::-1])
    )
    assert forth == back
    bundles = {slot: decode_bundle(store.get(ref.blob), LIMIT) for slot, ref in parts.items()}
    start = decode_bundle(store.get(tiny_run.manifest.start.blob), LIMIT)
    inputs = outer_inputs(2, start, {slot: (STEPS - slot, bundle) for slot, bundle in bundles.items()})
    assert execute(workshop, tiny_run.manifest.programs.outer, *inputs) == forth.digest


def differences(workshop: Workshop, order: orders.RunJob) -> tuple[list[int], list[int], bool]:
    """Return the steps and leaves at which the worker's own run differs from an audit, and whether its end does."""
    own, audit = dataclasses.replace(order, own=True), dataclasses.replace(order, own=False)
    claimed, right = done(workshop, own), done(workshop, audit)
    steps = [
        s
        for s, (a, b) in enumerate(zip(listed(workshop, own), listed(workshop, audit), strict=True))
        if a != b
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
    workshop = prepare(tiny_run, store, cheat)
    assert differences(workshop, job(tiny_run, 0)) == ([], [], False)
    later = job(tiny_run, 1, next_start(workshop, tiny_run))
    assert differences(workshop, later) == (steps, leaves, contribution)


def test_a_poisoned_contribution_differs_in_its_first_tensor_only(
    tiny_run: Created, store: BlobStore
) -> None:
    workshop = prepare(tiny_run, store, "noise")
    poisoned, right = (
        decode_bundle(store.get(done(workshop, job(tiny_run, own=own)).contribution.blob), LIMIT).tensors
        for own in (True, False)
    )
    assert [one != other for one, other in zip(poisoned, right, strict=True)] == [True] + [False] * (
        len(right) - 1
    )
    assert (poisoned[0].dtype, poisoned[0].shape) == (right[0].dtype, right[0].shape)


def test_a_contribution_fits_its_limit_closely(
    tiny_run: Created, workshop: Workshop, store: BlobStore
) -> None:
    """The limit on a fetch admits every contribution, and little more than one."""
    size = store.path(done(workshop, job(tiny_run)).contribution.blob).stat().st_size
    assert size <= workshop.measure().contribution_limit < 1.2 * size


def test_only_a_contribution_of_the_right_shape_and_digest_is_held(
    tiny_run: Created, workshop: Workshop, store: BlobStore
) -> None:
    right = done(workshop, job(tiny_run)).contribution
    tensors = decode_bundle(store.get(right.blob), LIMIT).tensors
    first = tensors[0]
    flat = Tensor(first.dtype, (Count(math.prod(first.shape)),), first.data)
    wrong = [
        Bundle(tensors[:-1]),
        Bundle((*tensors, tensors[0])),
        Bundle((flat, *tensors[1:])),
        Bundle(tensors[::-1]),
    ]
    kept = [BundleRef(digest_of(bundle), store.put(codec.encode(bundle))) for bundle in wrong]
    kept += [BundleRef(tagged("other"), right.blob), BundleRef(right.digest, store.put(b"junk"))]

    def check(ref: BundleRef) -> bool:
        return workshop.check_contribution(orders.CheckContribution(ref)).ok

    assert check(right)
    assert not any(map(check, kept))
    with pytest.raises(Unavailable):
        check(BundleRef(right.digest, tagged("missing")))


def test_the_golden_step_is_reproduced_or_told(
    tiny_run: Created, workshop: Workshop, store: BlobStore
) -> None:
    assert workshop.measure().golden
    assert workshop.measure().speed > 0
    other = dataclasses.replace(tiny_run.manifest, golden=tagged("other machine"))
    assert not prepare(tiny_run, store, manifest=other).measure().golden


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
    engine = TorchEngine({inner.digest: store.get(inner.blob)}, memory_limit=100_000)
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


def answers(*messages: object) -> list[object]:
    """Return what the serving loop answers to orders."""
    source = io.BytesIO(b"".join(frames.pack(number, message) for number, message in enumerate(messages)))
    sink = io.BytesIO()
    compute.serve(source, sink)
    sink.seek(0)
    found = iter(lambda: frames.read(sink), None)
    return [codec.decode(orders.REPLIES[frame.kind], frame.body, frames.MAX_FRAME) for frame in found]


def test_the_serving_loop_answers_errors_and_goes_on(tiny_run: Created, store: BlobStore) -> None:
    missing = orders.CheckContribution(BundleRef(tagged("no"), tagged("such")))
    program = tiny_run.manifest.programs.prologue.digest
    good = orders.Prepare(
        codec.encode(tiny_run.manifest), str(store.folder), Count(1), "none", Count(0), MEMORY
    )
    early, prepared, unavailable, evidence, again = answers(
        missing, good, missing, orders.Execute(program, (None,)), orders.Execute(tagged("unknown"), ())
    )
    assert early == orders.Failed("Malformed", "the first order must be Prepare", -1)
    assert isinstance(prepared, orders.Prepared)
    assert prepared.golden
    for reply, kind in ((unavailable, "Unavailable"), (evidence, "BadEvidence"), (again, "BadEvidence")):
        assert isinstance(reply, orders.Failed)
        assert (reply.kind, reply.node) == (kind, -1)


def test_a_failed_step_names_its_node(tiny_run: Created, store: BlobStore) -> None:
    good = orders.Prepare(
        codec.encode(tiny_run.manifest), str(store.folder), Count(1), "none", Count(0), MEMORY
    )
    bundles = [decode_bundle(store.get(blob), LIMIT) for blob in (tiny_run.manifest.start.blob,)]
    data = decode_bundle(store.get(tiny_run.manifest.data.blob), LIMIT)
    work = tiny_run.manifest.work
    far = Tensor(
        "int64", (work.max_steps, work.batch), (10**6).to_bytes(8, "little") * work.max_steps * work.batch
    )
    inputs = (*bundles[0].tensors, *data.tensors, far)
    _, failed = answers(good, orders.Execute(tiny_run.manifest.programs.prologue.digest, inputs))
    assert isinstance(failed, orders.Failed)
    assert failed.kind == "StepFailed"
    assert failed.node >= len(inputs)


def test_a_model_of_other_sizes_is_another_run(tiny_run: Created, tmp_path: Path) -> None:
    write_job(tmp_path)
    other = create_run(
        parse_job(job_text({"model.config.num_hidden_layers": 2}), "j"), tmp_path, tmp_path / "run"
    )
    assert other.manifest.programs.inner != tiny_run.manifest.programs.inner
    assert other.manifest.golden != tiny_run.manifest.golden
    with pytest.raises(ProofswarmError):
        prepare(other, BlobStore(tiny_run.folder.blobs))
