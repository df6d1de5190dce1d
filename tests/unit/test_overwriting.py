"""A step is written over the state before it: the same bits, and nothing else is touched."""

import warnings
from collections.abc import Callable

import pytest
import torch

from simulator.toy import DATA, START, ToyEngine, minimal
from tests import zoo
from trainer.exact import native
from trainer.programs.interpreter import LoadedProgram, NoLoops, storage_of
from trainer.programs.loops.compiled import CheckFailed, CompiledProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder, Value
from trainer.rounds.engine import Job, Overwritten
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from verification.digest import tagged
from verification.program import Program, encode_program, program_digest
from verification.tensors import Tensor
from verification.units import Address, Digest, Round

COMPILED = RunOptions(loops=Loops.ALWAYS)
MANIFEST = minimal(max_steps=4)
JOB = Job(Round(0), Address(b"\x07" * 20), tagged("beacon"), 4)
WIDTH = 6

compiles = pytest.mark.skipif(native.compiler() is None, reason="this machine has no C compiler")


@compiles
@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_parameters_and_moments_take_the_memory_of_those_before(name: str) -> None:
    program, inputs = zoo.traced(name).inner, zoo.working(name)
    loaded, right = LoadedProgram(program, COMPILED), LoadedProgram(program)
    for _ in range(3):
        given, expected = [tensor.clone() for tensor in inputs], right.run(inputs)
        places = list(map(storage_of, given))
        inputs = loaded.advance(given)
        assert all(torch.equal(*pair) for pair in zip(inputs, expected, strict=True))
        kept = {
            port.name for port, made, place in zip(program.inputs, inputs, places, strict=True)
            if storage_of(made) != place
        }  # fmt: skip
        assert kept <= {"loss_sum", "step"}
    assert loaded.is_compiled


def outputs_of(build: Callable[[Builder, Value, Value], list[Value]]) -> Program:
    b = Builder()
    x, y = (b.port(name, "float32", (4, WIDTH)) for name in "xy")
    return b.finish("inner", [(f"made{n}", value) for n, value in enumerate(build(b, x, y))])


def read_by_the_loop_after(b: Builder, x: Value, y: Value) -> list[Value]:
    """What is made of x at its place, and of x as a sum by row, which takes a second walk over the row."""
    made = b.multiply(x, y)
    mean = b.emit("mean", b.multiply(b.add(made, x), y), dims=[1], keepdim=1)
    return [made, b.multiply(b.subtract(x, mean), y)]


def read_across(b: Builder, x: Value, y: Value) -> list[Value]:
    """x in another order than that in which the output is made."""
    turned = b.view(b.permute(b.view(x, (WIDTH, 4)), (1, 0)), (4, WIDTH))
    return [b.add(turned, y), b.multiply(turned, y)]


def given_on(b: Builder, x: Value, y: Value) -> list[Value]:
    """An output in whose place an input stands that is itself an output."""
    return [b.add(x, y), x]


@compiles
@pytest.mark.parametrize("build", [read_by_the_loop_after, read_across, given_on])
def test_what_is_read_later_is_not_written_over(
    build: Callable[[Builder, Value, Value], list[Value]],
) -> None:
    program = outputs_of(build)
    inputs = [torch.randn(4, WIDTH), torch.randn(4, WIDTH)]
    expected, loaded = LoadedProgram(program).run(inputs), LoadedProgram(program, COMPILED)
    for _ in range(2):
        made = loaded.advance([tensor.clone() for tensor in inputs])
        assert all(torch.equal(*pair) for pair in zip(made, expected, strict=True))
    assert loaded.is_compiled


def constants_and_inputs() -> Program:
    """x -> x, a constant twice, a view of another, and x + 1."""
    b = Builder()
    x, zero = b.port("x", "float32", (3,)), b.scalar(0.0)
    table = b.constant(torch.arange(6.0))
    made = [x, zero, zero, b.view(table, (2, 3)), b.add(x, b.scalar(1.0))]
    return b.finish("prologue", [(f"made{n}", value) for n, value in enumerate(made)])


@pytest.mark.parametrize("options", [RunOptions(), pytest.param(COMPILED, marks=compiles)])
def test_a_state_of_ones_own_shares_nothing_with_constants_or_what_is_kept(options: RunOptions) -> None:
    encoded = encode_program(constants_and_inputs())
    digest, x = program_digest(encoded), torch.ones(3)
    engine = TorchEngine({digest: encoded}, options)
    for _ in range(3):
        owned = engine.own(engine.run(digest, [[x]]), [x])
        assert len(set(map(storage_of, owned))) == len(owned)
        assert [tensor.flatten().tolist() for tensor in owned] == [
            [1.0] * 3, [0.0], [0.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [2.0] * 3,
        ]  # fmt: skip
        for tensor in owned:
            tensor.fill_(7.0)
    assert torch.equal(x, torch.ones(3))


def ratio() -> Program:
    """x, y -> x / y, y."""
    b = Builder()
    x, y = b.port("x", "float32", (4,)), b.port("y", "float32", (4,))
    return b.finish("inner", [("ratio", b.divide(x, y)), ("y", y)])


@compiles
def test_a_step_that_may_end_is_lost_and_says_so() -> None:
    encoded = encode_program(ratio())
    digest = program_digest(encoded)
    engine = TorchEngine({digest: encoded}, COMPILED)
    engine.advance(digest, [torch.ones(4), torch.ones(4)], is_checked=False)
    with pytest.raises(Overwritten):
        engine.advance(digest, [torch.ones(4), torch.zeros(4)], is_checked=False)


@compiles
def test_loops_that_are_not_exact_are_dropped_by_the_run_that_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = LoadedProgram(ratio(), COMPILED)
    assert loaded._compiled is not None
    sound = loaded._compiled.run
    monkeypatch.setattr(
        loaded._compiled, "run", lambda *given, **named: [value + 1 for value in sound(*given, **named)]
    )
    with pytest.raises(CheckFailed):
        loaded.advance([torch.ones(4), torch.ones(4)])
    with pytest.warns(NoLoops, match="not exact here"):
        made = loaded.run([torch.ones(4), torch.ones(4)])
    assert torch.equal(made[0], torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loaded.advance([torch.ones(4), torch.ones(4)])[0], torch.ones(4))


@compiles
def test_who_runs_is_the_only_one_that_holds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = {program_digest(each): each for each in map(encode_program, (ratio(), constants_and_inputs()))}
    (one, other), rested = encoded, list[CompiledProgram]()
    engine = TorchEngine(encoded, COMPILED)
    sound = CompiledProgram.rest
    monkeypatch.setattr(CompiledProgram, "rest", lambda self: (rested.append(self), sound(self)))
    for digest, inputs in ((one, [torch.ones(4)] * 2), (other, [torch.ones(3)]), (one, [torch.ones(4)] * 2)):
        engine.run(digest, [inputs])
    programs = [engine.executor.load(digest)._compiled for digest in (one, other)]
    assert rested == programs


class LosingEngine(ToyEngine):
    """Loses the working state of one step."""

    def __init__(self, lost: int) -> None:
        self.steps, self.lost = 0, lost

    def advance(
        self, digest: Digest, working: tuple[Tensor, ...], is_checked: bool = False
    ) -> tuple[Tensor, ...]:
        self.steps += 1
        if self.steps == self.lost:
            raise Overwritten
        return super().advance(digest, working, is_checked)


@pytest.mark.parametrize("lost", [1, 3, 4])
def test_a_lost_state_is_made_again_from_the_rounds_start(lost: int) -> None:
    engine = LosingEngine(lost)
    outcome = Rounds(engine, MANIFEST, DATA).run(JOB, START.tensors)
    assert outcome == Rounds(ToyEngine(), MANIFEST, DATA).run(JOB, START.tensors)
    assert engine.steps == JOB.steps
