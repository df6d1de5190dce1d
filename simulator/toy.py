"""Training as four tiny programs over integers: everything the law needs, and nothing that takes time.

State: [param int64[WIDTH], momentum int64[WIDTH]]. Working state: [param, counter int64[2], tokens uint8[steps * n]],
where the counter holds the steps done and n, the tokens of a step.
Contribution: [delta int64[WIDTH], norm int64[1], loss int64[1]].
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from verification import codec
from verification.content import address_of_bytes
from verification.digest import ZERO
from verification.errors import BadEvidence, Refused, Unavailable
from verification.executor import StepFailed
from verification.layout import summary_of
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
from verification.program import (
    VERSION,
    Attributes,
    Node,
    Output,
    Port,
    Program,
    check_program,
    digest_of_program,
    first_node,
)
from verification.tensors import Bundle, Tensor, bundle_digest, digest_of, tensor_digest
from verification.units import PPM, Amount, Count, Digest, Millis

WIDTH = 4
RECORDS, RECORD = 40, 5
PRIME = 2**31 - 1
ARITHMETIC = "toy/1"


def vector(values: Sequence[int], shape: tuple[int, ...] | None = None) -> Tensor:
    """Return an int64 tensor of `values`; one row unless a shape is given."""
    body = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return Tensor("int64", tuple(Count(size) for size in shape or (len(values),)), body)


def numbers(tensor: Tensor) -> list[int]:
    """Return the integers of a tensor of int64 or uint8."""
    data = tensor.data
    if tensor.dtype == "uint8":
        return list(data)
    return [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, len(data), 8)]


def gather(table: Tensor, index: Tensor) -> bytes:
    """Rows by number; a number outside fails."""
    width = math.prod(table.shape[1:])
    places = numbers(index)
    if not all(0 <= place < table.shape[0] for place in places):
        raise StepFailed(0)
    return b"".join(table.data[place * width : (place + 1) * width] for place in places)


def row(tokens: Tensor, counter: Tensor) -> bytes:
    """The tokens of the step that the counter stands at."""
    done, width = numbers(counter)
    return tokens.data[done * width % len(tokens.data) :][:width]


def norm_of(delta: Sequence[int]) -> int:
    """Return the toy's measure of how large a contribution is."""
    return sum(map(abs, delta))


def elementwise(combine: Callable[[int, int], int]) -> Callable[..., bytes]:
    """Return the operator on two vectors, or a vector and one number, modulo 2**64; a divisor of zero fails."""

    def run(left: Tensor, right: Tensor) -> bytes:
        a, b = numbers(left), numbers(right)
        try:
            made = [combine(x, y) for x, y in zip(a, b * len(a) if len(b) == 1 else b, strict=True)]
        except ZeroDivisionError:
            raise StepFailed(0) from None
        return vector([(value + 2**63) % 2**64 - 2**63 for value in made]).data

    return run


def scale(left: Tensor, right: Tensor) -> bytes:
    """A product that fails on PRIME, which no honest state holds unless the run starts there."""
    if PRIME in numbers(left):
        raise StepFailed(0)
    return elementwise(operator.mul)(left, right)


def weigh(tokens: Tensor) -> bytes:
    """The sum of tokens by place."""
    return vector([sum((place + 1) * token for place, token in enumerate(tokens.data))]).data


OPERATORS: dict[str, Callable[..., bytes]] = {
    "gather": gather,
    "view": lambda value: value.data,
    "row": row,
    "weigh": weigh,
    "add": elementwise(operator.add),
    "subtract": elementwise(operator.sub),
    "multiply": elementwise(operator.mul),
    "scale": scale,
    "remainder": elementwise(operator.mod),
    "quotient": elementwise(operator.floordiv),
    "pick": lambda value, slot: vector([numbers(value)[numbers(slot)[0]]]).data,
    "size": lambda value: vector([sum(map(abs, numbers(value)))]).data,
    "total": lambda value: vector([max(1, sum(numbers(value)))]).data,
}


class Draft:
    """A program in the making; values are names until it is finished."""

    def __init__(self, role: str) -> None:
        """Start with nothing."""
        self.role = role
        self.ports: list[Port] = []
        self.constants: dict[str, Tensor] = {}
        self.nodes: list[tuple[str, str, tuple[str, ...], str, tuple[int, ...]]] = []

    def port(self, name: str, shape: tuple[int, ...], dtype: str = "int64") -> str:
        """Declare an input."""
        self.ports.append(Port(name, dtype, tuple(map(Count, shape))))
        return name

    def constant(self, *values: int) -> str:
        """Return a constant vector."""
        name = f"constant {values}"
        self.constants[name] = vector(values)
        return name

    def emit(self, kind: str, *inputs: str, shape: tuple[int, ...] = (WIDTH,), dtype: str = "int64") -> str:
        """Add a node."""
        name = f"node {len(self.nodes)}"
        self.nodes.append((name, kind, inputs, dtype, shape))
        return name

    def finish(self, **outputs: str) -> Program:
        """Return the program."""
        names = [port.name for port in self.ports] + list(self.constants) + [node[0] for node in self.nodes]
        number = {name: Count(place) for place, name in enumerate(names)}
        attributes: Attributes = ()
        program = Program(
            VERSION,
            ARITHMETIC,
            self.role,
            tuple(self.ports),
            tuple(self.constants.values()),
            tuple(
                Node(kind, tuple(number[i] for i in inputs), attributes, dtype, tuple(map(Count, shape)))
                for _, kind, inputs, dtype, shape in self.nodes
            ),
            tuple(Output(name, number[value]) for name, value in outputs.items()),
        )
        check_program(program)
        return program


def prologue(max_steps: int, batch: int) -> Program:
    """(param, momentum, data, index) -> (param, counter, tokens): gather the assigned records."""
    d = Draft("prologue")
    param, _ = d.port("param", (WIDTH,)), d.port("momentum", (WIDTH,))
    data = d.port("data", (RECORDS, RECORD), "uint8")
    index = d.port("index", (max_steps, batch))
    rows = d.emit("gather", data, index, shape=(max_steps, batch, RECORD), dtype="uint8")
    tokens = d.emit("view", rows, shape=(max_steps * batch * RECORD,), dtype="uint8")
    return d.finish(param=param, counter=d.constant(0, batch * RECORD), tokens=tokens)


def inner(max_steps: int, batch: int, chain: int = 0) -> Program:
    """(param, counter, tokens) -> the same a step later: something that no two records do alike.

    `chain` adds nodes that change nothing, so that traces get long.
    """
    d = Draft("inner")
    param, counter = d.port("param", (WIDTH,)), d.port("counter", (2,))
    tokens = d.port("tokens", (max_steps * batch * RECORD,), "uint8")
    seen = d.emit("weigh", d.emit("row", tokens, counter, shape=(batch * RECORD,), dtype="uint8"), shape=(1,))
    moved = d.emit("add", d.emit("scale", param, d.constant(31)), seen)
    moved = d.emit("add", moved, d.constant(*range(WIDTH)))
    for _ in range(chain):
        moved = d.emit("add", moved, d.constant(0))
    moved = d.emit("remainder", moved, d.constant(PRIME))
    counter = d.emit("add", counter, d.constant(1, 0), shape=(2,))
    return d.finish(param=moved, counter=counter, tokens=tokens)


def epilogue(max_steps: int, batch: int) -> Program:
    """(param, momentum, working state) -> (pseudo-gradient, norm, loss)."""
    d = Draft("epilogue")
    start, _, param = d.port("start", (WIDTH,)), d.port("momentum", (WIDTH,)), d.port("param", (WIDTH,))
    counter = d.port("counter", (2,))
    d.port("tokens", (max_steps * batch * RECORD,), "uint8")
    delta = d.emit("subtract", start, param)
    first = d.emit("remainder", d.emit("pick", delta, d.constant(0), shape=(1,)), d.constant(100), shape=(1,))
    done = d.emit("pick", counter, d.constant(0), shape=(1,))
    norm, loss = d.emit("size", delta, shape=(1,)), d.emit("add", first, done, shape=(1,))
    return d.finish(delta=delta, norm=norm, loss=loss)


def outer(slots: int) -> Program:
    """(param, momentum, a contribution per slot, weights) -> next state."""
    d = Draft("outer")
    param, momentum = d.port("param", (WIDTH,)), d.port("momentum", (WIDTH,))
    deltas = []
    for slot in range(slots):
        deltas.append(d.port(f"delta{slot}", (WIDTH,)))
        d.port(f"norm{slot}", (1,))
        d.port(f"loss{slot}", (1,))
    weights = d.port("weights", (slots,))
    summed = d.constant(0, 0, 0, 0)
    for slot, delta in enumerate(deltas):
        weight = d.emit("pick", weights, d.constant(slot), shape=(1,))
        summed = d.emit("add", summed, d.emit("multiply", delta, weight))
    mean = d.emit("quotient", summed, d.emit("total", weights, shape=(1,)))
    speed = d.emit("add", d.emit("quotient", momentum, d.constant(2)), mean)
    moved = d.emit("remainder", d.emit("subtract", param, speed), d.constant(PRIME))
    return d.finish(param=moved, momentum=speed)


PROGRAMS: dict[Digest, Program] = {}
"""Every program that has been made, by its digest."""


@functools.cache
def programs(max_steps: int, batch: int, slots: int, chain: int = 0) -> Programs:
    """Return references to the four programs for some sizes; executors know them from then on."""

    def known(program: Program) -> ProgramRef:
        digest = digest_of_program(program)
        PROGRAMS[digest] = program
        return ProgramRef(digest, digest)

    return Programs(
        known(prologue(max_steps, batch)),
        known(inner(max_steps, batch, chain)),
        known(epilogue(max_steps, batch)),
        known(outer(slots + 1)),  # the last slot is the ballast
    )


class ToyExecutor:
    """Knows the toy programs and executes their nodes; counts what it executed."""

    def __init__(self) -> None:
        """Start with a count of nothing."""
        self.executed = 0

    def program(self, digest: Digest) -> Program:
        """Return a program by its digest."""
        if digest not in PROGRAMS:
            raise Unavailable("no such program")
        return PROGRAMS[digest]

    def execute_node(self, arithmetic: str, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Run one operator."""
        if arithmetic != ARITHMETIC:
            raise Unavailable("no such arithmetic")
        self.executed += 1
        try:
            data = OPERATORS[node.operator](*inputs)
            return Tensor(node.dtype, node.shape, data)
        except StepFailed:
            raise StepFailed(number, "the toy fails") from None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Refused(f"node {number} does not take these inputs") from error


class ToyEngine:
    """The engine that `trainer.rounds.engine` asks for; a handle is a tuple of tensors."""

    def __init__(self) -> None:
        """Use an executor of its own."""
        self.executor = ToyExecutor()

    def load(self, bundle: Bundle) -> tuple[Tensor, ...]:
        """Return the tensors."""
        return bundle.tensors

    def dump(self, handle: tuple[Tensor, ...]) -> Bundle:
        """Return the bundle."""
        return Bundle(handle)

    def digest(self, handle: tuple[Tensor, ...]) -> Digest:
        """Return the bundle's digest."""
        return bundle_digest(self.digests(handle))

    def digests(self, handle: tuple[Tensor, ...]) -> list[Digest]:
        """Return the digest of each tensor."""
        return [tensor_digest(tensor) for tensor in handle]

    def program(self, digest: Digest) -> Program:
        """Return a program."""
        return self.executor.program(digest)

    def run(
        self, digest: Digest, inputs: Sequence[Any], tap: Callable[[int, Any], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Execute on the concatenated inputs; `tap` hears every node's number and result."""
        program = self.program(digest)
        values = [
            vector([0] * math.prod(port.shape), tuple(port.shape)) if tensor is None else tensor
            for port, tensor in zip(program.inputs, (t for part in inputs for t in part), strict=True)
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
        """Execute one node."""
        return self.executor.execute_node(ARITHMETIC, number, node, inputs)

    def agrees(self, digest: Digest, inputs: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> bool:
        """Return whether executing again makes the same."""
        return self.digests(self.run(digest, [inputs])) == self.digests(made)

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


def reference(bundle: Bundle) -> BundleRef:
    """Return a bundle's digest and the address of its bytes."""
    return BundleRef(digest_of(bundle), address_of_bytes(codec.encode(bundle)))


DATA = Bundle(
    (
        Tensor(
            "uint8",
            (Count(RECORDS), Count(RECORD)),
            bytes((7 * i + i // 5) % 251 for i in range(RECORDS * RECORD)),
        ),
    )
)
START = Bundle((vector(range(1, WIDTH + 1)), vector([0] * WIDTH)))


def minimal(**changes: Any) -> Manifest:
    """Return a manifest with short windows; `changes` name fields of its parts, or `chain` (see `inner`)."""
    chain = changes.pop("chain", 0)
    parts: dict[str, Any] = {
        "work": WorkRules(
            rounds=Count(5), max_steps=Count(12), leaf_every=Count(4), batch=Count(2), slots=Count(4),
            max_verifiers=Count(4), min_workers=Count(2), min_verifiers=Count(1), audit_rate=PPM(400_000),
            miss_limit=Count(2), committee=Count(0), clip=Count(0), on_conviction="continue",
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
        programs=programs(parts["work"].max_steps, parts["work"].batch, parts["work"].slots, chain),
        units=WorkUnits(Count(5), Count(10), Count(5)),
        data=DataRef(tensor_digest(DATA.tensors[0]), ZERO, Count(RECORDS), Count(RECORD)),
        start=reference(START), golden=ZERO, **parts,
    )  # fmt: skip
