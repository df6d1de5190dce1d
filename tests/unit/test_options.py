"""Run options on their way to the kernel: a device that is not here, a named backend, a check with its own products."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p.blobs import BlobStore
from trainer import exact
from trainer.commands import doctor
from trainer.commands.demo import DemoSettings, run_demo
from trainer.compute import orders
from trainer.compute.memory import usable_memory, within_memory
from trainer.compute.process import ComputeProcess
from trainer.exact.backends import BACKENDS, Backend
from trainer.exact.native import CannotCompile
from trainer.programs.devices import products_for, require_device
from trainer.programs.interpreter import LoadedProgram, NoLoops
from trainer.programs.loops import compiled
from trainer.programs.options import FORCE, NODE_BY_NODE, Loops, RunOptions, peer_options
from trainer.programs.tracing.builder import Builder
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.create import Created
from verification import codec
from verification.errors import Malformed, Unsound, UserError
from verification.program import Program, encode_program, program_digest
from verification.units import Count


def product() -> Program:
    """x [8, 16] and y [16, 4] to their product."""
    b = Builder()
    x, y = b.port("x", "float32", (8, 16)), b.port("y", "float32", (16, 4))
    return b.finish("inner", [("z", b.matmul(x, y))])


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an NVIDIA GPU, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_options_travel_in_orders() -> None:
    options = RunOptions("cuda:3", Count(1 << 34), Loops.WORTHWHILE, "float64", "/scratch", Count(9))
    assert codec.decode(RunOptions, codec.encode(options)) == options
    assert codec.decode(RunOptions, codec.encode(NODE_BY_NODE)) == NODE_BY_NODE


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "cuda:0\n", "mps"])
def test_a_device_of_another_name_is_refused_wherever_it_is_named(name: str) -> None:
    told = r"unknown device .*: choose cpu, cuda or cuda:N"
    with pytest.raises(UserError, match=told):
        peer_options(name)
    with pytest.raises(ValueError, match=told):
        RunOptions(name)
    with pytest.raises(Malformed, match=told):
        codec.decode(RunOptions, codec.encode((name, None, "never", "", "", Count(0))))


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_here_is_refused_at_every_door(tiny_run: Created, tmp_path: Path) -> None:
    """What is refused has loaded no program, made no run and staked nothing."""
    options, refused = peer_options("cuda:1"), "no device 'cuda:1': .*, or take --device cpu"
    store = BlobStore(Path(shutil.copytree(tiny_run.folder.blobs, tmp_path / "blobs")))
    order = orders.Prepare(codec.encode(tiny_run.manifest), str(store.folder), Count(1), options)
    doors: list[Any] = [
        lambda: require_device(options),
        lambda: products_for(options),
        lambda: LoadedProgram(product(), options),
        lambda: ComputeProcess(order),
        lambda: doctor.examine(options=options),
        lambda: run_demo(DemoSettings(tmp_path / "demo", "none", 3, 1, 1, 0, None, "cuda:1")),
    ]
    for door in doors:
        with pytest.raises(UserError, match=refused):
            door()
    assert not (tmp_path / "demo").exists()


def test_a_number_that_no_gpu_has_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert require_device(RunOptions("cuda")) == torch.device("cuda", 1)
    assert require_device(RunOptions("cuda:0")) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="no device 'cuda:2': PyTorch sees 2, the last is cuda:1"):
        require_device(RunOptions("cuda:2"))


def test_memory_is_what_there_is_unless_it_is_said() -> None:
    allowed = within_memory(NODE_BY_NODE).memory
    assert allowed is not None
    assert usable_memory() / 2 < allowed < usable_memory()
    assert within_memory(RunOptions(memory=Count(0))).memory == 0


def test_the_environment_names_a_backend_for_commands_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE, "float64")
    assert peer_options().product == "float64"
    assert LoadedProgram(product()).products.forced == ""
    monkeypatch.setenv(FORCE, "fastest")
    with pytest.raises(UserError, match="PROOFSWARM_PRODUCT=fastest: there is no product backend 'fastest'"):
        products_for(peer_options())


def test_compiled_loops_fall_away_on_another_device_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on torch's device without memory: what is decided does not depend on there being a GPU."""
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    program, elsewhere = product(), exact.Products("meta")
    with pytest.warns(NoLoops, match="node by node: compiled loops run on the CPU only, not on meta"):
        loaded = LoadedProgram(program, RunOptions(loops=Loops.WORTHWHILE), elsewhere)
    assert not loaded.is_compiled and loaded.refused == "compiled loops run on the CPU only, not on meta"
    with pytest.raises(CannotCompile, match="not on meta"):
        LoadedProgram(program, RunOptions(loops=Loops.ALWAYS), elsewhere)


def test_a_check_multiplies_by_products_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that passes its certificate and is wrong on the run's shapes: the check neither uses it nor changes
    what the run uses."""
    calls: list[int] = []

    def against(right: torch.Tensor, bits: int) -> Any:
        whole = BACKENDS["float64"].against(right, bits)

        def multiply(left: torch.Tensor) -> torch.Tensor:
            calls.append(bits)
            return whole(left) + (1 if len(calls) > certified else 0)

        return multiply

    certified = 1 << 62
    monkeypatch.setitem(BACKENDS, "sly", Backend(BACKENDS["float64"].refusal, against))
    encoded = encode_program(product())
    digest, inputs = program_digest(encoded), [torch.randn(8, 16), torch.randn(16, 4)]
    engine = TorchEngine({digest: encoded}, RunOptions(product="sly"))
    products = engine.executor.load(digest).products
    assert engine.again(digest, inputs) == engine.digests(engine.advance(digest, inputs, is_checked=True))
    before = len(calls)
    assert products is engine.executor.products and before
    engine.again(digest, inputs)
    assert len(calls) == before, "the check used the backend that it checks"
    certified = before
    with pytest.raises(Unsound):
        engine.advance(digest, inputs, is_checked=True)
    assert (products.used, products.forced) == ({"sly"}, "sly")
