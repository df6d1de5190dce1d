"""Training as four tiny programs of real operators, executed number by number as the law defines them.

State: [param int64[WIDTH], momentum float32[WIDTH]]. Working state: [param, step int64 0-d, tokens uint8[max_steps,
batch, RECORD]]. Contribution: [delta int64[WIDTH], norm int64[1], loss int64[1]]. A step adds at most 2^34.
"""

import dataclasses
import functools
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Any

from verification import codec
from verification.arithmetic.definition import Definition, number_of, numbers_in
from verification.arithmetic.numbers import FORMATS, EndsStep, Number
from verification.arithmetic.places import Site, Spec
from verification.content import address_of_bytes
from verification.digest import ZERO
from verification.errors import BadEvidence, Refused, Unavailable, Unsound
from verification.layout import summary_of
from verification.library import StepFailed
from verification.manifest import (
    PROTOCOL_VERSION,
    Assumptions,
    BundleRef,
    DataRef,
    Manifest,
    MoneyRules,
    ProgramRef,
    Programs,
    Windows,
    WorkRules,
    WorkUnits,
)
from verification.operators import ARITHMETIC, definition_of
from verification.program import (
    VERSION,
    Node,
    Output,
    Port,
    Program,
    check_program,
    digest_of_program,
    first_node,
    size_bytes,
)
from verification.tensors import Bundle, Tensor, bundle_digest, digest_of, tensor_digest
from verification.units import PPM, Amount, Count, Digest, Millis

WIDTH = 4
RECORDS, RECORD = 40, WIDTH
BITS = 14
FATAL = 2**63 - 1
"""A parameter with which the first inner step ends; none of an honest run is as large unless the run starts there."""

Shape = tuple[int, ...]


@functools.cache
def _form(dtype: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{FORMATS[dtype].format[1:]}")


def tensor(values: Sequence[Number], dtype: str, shape: Shape) -> Tensor:
    """Return a tensor of some numbers."""
    return Tensor(dtype, tuple(map(Count, shape)), _form(dtype, len(values)).pack(*values))


def vector(values: Sequence[int]) -> Tensor:
    """Return one row of int64."""
    return tensor(values, "int64", (len(values),))


def numbers(of: Tensor) -> tuple[Any, ...]:
    """Return the numbers of a tensor."""
    return _form(of.dtype, len(of.data) // FORMATS[of.dtype].size).unpack(of.data)


def norm_of(delta: Sequence[int]) -> int:
    """Return the toy's measure of how large a contribution is."""
    return sum(map(abs, delta))


@functools.lru_cache(maxsize=1 << 12)
def _bound(node: Node, specs: tuple[Spec, ...]) -> tuple[Definition, Site]:
    """Return what defines a node's numbers, and where they stand."""
    site = Site(dict(node.attributes), specs, Spec(node.dtype, node.shape))
    return definition_of(node.operator, site), site


@functools.lru_cache(maxsize=1 << 15)
def execute(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return all numbers of a node's result by the operator's definition; raises EndsStep.

    It is a pure function, so what one peer has computed nobody computes again.
    """
    definition, site = _bound(node, tuple(Spec(each.dtype, each.shape) for each in inputs))
    known = [numbers(each) for each in inputs]

    def read(place: int, index: int) -> Number:
        number: Number = known[place][index]
        return number

    made = [number_of(definition, site, index, read) for index in range(numbers_in(site))]
    return tensor(made, node.dtype, node.shape)


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of a program in the making."""

    name: str
    dtype: str
    shape: Shape


class Draft:
    """A program in the making; it is numbered when it is finished."""

    def __init__(self, role: str) -> None:
        """Start with nothing."""
        self.role = role
        self.ports: list[Value] = []
        self.constants: dict[Value, Tensor] = {}
        self.nodes: dict[Value, tuple[str, tuple[Value, ...], dict[str, tuple[int, ...]]]] = {}

    def port(self, name: str, shape: Shape = (WIDTH,), dtype: str = "int64") -> Value:
        """Declare an input."""
        self.ports.append(Value(name, dtype, shape))
        return self.ports[-1]

    def constant(self, *values: Number, dtype: str = "int64") -> Value:
        """Return a constant: 0-d for one number, a row of several."""
        shape = (len(values),) if len(values) > 1 else ()
        value = Value(f"constant {values}", dtype, shape)
        self.constants[value] = tensor(values, dtype, shape)
        return value

    def emit(
        self,
        kind: str,
        *inputs: Value,
        shape: Shape | None = None,
        dtype: str | None = None,
        **attributes: Shape,
    ) -> Value:
        """Add a node, whose result has its first input's dtype and shape unless others are given."""
        first = inputs[0]
        value = Value(
            f"node {len(self.nodes)}", dtype or first.dtype, first.shape if shape is None else shape
        )
        self.nodes[value] = kind, inputs, attributes
        return value

    def quantised(self, value: Value, dim: int) -> tuple[Value, Value]:
        """Return the integers of an operand of a product, and their exponents, reduced along `dim`."""
        shape = (*value.shape[:dim], 1, *value.shape[dim + 1 :])
        exponent = self.emit("row_exponent", value, shape=shape, dtype="int16", dim=(dim,))
        return self.emit("quantise", value, exponent, dtype="int16", bits=(BITS,), dim=(dim,)), exponent

    def within_int32(self, value: Value) -> Value:
        """Return integers modulo 2^32."""
        return self.emit("cast", self.emit("cast", value, dtype="int32"), dtype="int64")

    def reduced(self, kind: str, value: Value, keepdim: int = 0) -> Value:
        """Return the sum or the largest of all numbers, 0-d or with every dimension 1."""
        dims = tuple(range(len(value.shape)))
        return self.emit(kind, value, shape=(1,) * len(dims) * keepdim, dims=dims, keepdim=(keepdim,))

    def finish(self, **outputs: Value) -> Program:
        """Return the program."""
        number = {
            value: Count(place) for place, value in enumerate([*self.ports, *self.constants, *self.nodes])
        }
        program = Program(
            VERSION,
            ARITHMETIC,
            self.role,
            tuple(Port(port.name, port.dtype, tuple(map(Count, port.shape))) for port in self.ports),
            tuple(self.constants.values()),
            tuple(
                Node(
                    kind,
                    tuple(number[each] for each in inputs),
                    tuple(sorted(attributes.items())),
                    value.dtype,
                    tuple(map(Count, value.shape)),
                )
                for value, (kind, inputs, attributes) in self.nodes.items()
            ),
            tuple(Output(name, number[value]) for name, value in outputs.items()),
        )
        check_program(program)
        return program


def prologue(max_steps: int, batch: int) -> Program:
    """(param, momentum, data, index, round) -> (param, step, tokens): gather the assigned records; step is 0 times
    the round's number."""
    d = Draft("prologue")
    param, _ = d.port("param"), d.port("momentum", dtype="float32")
    data = d.port("data", (RECORDS, RECORD), "uint8")
    index = d.port("index", (max_steps, batch))
    number = d.port("round", ())
    tokens = d.emit("gather", data, index, shape=(max_steps, batch, RECORD))
    return d.finish(param=param, step=d.emit("multiply", number, d.constant(0)), tokens=tokens)


def inner(max_steps: int, batch: int, chain: int = 0, wide: int = 1) -> Program:
    """(param, step, tokens) -> the same a step later: tokens by param, summed over the batch, times (1, 3, 5, 7),
    less param.

    `chain` adds nodes that change nothing, so that traces get long; `wide` repeats what is summed as often, so that
    sums do: a product has WIDTH * wide terms, the sum of products batch * wide.
    """
    d = Draft("inner")
    param, step = d.port("param"), d.port("step", ())
    tokens = d.port("tokens", (max_steps, batch, RECORD), "uint8")
    column = d.emit("cast", param, dtype="float32")
    if wide > 1:
        column = d.emit("expand", column, shape=(wide, WIDTH))
    right = d.quantised(d.emit("view", column, shape=(wide * WIDTH, 1)), 0)
    seen = d.emit("cast", d.emit("select", tokens, step, shape=(batch, RECORD)), dtype="float32")
    if wide > 1:
        seen = d.emit("view", seen, shape=(batch, 1, RECORD))
        seen = d.emit("expand", seen, shape=(batch, wide, RECORD))
        seen = d.emit("view", seen, shape=(batch, wide * RECORD))
    left = d.quantised(seen, 1)
    made = d.emit("product", *left, *right, shape=(batch, 1), dtype="float32", bits=(BITS,))
    if wide > 1:
        made = d.emit("expand", made, shape=(batch, wide))
    drive = d.within_int32(d.emit("cast", d.reduced("sum", made), dtype="int64"))
    for _ in range(chain):
        drive = d.emit("add", drive, d.constant(0))
    moved = d.emit("multiply", drive, d.constant(*range(1, 2 * WIDTH, 2)), shape=(WIDTH,))
    moved = d.emit("subtract", moved, param)
    return d.finish(param=moved, step=d.emit("add", step, d.constant(1)), tokens=tokens)


def epilogue(max_steps: int, batch: int) -> Program:
    """(param, momentum, working state) -> (pseudo-gradient, norm, loss)."""
    d = Draft("epilogue")
    start, _, param = d.port("start"), d.port("momentum", dtype="float32"), d.port("param")
    step = d.port("step", ())
    d.port("tokens", (max_steps, batch, RECORD), "uint8")
    delta = d.emit("subtract", start, param)
    sizes = d.emit("absolute", delta)
    loss = d.emit("add", d.reduced("amax", sizes, keepdim=1), step)
    return d.finish(delta=delta, norm=d.reduced("sum", sizes, keepdim=1), loss=loss)


def outer(slots: int) -> Program:
    """(param, momentum, a contribution per slot, weights) -> next state: a step on the weighted mean."""
    d = Draft("outer")
    param, momentum = d.port("param"), d.port("momentum", dtype="float32")
    deltas = []
    for slot in range(slots):
        deltas.append(d.port(f"delta{slot}"))
        d.port(f"norm{slot}", (1,))
        d.port(f"loss{slot}", (1,))
    weights = d.port("weights", (slots,))
    parts = []
    for slot, delta in enumerate(deltas):
        weight = d.emit("slice", weights, shape=(1,), dim=(0,), start=(slot,), step=(1,), stop=(slot + 1,))
        parts.append(d.emit("multiply", delta, weight))
    summed = functools.reduce(lambda left, right: d.emit("add", left, right), parts)
    whole = d.emit("cast", d.emit("maximum", d.reduced("sum", weights), d.constant(1)), dtype="float32")
    mean = d.emit("divide", d.emit("cast", summed, dtype="float32"), whole)
    speed = d.emit("add", d.emit("multiply", momentum, d.constant(0.5, dtype="float32")), mean)
    moved = d.emit("subtract", param, d.emit("cast", speed, dtype="int64"))
    return d.finish(param=d.within_int32(moved), momentum=speed)


PROGRAMS: dict[Digest, Program] = {}
"""Every program that has been made, by its digest."""


@functools.cache
def programs(max_steps: int, batch: int, slots: int, chain: int = 0, wide: int = 1) -> Programs:
    """Return references to the four programs for some sizes; executors know them from then on."""

    def known(program: Program) -> ProgramRef:
        digest = digest_of_program(program)
        PROGRAMS[digest] = program
        return ProgramRef(digest, digest)

    return Programs(
        known(prologue(max_steps, batch)),
        known(inner(max_steps, batch, chain, wide)),
        known(epilogue(max_steps, batch)),
        known(outer(slots + 1)),  # the last slot is the ballast
    )


class ToyLibrary:
    """Knows the toy programs."""

    def program(self, digest: Digest) -> Program:
        """Return a program by its digest."""
        if digest not in PROGRAMS:
            raise Unavailable("no such program")
        return PROGRAMS[digest]


class ToyEngine:
    """The engine that `trainer.rounds.engine` asks for; a handle is a tuple of tensors."""

    def load(self, bundle: Bundle) -> tuple[Tensor, ...]:
        """Return the tensors."""
        return bundle.tensors

    def dump(self, handle: tuple[Tensor, ...]) -> Bundle:
        """Return the bundle."""
        return Bundle(handle)

    def shown(self, handle: tuple[Tensor, ...]) -> Bundle:
        """Return the bundle."""
        return Bundle(handle)

    def digest(self, handle: tuple[Tensor, ...]) -> Digest:
        """Return the bundle's digest."""
        return bundle_digest(self.digests(handle))

    def digests(self, handle: tuple[Tensor, ...]) -> list[Digest]:
        """Return the digest of each tensor."""
        return [tensor_digest(each) for each in handle]

    def program(self, digest: Digest) -> Program:
        """Return a program."""
        return ToyLibrary().program(digest)

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a program from now on."""
        digest = digest_of_program(program)
        PROGRAMS[digest] = program
        return digest

    def run(
        self, digest: Digest, inputs: Sequence[Any], tap: Callable[[int, Any], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Execute on the concatenated inputs; `tap` hears every node's number and result."""
        program = self.program(digest)
        given = [tensor for part in inputs for tensor in part]
        if len(given) != len(program.inputs):
            raise BadEvidence(f"the program has {len(program.inputs)} inputs, not {len(given)}")
        values = [
            Tensor(port.dtype, port.shape, bytes(size_bytes(port))) if tensor is None else tensor
            for port, tensor in zip(program.inputs, given, strict=True)
        ]
        if [(t.dtype, t.shape) for t in values] != [(p.dtype, p.shape) for p in program.inputs]:
            raise BadEvidence("the inputs do not fit the program's ports")
        values += program.constants
        for number, node in enumerate(program.nodes, first_node(program)):
            made = self.execute(program, number, node, [values[i] for i in node.inputs])
            if tap is not None:
                tap(number, made)
            values.append(made)
        return tuple(values[output.source] for output in program.outputs)

    def execute(self, program: Program, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Execute one node; raises StepFailed, and Refused for inputs that the operator does not take."""
        try:
            return execute(node, tuple(inputs))
        except EndsStep as end:
            raise StepFailed(number, str(end)) from None
        except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
            raise Refused(f"node {number} does not take these inputs") from error

    def hold(self, given: Any) -> Tensor:
        """Return a tensor, which may be unread."""
        read: Tensor = given if isinstance(given, Tensor) else given.read()
        return read

    def again(self, digest: Digest, inputs: tuple[Tensor, ...]) -> list[Digest]:
        """Execute once more; raises StepFailed."""
        return self.digests(self.run(digest, [inputs]))

    def own(self, working: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the state: nothing is written over."""
        return working

    def advance(
        self, digest: Digest, working: tuple[Tensor, ...], is_checked: bool = False
    ) -> tuple[Tensor, ...]:
        """Execute, and again if that is to be checked; raises StepFailed, Unsound."""
        made = self.run(digest, [working])
        if is_checked and self.run(digest, [working]) != made:
            raise Unsound("the step computed again has another digest")
        return made

    def loss(self, contribution: tuple[Tensor, ...]) -> float:
        """Return the toy's loss."""
        return float(numbers(summary_of(contribution, "loss"))[0])


class BrokenEngine(ToyEngine):
    """A machine that gets one node of one program wrong every time, and goes on from there."""

    def __init__(self, role: str, place: int) -> None:
        """`place` counts the nodes of the program with that role."""
        super().__init__()
        self._role, self._place = role, place

    def execute(self, program: Program, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Flip the lowest bit of the result."""
        made = super().execute(program, number, node, inputs)
        if (program.role, number - first_node(program)) != (self._role, self._place):
            return made
        return Tensor(made.dtype, made.shape, bytes([made.data[0] ^ 1]) + made.data[1:])


class EndingEngine(BrokenEngine):
    """A machine to which one node of one program always ends the step."""

    def execute(self, program: Program, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """End the step there."""
        if (program.role, number - first_node(program)) == (self._role, self._place):
            raise StepFailed(number, "so it says")
        return ToyEngine.execute(self, program, number, node, inputs)


def reference(bundle: Bundle) -> BundleRef:
    """Return a bundle's digest and the address of its bytes."""
    return BundleRef(digest_of(bundle), address_of_bytes(codec.encode(bundle)))


DATA = Bundle(
    (
        Tensor(
            "uint8",
            (Count(RECORDS), Count(RECORD)),
            bytes(1 + (7 * i + i // RECORD) % 251 for i in range(RECORDS * RECORD)),
        ),
    )
)
START = Bundle((vector(range(1, WIDTH + 1)), tensor([0.0] * WIDTH, "float32", (WIDTH,))))


def minimal(**changes: Any) -> Manifest:
    """Return a manifest with short windows; `changes` name fields of its parts, or `chain` and `wide` (see `inner`)."""
    chain, wide = changes.pop("chain", 0), changes.pop("wide", 1)
    parts: dict[str, Any] = {
        "work": WorkRules(
            rounds=Count(5), max_steps=Count(12), leaf_every=Count(4), batch=Count(2), slots=Count(4),
            max_verifiers=Count(4), min_workers=Count(2), min_verifiers=Count(1), audit_rate=PPM(400_000),
            miss_limit=Count(2), committee=Count(0), clip=Count(0), on_conviction="continue",
            overlap=False,
        ),
        "windows": Windows(
            commit=Millis(1000), attest=Millis(400), seal=Millis(400), verdict=Millis(1000), opening=Millis(400),
            reveal=Millis(400), clock=Millis(600), stall=Millis(20_000), silence=Millis(6000),
        ),
        "money": MoneyRules(
            worker_stake=Amount(10_000), verifier_stake=Amount(5_000), reward_per_step=Amount(7),
            fee_per_step=Amount(3), accuser_bond=Amount(1_000),
            slash_grades=(PPM(100_000), PPM(500_000), PPM(1_000_000)), burned_share=PPM(500_000),
            excluded_after=Count(1), escrow_rounds=Count(20), chunk_price=Amount(100),
        ),
        "assumptions": Assumptions(colluding=PPM(0), sabotage=Amount(0)),
    }  # fmt: skip
    for name, part in parts.items():
        known = {field.name for field in dataclasses.fields(part)}
        parts[name] = dataclasses.replace(part, **{key: changes.pop(key) for key in known & changes.keys()})
    assert not changes, f"no such fields: {changes}"
    return Manifest(
        version=Count(PROTOCOL_VERSION), arithmetic=ARITHMETIC, title="toy", seed=ZERO,
        programs=programs(parts["work"].max_steps, parts["work"].batch, parts["work"].slots, chain, wide),
        units=WorkUnits(Count(5), Count(10), Count(5)),
        data=DataRef(tensor_digest(DATA.tensors[0]), ZERO, Count(RECORDS), Count(RECORD)),
        start=reference(START), golden=ZERO, **parts,
    )  # fmt: skip
