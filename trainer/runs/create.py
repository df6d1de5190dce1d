"""`run create`: trace the model, publish programs, data and start state, open the run on a new ledger."""

import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from p2p.blobs import BlobStore
from p2p.bundles import StoredTensor, open_bundle
from p2p.identity import Identity
from p2p.identity import create as create_key
from p2p.lists import MAX_BLOB_BYTES
from trainer.folder import RunFolder
from trainer.programs.interpreter import NoLoops
from trainer.programs.options import peer_options
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.compression import Compression, Dense, TopK, Whole
from trainer.programs.tracing.low_rank import LowRank
from trainer.programs.tracing.optimiser import SGD, AdamW, Muon, Optimiser
from trainer.programs.tracing.schedule import Schedule
from trainer.rounds.selfcheck import kernels_of
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.boundaries import boundaries_of
from trainer.runs.checkpoints import TOKENIZER_FILE
from trainer.runs.chosen_model import ChosenModel, chosen_model
from trainer.runs.crews import cut_of, divided_among, placed_in, try_crews
from trainer.runs.data.records import Records
from trainer.runs.data.tokenizing import OTHER_TOKENIZER
from trainer.runs.drafts import check_new, draft_of
from trainer.runs.facts import ModelFacts
from trainer.runs.frozen import write_frozen
from trainer.runs.grids import UNMOVED, Moves, fit_of, fitting, moved
from trainer.runs.inputs import RunData, run_data
from trainer.runs.job import JobFile, TrainingSection
from trainer.runs.ledgers import found_run
from trainer.runs.rules import Rules, rules_of, within_law
from trainer.runs.states import Ancestor
from trainer.shards.programs import Parts
from verification.digest import ZERO, integer, tagged
from verification.economics import promise
from verification.errors import UserError
from verification.ledger.log import Genesis
from verification.library import StepFailed
from verification.manifest import (
    PROTOCOL_VERSION,
    BundleRef,
    DataRef,
    Manifest,
    Place,
    ProgramRef,
    Programs,
    WorkUnits,
    cost_of_round,
)
from verification.program import (
    MAX_PROGRAM,
    Program,
    encode_program,
    inputs_read,
    program_digest,
    work_units,
)
from verification.sizes import contribution_size, require_readable
from verification.staking import check_manifest
from verification.tensors import Bundle, Tensor, digest_of, encoded
from verification.units import Address, Amount, Count, Digest

LEDGER = "local"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Created:
    """What a new run consists of, for the one who made it."""

    folder: RunFolder
    manifest: Manifest
    keys: tuple[str, ...]
    nodes: int


def create_run(
    job: JobFile,
    base: Path,
    out: Path,
    tell: Tell = lambda line: None,
    accept_unsound: bool = False,
    ancestor: Ancestor | None = None,
) -> Created:
    """Make a run's folder from a job whose relative paths start at `base`; it goes on from an `ancestor` if given.

    Refuses a run on which nobody should stake; one in which cheating pays only unless `accept_unsound`. Nothing is left
    behind when it fails. Raises UserError.
    """
    check_new(out)
    rules = rules_of(job)
    chosen = chosen_model(job, base)
    job = _with_its_tokenizer(job, base, tell)
    with run_data(job, base, chosen.model, out.parent, tell) as data:
        tell("tracing the model into programs")
        with chosen.blamed():
            chosen.try_on(data)
            chosen.narrow(data)
            traced = _trace(job, chosen, data, 0 if ancestor is None else ancestor.origin.trained)
        facts = chosen.facts(traced, data)
        if ancestor is not None:
            traced = ancestor.continued_by(traced, facts)
        require_readable(_by_place(traced), MAX_BLOB_BYTES)
        with draft_of(out) as draft:
            folder = RunFolder(draft)
            store = BlobStore(folder.blobs)
            start = BundleRef(digest_of(traced.start), store.put_stream(encoded(traced.start)))
            traced = traced.without_start()
            chosen.let_go()  # what is computed from here on has the memory to itself
            trial = _Trial(traced, open_bundle(store, start, MAX_BLOB_BYTES), data.train.tensor())
            traced = _on_its_grid(job.training, traced, trial, tell)
            divided = [divided_among(traced, members, tell) for members in job.swarm.crews]
            manifest = _publish(job, rules, traced, divided, start, data.train, store)
            shards = dict(zip(manifest.posts(), placed_in(divided), strict=True))
            check_manifest(manifest, _by_place(traced), MAX_BLOB_BYTES, accept_unsound, shards)
            tell("computing the golden step")
            tell(promise(manifest))
            golden = trial.golden(manifest, tell)
            try_crews(manifest, divided, trial.data, trial.start, tell)
            origin = None if ancestor is None else ancestor.origin
            manifest = replace(manifest, golden=golden, origin=origin)
            keys = _make_keys(job, folder)
            _write_model(folder, facts, chosen.model, data)
            if data.tokenizer is not None and not chosen.goes_with(folder.tokenizer):
                tell(OTHER_TOKENIZER)
            found_run(folder, _genesis(job, manifest, folder))
    return Created(RunFolder(out), manifest, keys, len(traced.inner.nodes))


def _with_its_tokenizer(job: JobFile, base: Path, tell: Tell) -> JobFile:
    """Return the job with its checkpoint's tokenizer, where it names none."""
    folder, data = job.model.checkpoint, job.data
    if folder is None or data.tokenizer or data.images or not (base / folder / TOKENIZER_FILE).is_file():
        return job
    tell(f"tokenizer: the checkpoint's, {base / folder / TOKENIZER_FILE}")
    return job.model_copy(update={"data": data.model_copy(update={"tokenizer": folder})})


def _trace(job: JobFile, chosen: ChosenModel, data: RunData, trained: int) -> TracedRun:
    training, records = job.training, data.train
    settings = TraceConfig(
        records=records.count,
        length=records.width - 1,
        batch=training.batch,
        max_steps=training.max_steps,
        slots=job.swarm.workers + 1,  # the last one is the ballast
        grid_exponent=UNMOVED if training.grid == "auto" else training.grid,
        optimiser=_optimiser(training),
        schedule=_schedule(training, trained),
        outer_lr=training.outer[0],
        outer_momentum=training.outer[1],
        bits=training.precision,
        tokens=records.dtype,
        accumulate=training.accumulate,
        compression=compression_of(training),
        boundaries=boundaries_of(chosen.model, job.model.boundaries),
    )
    return trace_run(chosen.model, chosen.loss(data.marks), settings)


class _Trial:
    """A run's first steps before it is open, by its prologue and inner step, from a stored state."""

    def __init__(self, traced: TracedRun, start: Sequence[StoredTensor], records: Tensor) -> None:
        self._traced, self.start, self._records = traced, start, records
        self.data = Bundle((records,))
        programs = map(encode_program, (traced.prologue, traced.inner))
        self._engine = TorchEngine({program_digest(each): each for each in programs}, peer_options())

    def moved(self, number: int, tell: Tell) -> Moves:
        """Return how far the first steps of a round move the parameters; raises UserError where one ends."""
        with _first_step():
            return moved(self._traced, self.start, self._records, number, self._engine, tell)

    def golden(self, manifest: Manifest, tell: Tell) -> Digest:
        """Return the golden step's digest; tells in one line where this machine is slower than it could be."""
        rounds, inner = (
            Rounds(self._engine, manifest, self.data),
            manifest.programs.inner.digest,
        )
        read = inputs_read(self._traced.prologue)
        start = [each if place in read else None for place, each in enumerate(self.start)]
        with _first_step():
            golden = rounds.golden(start)
        if complaint := kernels_of(self._engine, inner, rounds.opening(start)).complaint:
            tell(complaint)
        return golden


def _on_its_grid(training: TrainingSection, traced: TracedRun, trial: _Trial, tell: Tell) -> TracedRun:
    """Return the run with each tensor's contribution on the grid that fits it, unless the job gives one; tell what is
    lost in the round with the highest rate."""
    moves = trial.moved(min(-(-training.warmup // training.max_steps), training.rounds - 1), tell)
    largest = traced.sizes.job.compression.largest
    run = traced.on_grids(fitting(moves, largest)) if training.grid == "auto" else traced
    fit = fit_of(moves, run.sizes.grids, largest, moves.steps)
    tell(fit.sentence(run.sizes.grids, training.max_steps))
    if training.compression != "none":
        size, whole = (
            contribution_size(_by_place(run)),
            4 * sum(math.prod(each.shape) for each in run.sizes.parameters),
        )
        tell(
            f"{training.compression}: a contribution has {size} bytes, float32 has {whole / size:.1f} times as many"
        )
    return run


@contextmanager
def _first_step() -> Iterator[None]:
    """Raise UserError where the arithmetic ends the first steps; what slower kernels cost is told elsewhere."""
    with warnings.catch_warnings(action="ignore", category=NoLoops):
        try:
            yield
        except StepFailed as error:
            raise UserError(f"the model's first steps fail: {error}; every rate must be sound") from error


def _optimiser(training: TrainingSection) -> Optimiser:
    decay, clip = training.weight_decay, training.gradient_clip
    momentum, nesterov = training.momentum, training.nesterov
    if training.optimiser == "sgd":
        return SGD(0.9 if momentum is None else momentum, bool(nesterov), decay, clip)
    adamw = AdamW(training.beta1, training.beta2, training.epsilon, decay, clip)
    if training.optimiser == "adamw":
        return adamw
    return Muon(adamw, 0.95 if momentum is None else momentum, nesterov is not False)


def compression_of(training: TrainingSection) -> Compression:
    """Return how a job's contributions are packed."""
    if training.compression == "none":
        return Whole()
    if training.compression == "top-k":
        return TopK(training.kept, training.chunk)
    if training.compression == "low-rank":
        return LowRank(training.kept, training.chunk)
    return Dense(int(training.compression.removeprefix("dense-")), training.chunk)


def _schedule(training: TrainingSection, trained: int) -> Schedule:
    """Return the rates where ancestors have trained so many rounds: those count to a horizon, else they do not."""
    return Schedule(
        lr=training.learning_rate,
        steps=training.horizon_steps,
        first=0 if training.horizon is None else trained * training.max_steps,
        curve=training.schedule,
        warmup=training.warmup,
        decay=training.decay_steps or 0,
        final_share=training.final_share,
        round_warmup=training.round_warmup,
    )


def _by_place(traced: TracedRun) -> dict[Place, Program]:
    return dict(zip(Place, (traced.prologue, traced.inner, traced.epilogue, traced.outer), strict=True))


def _publish(
    job: JobFile,
    rules: Rules,
    traced: TracedRun,
    divided: Sequence[Parts],
    start: BundleRef,
    train: Records,
    store: BlobStore,
) -> Manifest:
    """Put programs and data into the store and return the manifest that names them, but for the golden step.

    The run is `divided` for its crews.
    """

    def publish(program: Program) -> ProgramRef:
        return _published(program, store)

    programs = Programs(*map(publish, _by_place(traced).values()))
    reference = DataRef(train.root(), store.put_stream(train.parts()), *train.shape)
    units = WorkUnits(*(Count(work_units(part)) for part in (traced.prologue, traced.inner, traced.epilogue)))
    cuts = tuple(cut_of(each, publish) for each in divided)
    with within_law():
        return Manifest(
            Count(PROTOCOL_VERSION), traced.inner.arithmetic, job.title, tagged("seed", integer(job.seed)),
            programs, units, reference, start, ZERO, *rules, cuts=cuts,
        )  # fmt: skip


def _published(program: Program, store: BlobStore) -> ProgramRef:
    data = encode_program(program)
    if len(data) > MAX_PROGRAM:
        raise UserError(
            f"a program would have {len(data)} bytes with the frozen weights in it: nobody reads more than "
            f"{MAX_PROGRAM}: take a smaller model"
        )
    return ProgramRef(program_digest(data), store.put(data))


def _make_keys(job: JobFile, folder: RunFolder) -> tuple[str, ...]:
    names = tuple(f"peer-{number}" for number in range(job.accounts.peers))
    for name in (*names, "submitter"):
        create_key(folder.keys / f"{name}.key")
    return names


def _genesis(job: JobFile, manifest: Manifest, folder: RunFolder) -> Genesis:
    from p2p.identity import load

    identities: dict[str, Identity] = {path.stem: load(path) for path in sorted(folder.keys.glob("*.key"))}
    submitter = identities.pop("submitter").address
    balances = {identity.address: Amount(job.accounts.balance) for identity in identities.values()}
    balances |= {_address(text): Amount(amount) for text, amount in job.accounts.others.items()}
    funded = min(job.money.funded_rounds or manifest.work.rounds, manifest.work.rounds)
    deposit = Amount(cost_of_round(manifest) * funded)
    nonce = Digest(secrets.token_bytes(32))
    with within_law():
        return Genesis(manifest, LEDGER, nonce, submitter, tuple(sorted(balances.items())), deposit)


def _address(text: str) -> Address:
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        address = b""
    if len(address) != 20:
        raise UserError(f"accounts.others: {text!r} is no account; write 0x and 40 hex digits")
    return Address(address)


def _write_model(folder: RunFolder, facts: ModelFacts, model: nn.Module, data: RunData) -> None:
    """Write what exporting and judging the model needs; none of it is part of the run's identity."""
    facts.write(folder)
    write_frozen(model, folder.frozen)
    data.held_out.copy_to(folder.held_out)
    if data.tokenizer is not None:
        data.tokenizer.save(folder.tokenizer)
