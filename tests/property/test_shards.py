"""A model cut into shards against the whole: the same digests, wherever it is cut and whatever segment runs first."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import BOUNDARIES, NARROW, RUNS, by_shards, cut, digest, whole
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.boundaries import bytes_of_a_row
from trainer.programs.tracing.builder import Builder
from trainer.shards.cut import Cut, Machine, cut_at, cut_for
from trainer.shards.depth import depths_of, parameter_of
from trainer.shards.describe import described
from trainer.shards.memory import order_of, peak_of
from trainer.shards.roots import roots_of
from trainer.shards.run import ShardedProgram
from trainer.shards.segments import Layout, Pieces, Segment, pieces_of
from verification.errors import UserError
from verification.library import StepFailed
from verification.operators import operator_of
from verification.program import Program, elements, first_node, size_bytes, values, work_units

MUCH = 1 << 40


def drawn_ends(data: st.DataObject, name: str) -> tuple[int, ...]:
    """Depths at which two to four shards begin and end."""
    deepest = depths_of(whole(name).programs["inner"]).count - 1
    return tuple(sorted(data.draw(st.sets(st.integers(1, deepest), min_size=1, max_size=3))))


SHARDS = dict(zip(RUNS, (2, 3, 4, 3, 4, 2, 2, 2), strict=True))
"""Over how many shards each model is cut."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_shards_make_what_the_whole_makes(name: str) -> None:
    known = whole(name)
    made = cut_for(tuple(known.programs.values()), [Machine(MUCH, 1)] * SHARDS[name])
    for role, pieces in made.pieces.items():
        wanted = known.made[role]
        assert by_shards(pieces, known.given[role], len(wanted), Random(role)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_so_they_do_wherever_the_model_is_cut(name: str, data: st.DataObject, random: Random) -> None:
    pieces = cut(name, drawn_ends(data, name)).pieces["inner"]
    assert by_shards(pieces, whole(name).given["inner"], 1, random) == whole(name).made["inner"][:1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_node_has_one_shard_and_every_parameter_too(name: str, data: st.DataObject) -> None:
    made = cut(name, drawn_ends(data, name))
    for pieces in made.pieces.values():
        assert_each_node_once(pieces)
        assert_nobody_waits_for_ever(pieces)
        for number, port in enumerate(pieces.program.inputs):
            if parameter := parameter_of(port.name):
                assert pieces.layout.owners[number] == made.shards[parameter]
        for output, home in zip(pieces.program.outputs, pieces.layout.homes, strict=True):
            assert home == made.shards.get(parameter_of(output.name) or "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_cut_lets_shards_wait_for_each_other(name: str, data: st.DataObject) -> None:
    """Of drawn cuts some have segments of which one pass waits for the other."""
    inner = whole(name).programs["inner"]
    assert_nobody_waits_for_ever(cut_at([inner], drawn_ends(data, name)).pieces["inner"])


def assert_each_node_once(pieces: Pieces) -> None:
    """Views, integers made wider, and what constants alone make, are made wherever they are read; all else once."""
    first, nodes, known = first_node(pieces.program), pieces.program.nodes, values(pieces.program)
    times = Counter(number for segment in pieces.segments for number in segment.nodes)
    assert set(times) == set(range(first, first + len(nodes)))
    of_constants = set(range(len(pieces.program.inputs), first))
    for number, node in enumerate(nodes, first):
        given = known[node.inputs[0]]
        is_wider = node.operator == "cast" and size_bytes(given) < size_bytes(known[number])
        if set(node.inputs) <= of_constants:
            of_constants.add(number)
        elif not operator_of(node.operator).is_view and not (is_wider and given.dtype != "float32"):
            assert times[number] == 1


def assert_nobody_waits_for_ever(pieces: Pieces) -> None:
    """Shards that keep to their order all come to its end."""
    known = set(range(len(pieces.program.inputs)))
    waiting = [order_of(pieces, shard) for shard in pieces.layout.shards]
    while ready := [own for own in waiting if own and known.issuperset(own[0].reads)]:
        for own in ready:
            known.update(own.pop(0).makes)
    assert not any(waiting)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_no_parameter_crosses_but_a_tied_one_in_a_line(name: str) -> None:
    free = cut_for(tuple(whole(name).programs.values()), [Machine(MUCH, 1)] * 3)
    made = cut(name, free.ends[:2])
    assert set(free.shards.values()) == set(made.shards.values()) == {0, 1, 2}
    assert free.is_ring == (name == "gpt2") and not parameters_that_cross(free)
    assert parameters_that_cross(made) == ({"transformer.wte.weight"} if name == "gpt2" else set())


def parameters_that_cross(made: Cut) -> set[str]:
    """The parameters that cross in any program."""
    crossing = {
        parameter_of(pieces.program.inputs[number].name)
        for pieces in made.pieces.values()
        for number, _, _ in pieces.crossings()
        if number < len(pieces.program.inputs)
    }
    return {name for name in crossing if name}


def test_between_layers_nothing_large_crosses_but_the_stream_and_its_gradient() -> None:
    inner = whole("llama").programs["inner"]
    starts, known = depths_of(inner).starts, values(inner)
    places = range(
        starts["model.layers.0.mlp.down_proj.weight"], starts["model.layers.1.input_layernorm.weight"]
    )
    crossing = [
        [known[number].shape for number, _, _ in cut("llama", (1 + place,)).pieces["inner"].crossings()]
        for place in places
    ]
    least = min(crossing, key=lambda shapes: sum(map(math.prod, shapes)))
    stream = (8, 19, 36)
    assert [shape for shape in least if len(shape) > 2] == [stream, stream]
    assert (
        sum(math.prod(shape) for shape in least if shape != stream) < 8 * 20 + 3 * 21 + 9
    )  # the tokens and scalars


def test_what_crosses_a_boundary_is_packed_in_both_directions() -> None:
    inner = whole("bounded").programs["inner"]
    made = cut("bounded", (cheapest_end(inner),))
    pieces, known = made.pieces["inner"], values(inner)
    sizes = Counter({(0, 1): 0, (1, 0): 0})
    for number, giver, taker in pieces.crossings():
        sizes[giver, taker] += size_bytes(known[number]) if len(known[number].shape) > 2 else 0
    tokens, width, chunk = 8 * 19, 36, 12
    each = width * 4 // 8 + width // chunk
    assert sizes == {(0, 1): tokens * each, (1, 0): tokens * each}
    assert bytes_of_a_row(width, BOUNDARIES) == each
    first, last = described(made)
    records, scalars = 8 * 20, 64
    assert tokens * each + records <= first.sent <= tokens * each + records + scalars
    assert tokens * each <= last.sent <= tokens * each + scalars


def test_what_crosses_at_a_bottleneck_is_as_wide_as_it_in_both_directions() -> None:
    """In each of the two parts of a batch; an encoder belongs before the cut and its decoder behind it."""
    inner = whole("narrow").programs["inner"]
    made = cut("narrow", (cheapest_end(inner),))
    pieces, known = made.pieces["inner"], values(inner)
    crossing: dict[tuple[int, int], list[tuple[str, tuple[int, ...]]]] = {(0, 1): [], (1, 0): []}
    for number, giver, taker in pieces.crossings():
        if len(known[number].shape) > 2:
            crossing[giver, taker].append((known[number].dtype, known[number].shape))
    codes, exponents = ("int8", (4, 19, NARROW.width)), ("int8", (4, 19, 1))
    assert sorted(crossing[0, 1]) == sorted(crossing[1, 0]) == 2 * [exponents] + 2 * [codes]
    assert bytes_of_a_row(36, NARROW) == NARROW.width + 1
    encoder, decoder = (f"model.layers.0.boundary.{part}.weight" for part in ("encoder", "decoder"))
    assert (made.shards[encoder], made.shards[decoder]) == (0, 1)


def cheapest_end(inner: Program) -> int:
    """The depth between the two layers at which the fewest bytes cross."""
    starts = depths_of(inner).starts
    places = range(
        starts["model.layers.0.mlp.down_proj.weight"], starts["model.layers.1.input_layernorm.weight"]
    )
    return min((1 + place for place in places), key=lambda end: described(cut_at([inner], (end,)))[0].sent)


def test_a_shard_in_its_order_holds_no_more_than_was_said_before() -> None:
    pieces = cut("gpt2", (40, 80)).pieces["inner"]
    program, inputs = ShardedProgram(pieces), whole("gpt2").given["inner"]
    waiting = [order_of(pieces, shard) for shard in pieces.layout.shards]
    peaks = [peak_of(pieces, shard) for shard in pieces.layout.shards]

    def next_in_order(ready: Sequence[Segment]) -> int:
        for step, peak in zip(program.steps, peaks, strict=True):
            assert sum(tensor.nbytes for tensor in step.held.values()) <= peak
        place = next(n for n, segment in enumerate(ready) if segment is waiting[segment.shard][0])
        waiting[ready[place].shard].pop(0)
        return place

    assert digest(program.run(inputs, next_in_order)) == whole("gpt2").made["inner"][0]
    assert waiting == [[], [], []]


@pytest.mark.parametrize("place", ["transformer.wpe.weight", "transformer.h.1.ln_2.weight"])
def test_a_step_that_fails_fails_at_the_same_node(place: str) -> None:
    """Though the last part of the batch comes first and fails too."""
    inner, inputs = whole("gpt2").programs["inner"], [each.clone() for each in whole("gpt2").given["inner"]]
    names = [port.name for port in inner.inputs]
    inputs[names.index(f"working/parameter/{place}")][:] = torch.nan
    with pytest.raises(StepFailed) as alone:
        LoadedProgram(inner).run(inputs)
    with pytest.raises(StepFailed) as together:
        ShardedProgram(cut("gpt2", (40, 80)).pieces["inner"]).run(inputs, lambda ready: len(ready) - 1)
    assert together.value.node == alone.value.node


@pytest.mark.slow
def test_compiled_loops_make_the_same_shards() -> None:
    program = ShardedProgram(cut("llama", (60,)).pieces["inner"], RunOptions(loops=Loops.ALWAYS))
    assert digest(program.run(whole("llama").given["inner"])) == whole("llama").made["inner"][0]


@pytest.mark.slow
@pytest.mark.parametrize("speeds", [(1, 1), (1, 3)])
def test_the_slowest_shard_is_as_fast_as_in_the_best_cut_by_trial(speeds: tuple[int, int]) -> None:
    inner = whole("vit").programs["inner"]

    def slowest(made: Cut) -> float:
        pieces = made.pieces["inner"]
        return max(
            sum(work_units(each.program) for each in pieces.of(shard)) / speed
            for shard, speed in enumerate(speeds)
        )

    trials = range(2, depths_of(inner).count, 10)
    best = min(slowest(cut_at([inner], (end,))) for end in trials)
    assert slowest(cut_for([inner], [Machine(MUCH, speed) for speed in speeds])) <= 1.1 * best


def test_a_cut_keeps_within_memory_or_says_what_it_needs() -> None:
    programs = tuple(whole("llama").programs.values())
    free = described(cut_for(programs, [Machine(MUCH, 1)] * 2))
    less = free[1].memory * 9 // 10
    kept = described(cut_for(programs, [Machine(MUCH, 1), Machine(less, 1)]))
    assert kept[1].memory <= less and kept[1].work < free[1].work
    with pytest.raises(
        UserError, match=r"no cut over 2 machines fits .* needs \d+ bytes of machine [12], which has"
    ):
        cut_for(programs, [Machine(free[0].memory // 2, 1), Machine(less, 1)])
    with pytest.raises(UserError, match="leave it out"):
        Machine(MUCH, 0)
    with pytest.raises(UserError, match="take fewer"):
        cut_for(programs, [Machine(MUCH, 1)] * 30)


def test_what_shards_do_together_is_the_whole() -> None:
    inner = whole("gpt2").programs["inner"]
    made = cut_for(tuple(whole("gpt2").programs.values()), [Machine(MUCH, 1)] * 4)
    shards = described(made)
    parameters = {
        name: elements(port)
        for port in inner.inputs
        if port.name.startswith("working/parameter/") and (name := parameter_of(port.name))
    }
    assert sorted(name for shard in shards for name in shard.parameters) == sorted(parameters)
    assert sum(shard.elements for shard in shards) == sum(parameters.values())
    assert sum(shard.received for shard in shards) == sum(shard.sent for shard in shards)
    assert sum(shard.sent for shard in shards) == sum(
        size_bytes(values(inner)[number]) for number, _, _ in made.pieces["inner"].crossings()
    )
    assert 1 <= sum(shard.work for shard in shards) / work_units(inner) < 1.02


def test_what_nobody_reads_ends_the_step_in_shards_too() -> None:
    b = Builder()
    x = b.port("x", "float32", (2,))
    dead = b.emit("divide", b.scalar(1.0), b.scalar(0.0))
    program = b.finish("inner", [("x", b.add(x, b.scalar(1.0))), ("dead", dead)])
    program = replace(program, outputs=program.outputs[:1])
    first, count = first_node(program), len(values(program))
    place = next(n for n, node in enumerate(program.nodes, first) if node.operator == "divide")
    owners = [None if root is None else 1 for root in roots_of(program)]
    pieces = pieces_of(program, Layout(tuple(owners), (0,) * count, (True,) * count, (1,)))
    for run in (LoadedProgram(program).run, ShardedProgram(pieces).run):
        with pytest.raises(StepFailed) as failure:
            run([torch.zeros(2)])
        assert failure.value.node == place
