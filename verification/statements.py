"""What a peer may say to the ledger: every kind of statement, with its fields and its slot. (SPEC.md 3.2)"""

from dataclasses import dataclass
from typing import get_args

from verification.digest import tagged
from verification.manifest import BundleRef, Post
from verification.placed import OfExecution, OfResult, OfRound, OfRun, Once
from verification.units import Address, Amount, Count, Digest, Round

MAX_STATEMENT = 1 << 28
"""Bytes of the largest statement; only kinds that carry a run's tensors may come near."""
MAX_ENDPOINT = 512
"""Characters; the law reads none of them."""

WORKER, VERIFIER = "worker", "verifier"
MAX_ENTRIES = 64
"""Digests in one list of a dispute (SPEC.md 6.3)."""


@dataclass(frozen=True)
class Join(OfRun):
    """Stake and become a member from the next round on. `speed` is in inner steps per 1,000 seconds, `tip` is the end
    of a verifier's hash chain (zeros for a worker), `endpoint` where it is reached (SPEC.md 3.5), `post` which shard a
    worker holds that works in crews (SPEC.md 4.17)."""

    role: str
    stake: Amount
    speed: Count
    tip: Digest
    endpoint: str
    post: Post | None = None

    once = Once.RUN
    begins = True
    price = "its stake"

    def __post_init__(self) -> None:
        if self.role not in (WORKER, VERIFIER):
            raise ValueError("role must be worker or verifier")
        if self.post is not None and self.role != WORKER:
            raise ValueError("only a worker has a post in a crew")
        if self.speed < 1 or len(self.endpoint) > MAX_ENDPOINT:
            raise ValueError(f"speed must be positive and endpoint at most {MAX_ENDPOINT} characters")


@dataclass(frozen=True)
class Announce(OfRound):
    """A member is (back) at `endpoint`: said in the newest round or draining session, after `lapse` times away."""

    lapse: Count
    endpoint: str

    once = Once.LAPSE
    begins = True

    def __post_init__(self) -> None:
        if len(self.endpoint) > MAX_ENDPOINT:
            raise ValueError(f"endpoint must be at most {MAX_ENDPOINT} characters")

    @property
    def slot(self) -> str:
        return self.at(self.lapse)


@dataclass(frozen=True)
class Commit(OfRound):
    """A worker's round: start state, root over salted leaves, contribution and its squared norm on the grid.

    A member of a crew names its post, and for each of its neighbours the root over what crossed between them.
    """

    start: Digest
    leaves: Digest
    contribution: BundleRef
    norm: Count
    carried: Digest
    post: Post | None = None
    shared: tuple[Digest, ...] = ()

    once = Once.ROUND


@dataclass(frozen=True)
class Receipt(OfRound):
    """A member of a crew signs to the one that holds shard `other` what crossed between them in a round. (SPEC.md 4.17)

    It is given to that neighbour, and reaches the ledger in a Contradiction alone.
    """

    other: Count
    root: Digest

    once = Once.ROUND

    @property
    def slot(self) -> str:
        return self.at(self.other)


@dataclass(frozen=True)
class Stuck(OfRound):
    """A member of a crew cannot go on for want of what `partner` owes it. (SPEC.md 4.17)"""

    partner: Address

    once = Once.ROUND
    begins = True


@dataclass(frozen=True)
class Attest(OfRound):
    """A member holds, could decode and will serve the contributions of these workers."""

    held: tuple[Address, ...]

    once = Once.ROUND


@dataclass(frozen=True)
class Seal(OfRound):
    """A member computed this next state from the round's included contributions."""

    state: BundleRef

    once = Once.ROUND


@dataclass(frozen=True)
class Verdict(OfRound):
    """A verifier's blind commitment to what it computed for `worker` in round `work`, drawn in session `round`."""

    work: Round
    worker: Address
    blind: Digest

    once = Once.WORK

    @property
    def slot(self) -> str:
        return self.at(self.work, self.worker)


@dataclass(frozen=True)
class Finished(OfRound):
    """A verifier has no further verdict for session `round`."""

    once = Once.ROUND


@dataclass(frozen=True)
class Opening(OfRound):
    """A worker opens its leaves of a round once, for all: state digests and their salts, in order.

    A member of a crew opens all items that it made, and those that it had `taken`. (SPEC.md 4.17)
    """

    digests: tuple[Digest, ...]
    salts: tuple[Digest, ...]
    taken: tuple[Digest, ...] = ()

    once = Once.ROUND


@dataclass(frozen=True)
class Reveal(OfRound):
    """A verifier opens its verdict: the state digests at the leaves, or a crew's items, the digest of each contribution
    (a crew has one for each shard), and the blind's salt."""

    work: Round
    worker: Address
    digests: tuple[Digest, ...]
    contributions: tuple[Digest, ...]
    salt: Digest

    once = Once.WORK

    @property
    def slot(self) -> str:
        return self.at(self.work, self.worker)


@dataclass(frozen=True)
class Link(OfRound):
    """A verifier shows its hash-chain link of session `round`."""

    link: Digest

    once = Once.ROUND


@dataclass(frozen=True)
class ChallengeSeal(OfRound):
    """A member contests the next state that `accused` sealed; the poster's own seal is the claim against it."""

    accused: Address

    once = Once.SEAL
    begins = True
    price = "a bond, if it is wrong"

    @property
    def slot(self) -> str:
        return self.at(self.accused)


@dataclass(frozen=True)
class Answer(OfRound):
    """The accused lists its state digests after steps low+1..high of its round, at most 64 of them. (SPEC.md 6.3)"""

    low: Count
    high: Count
    entries: tuple[Digest, ...]

    once = Once.LIST

    @property
    def slot(self) -> str:
        return self.at(self.low, self.high)


@dataclass(frozen=True)
class Trace(OfExecution):
    """The accused opens one execution: its outputs' digests and the first list of its nodes' results. (SPEC.md 6.4)

    An execution that failed has no outputs and names the node.
    """

    failed: Count | None
    outputs: tuple[Digest, ...]
    entries: tuple[Digest, ...]

    once = Once.LIST


@dataclass(frozen=True)
class NodeList(OfExecution):
    """The accused lists a segment of a trace: results number low..high-1, or the tops of 64ths of it. (SPEC.md 6.4)"""

    low: Count
    high: Count
    entries: tuple[Digest, ...]

    once = Once.LIST

    @property
    def slot(self) -> str:
        return self.at(self.place, self.step, self.low, self.high)


@dataclass(frozen=True)
class ResultList(OfResult):
    """The accused lists a part of its result: nodes of the tree over its rows, or over the blocks of its row `row`.

    They are the leaves low..high-1, hashed, or the tops of 64ths of them. (SPEC.md 6.12)
    """

    row: Count | None
    low: Count
    high: Count
    entries: tuple[Digest, ...]

    once = Once.LIST

    @property
    def facts(self) -> tuple[int | None, ...]:
        return self.row, self.low, self.high


@dataclass(frozen=True)
class Block(OfResult):
    """The accused shows a block of its result: little-endian numbers of the result's dtype, at most 1,024."""

    row: Count
    block: Count
    data: bytes

    once = Once.LIST

    @property
    def facts(self) -> tuple[int | None, ...]:
        return self.row, self.block


@dataclass(frozen=True)
class TotalList(OfResult):
    """The accused lists all totals of number `index` of its result, in the operator's order, int64. (SPEC.md 6.13)"""

    index: Count
    entries: tuple[int, ...]

    once = Once.LIST

    @property
    def facts(self) -> tuple[int | None, ...]:
        return (self.index,)


@dataclass(frozen=True)
class RangeList(OfResult):
    """The accused lists what 64ths of the terms low..high-1 add to total number `total` of a number, int64."""

    index: Count
    total: Count
    low: Count
    high: Count
    entries: tuple[int, ...]

    once = Once.LIST

    @property
    def facts(self) -> tuple[int | None, ...]:
        return self.index, self.total, self.low, self.high


@dataclass(frozen=True)
class FailedAt(OfResult):
    """The accused says where its node fails: at a number that an output may not hold, with its `bits`; or at a number
    that has no value, for term `term` of its total number `total`, or by itself. (SPEC.md 6.14)"""

    index: Count
    bits: Count | None
    total: Count | None
    term: Count | None

    once = Once.LIST


@dataclass(frozen=True)
class Point(OfRun):
    """The challenger names the first entry it disagrees with; `level` counts the points of a dispute."""

    dispute: Count
    level: Count
    index: Count

    once = Once.POINT

    @property
    def slot(self) -> str:
        return self.at(self.dispute, self.level)


@dataclass(frozen=True)
class Mismatch(OfRun):
    """The challenger shows that an output of a trace is not the value it claims to be. (SPEC.md 6.5)

    `path` proves `digest` in the trace (a node's result) or in the agreed bundle (an input); it is empty for what the
    law has itself.
    """

    dispute: Count
    output: Count
    digest: Digest
    path: tuple[Digest, ...]

    once = Once.DISPUTE

    @property
    def slot(self) -> str:
        return self.at(self.dispute)


@dataclass(frozen=True)
class OpenedBlock:
    """A block of an input: `data` are its numbers, little-endian; the paths lead to its row and to the whole tensor."""

    row: Count
    block: Count
    data: bytes
    in_row: tuple[Digest, ...]
    in_tensor: tuple[Digest, ...]


@dataclass(frozen=True)
class OpenedInput:
    """Blocks of the input with number `value`: `path` proves its digest in the trace or in the agreed bundle."""

    value: Count
    path: tuple[Digest, ...]
    blocks: tuple[OpenedBlock, ...]


@dataclass(frozen=True)
class Evidence(OfRun):
    """The challenger brings the blocks of the node's inputs that the judged claim reads, but for what the law has."""

    dispute: Count
    inputs: tuple[OpenedInput, ...]

    once = Once.DISPUTE

    @property
    def slot(self) -> str:
        return self.at(self.dispute)


@dataclass(frozen=True)
class Demand(OfRound):
    """Someone pays to see a chunk, drawn by the ledger, of a contribution that members attested."""

    worker: Address

    once = Once.CONTRIBUTION
    begins = True
    price = "`chunk_price`, half of it for good"

    @property
    def slot(self) -> str:
        return self.at(self.worker)


@dataclass(frozen=True)
class Chunk(OfRun):
    """A member shows a demanded chunk: a block of one of the contribution's `count` tensors, None of an empty one.

    `path` leads from the tensor's digest to the root over all tensors.
    """

    demand: Count
    count: Count
    dtype: str
    shape: tuple[Count, ...]
    block: OpenedBlock | None
    path: tuple[Digest, ...]

    once = Once.DEMAND

    @property
    def slot(self) -> str:
        return self.at(self.demand)


@dataclass(frozen=True)
class Spoiled(OfRound):
    """Bytes whose address a worker committed to, and that are not the contribution it committed to. (SPEC.md 4.15)

    `size` and `chunks`, the root over the chunks' digests, give the address. `data` is empty where the size tells.
    """

    worker: Address
    size: Count
    chunks: Digest
    data: bytes

    once = Once.CONTRIBUTION
    begins = True
    limit = MAX_STATEMENT

    @property
    def slot(self) -> str:
        return self.at(self.worker)


@dataclass(frozen=True)
class Contradiction(OfRun):
    """Two signed statements of one author for the same place that differ: guilt without a dispute."""

    first: bytes
    second: bytes

    once = Once.CONVICT
    begins = True

    @property
    def slot(self) -> str:
        return self.at(tagged("contradiction", self.first, self.second))


@dataclass(frozen=True)
class Withdraw(OfRun):
    """A member takes its stake and matured rewards after the run has ended."""

    once = Once.RUN


Body = (
    Join | Announce | Commit | Receipt | Stuck | Attest | Seal | Verdict | Finished | Opening | Reveal | Link
    | ChallengeSeal | Answer | Trace | NodeList | ResultList | Block | TotalList | RangeList | FailedAt
    | Point | Mismatch | Evidence | Demand | Chunk | Spoiled | Contradiction | Withdraw
)  # fmt: skip

KINDS: dict[str, type[Body]] = {kind.__name__: kind for kind in get_args(Body)}
