"""A dispute about one inner step of a small program of real operators, played through the law to its end.

Nothing is simulated: both sides compute by the operators' definitions, sign with keys, and move as the honest peer
does; one of them holds wrong numbers. The rest of a run is left out: a round is open, its worker has opened its leaves,
and a verifier has revealed others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.duel import Claim, contest, next_move, sealed_round
from simulator.toy import minimal
from verification import law
from verification.arithmetic.definition import number_of
from verification.arithmetic.numbers import FORMATS, EndsStep, Number, bits_of, read_number
from verification.digest import tagged
from verification.effects import Effect, MemberJoined
from verification.evidence.collect import Log
from verification.honest.actions import (
    Computed,
    OpenClaim,
    OpenValue,
    Results,
    SplitClaim,
    Traced,
    TraceProgram,
)
from verification.honest.openings import Values, open_inputs, prove
from verification.honest.within import Held, read_by
from verification.library import Now, failed
from verification.manifest import Place, ProgramRef, Programs
from verification.operators import ARITHMETIC
from verification.program import (
    VERSION,
    Node,
    Output,
    Port,
    Program,
    digest_of_program,
    first_node,
    program_head,
    values,
)
from verification.referee import result_of
from verification.signed import Said, make_statement, open_statement, sign_statement
from verification.signing import address_of
from verification.state import Dispute, State, Turn
from verification.statements import Body
from verification.tensors import Tensor, bundle_digest, tensor_digest
from verification.units import Amount, Count, Digest, Millis

KEYS = {"accused": b"\1" * 32, "challenger": b"\2" * 32}
DEPTH = 130
"""Terms of the product and the sum: more than one list of 64."""


def tensor(dtype: str, shape: tuple[int, ...], numbers: list[Number]) -> Tensor:
    """Return a tensor of these numbers."""
    size = FORMATS[dtype].size
    data = b"".join(bits_of(dtype, number).to_bytes(size, "little") for number in numbers)
    return Tensor(dtype, tuple(map(Count, shape)), data)


def _with(made: Tensor, index: int, number: Number) -> Tensor:
    """Return a tensor with another number at a flat index."""
    numbers = [
        read_number(made.dtype, made.data, i) for i in range(len(made.data) // FORMATS[made.dtype].size)
    ]
    numbers[index] = number
    return tensor(made.dtype, tuple(map(int, made.shape)), numbers)


def _node(operator: str, *inputs: int, shape: tuple[int, ...], **attributes: int | tuple[int, ...]) -> Node:
    named = sorted(
        (name, value if isinstance(value, tuple) else (value,)) for name, value in attributes.items()
    )
    return Node(operator, tuple(map(Count, inputs)), tuple(named), "float32", tuple(map(Count, shape)))


PRODUCT, SCALED, SUM, SHIFTED, RATIO = range(6, 11)
"""The numbers of the nodes."""

PROGRAM = Program(
    VERSION, ARITHMETIC, "inner",
    (
        Port("left", "int16", (Count(3), Count(DEPTH))), Port("left exponent", "int16", (Count(3), Count(1))),
        Port("right", "int16", (Count(DEPTH), Count(5))), Port("right exponent", "int16", (Count(1), Count(5))),
        Port("x", "float32", (Count(3), Count(DEPTH))),
    ),
    (tensor("float32", (1,), [0.5]),),
    (
        _node("product", 0, 1, 2, 3, shape=(3, 5), bits=14),
        _node("multiply", 4, 5, shape=(3, DEPTH)),
        _node("sum", SCALED, shape=(3, 1), dims=1, keepdim=1),
        _node("add", PRODUCT, SUM, shape=(3, 5)),
        _node("divide", PRODUCT, SUM, shape=(3, 5)),
    ),
    (Output("moved", Count(SHIFTED)), Output("ratio", Count(RATIO)), Output("left", Count(0))),
)  # fmt: skip
DIGEST = digest_of_program(PROGRAM)

INPUTS = (
    tensor("int16", (3, DEPTH), [(7 * k) % 41 - 20 for k in range(3 * DEPTH)]),
    tensor("int16", (3, 1), [2, 0, 1]),
    tensor("int16", (DEPTH, 5), [(5 * k) % 37 - 18 for k in range(5 * DEPTH)]),
    tensor("int16", (1, 5), [1, 0, 3, 2, 1]),
    tensor("float32", (3, DEPTH), [(k % 11) / 4 + 1 for k in range(3 * DEPTH)]),
)
ZEROS = (*INPUTS[:4], tensor("float32", (3, DEPTH), [0.0] * (3 * DEPTH)))
"""Inputs on which the sum is zero, so that the division ends the step."""

HUGE = (*INPUTS[:4], tensor("float32", (3, DEPTH), [3e38] * (3 * DEPTH)))
"""Inputs on which the sum is infinite, which no output may be."""
ENDLESS = (*INPUTS[:4], _with(INPUTS[4], 7, math.inf))
"""Inputs with an infinity, on which the sum's term 7 ends the step."""


@dataclass(frozen=True)
class Faults:
    """What a side has wrong, by node: a `number` and its place, a number that it `misreads` (place of the input, flat
    index, number), that it `fails`; or the one output of which it says another digest. What follows goes on from it."""

    numbers: Mapping[int, tuple[int, Number]] = field(default_factory=dict)
    misreads: Mapping[int, tuple[int, int, Number]] = field(default_factory=dict)
    fails: int | None = None
    output: int | None = None


NONE = Faults()


class Side:
    """What one side of the dispute holds of the step, in the right way but for its faults."""

    def __init__(self, name: str, inputs: tuple[Tensor, ...], faults: Faults) -> None:
        self.secret, self.address, self.faults = KEYS[name], address_of(KEYS[name]), faults
        self.values: list[Tensor] = [*inputs, *PROGRAM.constants]
        self.results: list[Digest] = []
        self.failed: int | None = None
        for number in range(first_node(PROGRAM), first_node(PROGRAM) + len(PROGRAM.nodes)):
            made = None if faults.fails == number else self._made(number)
            if made is None:
                self.failed = number
                self.results.append(failed(DIGEST, number))
                break
            self.values.append(_with(made, *faults.numbers[number]) if number in faults.numbers else made)
            self.results.append(tensor_digest(self.values[-1]))

    @property
    def traced(self) -> Traced:
        """What it says of the whole execution."""
        if self.failed is not None:
            return Traced(self.failed, (), tuple(self.results))
        outputs = [tensor_digest(self.values[output.source]) for output in PROGRAM.outputs]
        if self.faults.output is not None:
            outputs[self.faults.output] = tagged("invented")
        return Traced(None, tuple(outputs), tuple(self.results))

    @property
    def end(self) -> Digest:
        """The working state after the step, or what stands for its failure."""
        return self.results[-1] if self.failed is not None else bundle_digest(self.traced.outputs)

    def held(self, number: int) -> Held:
        """Return what it holds of a node."""
        node, known = PROGRAM.nodes[number - first_node(PROGRAM)], values(PROGRAM)
        sources = [int(source) for source in node.inputs]
        result = result_of(program_head(PROGRAM), number, node, [known[source] for source in sources])

        misread = self.faults.misreads.get(number)

        def read(place: int, index: int) -> Number:
            if misread is not None and misread[:2] == (place, index):
                return misread[2]
            held = self.values[sources[place]]
            return read_number(held.dtype, held.data, index)

        return Held(result, read, self.values[number] if number < len(self.values) else None)

    def answer(self, action: Computed) -> Any:
        """Return the result of a computation that the honest peer asks for."""
        own = Values(
            self.results,
            lambda port: tensor_digest(self.values[port]),
            lambda port: ([tensor_digest(self.values[n]) for n in range(len(PROGRAM.inputs))], port),
            self.values.__getitem__,
            lambda _: None,
        )
        match action:
            case TraceProgram():
                return self.traced
            case SplitClaim(node=node, claim=claim):
                return self.held(node).split(claim)
            case OpenClaim(node=node, claim=claim, trail=trail):
                sources = PROGRAM.nodes[node - first_node(PROGRAM)].inputs
                held = self.held(node)
                reads = [
                    (int(sources[i]), row, block) for i, row, block in read_by(claim, held.result, held.read)
                ]
                brought = [read for read in dict.fromkeys(reads) if not 5 <= read[0] < first_node(PROGRAM)]
                return open_inputs(Place.STEP, program_head(PROGRAM), trail, own, brought)
            case OpenValue(value=value, trail=trail):
                digest = tensor_digest(self.values[value])
                return digest, prove(Place.STEP, program_head(PROGRAM), trail, own, value)
        raise AssertionError(action)

    def _made(self, number: int) -> Tensor | None:
        held = self.held(number)
        site, definition = held.result.site, held.result.definition
        try:
            numbers = [number_of(definition, site, i, held.read) for i in range(held.result.grid.numbers)]
        except EndsStep:
            numbers = []
        if numbers and not any(map(held.result.forbids, numbers)):
            return tensor("float32", site.result.shape, numbers)
        # Who has a wrong number of a node that fails says numbers for the others too.
        zeros = tensor("float32", site.result.shape, [0.0] * held.result.grid.numbers)
        return zeros if number in self.faults.numbers else None


class Library:
    """Knows the one program."""

    def program(self, digest: Digest) -> Program:
        """Return it; raises KeyError for another digest."""
        return {DIGEST: PROGRAM}[digest]


@dataclass
class Played:
    """A dispute that has ended: the law's state, all statements, and the effects in order."""

    state: State
    statements: list[bytes]
    effects: list[tuple[Millis, Effect]]

    @property
    def dispute(self) -> Dispute:
        """The one dispute."""
        return self.state.disputes[0]

    @property
    def log(self) -> Log:
        """What was said."""
        return Log.read(self.statements)


class Match:
    """The dispute in progress."""

    def __init__(self, accused: Side, challenger: Side) -> None:
        self.sides = {side.address: side for side in (accused, challenger)}
        ref = ProgramRef(DIGEST, DIGEST)
        manifest = minimal(max_steps=1, leaf_every=1, batch=1)
        manifest = replace(manifest, programs=Programs(ref, ref, ref, ref))
        self.state = sealed_round(manifest, "toy", accused.address, challenger.address, 1, Amount(40_000))
        self.statements: list[bytes] = []
        self.effects: list[tuple[Millis, Effect]] = [
            (Millis(0), MemberJoined(member.address, member.role, member.stake))
            for member in self.state.members.values()
        ]
        before = bundle_digest([tensor_digest(value) for value in accused.values[:5]])
        for body in contest(
            self.state, self._claim(accused, before), self._claim(challenger, before), Library()
        ):
            self.sign(accused, body)

    def play(self) -> Played:
        """Move until the law has ruled."""
        dispute = self.state.disputes[0]
        while dispute.ruling is None:
            side = self.sides[dispute.accused if dispute.turn is Turn.LIST else dispute.challenger]
            said = self.sign(side, next_move(self.state, Results(), side.answer))
            effects = law.HANDLERS[type(said.body)](self.state, said, Now(Millis(1), Library()))
            self.effects += [(Millis(len(self.statements)), effect) for effect in effects]
        return Played(self.state, self.statements, self.effects)

    @staticmethod
    def _claim(side: Side, before: Digest) -> Claim:
        return (before, side.end), tagged("contribution") if side.failed is None else side.end

    def sign(self, side: Side, body: Body) -> Said[Any]:
        """Return a statement of a side's, as the law's handlers take it, and keep it."""
        statement = make_statement(
            self.state.chain, self.state.run, law.head_of(self.state, body.round), body
        )
        self.statements.append(sign_statement(side.secret, statement))
        return open_statement(self.statements[-1])


def played(accused: Faults, challenger: Faults = NONE, inputs: tuple[Tensor, ...] = INPUTS) -> Played:
    """Return a dispute of an accused with such faults against a challenger with others, ended."""
    return Match(Side("accused", inputs, accused), Side("challenger", inputs, challenger)).play()
