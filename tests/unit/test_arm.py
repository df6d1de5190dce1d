"""Kernels compiled for ARM and run on an emulated one: the bits that the operators' own kernels make here."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.loops import digest, every_operator, specials
from tests.matrix import arm
from trainer import exact
from trainer.exact.backends import BACKENDS
from trainer.programs.interpreter import LoadedProgram
from verification.program import Program, first_node

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(arm.missing()), reason=arm.missing())]

TARGET = arm.Target("gcc", "armv8-a", "cortex-a57")


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


def test_every_node_gives_the_same_bits(built: Built) -> None:
    here: dict[int, torch.Tensor] = {}
    there: dict[int, torch.Tensor] = {}
    LoadedProgram(built.program).run(built.inputs, here.__setitem__)
    built.plan.run(built.machine, built.inputs, tap=there.__setitem__)
    assert len(there) > 40
    first = first_node(built.program)
    wrong = [n for n, value in there.items() if digest(value) != digest(here[n])]
    assert not {built.program.nodes[number - first].operator for number in wrong}
    assert min(count for name, count in built.machine.called.items() if name.startswith("k")) >= 1


PRODUCTS = [
    ("int16", TARGET),
    ("int8", arm.Target("gcc", "armv8.2-a+dotprod", "neoverse-n1")),
    ("int8", arm.Target("gcc", "armv8.6-a+i8mm", "max")),
]
"""Kernels with instructions of their own there."""


@pytest.mark.parametrize(("kernel", "target"), PRODUCTS, ids=str)
def test_the_products_pass_their_certificates(
    kernel: str, target: arm.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = arm.functions(kernel)
    made = arm.build(target, {kernel: arm.product(kernel)}, names, tmp_path)
    with arm.started(target, made, names) as machine:
        monkeypatch.setitem(BACKENDS, "arm", arm.Product(machine, kernel).backend())
        exact.certify("arm", full=False)
        assert machine.called[f"{kernel}_product"] > 40
        if kernel == "int8":
            assert machine.call("instructions", machine.memory())
