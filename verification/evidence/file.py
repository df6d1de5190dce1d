"""A conviction as a file that anyone checks offline: the accused's own signed words, and what one number reads.

What the accused signed fixes its claim, its lists and its trace; the manifest's identity fixes the program, of which
the file carries the head and the node with their paths. So a wrong node or a contradiction needs no trust in anyone.
Only what the ledger fixed (the beacon behind the record index, what an outer step was computed from) is taken from its
record, whose head the accused signed over. `verification.evidence.retrial` follows the lists. (SPEC.md 6.11)
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from verification import codec
from verification.causes import Reason
from verification.claims import Judged, Result
from verification.debts import MoveDebt, OpeningDebt
from verification.digest import tagged
from verification.errors import BadEvidence, Malformed
from verification.manifest import Manifest, Place, run_id
from verification.program import (
    Node,
    ProgramHead,
)
from verification.statements import (
    Mismatch,
    OpenedInput,
)
from verification.tensors import tensor_of_root
from verification.units import Address, Count, Digest, Round

FORMAT = "proofswarm evidence/4"
MAX_EVIDENCE = 1 << 26
"""Bytes of the largest file: what the accused signed, what a number reads, and the run's manifest."""

MAX_RESULT = 1 << 31
"""Bytes of the largest tensor that a file may ask its reader to make."""


@dataclass(frozen=True)
class Constant:
    """A constant without its numbers: the `root` over its rows, None where it has none."""

    dtype: str
    shape: tuple[Count, ...]
    root: Digest | None

    @property
    def digest(self) -> Digest:
        """The digest that its path leads from."""
        return tensor_of_root(self.dtype, self.shape, self.root)


@dataclass(frozen=True)
class ProgramPart:
    """A program's head and roots, and of its nodes and constants those that are used, each with its path."""

    head: ProgramHead
    constants_root: bytes
    nodes_root: bytes
    nodes: tuple[tuple[Count, Node, tuple[Digest, ...]], ...]
    constants: tuple[tuple[Count, Constant, tuple[Digest, ...]], ...]


@dataclass(frozen=True)
class Included:
    """A contribution that entered an outer step: its slot, its weight (negative for one that is taken back), and its
    worker's signed commitment, or those of a crew by their shards."""

    slot: Count
    weight: int
    commitments: tuple[bytes, ...]


@dataclass(frozen=True)
class PublicRecord:
    """What the ledger fixed before the accused spoke: nothing in the file proves it but the head it was signed over.

    `lead` is under whose address the records of the accused were drawn: its own, or that of its crew's first.
    """

    beacon: Digest
    lead: Address
    start: Digest
    included: tuple[Included, ...]
    ballast: Count


class Kind(StrEnum):
    """What convicts: a node that gives another value, an output or a list that is wrong in itself, or words alone."""

    NODE = "node"
    OUTPUT = "output"
    LIST = "list"
    CONTRADICTION = "contradiction"
    SPOILED = "spoiled"
    SILENCE = "silence"


class Nowhere(StrEnum):
    """The place of a conviction that is about no execution."""

    NOWHERE = ""


@dataclass(frozen=True)
class Conviction:
    """The file's body. `statements` are the accused's, in the order in which they narrow its claim down.

    Within a node `points` say what was contested of each list. A NODE comes with what is read of its `inputs`, of which
    constants are opened like all others, an OUTPUT with the `mismatch`, SPOILED with the commitment and a Spoiled of
    whoever found it, which proves itself; SILENCE names the `dispute` in which a list was owed, or none where the
    round's opening was. `leaf` is the leaf that was disputed.
    """

    manifest: Manifest
    chain: str
    kind: Kind
    accused: Address
    round: Round
    place: Place | Nowhere
    leaf: Count | None
    statements: tuple[bytes, ...]
    points: tuple[Count, ...]
    program: ProgramPart | None
    node: Count | None
    inputs: tuple[OpenedInput, ...]
    mismatch: Mismatch | None
    record: PublicRecord | None
    dispute: Count | None

    @property
    def owed(self) -> OpeningDebt | MoveDebt:
        """What a convict of SILENCE did not give."""
        return OpeningDebt(self.round) if self.dispute is None else MoveDebt(self.dispute)

    @property
    def run(self) -> Digest:
        """The run that it is about."""
        return run_id(self.manifest, self.chain)


@dataclass(frozen=True)
class File:
    """The file: its format, the encoded body, and a digest so that damage of any bit is seen at once."""

    format: str
    body: bytes
    digest: Digest


class Trust(Enum):
    """What of the ledger a file takes on trust, under the head that the accused signed over."""

    HEAD = "that its head is the one signed over"
    CLOCK = "that what was owed did not come in time"
    BEACON = "a round's beacon, and under whose address it drew records"
    RECORD = "what an outer step was computed from"


@dataclass(frozen=True)
class Judgement:
    """A claim about one number of a node's result that does not hold: what was `claimed` of it, what is `right`.

    Both are words of the result's dtype, or totals; None where the step ends.
    """

    result: Result
    claim: Judged
    right: int | None


@dataclass(frozen=True)
class Finding:
    """What a file proves. `step` numbers an inner step, `names` are the node's ports and outputs.

    `trust` is what was not proven by the file itself, `head` the ledger's head that this stands under. `number` is
    where a node is wrong, with what was said there and what is right.
    """

    kind: Kind
    accused: Address
    run: Digest
    round: Round
    place: Place | Nowhere
    step: int | None
    node: int | None
    operator: str
    names: tuple[str, ...]
    reason: Reason
    claimed: Digest | None
    computed: Digest | None
    trust: tuple[Trust, ...]
    head: Digest | None
    number: Judgement | None

    @property
    def is_proven(self) -> bool:
        """Whether the file proves it by itself; else it rests on the ledger, and nobody is guilty by it alone."""
        return not self.trust


def pack(conviction: Conviction) -> bytes:
    """Return the file's bytes."""
    body = codec.encode(conviction)
    return codec.encode(File(FORMAT, body, tagged("evidence", body)))


def unpack(data: bytes) -> Conviction:
    """Return the conviction that a file holds; raises Malformed for any other bytes, BadEvidence for damaged ones."""
    file = codec.decode(File, data, MAX_EVIDENCE)
    if file.format != FORMAT:
        raise Malformed("the file is no evidence that this version reads")
    if tagged("evidence", file.body) != file.digest:
        raise BadEvidence("the file has been altered or damaged: its digest is another")
    return codec.decode(Conviction, file.body, MAX_EVIDENCE)


def finding_of(
    conviction: Conviction,
    reason: Reason,
    step: int | None = None,
    values: tuple[Digest | None, Digest | None] = (None, None),
    trust: tuple[Trust, ...] = (),
    head: Digest | None = None,
    number: Judgement | None = None,
) -> Finding:
    """Return what a conviction that has been tried again proves; `values` are what was claimed and what is."""
    node, operator, names = _named(conviction)
    return Finding(
        conviction.kind, conviction.accused, conviction.run, conviction.round, conviction.place, step,
        node, operator, names, reason, *values, trust, head, number,
    )  # fmt: skip


def _named(conviction: Conviction) -> tuple[int | None, str, tuple[str, ...]]:
    """Return a node's number, what it makes, and the names of the ports and outputs that it touches."""
    if conviction.node is None or conviction.program is None:
        return None, "", ()
    head, number = conviction.program.head, int(conviction.node)
    outputs = [output.name for output in head.outputs if output.source == number]
    if number < head.first:
        ports = [head.inputs[number].name] if number < len(head.inputs) else []
        return None, "", (*ports, *outputs)
    node = next(node for place, node, _ in conviction.program.nodes if place == number)
    ports = [head.inputs[source].name for source in node.inputs if source < len(head.inputs)]
    operator = f"{node.operator} {node.dtype}{list(map(int, node.shape))}"
    return number, operator, tuple(dict.fromkeys([*ports, *outputs]))
