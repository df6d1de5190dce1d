"""A crew's round: what members make with each other is what an auditor makes alone, whatever fails on the way."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.crews import (
    JOB,
    STEPS,
    Letters,
    Town,
    around,
    equal_town,
    reference,
    shard_of,
    together,
    town,
    traced,
)
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder, Value
from trainer.rounds.engine import Engine
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import RoundFailed
from trainer.shards.crew import MemberOutcome
from trainer.shards.false_crossings import FalseActivations, FalseCrossings, FalseGradients
from trainer.shards.frugal import FrugalEngine
from trainer.shards.members import InnerStep, Member
from trainer.shards.programs import Parts
from verification.errors import BadEvidence, Unsound
from verification.library import StepFailed, failed
from verification.manifest import Cut, Place, Post
from verification.program import Node, Output, Program, encode_program, first_node, peak_bytes, program_digest
from verification.tensors import Tensor, tensor_digest
from verification.units import Count, Digest


def items_of(made: Town, members: Sequence[MemberOutcome]) -> list[list[Digest]]:
    """What an auditor must find, of what each member says."""
    crossings, found = made.parts.crossings, [[each.states[0] for each in members]]
    for step in range(1, STEPS + 1):
        given = [iter(each.given[step - 1]) for each in members]
        crossed = [next(given[crossing.maker]) for crossing in crossings]
        found.append([*crossed, *(each.states[step] for each in members)])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("llama", 3), ("gpt2", 2), ("narrow", 2)])
def test_members_that_exchange_make_what_an_auditor_makes_alone(name: str, count: int) -> None:
    made = equal_town(name, count)
    members, letters = together(made)
    outcome = made.crews().audit(JOB, made.start, 0)
    assert [list(each) for each in outcome.items] == items_of(made, members)
    assert list(outcome.contributions) == [each.contribution for each in members]
    assert list(outcome.losses) == [each.loss for each in members]
    for shard, member in enumerate(members):
        taken = [place for place, each in enumerate(made.parts.crossings) if shard in each.takers]
        assert member.taken[-1] == tuple(tensor_digest(letters.seen[STEPS, place]) for place in taken)


class Kept:
    """An exchange whose tensors lie ready, and which forgets what is given."""

    def __init__(self, tensors: dict[tuple[int, int], Tensor]) -> None:
        self.tensors = tensors

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Forget it."""

    def take(self, step: int, crossing: int) -> Tensor:
        """Return what lies ready; another's round has failed where nothing does."""
        if (step, crossing) not in self.tensors:
            raise RoundFailed(OTHERS)
        return self.tensors[step, crossing]


OTHERS = Digest(b"f" * 32)


@pytest.fixture(scope="module")
def crew() -> tuple[Town, Letters]:
    """A crew of three, and what crossed in its round."""
    made = equal_town("llama", 3)
    return made, together(made)[1]


def taken_by(made: Town, shard: int) -> list[int]:
    """What a shard takes."""
    return [place for place, crossing in enumerate(made.parts.crossings) if shard in crossing.takers]


@pytest.mark.slow
def test_an_accused_is_judged_on_what_it_took(crew: tuple[Town, Letters]) -> None:
    """Of a neighbour's lie too: what it made of that is its own execution."""
    made, letters = crew
    post, places = Post(Count(0), Count(1)), taken_by(made, 1)
    first = letters.seen[1, places[0]]
    lie = Tensor(first.dtype, first.shape, first.data[4:] + first.data[:4])
    told = letters.seen | {(1, places[0]): lie}

    def taken(step: int) -> list[Tensor]:
        return [told[step, place] for place in places]

    member = made.crews().run(JOB, made.start, post, Kept(told))
    engine = made.engine()
    crews = made.crews(engine)
    disputed = crews.disputed(JOB, made.start, post, Place.STEP, 2, taken)
    count = len(made.parts.shards[1].prologue.outputs)
    assert engine.digest(list(disputed.inputs[:count])) == member.states[1]
    honest = crews.disputed(JOB, made.start, post, Place.STEP, 2)
    assert engine.digest(list(honest.inputs[:count])) != member.states[1]
    assert engine.digests(disputed.inputs[count:]) == list(member.taken[1])
    made_of = engine.run(disputed.program, [disputed.inputs])
    assert engine.digest(made_of[:count]) == member.states[2]


@pytest.mark.slow
def test_a_round_begins_at_the_prologue_and_ends_at_the_epilogue(crew: tuple[Town, Letters]) -> None:
    made, letters = crew
    engine, post = made.engine(), Post(Count(0), Count(2))
    crews, part = made.crews(engine), made.parts.shards[2]
    member = made.crews().run(JOB, made.start, post, Kept(letters.seen))
    begun = crews.disputed(JOB, made.start, post, Place.PROLOGUE, 0)
    assert engine.digest(engine.run(begun.program, [begun.inputs])) == member.states[0]
    ended = crews.disputed(JOB, made.start, post, Place.EPILOGUE, STEPS)
    assert engine.dump(engine.run(ended.program, [ended.inputs])) == member.contribution
    assert len(ended.inputs) == len(part.epilogue.inputs)


@pytest.mark.slow
def test_a_tensor_that_does_not_fit_its_port_is_evidence_of_nothing(crew: tuple[Town, Letters]) -> None:
    made, letters = crew
    post, places = Post(Count(0), Count(1)), taken_by(made, 1)
    first = letters.seen[1, places[0]]
    for wrong in (
        Tensor("int32", first.shape, first.data),
        Tensor(first.dtype, first.shape[::-1], first.data),
    ):
        exchange = Kept(letters.seen | {(1, places[0]): wrong})
        with pytest.raises(BadEvidence, match=f"crossing {places[0]} of inner step 1 must be"):
            made.crews().run(JOB, made.start, post, exchange)
    with pytest.raises(BadEvidence, match=f"takes {len(places)} tensors, not 0"):
        made.crews().disputed(JOB, made.start, post, Place.STEP, 1, lambda step: [])


@pytest.mark.slow
def test_who_hears_that_another_fails_ends_with_its_failure(crew: tuple[Town, Letters]) -> None:
    made, letters = crew
    seen = {key: tensor for key, tensor in letters.seen.items() if key[0] == 1}
    member = made.crews().run(JOB, made.start, Post(Count(0), Count(2)), Kept(seen))
    assert member.failed == OTHERS and member.contribution is None
    assert member.states[2] == OTHERS and OTHERS not in member.states[:2]
    assert set(member.taken[1]) == {OTHERS} and OTHERS not in member.taken[0]


def failing(program: Program, place: int) -> tuple[Program, int]:
    """A program in which a number of its own ends the step that a step before did not: with step 1 it divides by zero,
    before its node `place`."""
    first = first_node(program)
    step = next(n for n, port in enumerate(program.inputs) if port.name == "step")
    at = first + place
    added = 4

    def moved(number: int) -> Count:
        return Count(number + added if number >= at else number)

    one = len(program.inputs) + program.constants.index(Tensor("int64", (), (1).to_bytes(8, "little")))
    scalar: tuple[Count, ...] = ()
    nodes = [
        Node("subtract", (Count(step), Count(one)), (), "int64", scalar),
        Node("cast", (Count(at),), (), "float32", scalar),
        Node("divide", (Count(at + 1), Count(at + 1)), (), "float32", scalar),
        Node("add", (Count(at + 2), Count(at + 2)), (), "float32", scalar),
    ]
    kept = [replace(n, inputs=tuple(moved(source) for source in n.inputs)) for n in program.nodes]
    made = replace(
        program,
        nodes=(*kept[:place], *nodes, *kept[place:]),
        outputs=tuple(Output(o.name, moved(int(o.source))) for o in program.outputs),
    )
    return made, at + 2


@pytest.mark.slow
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_where_a_shard_s_program_fails_nobody_goes_on(shard: int) -> None:
    """At a node in the middle of its second step; the others have its failure for what is missing."""
    parts = equal_town("llama", 3).parts
    inner, node = failing(parts.shards[shard].inner, len(parts.shards[shard].inner.nodes) * 2 // 3)
    shards = list(parts.shards)
    shards[shard] = replace(shards[shard], inner=inner)
    made = town("llama", Parts(tuple(shards), parts.crossings), traced("llama"))
    failure = failed(reference(inner).digest, node)
    outcome = made.crews().audit(JOB, made.start, 0)
    assert outcome.failed == failure and outcome.contributions == ()
    assert failure not in outcome.items[1]
    last = outcome.items[2]
    begin = last.index(failure)
    assert set(last[begin:]) == {failure}
    makers = [*(each.maker for each in parts.crossings), *range(3)]
    assert makers[begin] == shard
    seen = dict[tuple[int, int], Tensor]()
    honest = equal_town("llama", 3)
    seen.update(together(honest)[1].seen)
    member = made.crews().run(JOB, made.start, Post(Count(0), Count(shard)), Kept(seen))
    assert member.failed == failure and member.states[:2] == tuple(
        each[-3 + shard] for each in outcome.items[:2]
    )
    given = [place for place, each in enumerate(parts.crossings) if each.maker == shard]
    for place, digest in zip(given, member.given[1], strict=True):
        assert digest == (last[place] if place < begin else digest)
    disputed = made.crews().disputed(JOB, made.start, Post(Count(0), Count(shard)), Place.STEP, 2)
    assert len(disputed.inputs) == len(inner.inputs)
    with pytest.raises(RoundFailed):
        made.crews().disputed(JOB, made.start, Post(Count(0), Count(shard)), Place.EPILOGUE, 2)


@pytest.mark.slow
def test_a_start_that_is_no_number_ends_the_round_in_its_first_step() -> None:
    made = equal_town("llama", 3)
    place = made.parts.shards[1].parameters[0]
    start = list(made.start)
    start[place] = replace(start[place], data=b"\0\0\xc0\x7f" + start[place].data[4:])
    outcome = made.crews().audit(JOB, start, 0)
    honest = made.crews().audit(JOB, made.start, 0)
    assert outcome.failed is not None and outcome.failed == outcome.items[1][-1]
    assert outcome.items[0][::2] == honest.items[0][::2] and outcome.items[0][1] != honest.items[0][1]
    assert all(set(items) == {outcome.failed} for items in outcome.items[2:])
    assert [len(items) for items in outcome.items] == [len(items) for items in honest.items]


def ending(b: Builder) -> tuple[Value, Value, Value]:
    """A working tensor that becomes infinite, and after it, of the same leg, a division by zero."""
    own = b.port("working/parameter/a", "float32", (2, 2))
    step = b.port("step", "int64", ())
    huge = b.multiply(b.multiply(own, b.scalar(1e30)), b.scalar(1e30))
    ended = b.divide(b.scalar(1.0), b.cast(step, "float32"))
    return huge, b.add(step, b.cast(ended, "int64")), step


def test_an_output_that_is_no_number_ends_the_step_where_it_is_made() -> None:
    """Though what comes after it in its leg fails as a node, and so before the leg's outputs are looked at."""
    b = Builder()
    huge, step, _ = ending(b)
    inner = b.finish("inner", [("a", huge), ("step", step)])
    node = int(inner.outputs[0].source)
    engine, member = member_of(inner)
    with pytest.raises(RoundFailed) as failure:
        InnerStep(member, [torch.ones(2, 2), torch.tensor(0)]).go_on()
    assert failure.value.digest == failed(reference(inner).digest, node)
    with pytest.raises(StepFailed) as alone:
        engine.run(reference(inner).digest, [[torch.ones(2, 2), torch.tensor(0)]])
    assert alone.value.node == node


def member_of(inner: Program) -> tuple[TorchEngine, Member]:
    """A machine with a shard that exchanges nothing."""
    part = around(inner, 0)
    programs = [encode_program(each) for each in (part.prologue, part.inner, part.epilogue)]
    engine = TorchEngine({program_digest(each): each for each in programs})
    other = replace(part, parameters=(Count(1),))
    return engine, Member(engine, Cut((shard_of(part), shard_of(other)), ()), 0)


def test_infinities_go_from_leg_to_leg_but_not_out() -> None:
    b = Builder()
    x = b.port("x", "float32", (2,))
    huge = b.multiply(x, b.scalar(1e38))
    program = b.finish("leg", [("huge", huge), ("sign", b.emit("sign", huge))])
    of = b.finish("inner", [("sign", b.emit("sign", huge))])
    engine = TorchEngine({reference(of).digest: encode_program(of)})
    inputs = [[torch.tensor([1e38, -1e38])]]
    carried = engine.learn(program, reference(of).digest, (1,))
    assert engine.run(carried, inputs)[0].tolist() == [float("inf"), float("-inf")]
    with pytest.raises(StepFailed) as failure:
        engine.run(
            TorchEngine.learn(engine, replace(program, role="other"), reference(of).digest, (0, 1)), inputs
        )
    assert failure.value.node == int(program.outputs[0].source)


class Broken(TorchEngine):
    """A machine that makes wrong numbers, once, in the first leg of inner step `step`."""

    step, done, faults = 2, 0, 0

    def note(self, done: int) -> None:
        """Hear how many steps are done."""
        self.done = done

    def run(self, digest: Digest, inputs: Any, tap: Any = None) -> list[torch.Tensor]:
        """Execute, once wrongly."""
        made = super().run(digest, inputs, tap)
        if self.done == self.step - 1 and not self.faults and self.program(digest).role == "leg":
            self.faults += 1
            made = [3 * each if each.dtype == torch.float32 else each for each in made]
        return made


@pytest.mark.slow
@pytest.mark.parametrize("checked", [2, 1])
def test_a_member_whose_machine_is_broken_finds_out_before_it_gives(
    crew: tuple[Town, Letters], checked: int
) -> None:
    """SPEC.md 9.6; where another step is checked it does not."""
    made, letters = crew
    places, given = taken_by(made, 1), set[int]()
    exchange = Kept({(step, n): letters.seen[step, n] for step in range(1, STEPS + 1) for n in places})
    exchange.give = lambda step, *rest: given.add(step)  # type: ignore[method-assign]
    engine, post = Broken(made.programs), Post(Count(0), Count(1))
    crews = made.crews(engine)
    sound = made.crews().run(JOB, made.start, post, exchange)
    given.clear()
    if checked != Broken.step:
        wrong = crews.run(JOB, made.start, post, exchange, engine.note, checked)
        assert engine.faults == 1 and wrong.states != sound.states
        return
    with pytest.raises(Unsound, match="computed in another way it has another digest"):
        crews.run(JOB, made.start, post, exchange, engine.note, checked)
    assert engine.faults == 1 and given == {1}
    engine.note(0)
    assert crews.run(JOB, made.start, post, exchange, engine.note, checked) == sound


@pytest.mark.slow
@pytest.mark.parametrize(("shard", "kind"), [(0, FalseActivations), (2, FalseGradients)])
def test_a_member_that_deceives_finds_nothing_wrong_with_itself(
    crew: tuple[Town, Letters], shard: int, kind: type[FalseCrossings]
) -> None:
    """In the rounds in which it would check itself it deceives as in the others."""
    made, letters = crew

    def told(engine: Engine, rerun: int = 0) -> tuple[MemberOutcome, dict[tuple[int, int], bytes]]:
        places, given = taken_by(made, shard), dict[tuple[int, int], bytes]()
        exchange = Kept({(step, n): letters.seen[step, n] for step in range(1, STEPS + 1) for n in places})

        def give(step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
            given[step, crossing] = bytes(tensor.data)

        exchange.give = give  # type: ignore[method-assign]
        outcome = made.crews(engine).run(
            JOB, made.start, Post(Count(0), Count(shard)), exchange, checked=rerun
        )
        return outcome, given

    unchecked = told(kind(made.engine(), JOB, {}))
    assert unchecked[1] != told(made.engine())[1]
    assert told(kind(made.engine(), JOB, {}), 1) == unchecked


@pytest.mark.slow
def test_an_auditor_whose_machine_is_broken_finds_out(crew: tuple[Town, Letters]) -> None:
    made, _ = crew
    engine = Broken(made.programs)
    with pytest.raises(Unsound, match="computed in another way it has another digest"):
        made.crews(engine).audit(JOB, made.start, 0, engine.note, Broken.step)
    assert engine.faults == 1
    engine.note(0)
    sound = made.crews().audit(JOB, made.start, 0)
    assert made.crews(engine).audit(JOB, made.start, 0, engine.note, Broken.step) == sound


@pytest.mark.slow
def test_machines_with_little_memory_and_with_loops_make_the_same(tmp_path: Path) -> None:
    made = equal_town("llama", 2)
    wanted = made.crews().audit(JOB, made.start, 0)
    loops = made.engine(RunOptions(loops=Loops.ALWAYS))
    assert made.crews(loops).audit(JOB, made.start, 0) == wanted
    memory = Count(max(peak_bytes(part.inner) for part in made.parts.shards) * 2 // 3)
    frugal = FrugalEngine(made.programs, RunOptions(memory=memory, scratch=str(tmp_path)))
    assert made.crews(frugal).audit(JOB, made.start, 0) == wanted
