"""What is held while a round runs: the working state, and of the start nothing between prologue and epilogue."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p.blobs import BlobStore
from p2p.bundles import map_data, open_bundle, read_bundle
from p2p.lists import MAX_BLOB_BYTES
from simulator.toy import DATA, START, ToyEngine, minimal
from tests.tiny import make_run
from trainer.programs.interpreter import storage_of
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import Tensors, TorchEngine
from trainer.rounds.training import Rounds, Start
from trainer.runs import create
from trainer.runs.create import Created
from verification.digest import tagged
from verification.manifest import Place
from verification.program import inputs_read
from verification.sizes import data_port
from verification.tensors import Bundle, Tensor
from verification.units import Address, Digest, Round

JOB = Job(Round(0), Address(b"\x07" * 20), tagged("beacon"), 4)
Held = list["weakref.ref[Any]"]


def alive(references: Held) -> int:
    gc.collect()
    return sum(each() is not None for each in references)


@dataclass(frozen=True)
class Watched:
    """A tensor that lies elsewhere; notes what was read of it."""

    tensor: Tensor
    read_ones: list[Tensor]

    def read(self) -> Tensor:
        self.read_ones.append(self.tensor)
        return self.tensor


def test_a_start_is_read_by_the_programs_that_need_it() -> None:
    manifest, read, then = minimal(max_steps=4), list[Tensor](), list[int]()
    start = [Watched(tensor, read) for tensor in START.tensors]
    rounds = Rounds(ToyEngine(), manifest, DATA)
    outcome = rounds.run(JOB, start, lambda step: then.append(len(read)))
    assert outcome == Rounds(ToyEngine(), manifest, DATA).run(JOB, START.tensors)
    assert then == [len(start)] * (1 + JOB.steps)
    assert read == 2 * list(START.tensors)


class Watching(TorchEngine):
    """Notes what it has loaded, what it owns, and how much of either is left where the epilogue begins."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.loaded, self.owned, self.left = Held(), Held(), -1

    def load(self, bundle: Bundle) -> Tensors:
        made = super().load(bundle)
        self.loaded += map(weakref.ref, made)
        return made

    def own(self, working: Tensors, kept: Any) -> Tensors:
        made = super().own(working, kept)
        self.owned = [weakref.ref(each) for each in made]
        return made

    def advance(self, digest: Digest, working: Tensors, is_checked: bool) -> Tensors:
        made = super().advance(digest, working, is_checked)
        self.owned = [weakref.ref(each) for each in made]
        return made

    def run(self, digest: Digest, inputs: Any, tap: Any = None) -> Tensors:
        if self.program(digest).role == "epilogue":
            self.left = alive(self.owned)
        return super().run(digest, inputs, tap)


@pytest.mark.slow
def test_inner_steps_run_in_the_memory_of_the_working_state(tiny_run: Created) -> None:
    """The prologue's parameters are those that were read; the epilogue reads them again, beside what it compares."""
    manifest, store = tiny_run.manifest, BlobStore(tiny_run.folder.blobs)
    texts = {ref.digest: store.get(ref.blob) for ref in manifest.programs.all()}
    engine = Watching(texts)
    prologue, epilogue = (
        engine.program(ref.digest) for ref in (manifest.programs.prologue, manifest.programs.epilogue)
    )
    data = map_data(store, manifest.data, data_port({Place.PROLOGUE: prologue}))
    rounds, before = Rounds(engine, manifest, data), len(engine.loaded)
    wanted = inputs_read(prologue)
    opened = open_bundle(store, manifest.start, MAX_BLOB_BYTES)
    start: Start = [each if place in wanted else None for place, each in enumerate(opened)]
    held = list[int]()

    def note(step: int) -> None:
        held.append(alive(engine.loaded[before : before + len(wanted)]))

    outcome = rounds.run(JOB, start, note)
    assert held == [len([each for each in opened if each]) // 2, *[0] * JOB.steps]
    working = len(epilogue.inputs) - len(opened)
    read_late = [number for number in inputs_read(epilogue) if number >= len(opened)]
    assert len(engine.owned) == working > engine.left == len(read_late)
    bundle = read_bundle(store, manifest.start, MAX_BLOB_BYTES)
    assert outcome == Rounds(TorchEngine(texts), manifest, data).run(JOB, bundle.tensors)
    assert read_bundle(store, manifest.start, MAX_BLOB_BYTES) == bundle  # which the round did not write over


def test_a_start_in_memory_is_not_written_over() -> None:
    given = Tensor("float32", (2,), bytearray(8))  # type: ignore[arg-type]
    engine = TorchEngine({})
    (loaded,) = engine.load(Bundle((given,)))
    assert storage_of(engine.own([loaded], [loaded])[0]) != storage_of(loaded)
    assert storage_of(engine.own([loaded], [])[0]) == storage_of(loaded)


@pytest.mark.slow
def test_a_run_is_tried_without_its_module_and_its_start_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, tried = list[Any](), list[Any]()
    choose: Callable[..., Any] = create.chosen_model
    move: Callable[..., Any] = create.moved
    monkeypatch.setattr(create, "chosen_model", lambda *given: chosen.append(choose(*given)) or chosen[0])

    def moved(run: Any, start: Any, *given: Any) -> Any:
        tried.append((run.start.tensors, sum(each.numel() for each in chosen[0].model.parameters())))
        made = move(run, start, *given)
        assert len(made.ended) == len(run.parameter_names)
        assert all(isinstance(each, torch.Tensor) for each in made)
        return made

    monkeypatch.setattr(create, "moved", moved)
    make_run(tmp_path)
    assert tried == [((), 0)]
