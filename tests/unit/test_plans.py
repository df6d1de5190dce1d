"""Planning: what comes before what, in which memory, at what cost."""

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import golden
from trainer.exact.native import CannotCompile
from trainer.programs.loops import again, arena, fusion, order
from trainer.programs.loops.arena import Life
from trainer.programs.loops.groups import FULL, Group, LoopStep, Step
from trainer.programs.loops.order import Order
from trainer.programs.tracing.builder import Builder
from verification.program import Node, Program, first_node


def work(number: int) -> LoopStep:
    return Step(number, Node("negate", (), (), "float32", ()), ())


def precedes(kept: Order, one: LoopStep, other: LoopStep) -> bool:
    return kept._places[one] < kept._places[other]


@given(st.lists(st.tuples(st.integers(0, 11), st.sets(st.integers(0, 11), max_size=3)), max_size=40))
def test_needs_are_added_until_they_would_go_round(needs: list[tuple[int, set[int]]]) -> None:
    works, kept = [work(number) for number in range(12)], Order()
    for one in works:
        kept.add(one)
    sources: dict[int, set[int]] = {number: set() for number in range(12)}

    def ancestors(number: int) -> set[int]:
        found, waiting = {number}, [number]
        while waiting:
            new = sources[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    for user, wanted in needs:
        goes_round = any(user in ancestors(source) for source in wanted - {user})
        assert kept.need(works[user], [works[source] for source in wanted]) != goes_round
        if not goes_round:
            sources[user] |= wanted - {user}
        assert all(precedes(kept, works[s], works[u]) for u in sources for s in sources[u])


def test_work_that_is_merged_leaves_its_needs_behind() -> None:
    one, two, three = works = [work(number) for number in range(3)]
    kept = Order()
    for each in works:
        kept.add(each)
    assert kept.need(three, [two])
    assert kept.merge(three, into=one)
    assert kept.works == [one, two]
    assert precedes(kept, two, one)
    assert not kept.need(two, [one])


def test_work_is_not_merged_with_what_it_needs_through_others() -> None:
    one, two, three = works = [work(number) for number in range(3)]
    kept = Order()
    for each in works:
        kept.add(each)
    assert kept.need(two, [one])
    assert kept.need(three, [two])
    assert not kept.merge(three, into=one)
    assert kept.works == works


def test_a_search_that_finds_no_end_takes_works_for_dependent(monkeypatch: pytest.MonkeyPatch) -> None:
    def chained(length: int) -> bool:
        works, kept = [work(number) for number in range(length)], Order()
        for one in works:
            kept.add(one)
        for source, user in itertools.pairwise(works[1:]):
            assert kept.need(user, [source])
        return kept.need(works[0], works[-1:])

    monkeypatch.setattr(order, "HORIZON", 50)
    assert chained(40)
    assert not chained(60)


def sums(nodes: int) -> Program:
    """Sums of rows and columns in turn, each over all that came before."""
    b = Builder()
    y = b.port("x", "float32", (8, 8))
    for place in range(nodes // 2):
        y = b.emit("subtract", y, b.emit("sum", y, dims=[place % 2], keepdim=1))
    return b.finish("inner", [("y", y)])


def crossed(nodes: int) -> Program:
    """Two chains that read one another."""
    b = Builder()
    one = two = b.port("x", "float32", (8, 8))
    for _ in range(nodes // 2):
        one, two = two, b.add(one, b.emit("sum", two, dims=[0], keepdim=1))
    return b.finish("inner", [("one", one), ("two", two)])


def products(nodes: int) -> Program:
    """Products of products, with what quantises them."""
    b = Builder()
    y = x = b.port("x", "float32", (8, 8))
    while len(b.nodes) < nodes:
        y = b.matmul(y, x)
    return b.finish("inner", [("y", y)])


@pytest.mark.slow
@pytest.mark.parametrize(("program", "nodes"), [(sums, 2_000), (crossed, 2_000), (products, 8_000)])
def test_planning_costs_as_much_as_a_program_is_long(program: Callable[[int], Program], nodes: int) -> None:
    """Walking all ancestors of each node looked at 4 times as much for twice as many."""

    def seen(nodes: int) -> int:
        planner = fusion._Planner(program(nodes))
        planner.run()
        return planner.order.seen

    assert seen(nodes) <= 5 * seen(nodes // 4) + 100


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    made = []
    for number in range(draw(st.integers(0, 30))):
        first = draw(st.integers(0, 20))
        made.append(Life(draw(st.integers(0, 2000)), first, draw(st.integers(first, 24)), number))
    return made


@given(lives())
def test_what_lives_together_lies_apart(given: list[Life]) -> None:
    places, size = arena.arrange(given)
    assert all(places[life.number] % arena.ALIGNMENT == 0 for life in given)
    assert all(places[life.number] + life.size <= size for life in given)
    for one, two in itertools.combinations(given, 2):
        if one.first <= two.last and two.first <= one.last:
            (a, b), (c, d) = ((places[life.number], places[life.number] + life.size) for life in (one, two))
            assert b <= c or d <= a


def test_too_many_values_at_a_time_are_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "MAX_MEETINGS", 45)
    everywhere = [Life(64, 0, 10, number) for number in range(11)]
    assert arena.arrange(everywhere[:10])[1] == 640
    with pytest.raises(CannotCompile, match="too many values at a time"):
        arena.arrange(everywhere)


def test_a_block_is_handed_out_again_once_no_tensor_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []
    system = arena.mapped
    monkeypatch.setattr(arena, "mapped", lambda size: mapped.append(size) or system(size))
    ground = arena.Ground()
    first = ground.block(1000).fill_(1)[10:20]
    second = ground.block(1000).fill_(2)
    assert len(mapped) == 2 and first.eq(1).all() and second.shape == (1000,)
    place = first.data_ptr()
    del first
    third = ground.block(1000).fill_(3)
    assert len(mapped) == 2 and third[10:].data_ptr() == place and second.eq(2).all()
    del second, third  # one of two is kept
    held = [ground.block(1000), ground.block(1000)]
    assert len(mapped) == 3 and not ground.block(0).numel() and len(held) == 2


def test_an_arena_stays_until_a_larger_one_is_asked_for() -> None:
    ground = arena.Ground()
    first = ground.arena(100)
    assert ground.arena(50) is first and ground.arena(100) is first
    second = ground.arena(101)
    assert second is not first and ground.arena(100) is second
    ground.rest()
    assert ground.arena(1) is second


def remembered(nearby: bool) -> tuple[Program, int]:
    """A program that reads an early sigmoid again at its end, with what it was made of, or without; its number."""
    b = Builder()
    x = b.port("x", "float32", (32, 32))
    gate = b.matmul(x, x)
    opened = b.emit("sigmoid", gate)
    y = b.matmul(opened, x)
    for _ in range(again.DISTANCE):
        y = b.matmul(y, x)
    y = b.multiply(y, opened)
    program = b.finish("inner", [("y", b.add(y, gate) if nearby else y)])
    nodes = enumerate(program.nodes, first_node(program))
    return program, next(number for number, node in nodes if node.operator == "sigmoid")


@pytest.mark.parametrize("nearby", [True, False])
def test_a_value_is_made_again_where_what_it_is_made_of_is_there_anyway(nearby: bool) -> None:
    program, opened = remembered(nearby)
    steps = fusion.plan(program).steps
    makers = [step for step in steps if isinstance(step, Group) and opened in step.members]
    keepers = [step for step in steps if opened in step.makes]
    assert (len(makers), len(keepers)) == ((2, 0) if nearby else (1, 1))


def waits_for_product() -> Program:
    """Two activations that the end of a program reads only as integers, along the other axis."""
    b = Builder()
    x, w = b.port("x", "float32", (64, 64)), b.port("w", "float32", (64, 64))
    first, second = b.emit("tanh", b.matmul(x, w)), b.emit("exp", b.matmul(w, x))
    y = b.matmul(first, second)
    for _ in range(4):
        y = b.matmul(y, w)
    y = b.matmul(b.permute(first, (1, 0)), y)
    return b.finish("inner", [("y", b.matmul(y, b.permute(second, (1, 0))))])


def test_what_is_read_late_as_integers_is_quantised_early() -> None:
    program = waits_for_product()
    steps = fusion.plan(program).steps
    last = arena.last_steps(steps)
    floats = {number for step in steps if isinstance(step, Group) for number in step.makes}
    values = {
        number: node for number, node in enumerate(program.nodes, first_node(program)) if number in floats
    }
    middle = len(steps) // 2
    first = {number: place for place, step in enumerate(steps) for number in step.makes}
    alive = [node for number, node in values.items() if first[number] < middle < last[number]]
    assert {node.dtype for node in alive} == {"int16"}


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.names())
def test_members_of_a_group_walk_over_its_elements(name: str) -> None:
    """What is computed again may not come from rows of another number: its text would read other places."""
    for group in fusion.plan(golden.read(name).inner).steps:
        if not isinstance(group, Group) or group.depth:
            continue
        full = [member for member in group.members.values() if member.kind == FULL]
        assert all(math.prod(member.node.shape) == group.rows * group.columns for member in full)
