"""What arrives behind a boundary is what plain float32 makes of it, bit for bit, forwards and backwards."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.lowered import lowered, vjp
from trainer.groups.spread import spread_of
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.boundaries import (
    HIGHEST,
    LOWEST,
    Boundaries,
    Crossing,
    packed,
    rounded,
    standing,
    unpacked,
)
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.programs.tracing.optimiser import SGD
from trainer.programs.tracing.parameters import trained_parameters
from trainer.runs.architectures import difference
from verification.program import Output, Program, first_node
from verification.units import Count

Array = npt.NDArray[np.float32]
FEW = settings(max_examples=60, deadline=None, derandomize=True)
BITS = st.sampled_from([16, 8, 4])
ROWS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 5, 8, 12, 24]))


def reference(values: Array, bits: int, chunk: int) -> Array:
    """What arrives, in numpy's float32, number by number as the page says."""
    rows = values.reshape(-1, chunk or values.shape[-1]).astype(np.float64)
    exponents = np.clip(np.frexp(np.abs(rows).max(1, keepdims=True))[1], LOWEST, HIGHEST)
    step, limit = np.ldexp(1.0, exponents - bits + 1), 2 ** (bits - 1) - 1
    return (np.clip(np.rint(rows / step), -limit, limit) * step).reshape(values.shape).astype(np.float32)


def drawn(shape: tuple[int, ...], seed: int) -> Array:
    """Numbers of all magnitudes, some rows of them all zero, tiny or huge."""
    random = np.random.default_rng(seed)
    spread = np.ldexp(1.0, random.integers(-6, 6, shape)) * random.standard_normal(shape)
    rows = np.ldexp(1.0, random.choice([0, 0, 0, -30, -140, 118], (*shape[:-1], 1)))
    return (spread * rows * random.integers(0, 5, (*shape[:-1], 1)).clip(0, 1)).astype(np.float32)


def chunk_of(width: int, seed: int) -> int:
    """A divisor of the width, or none."""
    choices = [0, *(size for size in range(1, width + 1) if width % size == 0)]
    return choices[seed % len(choices)]


@FEW
@given(shape=ROWS, bits=BITS, seed=st.integers(0, 2**31))
def test_a_program_rounds_as_plain_float32_does(shape: tuple[int, ...], bits: int, seed: int) -> None:
    values, chunk = drawn(shape, seed), chunk_of(shape[-1], seed)
    wanted = reference(values, bits, chunk)
    b = Builder()
    port = b.port("x", "float32", shape)
    program = b.finish("test", [("y", unpacked(b, *packed(b, port, bits, chunk), bits, shape))])
    (made,) = LoadedProgram(program).run([torch.from_numpy(values)])
    assert np.array_equal(made.numpy(), wanted)
    assert np.array_equal(rounded(torch.from_numpy(values), bits, chunk).numpy(), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_compiled_loops_round_alike(bits: int) -> None:
    values, b = drawn((3, 5, 24), bits), Builder()
    port = b.port("x", "float32", values.shape)
    made = unpacked(b, *packed(b, port, bits, 12), bits, values.shape)
    program = LoadedProgram(b.finish("inner", [("y", made)]), RunOptions(loops=Loops.ALWAYS))
    assert np.array_equal(program.run([torch.from_numpy(values)])[0].numpy(), reference(values, bits, 12))


@pytest.mark.parametrize(("bits", "chunk"), [(16, 0), (8, 4), (4, 0), (4, 12)])
def test_a_gradient_is_rounded_alike_and_passes_the_rounding(bits: int, chunk: int) -> None:
    values, gradient = drawn((3, 5, 24), bits), drawn((3, 5, 24), chunk + 1)

    def crossing(x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = Crossing.apply(x, bits, chunk)
        return made

    (made,) = lowered(vjp(crossing, 1), torch.from_numpy(values), torch.from_numpy(gradient))
    assert np.array_equal(made.numpy(), reference(gradient, bits, chunk))


@FEW
@given(shape=ROWS, seed=st.integers(0, 2**31))
def test_codes_of_four_bits_lie_two_to_a_byte(shape: tuple[int, ...], seed: int) -> None:
    values = drawn(shape, seed)
    b = Builder()
    made = packed(b, b.port("x", "float32", shape), 4, 0)
    program = b.finish("test", [(str(place), value) for place, value in enumerate(made)])
    codes, exponents = (each.numpy() for each in LoadedProgram(program).run([torch.from_numpy(values)]))
    half = -(-shape[-1] // 2)
    assert codes.dtype == np.uint8 and codes.shape == (*shape[:-1], half)
    assert exponents.dtype == np.int8 and exponents.shape == (*shape[:-1], 1)
    numbers = np.concatenate([codes % 16, codes // 16], -1)[..., : shape[-1]].astype(np.float64) - 8
    wanted = np.ldexp(numbers, exponents.astype(np.int64) - 3).astype(np.float32)
    assert np.array_equal(wanted, reference(values, 4, 0))


AFTER = {"llama": "model.layers.0", "gpt2": "transformer.h.0", "vit": "vit.layers.0"}
STEP = SGD(momentum=0.0, nesterov=False, weight_decay=0.0)


def traced(name: str, bits: int) -> TracedRun:
    module = zoo.model(name)
    job = replace(zoo.job(name), boundaries=Boundaries((AFTER[name],), bits), optimiser=STEP)
    return trace_run(module, zoo.loss_of(name, module), job)


@pytest.mark.parametrize(("name", "bits"), [("llama", 8), ("gpt2", 4), ("vit", 16)])
def test_a_model_s_step_rounds_and_passes_gradients_as_said(name: str, bits: int) -> None:
    run = traced(name, bits)
    assert spread_of(run.inner).records == zoo.JOB.batch, "a group can split it"
    given = zoo.begun(run, name)
    crossings = crossings_of(run.inner)
    assert len(crossings) == 2, "one forwards, one backwards"
    ends = [Output(str(place), Count(n)) for place, n in enumerate(n for pair in crossings for n in pair)]
    seen = LoadedProgram(replace(run.inner, outputs=(*run.inner.outputs, *ends))).run(given)
    made = dict(zip([output.name for output in run.inner.outputs], seen, strict=False))
    for before, after in zip(seen[-4::2], seen[-3::2], strict=True):
        assert np.array_equal(after.numpy(), reference(before.numpy(), bits, 0))
        assert not torch.equal(before, after)
    loss, gradients = natively(name, bits)
    assert made["loss_sum"].item() == pytest.approx(loss, rel=1e-3)
    assert difference([made[f"working/m/{each}"] for each in run.parameter_names], gradients) < 0.02


def natively(name: str, bits: int) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the first step in PyTorch's float32, with the same boundary."""
    module, records = zoo.model(name), zoo.records(name)[zoo.index(name)[0]].long()
    with standing(module, Boundaries((AFTER[name],), bits)):
        loss = zoo.loss_of(name, module)(module, records)
    gradients = torch.autograd.grad(loss, list(trained_parameters(module).values()))
    return loss.item(), list(gradients)


def crossings_of(program: Program) -> list[tuple[int, int]]:
    """The values that a program rounds at boundaries, and what becomes of them."""
    first, found = first_node(program), []
    for number, node in enumerate(program.nodes, first):
        if node.operator != "row_exponent":
            continue
        steps = ["cast", "maximum", "minimum", "cast", "cast", "subtract", "power", "multiply"]
        end: int | None = number
        for operator in steps:
            end = next(
                (r for r in readers(program, end) if program.nodes[r - first].operator == operator), None
            )
            if end is None:
                break
        else:
            found.append((int(node.inputs[0]), end))
    return found


def readers(program: Program, number: int | None) -> list[int]:
    """The nodes that read a value."""
    return [n for n, node in enumerate(program.nodes, first_node(program)) if number in node.inputs]
