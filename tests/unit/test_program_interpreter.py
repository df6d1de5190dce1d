"""Loading and running programs: everything wrong is refused before it runs, with the number of the node."""

import dataclasses
from typing import Any

import pytest
import torch

from tests import zoo
from trainer import exact
from trainer.programs.conversion import bundle_of, from_torch, to_torch
from trainer.programs.executor import ProgramExecutor
from trainer.programs.interpreter import LoadedProgram, StepFailed
from trainer.programs.operators import ARITHMETIC
from trainer.programs.options import RunOptions
from trainer.programs.tracing.builder import Builder
from trainer.rounds.reexecution import trace
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Disputed
from verification.errors import BadEvidence, Malformed, Refused, Unavailable
from verification.manifest import Place
from verification.program import (
    Node,
    Output,
    Program,
    decode_program,
    encode_program,
    first_node,
    peak_bytes,
    program_digest,
    require_affordable,
)
from verification.tensors import Tensor, tensor_digest
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


def test_memory_and_work_limits_name_a_node() -> None:
    program = zoo.traced("llama").inner
    LoadedProgram(program, RunOptions(memory=Count(peak_bytes(program))))
    with pytest.raises(Refused, match=r"bytes, limit \d+; its largest value is node \d+"):
        LoadedProgram(program, RunOptions(memory=Count(peak_bytes(program) - 1)))
    with pytest.raises(Refused, match=r"node \d+ costs \d+ work units, limit 1000"):
        require_affordable(program, None, 1000)


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


@pytest.mark.slow
def test_every_node_can_be_executed_alone() -> None:
    """What a referee does: any node, on the inputs that the full run had, gives the digest of the full run."""
    run = zoo.traced("gpt2")
    encoded = encode_program(run.inner)
    engine = TorchEngine({program_digest(encoded): encoded})
    executor, first = engine.executor, first_node(run.inner)
    working = zoo.working("gpt2")
    seen = dict(enumerate([*working, *map(to_torch, run.inner.constants)]))
    engine.run(program_digest(encoded), [working], seen.__setitem__)
    traces = trace(engine, Disputed(Place.STEP, program_digest(encoded), working))
    assert len(traces.results) == len(run.inner.nodes)
    for place in range(0, len(run.inner.nodes), 29):
        node = run.inner.nodes[place]
        inputs = [from_torch(seen[source]) for source in node.inputs]
        made = executor.execute_node(ARITHMETIC, first + place, node, inputs)
        assert tensor_digest(made) == traces.results[place]


def operands(bits: int = 14) -> tuple[list[Tensor], Node, Node]:
    """Return the inputs of a product node, that node, and the quantise node before it."""
    left = torch.arange(6.0).reshape(2, 3) - 2.5
    e, f = exact.row_exponent(left, -1), exact.row_exponent(left.T, -2)
    q, r = exact.quantise(left, e, -1, bits), exact.quantise(left.T, f, -2, bits)
    attributes = (("bits", (bits,)),)
    product = Node("product", tuple(map(Count, range(4))), attributes, "float32", (Count(2), Count(2)))
    quantise = Node(
        "quantise", (Count(0), Count(1)), (("bits", (bits,)), ("dim", (1,))), "int16", (Count(2), Count(3))
    )
    return [from_torch(value) for value in (q, e, r, f, left)], product, quantise


def test_a_referee_refuses_operands_that_no_program_makes() -> None:
    """Kernels differ outside a quantised tensor's range, so two liars must not bring the law to execute there."""
    (q, e, r, f, value), product, quantise = operands()
    executor = ProgramExecutor({})

    def run(node: Node, *inputs: Tensor) -> Tensor:
        return executor.execute_node(ARITHMETIC, 7, node, inputs)

    assert run(product, q, e, r, f).shape == (2, 2)
    assert run(quantise, value, e) == q
    big = Tensor("int16", q.shape, (8192).to_bytes(2, "little") * 6)
    far = Tensor("int16", e.shape, (129).to_bytes(2, "little") * 2)
    near = Tensor("int16", e.shape, (1).to_bytes(2, "little") * 2)
    for node, inputs in (
        (product, (big, e, r, f)),
        (product, (q, far, r, f)),
        (quantise, (value, near)),
    ):
        with pytest.raises(BadEvidence, match=f"node 7 .{node.operator}"):
            run(node, *inputs)
    with pytest.raises(Malformed, match="node 7"):
        run(product, q, e, f, r)
    with pytest.raises(Unavailable, match="not 'exact-99/1'"):
        executor.execute_node("exact-99/1", 7, product, [q, e, r, f])


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

    from trainer.runs.models import export_model

    folder, run, module = Path(str(tmp_path)), zoo.traced("gpt2"), zoo.model("gpt2")
    state = bundle_of([to_torch(tensor) + 1.0 for tensor in run.start.tensors])
    export_model(module, run.parameter_names, state, folder)
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
