"""What a peer may say to the ledger. A statement is signed over (chain, run, round, slot, head) and its body.

Two statements of one author contradict each other only if all five are equal and the bodies differ. (SPEC.md 3.2)
"""

from dataclasses import dataclass

from verification import codec, signing
from verification.digest import tagged
from verification.errors import Malformed
from verification.manifest import BundleRef, Place
from verification.tensors import Tensor
from verification.units import Address, Amount, Count, Digest, Round, Signature

MAX_STATEMENT = 1 << 28
"""Bytes of the largest statement; only kinds in LARGE may come near, all else stays under `codec.MAX_MESSAGE`."""

WORKER, VERIFIER = "worker", "verifier"
MAX_ENTRIES = 64
"""Digests in one list of a dispute (SPEC.md 6.3)."""


@dataclass(frozen=True)
class Join:
    """Stake and become a member from the next round on. `speed` is in inner steps per 1,000 seconds, `tip` is the end
    of a verifier's hash chain (zeros for a worker), `endpoint` a libp2p multiaddress."""

    role: str
    stake: Amount
    speed: Count
    tip: Digest
    endpoint: str

    def __post_init__(self) -> None:
        if self.role not in (WORKER, VERIFIER):
            raise ValueError("role must be worker or verifier")
        if self.speed < 1 or len(self.endpoint) > 512:
            raise ValueError("speed must be positive and endpoint at most 512 characters")


@dataclass(frozen=True)
class Announce:
    """A member is (back) at `endpoint`; `sequence` grows with every announcement."""

    endpoint: str
    sequence: Count

    def __post_init__(self) -> None:
        if len(self.endpoint) > 512:
            raise ValueError("endpoint must be at most 512 characters")


@dataclass(frozen=True)
class Commit:
    """A worker's round: start state, root over salted leaves, contribution and its squared norm on the grid."""

    round: Round
    start: Digest
    leaves: Digest
    contribution: BundleRef
    norm: Count
    carried: Digest


@dataclass(frozen=True)
class Attest:
    """A member holds, could decode and will serve the contributions of these workers."""

    round: Round
    held: tuple[Address, ...]


@dataclass(frozen=True)
class Seal:
    """A member computed this next state from the round's included contributions."""

    round: Round
    state: BundleRef


@dataclass(frozen=True)
class Verdict:
    """A verifier's blind commitment to what it computed for `worker` in round `work`, drawn in session `round`."""

    round: Round
    work: Round
    worker: Address
    blind: Digest


@dataclass(frozen=True)
class Finished:
    """A verifier has no further verdict for session `round`."""

    round: Round


@dataclass(frozen=True)
class Opening:
    """A worker opens its leaves of a round once, for all: state digests and their salts, in order."""

    round: Round
    digests: tuple[Digest, ...]
    salts: tuple[Digest, ...]


@dataclass(frozen=True)
class Reveal:
    """A verifier opens its verdict: the state digests at the leaves, the contribution's digest and the blind's salt."""

    round: Round
    work: Round
    worker: Address
    digests: tuple[Digest, ...]
    contribution: Digest
    salt: Digest


@dataclass(frozen=True)
class Link:
    """A verifier shows its hash-chain link of session `round`."""

    round: Round
    link: Digest


@dataclass(frozen=True)
class ChallengeSeal:
    """A member contests the next state that `accused` sealed; the poster's own seal is the claim against it."""

    round: Round
    accused: Address


@dataclass(frozen=True)
class Answer:
    """The accused lists its state digests after steps low+1..high of its round, at most 64 of them. (SPEC.md 6.3)"""

    round: Round
    low: Count
    high: Count
    entries: tuple[Digest, ...]


@dataclass(frozen=True)
class Trace:
    """The accused opens one execution: its outputs' digests and the first list of its nodes' results. (SPEC.md 6.4)

    `step` numbers the inner step that it is, else it is 0. An execution that failed has no outputs and names the node.
    """

    round: Round
    place: Place
    step: Count
    failed: Count | None
    outputs: tuple[Digest, ...]
    entries: tuple[Digest, ...]


@dataclass(frozen=True)
class NodeList:
    """The accused lists a segment of a trace: results number low..high-1, or the tops of 64ths of it. (SPEC.md 6.4)"""

    round: Round
    place: Place
    step: Count
    low: Count
    high: Count
    entries: tuple[Digest, ...]


@dataclass(frozen=True)
class Point:
    """The challenger names the first entry it disagrees with; `level` counts the points of a dispute."""

    dispute: Count
    level: Count
    index: Count


@dataclass(frozen=True)
class Mismatch:
    """The challenger shows that an output of a trace is not the value it claims to be. (SPEC.md 6.5)

    `path` proves `digest` in the trace (a node's result) or in the agreed bundle (an input); it is empty for what the
    law has itself.
    """

    dispute: Count
    output: Count
    digest: Digest
    path: tuple[Digest, ...]


@dataclass(frozen=True)
class NodeInput:
    """One input of a disputed node, opened: `path` proves its digest in the trace or in the agreed bundle.

    Of a gather's table only the rows that the index selects may be here, ascending: `total` is then the number of all
    rows, and `rows` holds the path of each.
    """

    tensor: Tensor
    path: tuple[Digest, ...]
    total: Count
    rows: tuple[tuple[Digest, ...], ...]


@dataclass(frozen=True)
class Evidence:
    """The challenger brings the disputed node's inputs: each once, in the node's order, but for what the law has."""

    dispute: Count
    inputs: tuple[NodeInput, ...]


@dataclass(frozen=True)
class Demand:
    """Someone pays to see a chunk, drawn by the ledger, of a contribution that members attested."""

    round: Round
    worker: Address


@dataclass(frozen=True)
class Chunk:
    """A member shows a demanded chunk: a row of one of the contribution's `count` tensors, or a whole tensor.

    `total` is the number of the tensor's rows, 0 for a whole one; `row` leads to the root over the rows, `path` to that
    over the tensors.
    """

    demand: Count
    count: Count
    tensor: Tensor
    total: Count
    row: tuple[Digest, ...]
    path: tuple[Digest, ...]


@dataclass(frozen=True)
class Spoiled:
    """Bytes whose address a worker committed to, and that are not the contribution it committed to. (SPEC.md 4.15)

    `size` and `chunks`, the root over the chunks' digests, give the address. `data` is empty where the size tells.
    """

    round: Round
    worker: Address
    size: Count
    chunks: Digest
    data: bytes


@dataclass(frozen=True)
class Contradiction:
    """Two signed statements of one author for the same place that differ: guilt without a dispute."""

    first: bytes
    second: bytes


@dataclass(frozen=True)
class Withdraw:
    """A member takes its stake and matured rewards after the run has ended."""

    sequence: Count


Body = (
    Join | Announce | Commit | Attest | Seal | Verdict | Finished | Opening | Reveal | Link
    | ChallengeSeal | Answer | Trace | NodeList | Point | Mismatch | Evidence | Demand | Chunk
    | Spoiled | Contradiction | Withdraw
)  # fmt: skip

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Join, Announce, Commit, Attest, Seal, Verdict, Finished, Opening, Reveal, Link,
        ChallengeSeal, Answer, Trace, NodeList, Point, Mismatch, Evidence, Demand, Chunk,
        Spoiled, Contradiction, Withdraw,
    )
}  # fmt: skip

LARGE = (Evidence, Chunk, Spoiled)
"""Kinds of statements that carry a run's tensors."""


@dataclass(frozen=True)
class Statement:
    """The signed part: place (chain, run, round, slot, head), kind and encoded body."""

    chain: str
    run: Digest
    round: Round
    slot: str
    head: Digest
    kind: str
    body: bytes


@dataclass(frozen=True)
class Signed:
    """An encoded Statement and its author's signature over those very bytes."""

    statement: bytes
    signature: Signature


def slot_of(body: Body) -> str:
    """Return the place within a round that a body fills: a peer says one thing per slot."""
    match body:
        case Verdict() | Reveal():
            return f"{type(body).__name__}/{body.work}/{body.worker.hex()}"
        case ChallengeSeal():
            return f"ChallengeSeal/{body.accused.hex()}"
        case Answer():
            return answer_slot(body.low, body.high)
        case Trace():
            return trace_slot(body.place, body.step)
        case NodeList():
            return nodes_slot(body.place, body.step, body.low, body.high)
        case Point():
            return f"Point/{body.dispute}/{body.level}"
        case Mismatch() | Evidence():
            return f"{type(body).__name__}/{body.dispute}"
        case Demand() | Spoiled():
            return f"{type(body).__name__}/{body.worker.hex()}"
        case Chunk():
            return f"Chunk/{body.demand}"
        case Announce() | Withdraw():
            return f"{type(body).__name__}/{body.sequence}"
        case Contradiction():
            return f"Contradiction/{tagged('contradiction', body.first, body.second).hex()}"
    return type(body).__name__


def answer_slot(low: int, high: int) -> str:
    """Return the place of a list of states: one per interval, whoever asks for it."""
    return f"Answer/{low}/{high}"


def trace_slot(place: Place, step: int) -> str:
    """Return the place of a trace: one per execution."""
    return f"Trace/{place}/{step}"


def nodes_slot(place: Place, step: int, low: int, high: int) -> str:
    """Return the place of a list of nodes: one per segment of an execution."""
    return f"NodeList/{place}/{step}/{low}/{high}"


def round_of(body: Body) -> Round:
    """Return the round a body speaks about; 0 for bodies that belong to the whole run."""
    return Round(getattr(body, "round", 0))


def make_statement(chain: str, run: Digest, head: Digest, body: Body) -> Statement:
    """Return the statement that says `body` at its own place."""
    return Statement(chain, run, round_of(body), slot_of(body), head, type(body).__name__, codec.encode(body))


def sign_statement(secret: bytes, statement: Statement) -> bytes:
    """Return the encoded, signed statement."""
    encoded = codec.encode(statement)
    return codec.encode(Signed(encoded, signing.sign(secret, "statement", encoded)))


def open_statement(data: bytes) -> tuple[Address, Statement, Body]:
    """Return author, statement and body of signed bytes; raises Malformed or BadSignature. (SPEC.md 3.3)"""
    signed = codec.decode(Signed, data, MAX_STATEMENT)
    statement = codec.decode(Statement, signed.statement, MAX_STATEMENT)
    schema = KINDS.get(statement.kind)
    if schema is None:
        raise Malformed("unknown kind of statement")
    limit = MAX_STATEMENT if schema in LARGE else codec.MAX_MESSAGE
    body: Body = codec.decode(schema, statement.body, limit)
    if statement.slot != slot_of(body) or statement.round != round_of(body):
        raise Malformed("statement is filed under another slot than its body's")
    return signing.recover(signed.signature, "statement", signed.statement), statement, body
