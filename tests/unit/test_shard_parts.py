"""Programs of shards: together they make what the whole makes, bit by bit; what breaks a rule of the cut is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests import zoo
from tests.crews import (
    JOB,
    STEPS,
    around,
    assert_is_the_whole,
    equal_cut,
    equal_town,
    norm_in,
    parts_before,
    town,
    traced,
)
from tests.shards import RUNS
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.programs.tracing.compression import Compression, Dense, TopK
from trainer.programs.tracing.low_rank import LowRank
from trainer.rounds.norms import Norms
from trainer.shards.conventions import require_sound_cut, require_sound_parts
from trainer.shards.cut import Machine, cut_for
from trainer.shards.parts import parts_of
from trainer.shards.programs import Parts
from verification.errors import Malformed, UserError
from verification.layout import per_parameter
from verification.manifest import Crossing, Place
from verification.program import Program
from verification.units import Count

MUCH = 1 << 40


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_shards_by_their_own_programs_make_the_whole(name: str, count: int) -> None:
    made = equal_town(name, count)
    require_sound_parts(made.parts)
    assert_is_the_whole(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_shard_s_inner_program_makes_in_one_go_what_its_legs_make(name: str) -> None:
    made = equal_town(name, 3)
    engine = made.engine()
    outcome = made.crews(engine).audit(JOB, made.start, 0)
    crossings, count = made.parts.crossings, len(made.parts.crossings)
    for shard, inputs in enumerate(parts_before(made, engine, Place.STEP, STEPS)):
        part = made.parts.shards[shard]
        outputs = LoadedProgram(part.inner).run(inputs)
        working, given = outputs[: len(part.prologue.outputs)], outputs[len(part.prologue.outputs) :]
        assert engine.digest(working) == outcome.items[STEPS][count + shard]
        assert engine.digests(given) == [
            outcome.items[STEPS][place] for place in range(count) if crossings[place].maker == shard
        ]


COMPRESSIONS: dict[str, Compression] = {
    "dense": Dense(4, 64), "top-k": TopK(0.1, 64), "low-rank": LowRank(0.3, 64)
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", COMPRESSIONS)
def test_shards_compress_their_parameters_as_the_whole_does(way: str) -> None:
    run, name = compressed(COMPRESSIONS[way]), "llama"
    programs = (run.prologue, run.inner, run.epilogue, run.outer)
    parts = parts_of(run, cut_for(programs, [Machine(MUCH, 1)] * 3))
    made = town(name, parts, run)
    require_sound_parts(parts)
    outcome, whole = made.crews().audit(JOB, made.start, 0), made.whole()
    assert whole.contribution is not None
    for part, contribution in zip(parts.shards, outcome.contributions, strict=True):
        own = per_parameter(contribution.tensors)
        assert list(own) == [whole.contribution.tensors[place] for place in part.parameters]
        assert Norms(part.epilogue).of(contribution.tensors) == norm_in(contribution.tensors) > 0
    assert sum(outcome.losses) == whole.loss


def compressed(compression: Compression) -> TracedRun:
    """A model whose contributions are packed."""
    module = zoo.model("llama")
    job = replace(zoo.job("llama"), compression=compression)
    return trace_run(module, zoo.loss_of("llama", module), job)


def test_no_working_tensor_of_a_parameter_is_held_twice_and_none_is_left_out() -> None:
    parts, inner = parts_of(traced("gpt2"), equal_cut("gpt2", 3)), traced("gpt2").inner
    held = [port.name for part in parts.shards for port in part.inner.inputs[: len(part.prologue.outputs)]]
    assert set(held) == {port.name for port in inner.inputs}
    twice = {name for name in held if held.count(name) > 1}
    assert twice == {"step", "rates", "beta1_power", "beta2_power"}, (
        "in a ring the first shard alone reads tokens"
    )


def test_more_shards_than_parameters_is_a_person_s_mistake() -> None:
    cut = replace(equal_cut("llama", 2), ends=(1, 2))
    with pytest.raises(UserError, match="shard 3 of 3 would hold no parameter"):
        parts_of(traced("llama"), cut)


@pytest.mark.slow
def test_a_cut_is_taken_as_the_manifest_says_it_or_not_at_all() -> None:
    made = equal_town("llama", 2)
    program, whole, cut = made.engine().program, made.manifest.programs, made.manifest.cuts[0]
    require_sound_cut(cut, whole, program)
    first, second = cut.shards
    units = replace(first.units, inner=Count(first.units.inner + 1))
    turned = replace(first, parameters=second.parameters), replace(second, parameters=first.parameters)
    wrong = {
        "work units, the manifest says": (replace(first, units=units), second),
        "its programs are prologue, epilogue, epilogue": (replace(first, inner=first.epilogue), second),
        "its prologue reads other things than the run's": turned,
    }
    for message, shards in wrong.items():
        with pytest.raises(Malformed, match=message):
            require_sound_cut(replace(cut, shards=shards), whole, program)


def sound() -> Parts:
    """Two shards by hand: what the second multiplies it takes as numbers and quantises itself."""
    return two_shards(lambda b, a, step: [b.multiply(a, b.scalar(2.0))])


def two_shards(
    given: Callable[[Builder, Value, Value], list[Value]],
    read: Callable[[Builder, Value, list[Value]], Value] = lambda b, own, taken: b.matmul(taken[0], own),
) -> Parts:
    """Two shards: what the first gives, and what the second makes of it and of its own parameter."""
    b = Builder()
    a, step = b.port("working/parameter/a", "float32", (2, 2)), b.port("step", "int64", ())
    made = given(b, a, step)
    first = b.finish(
        "inner",
        [("a", a), ("step", b.add(step, b.scalar(1, "int64"))), *((f"c{n}", v) for n, v in enumerate(made))],
    )
    b = Builder()
    own, step = b.port("working/parameter/b", "float32", (2, 2)), b.port("step", "int64", ())
    taken = [b.port(f"c{n}", value.dtype, value.shape) for n, value in enumerate(made)]
    second = b.finish("inner", [("b", read(b, own, taken)), ("step", b.add(step, b.scalar(1, "int64")))])
    crossings = tuple(Crossing(Count(0), (Count(1),)) for _ in made)
    return Parts((around(first, 0), around(second, 1)), crossings)


def with_inner(parts: Parts, shard: int, inner: Program) -> Parts:
    """The same cut, another inner program in one shard."""
    shards = list(parts.shards)
    shards[shard] = replace(shards[shard], inner=inner)
    return replace(parts, shards=tuple(shards))


def test_sound_parts_are_taken() -> None:
    require_sound_parts(sound())


def test_what_depends_on_no_parameter_does_not_cross() -> None:
    rates = two_shards(lambda b, a, step: [b.expand(b.cast(step, "float32"), (2, 2))])
    with pytest.raises(Malformed, match="crossing 0 depends on no parameter"):
        require_sound_parts(rates)


def quantised(b: Builder, a: Value) -> list[Value]:
    """Operands of a product, as a shard must make them itself."""
    exponent = b.emit("row_exponent", a, dim=1)
    return [b.emit("quantise", a, exponent, dim=1, bits=14), exponent]


def product(b: Builder, left: Sequence[Value], own: Value) -> Value:
    """A product of operands that have come from elsewhere."""
    exponent = b.emit("row_exponent", own, dim=0)
    right = b.emit("quantise", own, exponent, dim=0, bits=14)
    return b.emit("product", left[0], left[1], right, exponent, bits=14)


def test_no_operand_of_a_product_is_another_s_however_far_behind() -> None:
    at_once = two_shards(lambda b, a, step: quantised(b, a), lambda b, own, taken: product(b, taken, own))
    cast = two_shards(
        lambda b, a, step: quantised(b, a),
        lambda b, own, taken: product(b, [b.cast(b.cast(taken[0], "int64"), "int16"), taken[1]], own),
    )
    for parts in (at_once, cast):
        with pytest.raises(Malformed, match="shard 1: input 2 is another's and reaches a product"):
            require_sound_parts(parts)


def test_integers_that_are_made_numbers_may_cross() -> None:
    def read(b: Builder, own: Value, taken: list[Value]) -> Value:
        return b.matmul(b.cast(taken[0], "float32"), own)

    require_sound_parts(two_shards(lambda b, a, step: [b.cast(b.emit("round", a), "int8")], read))


def test_crossings_fit_the_ports_that_take_them() -> None:
    parts = sound()
    inner = parts.shards[1].inner
    ports = (*inner.inputs[:2], replace(inner.inputs[2], shape=(Count(2), Count(3))))
    with pytest.raises(Malformed, match=r"crossing 0 is .* where it is made"):
        require_sound_parts(with_inner(parts, 1, replace(inner, inputs=ports)))
    with pytest.raises(Malformed, match="shard 0: 3 outputs of the inner program, not 2"):
        require_sound_parts(replace(parts, crossings=()))
    more = Crossing(Count(1), (Count(0),))
    with pytest.raises(Malformed, match="inputs of the inner program"):
        require_sound_parts(replace(parts, crossings=(*parts.crossings, more)))


def test_a_working_state_is_the_same_in_all_programs_of_a_shard() -> None:
    parts = sound()
    inner, epilogue = parts.shards[0].inner, parts.shards[0].epilogue
    turned = replace(inner, outputs=(inner.outputs[1], inner.outputs[0], *inner.outputs[2:]))
    with pytest.raises(Malformed, match="the inner program makes another working state"):
        require_sound_parts(with_inner(parts, 0, turned))
    ports = (*epilogue.inputs[:3], replace(epilogue.inputs[3], dtype="float32"))
    other = replace(parts.shards[0], epilogue=replace(epilogue, inputs=ports))
    with pytest.raises(Malformed, match="the epilogue reads another working state"):
        require_sound_parts(replace(parts, shards=(other, parts.shards[1])))


def test_no_shard_hands_on_what_it_takes() -> None:
    with pytest.raises(Malformed, match="hands on as its own"):
        require_sound_parts(
            two_shards(lambda b, a, step: [b.multiply(a, b.scalar(2.0))], lambda b, own, taken: taken[0])
        )


def test_shards_that_wait_for_each_other_are_refused() -> None:
    def waiting(name: str) -> Program:
        b = Builder()
        own, step = b.port(f"working/parameter/{name}", "float32", (2, 2)), b.port("step", "int64", ())
        taken = b.port("taken", "float32", (2, 2))
        given = b.add(own, taken)
        return b.finish(
            "inner", [("own", own), ("step", b.add(step, b.scalar(1, "int64"))), ("given", given)]
        )

    crossings = Crossing(Count(0), (Count(1),)), Crossing(Count(1), (Count(0),))
    parts = Parts((around(waiting("a"), 0), around(waiting("b"), 1)), crossings)
    with pytest.raises(Malformed, match="before it gives"):
        require_sound_parts(parts)


def test_a_shard_s_programs_alone_say_all_that_it_reads() -> None:
    """Shards are loaded by themselves, as whole programs are: no operand comes from elsewhere."""
    for part in equal_town("llama", 3).parts.shards:
        for program in (part.prologue, part.inner, part.epilogue):
            assert LoadedProgram(program).program is program
