"""A machine's check of itself: drawn steps in two ways, what steps run on, and what refused kernels cost."""

from typing import Any

import pytest
import torch

from tests import zoo
from trainer import exact
from trainer.programs.float32 import run_in_float32
from trainer.programs.interpreter import LoadedProgram
from trainer.rounds import selfcheck
from trainer.rounds.torch_engine import TorchEngine
from verification.program import encode_program, program_digest
from verification.units import Count, Digest

pytestmark = pytest.mark.slow
NAME = "convolutional"


@pytest.fixture
def engine() -> TorchEngine:
    """An engine over the inner step of a small model."""
    encoded = encode_program(zoo.traced(NAME).inner)
    return TorchEngine({program_digest(encoded): encoded})


def inner() -> Digest:
    """The digest of that step."""
    return program_digest(encode_program(zoo.traced(NAME).inner))


def test_drawn_numbers_replace_what_training_changes_and_nothing_else() -> None:
    program, working = zoo.traced(NAME).inner, zoo.working(NAME)
    made = list(selfcheck.drawn(program, working))
    for port, before, after in zip(program.inputs, working, made, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        if port.dtype == "float32" and port.shape:
            assert after.count_nonzero() > 0.9 * after.numel(), port.name
            assert port.name.startswith("working/parameter/") or (after >= 0).all()
        else:
            assert after is before, port.name
    assert all(torch.equal(*pair) for pair in zip(made, selfcheck.drawn(program, working), strict=True))


def test_a_step_that_comes_out_otherwise_in_another_way_is_found(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = zoo.working(NAME)
    assert selfcheck.step_agrees(engine, inner(), working)
    sound, faults = LoadedProgram.run, []

    def broken(self: LoadedProgram, inputs: Any, tap: Any = None) -> Any:
        made = sound(self, inputs, tap)
        if tap is None:
            faults.append(made[0])
            made[0] = made[0] + 2.0**-20
        return made

    monkeypatch.setattr(LoadedProgram, "run", broken)
    assert not selfcheck.step_agrees(engine, inner(), working)
    assert len(faults) == 1


def test_numbers_that_end_a_step_are_no_fault_of_the_machine(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = [torch.full_like(t, 3e38) if t.is_floating_point() else t for t in zoo.working(NAME)]
    monkeypatch.setattr(selfcheck, "drawn", lambda program, working: huge)
    assert selfcheck.step_agrees(engine, inner(), huge)


def test_nothing_is_measured_or_said_where_nothing_is_refused(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact.Products, "refused_kernels", lambda self: ())
    engine.run(inner(), [zoo.working(NAME)])
    kernels = selfcheck.kernels_of(engine, inner(), zoo.working(NAME), clock=lambda: 1 // 0)
    assert kernels.products and set(kernels.products) <= set(exact.BACKENDS)
    assert (kernels.compiled, kernels.refused, kernels.over_float32) == (False, "", 0)
    assert kernels.complaint == ""


def test_refused_kernels_are_told_once_with_what_they_cost(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact steps that take 3 s beside float32's 2 s, on a clock of the test's own."""
    reason = "no C compiler was found: install gcc or clang"
    monkeypatch.setattr(exact.Products, "refused_kernels", lambda self: (f"backend int16: {reason}",))
    times = iter(
        [moment for start in range(0, 400, 10) for moment in (start, start + 3, start + 5, start + 7)]
    )
    kernels = selfcheck.kernels_of(
        engine, inner(), zoo.working(NAME), refused=reason, clock=lambda: float(next(times))
    )
    assert kernels.refused == f"backend int16: {reason}"
    assert kernels.over_float32 == Count(1500)
    assert (
        kernels.complaint == f"slow: backend int16: {reason} (a step takes 1.5 times PyTorch's float32 here)"
    )


@pytest.mark.parametrize("name", ["llama", "convolutional", "bert"])
def test_the_same_program_in_float32_is_the_same_training(name: str) -> None:
    """What exactness is measured against does the same work: its numbers are the exact ones, rounded otherwise."""
    program, working = zoo.traced(name).inner, zoo.working(name)
    exactly = LoadedProgram(program).run(working)
    for output, one, other in zip(program.outputs, exactly, run_in_float32(program, working), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), output.name
        assert torch.allclose(one.double(), other.double(), rtol=1e-2, atol=3e-3), output.name
