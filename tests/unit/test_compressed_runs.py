"""Compressed contributions in whole rounds: they train, are small on the wire, and weigh what is in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from p2p.blobs import BlobStore
from tests.tiny import STEPS, WORKER, make_run
from trainer.compute import orders
from trainer.compute.process import ComputeProcess
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.compression import Dense, TopK, Whole
from trainer.programs.tracing.low_rank import LowRank
from trainer.rounds.norm_program import norm_program
from trainer.rounds.norms import Norms
from trainer.runs.create import Created, compression_of
from trainer.runs.job import TrainingSection
from verification import codec
from verification.digest import ZERO, integer, tagged
from verification.errors import Malformed
from verification.layout import per_parameter
from verification.manifest import BundleRef, Place
from verification.program import decode_program
from verification.statements import Commit
from verification.tensors import Bundle, Tensor, decode_bundle, digest_of
from verification.units import Count, Round

pytestmark = pytest.mark.slow

LIMIT = 1 << 26
ROUNDS = 8
ALONE = {
    "training.rounds": ROUNDS,
    "training.learning_rate": 1e-2,
    "swarm.workers": 1,
    "swarm.min_workers": 1,
    "model.config.hidden_size": 64,
    "model.config.intermediate_size": 128,
}
"""One worker, and a model in which what each tensor costs beside its numbers is little."""
WIDE = ALONE | {"model.config.hidden_size": 256, "model.config.intermediate_size": 768}
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "none": ({}, 3.9),
    "dense-4": ({"training.compression": "dense-4"}, 7.6),
    "top-k": ({"training.compression": "top-k"}, 125),
    "low-rank": ({"training.compression": "low-rank"}, 125),
}
"""The keys of a job by its compression, and how many times smaller than float32's a contribution's blob is at least."""


def process_of(made: Created) -> ComputeProcess:
    """An honest peer's, on the run's own store."""
    return ComputeProcess(
        orders.Prepare(codec.encode(made.manifest), str(made.folder.blobs), Count(1), RunOptions())
    )


def job(number: int, start: BundleRef) -> orders.RunJob:
    """A worker's round."""
    return orders.RunJob(Round(number), WORKER, tagged("beacon", integer(number)), Count(STEPS), start, False)


def checked(process: ComputeProcess, ref: BundleRef, norm: int) -> bool:
    """Whether a peer attests a contribution that is committed to with a norm."""
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(norm), ZERO)
    return process.check_contribution(orders.CheckContribution(WORKER, commit)).ok


def keep(store: BlobStore, bundle: Bundle) -> BundleRef:
    """A bundle in a store."""
    return BundleRef(digest_of(bundle), store.put(codec.encode(bundle)))


@pytest.fixture(scope="module", params=WAYS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Created]:
    """A run of each compression."""
    return request.param, make_run(tmp_path_factory.mktemp("run"), ALONE | WAYS[request.param][0])


def test_a_run_trains_and_its_blobs_are_small(made: tuple[str, Created]) -> None:
    """Rounds, checks and outer steps as a peer's compute process does them; sizes are those of files that travel."""
    (name, run), store = made, BlobStore(made[1].folder.blobs)
    process, start, losses = process_of(run), run.manifest.start, []
    for number in range(ROUNDS):
        done = process.run_job(job(number, start))
        assert checked(process, done.contribution, done.norm)
        slot = orders.Summand(Count(0), STEPS, done.contribution)
        start = process.run_outer(orders.RunOuterStep(start, (slot,), Count(0)))
        losses.append(done.loss / orders.MICRO)
    assert losses[-1] < 0.85 * losses[0]
    assert times_smaller(store, run, done.contribution) > WAYS[name][1]


def test_compiled_loops_pack_and_unpack_the_same(made: tuple[str, Created]) -> None:
    """A peer may run any program on them."""
    run, store = made[1], BlobStore(made[1].folder.blobs)
    done = process_of(run).run_job(job(0, run.manifest.start))
    state = list(map(to_torch, decode_bundle(store.get(run.manifest.start.blob), LIMIT).tensors))
    sent = list(map(to_torch, decode_bundle(store.get(done.contribution.blob), LIMIT).tensors))
    empty = [torch.zeros_like(tensor) for tensor in sent]
    program = decode_program(store.get(run.manifest.programs.outer.blob))
    inputs = [*state, *sent, *empty, torch.tensor([3 << 15, 1 << 15])]
    by_nodes, by_loops = (
        LoadedProgram(program, RunOptions(loops=loops)).run(inputs) for loops in (Loops.NEVER, Loops.ALWAYS)
    )
    assert all(torch.equal(one, other) for one, other in zip(by_nodes, by_loops, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(by_nodes, state, strict=True))


def times_smaller(store: BlobStore, run: Created, contribution: BundleRef) -> float:
    """How many times as many bytes a blob of the same numbers in float32 has, by the files that peers send."""
    state = decode_bundle(store.get(run.manifest.start.blob), LIMIT).tensors
    whole = store.put(codec.encode(Bundle(state[: len(state) // 2])))
    return store.path(whole).stat().st_size / store.path(contribution.blob).stat().st_size


@pytest.mark.parametrize("name", ["top-k", "low-rank"])
def test_a_contribution_is_a_hundred_and_fiftieth(name: str, tmp_path: Path) -> None:
    """At the defaults, of a model of a million parameters."""
    run = make_run(tmp_path, WIDE | {"training.compression": name}, tell=(told := list[str]()).append)
    done = process_of(run).run_job(job(0, run.manifest.start))
    store = BlobStore(run.folder.blobs)
    assert times_smaller(store, run, done.contribution) > 150
    size = store.path(done.contribution.blob).stat().st_size
    assert any(line.startswith(f"{name}: a contribution has {size} bytes") for line in told)


def test_a_norm_that_is_not_what_the_bytes_stand_for_is_not_attested(made: tuple[str, Created]) -> None:
    """Clipping goes by the norm, so a liar would send large integers under a small one."""
    run, store = made[1], BlobStore(made[1].folder.blobs)
    process = process_of(run)
    done = process.run_job(job(0, run.manifest.start))
    tensors = decode_bundle(store.get(done.contribution.blob), LIMIT).tensors
    place = max(range(len(tensors)), key=lambda n: len(tensors[n].data))
    loud = Tensor(tensors[place].dtype, tensors[place].shape, b"\x55" * len(tensors[place].data))
    lie = keep(store, Bundle((*tensors[:place], loud, *tensors[place + 1 :])))
    assert not checked(process, lie, done.norm)
    epilogue = process.engine.program(run.manifest.programs.at(Place.EPILOGUE).digest)
    norm = Norms(epilogue).of((*tensors[:place], loud, *tensors[place + 1 :]))
    assert norm > done.norm
    told = Tensor("int64", (), norm.to_bytes(8, "little"))
    right = Bundle((*tensors[:place], loud, *tensors[place + 1 : -2], told, tensors[-1]))
    assert checked(process, keep(store, right), norm)


def test_a_norm_that_follows_from_something_else_is_refused(made: tuple[str, Created]) -> None:
    """Nobody could count it, so nobody works in such a run."""
    name, run = made
    epilogue = process_of(run).engine.program(run.manifest.programs.at(Place.EPILOGUE).digest)
    if name == "none":
        with pytest.raises(Malformed, match="does not follow from the contribution"):
            norm_program(epilogue)
        return
    assert norm_program(epilogue).outputs[0].name == "norm"
    twice = replace(epilogue.outputs[1], source=epilogue.outputs[0].source)
    with pytest.raises(Malformed, match="one tensor for two parameters"):
        norm_program(replace(epilogue, outputs=(epilogue.outputs[0], twice, *epilogue.outputs[2:])))
    assert len(per_parameter(epilogue.outputs)) == len(norm_program(epilogue).inputs)


def test_every_compression_of_a_job_is_the_one_that_it_names() -> None:
    made = {
        name: compression_of(TrainingSection.model_validate({"rounds": 1, "compression": name}))
        for name in get_args(TrainingSection.model_fields["compression"].annotation)
    }
    dense = {f"dense-{bits}": Dense(bits, 1024) for bits in (8, 4, 2)}
    assert made == {"none": Whole(), "top-k": TopK(1 / 64, 1024), "low-rank": LowRank(1 / 20, 1024), **dense}
