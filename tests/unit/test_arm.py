"""Kernels compiled for ARM and run on an emulated one: the bits that the operators' own kernels make here."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.loops import BINARY, COMPARED, UNARY, every_operator
from tests.matrix import arm
from trainer import exact
from trainer.exact.backends import BACKENDS
from trainer.programs.builder import Builder
from trainer.programs.conversion import from_torch
from trainer.programs.interpreter import LoadedProgram
from verification.program import Program
from verification.tensors import tensor_digest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(arm.missing()), reason=arm.missing())]

TARGET = arm.Target("gcc", "armv8-a", "cortex-a57")


def specials() -> tuple[Program, list[torch.Tensor]]:
    """Elementwise operators on every pair of numbers that are hard or none, NaN of both signs among them."""
    quiet = torch.tensor([0x7FC00000, -0x400000], dtype=torch.int32).view(torch.float32).tolist()
    numbers = [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, 0.5, -2.5, 3e38, -3e38, math.inf, -math.inf, *quiet]
    pairs = torch.tensor(list(itertools.product(numbers, repeat=2)))
    b = Builder()
    x, y = b.port("x", "float32", (len(pairs),)), b.port("y", "float32", (len(pairs),))
    made = [b.emit(name, x) for name in UNARY] + [b.emit(name, x, y) for name in (*BINARY, *COMPARED)]
    made += [b.cast(x, "bool"), b.emit("where", b.emit("less", x, y), x, y)]
    finite = [b.emit("equal", value, value) if value.dtype == "float32" else value for value in made]
    program = b.finish("inner", [(f"y{place}", value) for place, value in enumerate(dict.fromkeys(finite))])
    return program, [pairs[:, 0].contiguous(), pairs[:, 1].contiguous()]


class Built(NamedTuple):
    """A program's plan and the machine that runs it."""

    program: Program
    inputs: list[torch.Tensor]
    plan: arm.Plan
    machine: arm.Machine


@pytest.fixture(scope="module", params=["operators", "specials"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A program on an emulated processor."""
    program, inputs = {"operators": every_operator, "specials": specials}[request.param]()
    plan = arm.Plan(program, every=True)
    made = arm.build(TARGET, plan.texts, plan.names, tmp_path_factory.mktemp(request.param))
    with arm.started(TARGET, made, plan.names) as machine:
        yield Built(program, inputs, plan, machine)


def digests(values: dict[int, torch.Tensor]) -> dict[int, bytes]:
    """What the law sees of values: neither the sign of a zero nor the bits of a NaN."""
    return {number: tensor_digest(from_torch(value)) for number, value in values.items()}


def test_every_node_gives_the_same_bits(built: Built) -> None:
    here: dict[int, torch.Tensor] = {}
    there: dict[int, torch.Tensor] = {}
    LoadedProgram(built.program).run(built.inputs, here.__setitem__)
    built.plan.run(built.machine, built.inputs, tap=there.__setitem__)
    assert len(there) > 40
    expected = digests({number: here[number] for number in there})
    found = digests(there)
    wrong = [built.program.nodes[n - len(here)].operator for n in there if found[n] != expected[n]]
    assert not wrong
    assert min(count for name, count in built.machine.called.items() if name.startswith("k")) >= 1


def test_the_product_passes_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("int16_product",)
    made = arm.build(TARGET, {"products": arm.products()}, names, tmp_path)
    with arm.started(TARGET, made, names) as machine:
        monkeypatch.setitem(BACKENDS, "arm", arm.backend(machine))
        exact.certify("arm", full=False)
    assert machine.called["int16_product"] > 40
