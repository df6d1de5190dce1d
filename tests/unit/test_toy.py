"""The simulator's toy is a real training: checked programs of real operators, in which every input counts."""

import random
from typing import Any

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import DATA, FATAL, START, BrokenEngine, ToyEngine, minimal, numbers, tensor, vector
from simulator.world import World
from tests import arithmetic
from trainer.programs.conversion import from_torch, to_torch
from trainer.programs.executor import ProgramExecutor
from trainer.rounds.engine import Job
from trainer.rounds.training import Rounds
from trainer.shards.legs import legs_of
from verification.digest import tagged
from verification.effects import Slashed
from verification.errors import BadEvidence
from verification.library import failed
from verification.manifest import Manifest
from verification.outer import outer_inputs
from verification.program import Node, Program, encode_program, first_node
from verification.sampling import record_index
from verification.state import Ruling
from verification.tensors import Bundle, Tensor
from verification.units import MILLION, Address, Round

MANIFEST = minimal(max_steps=4)
JOB = Job(Round(0), Address(b"\x07" * 20), tagged("beacon"), 3)
SIZES: list[dict[str, Any]] = [{}, {"chain": 3, "batch": 3}, {"wide": 50}, {"wide": 20, "batch": 1}]


class Watching(ToyEngine):
    """Keeps what every node was given and made."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.seen: list[tuple[Program, int, Node, list[Tensor], Tensor]] = []

    def execute(self, program: Program, number: int, node: Node, inputs: Any) -> Tensor:
        """Note it down."""
        made = super().execute(program, number, node, inputs)
        self.seen.append((program, number, node, inputs, made))
        return made


def test_the_toy_s_step_in_legs_that_it_learns_is_the_step() -> None:
    engine, inner = ToyEngine(), MANIFEST.programs.inner.digest
    program, working = engine.program(inner), Rounds(ToyEngine(), MANIFEST, DATA).opening(START.tensors)
    known = dict(enumerate(working))
    for leg in legs_of(program, len(working)):
        digest = engine.learn(leg.program, inner, leg.finite)
        known |= dict(zip(leg.makes, engine.run(digest, [[known[n] for n in leg.reads]]), strict=True))
    assert tuple(known[output.source] for output in program.outputs) == engine.run(inner, [working])


def contribution(manifest: Manifest, start: Bundle = START, data: Bundle = DATA, job: Job = JOB) -> Bundle:
    """Return what a round makes."""
    made = Rounds(ToyEngine(), manifest, data).run(job, start.tensors).contribution
    assert made is not None
    return made


def trained(manifest: Manifest) -> Watching:
    """Return an engine that has run all four programs."""
    engine, slots = Watching(), manifest.work.slots
    rounds = Rounds(engine, manifest, DATA)
    made = rounds.run(JOB, START.tensors).contribution
    assert made is not None
    rounds.next_state(
        outer_inputs(slots, START.tensors, {0: (9, made.tensors), slots - 1: (4, made.tensors)}, 3)
    )
    return engine


@pytest.mark.parametrize("sizes", SIZES)
def test_the_trainer_checks_the_programs_and_makes_the_same_numbers(sizes: dict[str, Any]) -> None:
    """The kernels of a machine, on all that the definitions were given."""
    manifest = minimal(max_steps=4, **sizes)
    refs, engine = vars(manifest.programs), trained(manifest)
    programs = {ref.digest: encode_program(engine.program(ref.digest)) for ref in refs.values()}
    executor = ProgramExecutor(programs)
    assert {executor.program(digest).role for digest in programs} == set(refs)
    assert {program.role for program, *_ in engine.seen} == set(refs)
    for _, _, node, inputs, made in engine.seen:
        found = arithmetic.by_kernel(arithmetic.Case(node, tuple(map(to_torch, inputs))))
        assert found is not None
        assert from_torch(found) == made, node.operator


def changed(bundle: Bundle, place: int) -> Bundle:
    """Return a bundle with one number of its first tensor greater by one."""
    first, *rest = bundle.tensors
    values = list(numbers(first))
    values[place] += 1
    return Bundle((tensor(values, first.dtype, first.shape), *rest))


def test_every_token_and_every_parameter_counts() -> None:
    records = sorted(set(numbers(record_index(MANIFEST, JOB.beacon, JOB.worker, JOB.steps))[: JOB.steps * 2]))
    right, places = contribution(MANIFEST), [4 * record + place for record in records for place in range(4)]
    assert len(places) >= 4 * JOB.steps
    assert all(contribution(MANIFEST, data=changed(DATA, place)) != right for place in places)
    assert len({right, *(contribution(MANIFEST, changed(START, place)) for place in range(4))}) == 5


def after(tokens: list[int], start: tuple[int, ...] = (1, 2, 3, 4), steps: int = 3) -> tuple[int, ...]:
    """Return the parameters after some steps on tokens."""
    engine, manifest = ToyEngine(), minimal(max_steps=4, batch=2)
    filled = [*tokens, *[0] * (32 - len(tokens))]
    working = (vector(start), tensor([0], "int64", ()), tensor(filled, "uint8", (4, 2, 4)))
    for _ in range(steps):
        working = engine.run(manifest.programs.inner.digest, [working])  # type: ignore[assignment]
    assert numbers(working[1]) == (steps,)
    return numbers(working[0])


def test_the_order_of_steps_counts() -> None:
    steps = [[10 * n + k for k in range(8)] for n in (1, 4, 9)]
    orders = {after([*steps[a], *steps[b], *steps[c]]) for a, b, c in ((0, 1, 2), (2, 1, 0), (1, 0, 2))}
    assert len(orders) == 3
    assert after([*steps[0], *steps[1], *steps[2]]) != after([*steps[0], *steps[1], *steps[2][::-1]])


def test_a_step_is_what_a_person_reckons() -> None:
    """1, 3, 5 and 7 times the sum over the batch of tokens by parameters, less these: small numbers are exact."""
    assert after([1] * 4 + [2] * 4, steps=1) == (29, 88, 147, 206)
    assert after([255], (-1000, 5, 7, -9), 1) == (-254_000, -765_005, -1_275_007, -1_784_991)


def test_a_drive_stays_within_int32() -> None:
    """(255 * 2^24) modulo 2^32 is -2^24."""
    assert after([255], (1 << 24, 0, 0, 0), 1) == (-2 << 24, -3 << 24, -5 << 24, -7 << 24)


def test_a_fatal_parameter_ends_the_first_step_and_no_other_does() -> None:
    engine = ToyEngine()
    program = engine.program(MANIFEST.programs.inner.digest)
    start = Bundle((vector([FATAL, 2, 3, 4]), START.tensors[1]))
    outcome = Rounds(engine, MANIFEST, DATA).run(JOB, start.tensors)
    node = next(place for place, node in enumerate(program.nodes) if node.operator == "sum") + 1
    assert program.nodes[node].operator == "cast"
    assert outcome.failed == failed(MANIFEST.programs.inner.digest, first_node(program) + node)
    for largest in (2**31, 2**40, -(2**40)):
        contribution(MANIFEST, Bundle((vector([largest] * 4), START.tensors[1])))


def outer_step(
    weights: dict[int, int], deltas: dict[int, list[int]], ballast: int
) -> tuple[list[float], list[int]]:
    """Return momentum and parameters after an outer step from START."""
    parts = {slot: (weights[slot], (vector(deltas[slot]), vector([1]), vector([2]))) for slot in weights}
    inputs = outer_inputs(MANIFEST.work.slots, START.tensors, parts, ballast)
    parameters, momentum = Rounds(ToyEngine(), MANIFEST, DATA).next_state(inputs).tensors
    return list(numbers(momentum)), list(numbers(parameters))


@pytest.mark.parametrize(("ballast", "mean"), [(0, [40.0, -80.0, 12.0, 0.0]), (8, [20.0, -40.0, 6.0, 0.0])])
def test_the_outer_step_takes_the_weighted_mean(ballast: int, mean: list[float]) -> None:
    """Of 6 and 2 in 8, then of 16 with the ballast's zeros; an empty slot weighs nothing."""
    deltas = {0: [40, -80, 8, 4], 3: [40, -80, 24, -12]}
    moved = [number - int(by) for number, by in zip((1, 2, 3, 4), mean, strict=True)]
    assert outer_step({0: 6, 3: 2}, deltas, ballast) == (mean, moved)


def test_a_part_that_is_taken_back_weighs_less_than_nothing() -> None:
    deltas = {0: [100, 0, 0, 0], 1: [0, 300, 0, 0]}
    assert outer_step({0: 4, 1: -1}, deltas, 1)[0] == [100.0, -75.0, 0.0, 0.0]
    assert outer_step({}, {}, 0) == ([0.0] * 4, [1, 2, 3, 4])


@pytest.mark.parametrize("operator", ["row_exponent", "quantise", "product", "sum"])
def test_a_dispute_over_long_sums_ends_at_their_node(operator: str) -> None:
    """200 terms of a product and its exponents, 100 of a sum: the first wrong node is the one that is named."""
    manifest = minimal(wide=50, rounds=2, max_steps=4, leaf_every=2, audit_rate=MILLION)
    program = ToyEngine().program(manifest.programs.inner.digest)
    places = [place for place, node in enumerate(program.nodes) if node.operator == operator]
    cheat, honest = Worker("cheat"), [Worker("w0"), Worker("w1"), Verifier("v0")]
    cheat.engine = BrokenEngine("inner", places[0])
    world = World(manifest, [cheat, *honest], random.Random(3), check=Invariants(honest))
    world.run()
    ended = [dispute for dispute in world.state.disputes if dispute.ruling is Ruling.GUILTY]
    assert {slashed.address for slashed in world.seen(Slashed)} == {cheat.address}
    assert ended and {int(dispute.game.node) - first_node(program) for dispute in ended} == {places[0]}
    assert all(dispute.operator.startswith(operator) for dispute in ended)


@pytest.mark.parametrize("start", [Bundle(START.tensors[:1]), Bundle((*START.tensors, *START.tensors)), DATA])
def test_a_start_that_is_no_state_is_refused(start: Bundle) -> None:
    with pytest.raises(BadEvidence, match="inputs"):
        contribution(MANIFEST, start)


def test_terms_are_as_many_as_said() -> None:
    """5,000 terms of a product."""
    program = ToyEngine().program(minimal(wide=1250).programs.inner.digest)
    product = next(node for node in program.nodes if node.operator == "product")
    known = [*program.inputs, *program.constants, *program.nodes]
    assert known[product.inputs[0]].shape[-1] == 5000
