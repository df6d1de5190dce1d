"""Loading and running programs: everything wrong is refused before it runs, with the number of the node."""

import dataclasses
from typing import Any

import pytest
import torch

from tests import zoo
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.executor import ProgramExecutor
from trainer.programs.interpreter import LoadedProgram, StepFailed
from trainer.programs.options import RunOptions
from trainer.programs.tracing.builder import Builder
from verification.errors import BadEvidence, Malformed, Refused
from verification.program import (
    Node,
    Output,
    Program,
    decode_program,
    encode_program,
    peak_bytes,
    program_digest,
    tables,
)
from verification.units import Count, Digest


def small() -> Program:
    """x, y -> (x + y) / y and x."""
    b = Builder()
    x, y = b.port("x", "float32", (4,)), b.port("y", "float32", (4,))
    return b.finish("inner", [("ratio", b.divide(b.add(x, y), y)), ("x", x)])


def with_node(place: int, **changes: Any) -> Program:
    """`small` with one node changed."""
    nodes = list(small().nodes)
    nodes[place] = dataclasses.replace(nodes[place], **changes)
    return dataclasses.replace(small(), nodes=tuple(nodes))


def test_a_program_runs_and_passes_inputs_through() -> None:
    x, y = torch.arange(4.0), torch.full((4,), 2.0)
    ratio, same = LoadedProgram(small()).run([x, y])
    assert torch.equal(ratio, (x + y) / y)
    assert torch.equal(same, x)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (with_node(1, operator="import"), r"node 3 \(import\): unknown operator"),
        (with_node(0, inputs=(0, 3)), "node 2 refers to a value that is not before it"),
        (with_node(0, inputs=(0, 2)), "node 2 refers to a value that is not before it"),
        (with_node(0, shape=(5,)), r"node 2 \(add\) declares float32\[5\] but makes float32\[4\]"),
        (with_node(1, dtype="int64"), r"node 3 \(divide\) declares int64"),
        (with_node(1, dtype="float64"), "node 3 has unknown dtype"),
        (with_node(0, attributes=(("b", (1,)), ("a", (1,)))), "node 2 has attributes out of order"),
        (with_node(0, shape=(2**40, 2**40)), "node 2 has more than"),
        (dataclasses.replace(small(), arithmetic="exact-99/1"), "unknown arithmetic"),
        (dataclasses.replace(small(), version="program/9"), "unknown program version"),
        (dataclasses.replace(small(), outputs=()), "needs an output"),
        (dataclasses.replace(small(), outputs=(Output("a", Count(9)),)), "does not exist"),
        (
            dataclasses.replace(small(), outputs=(Output("a", Count(0)), Output("a", Count(1)))),
            "name is used twice",
        ),
    ],
)
def test_wrong_programs_are_refused_before_they_run(program: Program, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        LoadedProgram(decode_program(encode_program(program)))


def test_a_memory_limit_names_a_node() -> None:
    program = zoo.traced("llama").inner
    LoadedProgram(program, RunOptions(memory=Count(peak_bytes(program))))
    with pytest.raises(Refused, match=r"bytes, limit \d+; its largest value is node \d+"):
        LoadedProgram(program, RunOptions(memory=Count(peak_bytes(program) - 1)))


def test_records_cost_a_prologue_no_memory() -> None:
    prologue = zoo.traced("llama").prologue
    (data,) = (number for number, port in enumerate(prologue.inputs) if port.name == "data")
    assert data in tables(prologue)
    assert not tables(zoo.traced("llama").inner)
    port = prologue.inputs[data]
    more = dataclasses.replace(port, shape=(Count(1 << 30), *port.shape[1:]))
    inputs = (*prologue.inputs[:data], more, *prologue.inputs[data + 1 :])
    assert peak_bytes(dataclasses.replace(prologue, inputs=inputs)) == peak_bytes(prologue)


def _with_operands(exponent: str, bits: int = 14) -> Program:
    b = Builder()
    x, other = b.port("x", "float32", (2, 8)), b.port("other", "float32", (2, 8))
    row = b.emit("row_exponent", x if exponent == "own" else other, dim=1)
    left = b.emit("quantise", x, row, dim=1, bits=bits)
    turned = b.permute(left, (1, 0)), b.permute(row, (1, 0))
    result = b.emit("product", left, row, *turned, bits=14)
    return b.finish("inner", [("result", result)])


def test_integers_of_a_product_come_from_quantise_only() -> None:
    LoadedProgram(_with_operands("own"))
    with pytest.raises(Malformed, match=r"node \d+ \(quantise\): its exponents are not"):
        LoadedProgram(_with_operands("other"))
    with pytest.raises(Malformed, match=r"node \d+ \(product\): input 0 has other bits"):
        LoadedProgram(_with_operands("own", bits=8))
    b = Builder()
    x, e = b.port("x", "int16", (2, 2)), b.port("e", "int16", (2, 1))
    raw = b.finish("inner", [("y", b.emit("product", x, e, x, b.permute(e, (1, 0)), bits=14))])
    with pytest.raises(Malformed, match=r"\(product\): input 0 is not made by quantise"):
        LoadedProgram(raw)


def test_a_step_fails_at_a_node() -> None:
    program = LoadedProgram(small())
    with pytest.raises(StepFailed, match="division by zero") as caught:
        program.run([torch.ones(4), torch.tensor([1.0, 0.0, 1.0, 1.0])])
    assert caught.value.node == 3
    with pytest.raises(StepFailed, match="output 'ratio' holds NaN or infinity") as caught:
        program.run([torch.full((4,), 3e38), torch.full((4,), 1e-3)])
    assert caught.value.node == 3


def test_inputs_of_another_shape_or_dtype_are_bad_evidence() -> None:
    program = LoadedProgram(small())
    for inputs in ([torch.ones(4)], [torch.ones(4), torch.ones(3)], [torch.ones(4), torch.ones(4).double()]):
        with pytest.raises(BadEvidence):
            program.run(inputs)


def test_an_executor_knows_programs_by_digest() -> None:
    encoded = encode_program(small())
    executor = ProgramExecutor({program_digest(encoded): encoded}, RunOptions(memory=Count(1 << 20)))
    assert executor.program(program_digest(encoded)) == small()
    with pytest.raises(BadEvidence, match="unknown program"):
        executor.program(Digest(bytes(32)))
    with pytest.raises(BadEvidence, match="another digest"):
        ProgramExecutor({Digest(bytes(32)): encoded})


def test_an_exported_model_loads_again(tmp_path: object) -> None:
    from pathlib import Path

    import transformers

    from trainer.runs.data.tokenizing import ByteTokenizer
    from trainer.runs.models import load_state, save_model

    folder, run, module = Path(str(tmp_path)), zoo.traced("gpt2"), zoo.model("gpt2")
    state = bundle_of([to_torch(tensor) + 1.0 for tensor in run.start.tensors])
    ByteTokenizer().save(folder / "bytes")
    load_state(module, run.parameter_names, state)
    save_model(module, folder, folder / "bytes")
    again = dict(transformers.AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    assert all(
        torch.equal(again[n], to_torch(t)) for n, t in zip(run.parameter_names, state.tensors, strict=False)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Grüße, 世界\n!"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text


def test_node_without_inputs_is_refused() -> None:
    program = dataclasses.replace(
        small(), nodes=(Node("add", (), (), "float32", ()),), outputs=(Output("a", Count(2)),)
    )
    with pytest.raises(Malformed, match="node 2"):
        LoadedProgram(program)
