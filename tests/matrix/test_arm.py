"""Whole inner steps on emulated ARM processors: every loop and product compiled for them, the golden digests reached.

Nodes that are neither loops nor products (a gather, a concatenation) run on this machine.
"""

from pathlib import Path

import pytest

from benchmarks import golden
from tests.matrix import arm
from tests.matrix.arm import Target
from trainer import exact
from trainer.exact.backends import BACKENDS
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.interpreter import LoadedProgram
from verification.tensors import digest_of

pytestmark = [pytest.mark.slow, pytest.mark.matrix, pytest.mark.timeout(900)]

PLAIN = (Target("gcc", "armv8-a", "cortex-a57"), Target("gcc", "armv8-a", "max"))
NEWER = (
    Target("gcc", "armv8.2-a+dotprod", "neoverse-n1"),
    Target("gcc", "armv8.2-a+dotprod", "max"),
    Target("gcc", "armv8.6-a+i8mm+bf16", "max"),
    Target("gcc", "armv9-a", "max,sve-default-vector-length=16"),
    Target("gcc", "armv9-a", "max,sve-default-vector-length=64"),
    Target("clang", "armv8-a", "cortex-a57"),
    Target("clang", "armv8.6-a+i8mm+bf16", "max"),
)
"""With the vectors of variable length (SVE) whose code the compilers write for the newest servers."""
SHAPES = ("llama", "convolutional")
"""Runs that together have every kind of node."""
STEPS = 2


@pytest.fixture
def machine_for(target: Target) -> Target:
    """The target, where this machine can emulate it."""
    if lacking := arm.missing(target.compiler):
        pytest.skip(lacking)
    return target


def fastest(target: Target) -> str:
    """The kernel that has instructions of its own there."""
    return "int8" if {"dotprod", "i8mm"} & set(target.march.split("+")) else "int16"


CASES = [*((name, target, "int16") for name in golden.names() for target in PLAIN)]
CASES += [(name, target, fastest(target)) for name in SHAPES for target in NEWER]


@pytest.mark.parametrize(("name", "target", "kernel"), CASES, ids=str)
def test_inner_steps_reach_the_golden_digests(
    name: str, target: Target, kernel: str, machine_for: Target, tmp_path: Path
) -> None:
    run, expected = golden.read(name), golden.expected()[name]
    state = golden.start(run.prologue, "cpu")
    working = LoadedProgram(run.prologue).run([*state, *map(to_torch, run.data.tensors)])
    plan = arm.Plan(run.inner, kernel)
    made = arm.build(machine_for, plan.texts, plan.names, tmp_path)
    with arm.started(target, made, plan.names) as machine:
        for number in range(STEPS):
            working = plan.run(machine, working)
            assert digest_of(bundle_of(working)).hex() == expected[number + 1]
    assert min(machine.called.values()) >= STEPS, "a function of the plan was not called"


@pytest.mark.parametrize("kernel", arm.KERNELS)
@pytest.mark.parametrize("target", [*PLAIN, *NEWER], ids=str)
def test_the_products_pass_their_whole_certificates(
    kernel: str, target: Target, machine_for: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = arm.functions(kernel)
    made = arm.build(machine_for, {kernel: arm.product(kernel)}, names, tmp_path)
    with arm.started(target, made, names) as machine:
        monkeypatch.setitem(BACKENDS, "arm", arm.Product(machine, kernel).backend())
        exact.certify("arm")
    assert machine.called[names[0]] > 100
