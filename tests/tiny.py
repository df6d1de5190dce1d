"""The smallest real run: a Llama of some 20,000 parameters on a text that repeats itself."""

import json
from pathlib import Path
from typing import Any

from p2p.blobs import BlobStore
from p2p.bundles import map_data
from trainer.programs.options import peer_options
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.create import Created, Tell, create_run
from trainer.runs.job import parse_job
from verification.digest import integer, tagged
from verification.manifest import Place
from verification.sizes import data_port
from verification.tensors import Bundle, Tensor, decode_bundle
from verification.units import Address, Count, Round

LIMIT = 1 << 24
WORKER = Address(b"\x07" * 20)
STEPS = 4
"""Inner steps of a round of the job below."""

TEXT = "".join(f"Line {number % 7} of a text that says the same again.\n" for number in range(120))
JOB: dict[str, Any] = {
    "title": "tiny",
    "seed": 1,
    "model.config.model_type": "llama",
    "model.config.vocab_size": 256,
    "model.config.hidden_size": 32,
    "model.config.intermediate_size": 48,
    "model.config.num_hidden_layers": 1,
    "model.config.num_attention_heads": 2,
    "model.config.num_key_value_heads": 2,
    "model.config.max_position_embeddings": 32,
    "model.config.bos_token_id": 0,
    "model.config.eos_token_id": 0,
    "data.text": "text.txt",
    "data.length": 16,
    "training.rounds": 3,
    "training.max_steps": 4,
    "training.leaf_every": 2,
    "training.batch": 2,
    "training.round_warmup": 1,
    "swarm.workers": 2,
    "swarm.verifiers": 1,
    "swarm.min_workers": 2,
    "swarm.audit_rate": 1.0,
    "economics.colluding": 0,
    "accounts.peers": 3,
}
"""The job by dotted key, as TOML writes it."""


def job_text(changes: dict[str, Any] | None = None) -> str:
    """Return the job file with `changes` by dotted key; None leaves a key out."""
    settings = {**JOB, **(changes or {})}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def write_job(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write the text and the job file into `folder` and return the job's path."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    path = folder / "job.toml"
    path.write_text(job_text(changes), encoding="utf-8")
    return path


def make_run(
    folder: Path,
    changes: dict[str, Any] | None = None,
    accept_unsound: bool = False,
    tell: Tell = lambda line: None,
) -> Created:
    """Make the run `folder`/run, its job beside it; a toy may be one in which cheating pays."""
    path = write_job(folder, changes)
    job = parse_job(path.read_text(encoding="utf-8"), str(path))
    return create_run(job, folder, folder / "run", tell, accept_unsound)


def trained(made: Created, first: int, rounds: int) -> list[Bundle]:
    """The states after some rounds of one worker, by the beacons of rounds `first` on of a run that ran through."""
    manifest, store = made.manifest, BlobStore(made.folder.blobs)
    programs = {ref.digest: store.get(ref.blob) for ref in manifest.programs.all()}
    engine, states = TorchEngine(programs, peer_options()), [start_of(made)]
    data = data_of(made, engine)
    for number in range(rounds):
        beacon = tagged("beacon", integer(first + number))
        job = Job(Round(number), WORKER, beacon, STEPS)
        contribution = Rounds(engine, manifest, data).run(job, states[-1].tensors).contribution
        assert contribution is not None
        zeros = [Tensor(t.dtype, t.shape, bytes(len(t.data))) for t in contribution.tensors]
        weights = Tensor("int64", (Count(2),), STEPS.to_bytes(8, "little") + bytes(8))
        inputs = [*states[-1].tensors, *contribution.tensors, *zeros, weights]
        states.append(Rounds(engine, manifest, data).next_state(inputs))
    return states[1:]


def data_of(made: Created, engine: TorchEngine) -> Bundle:
    """The records of a run."""
    programs = {Place.PROLOGUE: engine.program(made.manifest.programs.prologue.digest)}
    return map_data(BlobStore(made.folder.blobs), made.manifest.data, data_port(programs))


def start_of(made: Created) -> Bundle:
    """The state from which a run starts."""
    return decode_bundle(BlobStore(made.folder.blobs).get(made.manifest.start.blob), LIMIT)
