"""Training as four tiny pure functions over integers: everything the law needs, and nothing that takes time.

State: [param int64[WIDTH], momentum int64[WIDTH]]. Working state: [param, counter int64[2], tokens uint8[steps * n]],
where the counter holds the steps done and n, the tokens of a step.
Contribution: [delta int64[WIDTH], norm int64[1], loss int64[1]].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from verification import codec
from verification.digest import ZERO, tagged
from verification.errors import BadEvidence, Unavailable
from verification.executor import StepFailed
from verification.manifest import (
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
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest
from verification.units import PPM, Amount, Count, Digest, Millis

WIDTH = 4
RECORDS, RECORD = 40, 5
PRIME = 2**31 - 1
Inputs = Sequence[Tensor | None]


def vector(values: Sequence[int], shape: tuple[int, ...] | None = None) -> Tensor:
    """Return an int64 tensor of `values`; one row unless a shape is given."""
    body = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return Tensor("int64", tuple(Count(size) for size in shape or (len(values),)), body)


def numbers(tensor: Tensor | None) -> list[int]:
    """Return the integers of an int64 tensor; a missing one counts as zeros."""
    if tensor is None:
        return [0] * WIDTH
    data = tensor.data
    return [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, len(data), 8)]


def prologue(inputs: Inputs) -> Bundle:
    """Gather the assigned records: (param, momentum, data, index) -> (param, counter, tokens)."""
    param, _, data, index = inputs
    assert param is not None
    assert data is not None
    assert index is not None
    rows = [data.data[i * RECORD : (i + 1) * RECORD] for i in numbers(index)]
    tokens = b"".join(rows)
    return Bundle(
        (param, vector([0, index.shape[1] * RECORD]), Tensor("uint8", (Count(len(tokens)),), tokens))
    )


def inner(inputs: Inputs) -> Bundle:
    """One step of something that no two records do alike."""
    param, counter, tokens = inputs
    assert tokens is not None
    done, width = numbers(counter)
    row = tokens.data[done * width % len(tokens.data) :][:width]
    seen = sum((place + 1) * token for place, token in enumerate(row))
    if numbers(param)[0] == PRIME:
        raise StepFailed(0)
    moved = [(31 * value + seen + place) % PRIME for place, value in enumerate(numbers(param))]
    return Bundle((vector(moved), vector([done + 1, width]), tokens))


def epilogue(inputs: Inputs) -> Bundle:
    """(param, momentum, working state) -> (pseudo-gradient, norm, loss)."""
    start, _, param, counter, _ = inputs
    delta = [old - new for old, new in zip(numbers(start), numbers(param), strict=True)]
    return Bundle(
        (vector(delta), vector([sum(abs(d) for d in delta)]), vector([delta[0] % 100 + numbers(counter)[0]]))
    )


def outer(inputs: Inputs) -> Bundle:
    """(param, momentum, a contribution per slot, weights) -> next state."""
    param, momentum, *rest, weights = inputs
    parts = [(weight, numbers(rest[3 * slot])) for slot, weight in enumerate(numbers(weights))]
    total = max(1, sum(weight for weight, _ in parts))
    mean = [sum(weight * delta[i] for weight, delta in parts) // total for i in range(WIDTH)]
    speed = [old // 2 + step for old, step in zip(numbers(momentum), mean, strict=True)]
    return Bundle(
        (vector([(p - s) % PRIME for p, s in zip(numbers(param), speed, strict=True)]), vector(speed))
    )


PORTS: dict[Callable[[Inputs], Bundle], int | None] = {prologue: 4, inner: 3, epilogue: 5, outer: None}
PROGRAMS: dict[Digest, Callable[[Inputs], Bundle]] = {
    tagged("toy", function.__name__.encode()): function for function in PORTS
}
DIGESTS = {function: digest for digest, function in PROGRAMS.items()}


class ToyExecutor:
    """Runs the toy programs; counts what it ran."""

    def __init__(self) -> None:
        """Start with a count of nothing."""
        self.executed = 0

    def execute(self, program: Digest, inputs: Inputs) -> Bundle:
        """Run a program by its digest."""
        function = PROGRAMS.get(program)
        if function is None:
            raise Unavailable("no such program")
        self.executed += 1
        if PORTS[function] not in (None, len(inputs)):
            raise BadEvidence("the inputs do not fit the program's ports")
        return function(inputs)


class ToyEngine:
    """The engine that `trainer.rounds` asks for; a handle is a tuple of tensors."""

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
        return digest_of(Bundle(handle))

    def run(self, program: Digest, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
        """Execute on the concatenated inputs."""
        return self.executor.execute(program, [tensor for part in inputs for tensor in part]).tensors

    def loss(self, contribution: tuple[Tensor, ...]) -> float:
        """Return the toy's loss."""
        return float(numbers(contribution[2])[0])


def reference(bundle: Bundle) -> BundleRef:
    """Return a bundle's digest and the address of its bytes."""
    return BundleRef(digest_of(bundle), tagged("blob", codec.encode(bundle)))


DATA = Bundle(
    (
        Tensor(
            "uint8",
            (Count(RECORDS), Count(RECORD)),
            bytes((7 * i + i // 5) % 251 for i in range(RECORDS * RECORD)),
        ),
    )
)
CONTRIBUTION = [("int64", (WIDTH,)), ("int64", (1,)), ("int64", (1,))]
"""dtype and shape of what the outer step takes from a worker."""

START = Bundle((vector(range(1, WIDTH + 1)), vector([0] * WIDTH)))


def minimal(**changes: Any) -> Manifest:
    """Return a manifest with short windows; `changes` name fields of its parts."""
    refs = {function: ProgramRef(digest, digest) for function, digest in DIGESTS.items()}
    parts: dict[str, Any] = {
        "work": WorkRules(
            rounds=Count(5), max_steps=Count(12), leaf_every=Count(4), batch=Count(2), slots=Count(4),
            max_verifiers=Count(4), min_workers=Count(2), min_verifiers=Count(1), audit_rate=PPM(400_000),
            miss_limit=Count(2),
        ),
        "windows": Windows(
            commit=Millis(1000), attest=Millis(400), seal=Millis(400), verdict=Millis(1000), opening=Millis(400),
            reveal=Millis(400), clock=Millis(600), stall=Millis(20_000), silence=Millis(6000),
        ),
        "money": MoneyRules(
            worker_stake=Amount(10_000), verifier_stake=Amount(5_000), reward_per_step=Amount(7),
            fee_per_step=Amount(3), accuser_bond=Amount(1_000),
            slash_grades=(PPM(100_000), PPM(500_000), PPM(1_000_000)), burned_share=PPM(500_000),
            excluded_after=Count(1), escrow_rounds=Count(20),
        ),
        "assumptions": Assumptions(colluding=PPM(0), sabotage=Amount(0)),
    }  # fmt: skip
    for name, part in parts.items():
        known = {field.name for field in dataclasses.fields(part)}
        parts[name] = dataclasses.replace(part, **{key: changes.pop(key) for key in known & changes.keys()})
    assert not changes, f"no such fields: {changes}"
    return Manifest(
        version=Count(1), arithmetic="toy/1", title="toy", seed=ZERO,
        programs=Programs(refs[prologue], refs[inner], refs[epilogue], refs[outer]),
        units=WorkUnits(Count(5), Count(10), Count(5)),
        data=DataRef(tensor_digest(DATA.tensors[0]), ZERO, Count(RECORDS), Count(RECORD)),
        start=reference(START), golden=ZERO, **parts,
    )  # fmt: skip
