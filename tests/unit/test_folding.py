"""Constant folding: frozen matrices are quantised once, and nobody can tell by bits, errors or traces."""

import math
import warnings

import pytest
import torch

from trainer.exact import native
from trainer.programs.conversion import seen_by_law
from trainer.programs.folding import QUANTISING
from trainer.programs.interpreter import LoadedProgram, StepFailed
from trainer.programs.options import NODE_BY_NODE, Loops, RunOptions
from trainer.programs.tracing.builder import Builder, Value
from verification.program import Program, first_node
from verification.tensors import tensor_digest

COMPILED = RunOptions(loops=Loops.ALWAYS)
WAYS = [
    NODE_BY_NODE,
    pytest.param(COMPILED, marks=pytest.mark.skipif(native.compiler() is None, reason="no C compiler")),
]
FROZEN = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
X = torch.randn(8, 24, generator=torch.Generator().manual_seed(2))


def frozen_step(frozen: torch.Tensor = FROZEN) -> Program:
    """x [8, 24] through a frozen matrix and back, as forward and backward do."""
    b = Builder()
    x, matrix = b.port("x", "float32", (8, 24)), b.constant(frozen)
    there = b.matmul(x, matrix)
    back = b.matmul(there, b.permute(matrix, (1, 0)))
    return b.finish("inner", [("y", b.add(x, back)), ("there", there)])


def read_apart() -> Program:
    """x [8, 24] through a frozen matrix whose numbers are read in another way too."""
    b = Builder()
    x, matrix = b.port("x", "float32", (8, 24)), b.constant(FROZEN)
    rows = b.emit("sum", matrix, dims=(1,), keepdim=0)
    return b.finish("inner", [("y", b.matmul(b.multiply(x, rows), matrix))])


def ratio() -> Program:
    """x [8, 24] through a frozen matrix, over the port y [8, 16]."""
    b = Builder()
    x, y = b.port("x", "float32", (8, 24)), b.port("y", "float32", (8, 16))
    return b.finish("inner", [("z", b.divide(b.matmul(x, b.constant(FROZEN)), y))])


def digests(tensors: list[torch.Tensor]) -> list[bytes]:
    return [tensor_digest(seen_by_law(tensor)) for tensor in tensors]


def node_by_node(program: Program, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run with every node heard, which folds nothing."""
    return LoadedProgram(program).run(inputs, lambda number, made: None)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("made", [frozen_step, read_apart])
def test_outputs_are_those_of_all_nodes(made, options: RunOptions) -> None:
    program = made()
    loaded, expected = LoadedProgram(program, options), digests(node_by_node(program, [X]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [digests(loaded.run([X])) for _ in range(2)] == [expected] * 2
        assert digests(loaded.advance([X.clone()])) == loaded.again([X]) == expected
    assert loaded.is_compiled == (options is COMPILED)


def test_what_is_quantised_of_constants_is_a_constant() -> None:
    program, loaded = frozen_step(), LoadedProgram(frozen_step())
    folded = loaded._folded
    of_constants = [node for node in program.nodes if node.operator in QUANTISING]
    left = [node for node in folded.program.nodes if node.operator in QUANTISING]
    assert (len(of_constants), len(left)) == (8, 4)
    assert [constant.dtype for constant in folded.constants].count(torch.float32) == 0
    held = sum(constant.nbytes for constant in folded.constants)
    assert FROZEN.nbytes < held < 2 * FROZEN.nbytes  # two ways of 16 bits each, and exponents


def test_a_constant_that_is_read_in_another_way_stays() -> None:
    folded = LoadedProgram(read_apart())._folded
    assert any(torch.equal(constant, FROZEN) for constant in folded.constants)


def test_a_program_without_frozen_matrices_is_run_as_it_is() -> None:
    b = Builder()
    x, y = b.port("x", "float32", (8, 24)), b.port("y", "float32", (24, 8))
    program = b.finish("inner", [("z", b.multiply(b.matmul(x, y), b.scalar(2.0)))])
    assert LoadedProgram(program)._folded.program is program


def test_a_tap_hears_every_node_by_its_own_number() -> None:
    program, heard = frozen_step(), list[int]()
    LoadedProgram(program).run([X], lambda number, made: heard.append(number))
    assert heard == [first_node(program) + place for place in range(len(program.nodes))]


@pytest.mark.parametrize("options", WAYS)
def test_a_step_that_ends_behind_a_folded_node_says_where(options: RunOptions) -> None:
    program, zeros = ratio(), torch.zeros(8, 16)
    with pytest.raises(StepFailed) as expected:
        node_by_node(program, [X, zeros])
    loaded = LoadedProgram(program, options)
    loaded.run([X, zeros + 1])
    with pytest.raises(StepFailed, match="division by zero") as caught:
        loaded.run([X, zeros])
    assert caught.value.node == expected.value.node == first_node(program) + len(program.nodes) - 1


@pytest.mark.parametrize("options", WAYS)
def test_constants_that_cannot_be_quantised_end_the_step_where_they_did(options: RunOptions) -> None:
    broken = FROZEN.clone()
    broken[3, 4] = math.inf
    program = frozen_step(broken)
    with pytest.raises(StepFailed) as expected:
        node_by_node(program, [X])
    loaded = LoadedProgram(program, options)
    assert loaded._folded.program is program
    with pytest.raises(StepFailed) as caught:
        loaded.run([X])
    assert (caught.value.node, str(caught.value)) == (expected.value.node, str(expected.value))


@pytest.mark.parametrize("options", WAYS)
def test_an_output_that_is_folded_is_nobodys_constant(options: RunOptions) -> None:
    """A part of a step may give quantised numbers to the next part, which may be written over."""
    b = Builder()
    x, matrix = b.port("x", "float32", (8, 24)), b.constant(FROZEN)
    b.matmul(x, matrix)
    quantised = next(
        Value(serial, node.dtype, tuple(node.shape))
        for serial, (node, inputs) in b.nodes.items()
        if node.operator == "quantise" and inputs[0].shape == FROZEN.shape
    )
    program = b.finish("inner", [("q", quantised), ("y", b.matmul(x, matrix))])
    loaded = LoadedProgram(program, options, is_part=True)
    first = loaded.run([X])
    expected = digests(first)
    first[0].zero_()
    assert digests(loaded.run([X])) == expected
