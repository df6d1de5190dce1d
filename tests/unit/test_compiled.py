"""Compiled loops against the operators' own kernels: the same bits, the same errors, and never a wrong number."""

import ctypes
import dataclasses
import itertools
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import golden
from tests import zoo
from tests.loops import BINARY, REDUCED, UNARY, bounded, digest, every_operator, numbers, specials
from tests.lowered import program_of, vjp
from trainer import exact
from trainer.exact import choice, native
from trainer.exact.c_product import CompiledProduct
from trainer.programs.interpreter import LoadedProgram, NoLoops, StepFailed
from trainer.programs.loops import again, compiled, emit, fusion, groups, layouts
from trainer.programs.loops.compiled import CheckFailed, CompiledProgram
from trainer.programs.loops.layouts import Layout
from trainer.programs.operators import OPERATORS
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder, Value
from verification.errors import UserError
from verification.operators import operator_of
from verification.program import Program, first_node, peak_bytes
from verification.units import Count

COMPILED, AUTO = RunOptions(loops=Loops.ALWAYS), RunOptions(loops=Loops.WORTHWHILE)

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="this machine has no C compiler")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Tests leave the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def both(program: Program, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run on compiled loops, the first time checked against the nodes' kernels, node by node, and over the inputs; all
    must be equal."""
    loaded = LoadedProgram(program, COMPILED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = loaded.run(inputs)
    again = loaded.run(inputs)
    assert loaded.is_compiled
    expected = LoadedProgram(program).run(inputs)
    over = loaded.advance([value.clone() for value in inputs])
    for right, *others in zip(expected, made, again, over, strict=True):
        for other in others:
            assert (other.dtype, other.shape) == (right.dtype, right.shape)
            assert torch.equal(other, right)
    return made


def test_every_elementwise_operator_and_reduction() -> None:
    both(*every_operator())


def test_neither_the_sign_of_a_zero_nor_that_of_a_nan_becomes_a_number() -> None:
    """Processors differ in both: in the NaN that an operation makes, and in the larger of two zeros."""
    program, inputs = specials()
    turned = [torch.where((value == 0) | value.isnan(), -value, value) for value in inputs]
    assert all(
        (one.view(torch.int32) != two.view(torch.int32)).any()
        for one, two in zip(inputs, turned, strict=True)
    )
    seen: list[dict[int, bytes]] = [{}, {}]
    for values, found in zip((inputs, turned), seen, strict=True):
        LoadedProgram(program).run(values, lambda n, value, found=found: found.update({n: digest(value)}))
        both(program, values)
    assert seen[0] == seen[1] and len(seen[0]) == len(program.nodes)


def test_every_operator_that_loops_compute_is_tried_in_them() -> None:
    program, _ = every_operator()
    views = {name for name in OPERATORS if operator_of(name).is_view}
    in_loops = {name for name, operator in OPERATORS.items() if operator.c or operator.reduces} - views
    assert in_loops <= {node.operator for node in program.nodes}
    # What loops leave out runs on its own kernel; a new operator is right from the start, and listed here.
    apart = {"power", "concatenate", "select", "gather", "take_along", "scatter_sum", "rank", "product"}
    assert set(OPERATORS) - in_loops - views == apart


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Some thirty nodes: chains, broadcasts, reductions, views of views, products, several outputs."""
    b = Builder()
    rows, columns = draw(st.sampled_from([(6, 8), (4, 33), (1, 12), (12, 1), (64, 16)]))
    known = [b.port("x", "float32", (rows, columns)), b.port("y", "float32", (rows, columns))]
    for _ in range(draw(st.integers(8, 16))):
        value = draw(st.sampled_from(known))
        kind = draw(
            st.sampled_from(["unary", "binary", "row", "column", "view", "permute", "slice", "product"])
        )
        known.append(bounded(b, _grown(draw, b, known, value, kind)))
    chosen = dict.fromkeys([known[-1], known[-2], draw(st.sampled_from(known[2:]))])
    return b.finish("inner", [(f"y{place}", value) for place, value in enumerate(chosen)])


def _grown(draw: st.DrawFn, b: Builder, known: list[Value], value: Value, kind: str) -> Value:
    rank = len(value.shape)
    match kind:
        case "unary":
            return b.emit(draw(st.sampled_from(UNARY)), value)
        case "binary":
            others = [other for other in known if other.shape == value.shape]
            return b.emit(draw(st.sampled_from(BINARY)), value, draw(st.sampled_from(others)))
        case "row" | "column":
            dims = [rank - 1] if kind == "row" else [0]
            made = b.emit(draw(st.sampled_from(REDUCED)), value, dims=dims, keepdim=1)
            return b.emit("subtract", value, made)
        case "view":
            half = 2 if math.prod(value.shape) % 2 == 0 else 1
            return b.view(value, (half, math.prod(value.shape) // half))
        case "permute":
            return b.permute(value, draw(st.permutations(range(rank))))
        case "slice":
            dim = draw(st.integers(0, rank - 1))
            return b.slice(value, dim, 0, max(1, value.shape[dim] - 1))
    turned = b.permute(value, [*range(rank - 2), rank - 1, rank - 2])
    return b.matmul(value, turned)


@given(programs(), st.integers(1, 2), st.sampled_from([0, again.DISTANCE]))
@settings(max_examples=8)
@pytest.mark.slow
def test_random_programs(program: Program, count: int, distance: int) -> None:
    """Few loops lie between a value and its readers here, so that `distance` decides what is made again."""
    torch.set_num_threads(count)
    inputs = [numbers(*map(int, port.shape), seed=place) for place, port in enumerate(program.inputs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(again, "DISTANCE", distance)
        both(program, [inputs[0].clamp(-1e18, 1e18), inputs[1].clamp(-1e18, 1e18)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "convolutional"])
def test_a_models_training(name: str) -> None:
    """Three steps of a golden run, one thread and two, against the digests that the nodes' kernels made."""
    for count in (1, 2):
        torch.set_num_threads(count)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            digests = golden.train(golden.read(name), 3, COMPILED)
        assert digests[:4] == golden.expected()[name][:4]


@pytest.mark.parametrize("cut", [0, 5, 12])
def test_a_concatenation_with_an_empty_piece(cut: int) -> None:
    """What rotary embeddings of all columns come to: the rest that is joined has none, nor has its gradient."""

    def joined(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(h[:, :cut]), h[:, cut:]], -1) * 2

    given = numbers(8, 12).clamp(-1e30, 1e30)
    gradient = program_of(vjp(joined, 1), [given, torch.ones(8, 12)])
    both(gradient.program, [given, torch.ones(8, 12)])
    b = Builder()
    h = b.port("h", "float32", (8, 12))
    parts = [
        b.emit("slice", h, dim=1, start=start, stop=stop, step=1) for start, stop in ((0, cut), (cut, 12))
    ]
    twice = b.multiply(b.emit("concatenate", *parts, dim=1), b.scalar(2.0))
    (made,) = both(b.finish("inner", [("y", twice)]), [given])
    assert torch.equal(made, given * 2 + 0.0)


@pytest.mark.slow
def test_most_of_a_model_runs_in_few_loops() -> None:
    """A guard of the fusion itself: a Llama step's nodes come down to products, a few moves and as many loops."""
    program = zoo.traced("llama").inner
    steps = fusion.plan(program).steps
    alone = [step.node.operator for step in steps if isinstance(step, groups.Step)]
    assert set(alone) <= {"product", "concatenate", "select", "gather", "take_along", "scatter_sum"}
    assert 4 * (len(steps) - alone.count("product")) < 2 * len(program.nodes)


@pytest.mark.slow
def test_buffers_that_live_together_lie_apart() -> None:
    """But for one that takes the place of another, which its own loop reads last."""
    program = zoo.traced("llama").inner
    loaded = LoadedProgram(program, COMPILED)._compiled
    assert loaded is not None
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for place, work in enumerate(loaded._plan.steps):
        for number in (*work.makes, *work.reads):
            first.setdefault(number, place)
            last[number] = place
    held = [
        (number, start, start + loaded._sizes[number] * loaded._dtypes[number].itemsize)
        for number, start in loaded._places.items()
    ]
    for (one, a, b), (two, c, d) in itertools.combinations(held, 2):
        together = first[one] <= last[two] and first[two] <= last[one]
        if one in (loaded._within.get(two), two) or two == loaded._within.get(one):
            assert (a, b) == (c, d) and max(first[one], first[two]) == min(last[one], last[two])
        else:
            assert not together or b <= c or d <= a
    assert loaded._within
    assert max(stop for _, _, stop in held) <= loaded.arena_bytes


@pytest.mark.parametrize("columns", [100, emit.STACK])
def test_a_row_that_two_walks_share_lies_off_the_stack_where_it_is_long(columns: int) -> None:
    """And takes no buffer of the arena: the logits of a large vocabulary are not written out to be read again."""
    b = Builder()
    x = b.port("x", "float32", (3, columns))
    shifted = b.subtract(x, b.emit("amax", x, dims=[1], keepdim=1))
    risen = b.emit("exp", shifted)
    made = b.divide(risen, b.emit("sum", risen, dims=[1], keepdim=1))
    program = b.finish("inner", [("y", made)])
    loaded = LoadedProgram(program, COMPILED)
    assert loaded._compiled is not None and loaded._compiled.arena_bytes == 0
    inputs = [torch.randn(3, columns)]
    expected = LoadedProgram(program).run(inputs)[0]
    for _ in range(2):
        assert torch.equal(loaded.run(inputs)[0], expected)
    assert loaded.is_compiled


@pytest.mark.parametrize("forced", [False, True])
def test_products_are_prepared_by_the_backend_that_is_chosen(
    forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any backend with `prepare` may be the fastest: here two, of which one counts what it does."""
    whole, done = exact.BACKENDS["int16"], []

    def prepare(*operands: Any) -> Callable[[], None]:
        assert whole.prepare is not None
        run = whole.prepare(*operands)

        def counted() -> None:
            done.append(operands[4].shape)
            run()

        return counted

    monkeypatch.setitem(exact.BACKENDS, "counting", dataclasses.replace(whole, prepare=prepare))
    b = Builder()
    x, y = b.port("x", "float32", (96, 80)), b.port("y", "float32", (80, 70))
    program = b.finish("inner", [("z", b.add(b.matmul(b.add(x, x), y), b.scalar(1.0)))])
    options = dataclasses.replace(COMPILED, product="counting" if forced else "")
    loaded, inputs = LoadedProgram(program, options), [torch.randn(96, 80), torch.randn(80, 70)]
    assert torch.equal(loaded.run(inputs)[0], loaded.run(inputs)[0]) and loaded.is_compiled
    chosen = {place: name for place, name in loaded.products.chosen.items() if place.prepared}
    if forced:
        assert len(done) == 2 and not chosen
    else:  # both were measured, and the two runs were done by the faster
        assert len(done) == choice.REPEATS + 2 * list(chosen.values()).count("counting")
        assert [place.rows for place in chosen] == [7]
    assert set(done) == {(1, 96, 70)}


def ratio() -> Program:
    """x, y -> (x + y) / y, its square root's sum, and x."""
    b = Builder()
    x, y = b.port("x", "float32", (4,)), b.port("y", "float32", (4,))
    made = b.divide(b.add(x, y), y)
    return b.finish("inner", [("ratio", made), ("x", x), ("sum", b.emit("sum", made, dims=[0], keepdim=0))])


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0], "division by zero"),
        ([3e38, 1.0, 1.0, 1.0], [1e-3, 1.0, 1.0, 1.0], "holds NaN or infinity"),
    ],
)
def test_a_step_that_ends_says_where_as_without_loops(x: list[float], y: list[float], reason: str) -> None:
    inputs = [torch.tensor(x), torch.tensor(y)]
    with pytest.raises(StepFailed, match=reason) as expected:
        LoadedProgram(ratio()).run(inputs)
    loaded = LoadedProgram(ratio(), COMPILED)
    loaded.run([torch.ones(4), torch.ones(4)])
    with pytest.raises(StepFailed, match=reason) as caught:
        loaded.run(inputs)
    assert (caught.value.node, str(caught.value)) == (expected.value.node, str(expected.value))
    assert loaded.is_compiled
    assert torch.equal(loaded.run([torch.ones(4), torch.ones(4)])[0], torch.full((4,), 2.0))


def test_an_output_that_is_not_finite_is_seen() -> None:
    b = Builder()
    x = b.port("x", "float32", (3,))
    program = b.finish("inner", [("y", b.multiply(x, x))])
    loaded = LoadedProgram(program, COMPILED)
    loaded.run([torch.ones(3)])
    for bad in (3e38, math.inf, math.nan):
        with pytest.raises(StepFailed, match="output 'y' holds NaN or infinity"):
            loaded.run([torch.tensor([1.0, bad, 1.0])])


def test_a_wrong_loop_is_dropped_and_the_result_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(OPERATORS["add"], c="{0} + {1} + 0x1p-20f")
    monkeypatch.setitem(OPERATORS, "add", wrong)
    loaded = LoadedProgram(ratio(), COMPILED)
    x, y = torch.arange(4.0), torch.full((4,), 2.0)
    first = first_node(ratio())
    with pytest.warns(NoLoops, match=rf"node by node: .* not exact here, first node {first + 1} \(divide\)"):
        made = loaded.run([x, y])
    assert torch.equal(made[0], (x + y) / y)
    assert not loaded.is_compiled and "not exact here" in loaded.refused


def test_a_tap_hears_every_node() -> None:
    loaded, heard = LoadedProgram(ratio(), COMPILED), []
    loaded.run([torch.ones(4), torch.ones(4)], lambda number, made: heard.append(number))
    assert heard == list(range(first_node(ratio()), first_node(ratio()) + len(ratio().nodes)))


def test_a_refusal_keeps_no_step_alive() -> None:
    """A product backend refuses in the middle of a first step; the frames of what it raised would hold all inputs."""

    def load() -> ctypes.CDLL:
        raise native.CannotCompile("no tiles")

    refusal = CompiledProduct(load, lambda bits: 1).library
    assert isinstance(refusal, native.CannotCompile) and str(refusal) == "no tiles"
    assert refusal.__traceback__ is refusal.__context__ is None


def test_inputs_are_let_go_after_a_run() -> None:
    loaded, y = LoadedProgram(ratio(), COMPILED), torch.ones(4)
    made = [loaded.run([torch.ones(4), y]) for _ in range(2)]
    alive = weakref.ref(y)
    del y
    assert alive() is None and len(made) == 2


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    with pytest.warns(NoLoops, match="no C compiler was found: install gcc or clang"):
        loaded = LoadedProgram(ratio(), AUTO)
    assert not loaded.is_compiled and "install gcc or clang" in loaded.refused
    assert torch.equal(loaded.run([torch.ones(4), torch.ones(4)])[0], torch.full((4,), 2.0))
    with pytest.raises(UserError, match="install gcc or clang"):
        LoadedProgram(ratio(), COMPILED)


def test_a_compiler_that_fails_is_said_once_and_costs_only_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "prelude", lambda: "this is no C")
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    with pytest.warns(NoLoops, match="running node by node: the C compiler"):
        loaded = LoadedProgram(ratio(), AUTO)
    assert torch.equal(loaded.run([torch.ones(4), torch.ones(4)])[0], torch.full((4,), 2.0))


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("MAX_NODES", "the program has 3 nodes, limit for compiling 2"),
        ("MAX_TEXT", "its loops have .* limit .* 2"),
    ],
)
def test_what_is_too_long_to_compile_runs_node_by_node(
    monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    monkeypatch.setattr(compiled, limit, 2)
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    with pytest.warns(NoLoops, match=f"running node by node: {reason}"):
        loaded = LoadedProgram(ratio(), AUTO)
    assert torch.equal(loaded.run([torch.ones(4), torch.ones(4)])[0], torch.full((4,), 2.0))
    with pytest.raises(UserError, match=reason):
        LoadedProgram(ratio(), COMPILED)


def test_not_a_number_that_is_left_out_is_no_difference() -> None:
    b = Builder()
    x = b.port("x", "float32", (4, 3))
    root = b.emit("log", x)
    turned = b.permute(root, (1, 0))
    finite = b.emit("less_equal", turned, b.scalar(1e30))
    program = b.finish("inner", [("y", b.emit("where", finite, turned, b.expand(b.scalar(0.0), (3, 4))))])
    (made,) = both(program, [torch.tensor([[-1.0, 1.0, -2.0]] * 4)])
    assert made.eq(0.0).all()


def test_loops_keep_to_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    program = zoo.traced("llama").inner
    needed = LoadedProgram(program, COMPILED)._compiled
    assert needed is not None
    assert needed.memory_bytes <= peak_bytes(program)
    LoadedProgram(program, dataclasses.replace(COMPILED, memory=Count(peak_bytes(program))))
    monkeypatch.setattr(CompiledProgram, "memory_bytes", property(lambda self: 1_000_001))
    with pytest.raises(UserError, match="compiled loops need 1000001 bytes, limit 1000000"):
        LoadedProgram(ratio(), dataclasses.replace(COMPILED, memory=Count(1_000_000)))


def test_small_programs_are_not_worth_it() -> None:
    assert not LoadedProgram(zoo.traced("llama").inner, AUTO).is_compiled


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be: no permission bits, which root would not feel."""
    (tmp_path / "taken").write_text("")
    library = native.build("int seven(void) { return 7; }", tmp_path / "taken" / "kernels")
    assert library.seven() == 7


def test_a_library_is_built_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert native.build("int eight(void) { return 8; }", tmp_path).eight() == 8
    (library,) = tmp_path.iterdir()
    native.build("int nine(void) { return 9; }", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert library.stat().st_mode & 0o002 == 0


def test_loading_loops_leaves_subnormals_alone() -> None:
    """Start-up code of -ffast-math would flush them in the thread that loads, and in those that it starts."""
    torch.set_num_threads(2)
    b = Builder()
    x = b.port("x", "float32", (1 << 17,))
    program = b.finish("inner", [("y", b.multiply(x, b.scalar(0.5)))])
    tiny = torch.full((1 << 17,), 2.0**-148)
    (made,) = LoadedProgram(program, COMPILED).run([tiny])
    assert made.eq(2.0**-149).all()
    exact.require_subnormals()
    failed: list[str] = []

    def check() -> None:
        try:
            exact.require_subnormals()
        except UserError as error:
            failed.append(str(error))

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert failed == []
    assert (tiny * 0.5).eq(2.0**-149).all()


def dense_but_for_empty(shape: Sequence[int]) -> Layout:
    """As if an empty dimension had size 1."""
    steps = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
    return Layout(0, tuple(((n, step),) if n > 1 else () for n, step in zip(shape, steps, strict=True)))


def cut_at_the_start(layout: Layout, dim: int, start: int, stop: int, step: int) -> Layout | None:
    """As if every slice began where its dimension does."""
    made = sound_cut(layout, dim, start, stop, step)
    return None if made is None else Layout(layout.offset, made.dims)


sound_cut = layouts.cut


def joined(cut: int) -> Program:
    """[8, 12] in two pieces, joined again and doubled."""
    b = Builder()
    h = b.port("h", "float32", (8, 12))
    parts = [
        b.emit("slice", h, dim=1, start=start, stop=stop, step=1) for start, stop in ((0, cut), (cut, 12))
    ]
    turned = [b.multiply(part, b.scalar(2.0)) for part in parts]
    return b.finish("inner", [("y", b.emit("concatenate", *turned, dim=1))])


@pytest.mark.parametrize(
    ("name", "wrong", "cut"), [("contiguous", dense_but_for_empty, 12), ("cut", cut_at_the_start, 5)]
)
def test_a_wrong_layout_is_seen_and_the_result_is_right(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any], cut: int
) -> None:
    """The check of the first run shares no layout with the loops, so none that is wrong for all of them escapes it."""
    right, faults = getattr(layouts, name), []

    def faulty(*arguments: Any) -> Any:
        made = wrong(*arguments)
        faults.extend([arguments] if made != right(*arguments) else [])
        return made

    monkeypatch.setattr(layouts, name, faulty)
    loaded, given = LoadedProgram(joined(cut), COMPILED), numbers(8, 12)
    assert faults
    with pytest.warns(NoLoops, match="not exact here, first node") as caught:
        (made,) = loaded.run([given.clamp(-1e30, 1e30)])
    assert torch.equal(made, given.clamp(-1e30, 1e30) * 2)
    assert len(caught) == 1 and not loaded.is_compiled
    assert torch.equal(loaded.run([given.clamp(-1e30, 1e30)])[0], made)


def test_the_first_run_alone_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same inputs node by node, before anything is given out; of both ways only one holds memory at a time."""
    heard: list[str] = []
    nodes, loops = LoadedProgram._by_nodes, CompiledProgram.run

    def by_nodes(self: LoadedProgram, inputs: Any, products: Any) -> Any:
        heard.append("nodes")
        return nodes(self, inputs, products)

    def run_loops(self: CompiledProgram, inputs: Any, tap: Any = None) -> Any:
        heard.append("loops")
        return loops(self, inputs, tap)

    monkeypatch.setattr(LoadedProgram, "_by_nodes", by_nodes)
    monkeypatch.setattr(CompiledProgram, "run", run_loops)
    loaded = LoadedProgram(ratio(), COMPILED)
    for _ in range(2):
        loaded.run([torch.ones(4), torch.ones(4)])
    assert heard == ["nodes", "loops", "loops"]


def test_a_loop_that_fails_where_the_nodes_do_not_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check in a loop that is wrong costs a warning and speed, not every step twice."""
    loaded, failed = LoadedProgram(ratio(), COMPILED), []
    inputs = [torch.ones(4), torch.ones(4)]
    loaded.run(inputs)

    def fails(self: CompiledProgram, inputs: Any, tap: Any = None) -> Any:
        failed.append(inputs)
        raise CheckFailed

    monkeypatch.setattr(CompiledProgram, "run", fails)
    with pytest.warns(NoLoops, match="fails where the nodes' own kernels do not"):
        made = loaded.run(inputs)
    assert torch.equal(made[0], torch.full((4,), 2.0)) and torch.equal(loaded.run(inputs)[0], made[0])
    assert len(failed) == 1


def test_a_failed_check_leaves_no_tensor_behind() -> None:
    loaded = LoadedProgram(ratio(), COMPILED)
    assert loaded._compiled is not None
    with pytest.raises(CheckFailed):
        loaded._compiled.run([torch.ones(4), torch.zeros(4)])
    assert set(loaded._compiled._held) == set(loaded._compiled._constants)
