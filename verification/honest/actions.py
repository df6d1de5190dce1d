"""What an honest peer can do next, by name, and what a driver files when it has done it. (SPEC.md 9)"""

from dataclasses import dataclass, field
from typing import Any

from verification.claims import Judged, Split
from verification.manifest import BundleRef
from verification.placed import ExecutionRef
from verification.statements import Body
from verification.units import Address, Count, Digest, Round


@dataclass(frozen=True)
class Work:
    """What F gives for one worker's round: a state digest per leaf, the contribution, its squared norm.

    A round that fails is audited like any other and not committed to; one digest stands for what it did not make. Of a
    crew a member has the items that it made and those that it has `taken`, the roots over what it `shared` with each
    neighbour, and the receipts that these signed; an auditor has all items, and the contributions of the first one's
    `mates`. (SPEC.md 4.17)
    """

    digests: tuple[Digest, ...]
    contribution: BundleRef
    norm: Count
    failed: bool = False
    mates: tuple[Digest, ...] = ()
    taken: tuple[Digest, ...] = ()
    shared: tuple[Digest, ...] = ()
    receipts: tuple[bytes, ...] = ()

    @property
    def contributions(self) -> tuple[Digest, ...]:
        """The digests of all contributions."""
        return self.contribution.digest, *self.mates


@dataclass(frozen=True)
class Say:
    """Sign `body` and put it on the ledger."""

    body: Body


@dataclass(frozen=True)
class FetchState:
    """Get the state before a round by its digest, computed here or from other members; result: True.

    The number after the last round's stands for the run's final state.
    """

    number: Round


@dataclass(frozen=True)
class FetchContribution:
    """Get, check and keep a worker's contribution; result: whether it is held and decodes, or what shows that its
    author signed something else (Spoiled)."""

    number: Round
    worker: Address


@dataclass(frozen=True)
class RunRound:
    """Compute F for a worker's assignment, as that worker or as its auditor; result: Work.

    A member of a crew computes its part with the others, and may find itself Stuck; an auditor all of a crew's, whose
    lead is the worker. (SPEC.md 4.17)
    """

    number: Round
    worker: Address


@dataclass(frozen=True)
class ReadStatement:
    """Get the signed bytes of what an author has said on the ledger; result: bytes."""

    author: Address
    number: Round
    slot: str


@dataclass(frozen=True)
class RunOuter:
    """Compute the next state from the round's included contributions; result: BundleRef."""

    number: Round


@dataclass(frozen=True)
class ListStates:
    """Compute the state digests after these inner steps of a worker's round; result: tuple of Digest."""

    number: Round
    worker: Address
    steps: tuple[int, ...]


@dataclass(frozen=True)
class TraceProgram:
    """Compute the digests of all node results of one execution. Result: Traced."""

    execution: ExecutionRef

    @property
    def number(self) -> Round:
        """The round that it belongs to."""
        return self.execution.round


@dataclass(frozen=True)
class Traced:
    """One execution, by digest: outputs and node results in the program's order.

    A failed one has no outputs; its results end in the digest that stands for the failure at node `failed`.
    """

    failed: int | None
    outputs: tuple[Digest, ...]
    results: tuple[Digest, ...]


@dataclass(frozen=True)
class SplitClaim:
    """Compute what one's own node gives where a claim about it is split. Result: Own."""

    execution: ExecutionRef
    node: int
    claim: Split


@dataclass(frozen=True)
class OpenClaim:
    """Bring what a claim reads of a node's inputs, with paths in the accused's trace, of which `trail` holds lists.

    Result: OpenedInputs.
    """

    execution: ExecutionRef
    node: int
    claim: Judged
    trail: tuple[tuple[int, int, tuple[Digest, ...]], ...]


@dataclass(frozen=True)
class OpenValue:
    """Prove the digest of a value, likewise. Result: (digest, path)."""

    execution: ExecutionRef
    value: int
    trail: tuple[tuple[int, int, tuple[Digest, ...]], ...]


@dataclass(frozen=True)
class OpenChunk:
    """Show what the demand `number` draws from a contribution that this peer attested. Result: Chunk."""

    number: int
    contribution: BundleRef
    seed: Digest


Computed = (
    OpenChunk
    | FetchState
    | FetchContribution
    | RunRound
    | ReadStatement
    | RunOuter
    | ListStates
    | TraceProgram
    | SplitClaim
    | OpenClaim
    | OpenValue
)
Action = Say | Computed


@dataclass
class Results:
    """What a peer has computed or fetched, by action."""

    done: dict[Computed, Any] = field(default_factory=dict)

    def work(self, number: Round, worker: Address) -> Work | None:
        """Return F's result for a worker's round, if computed; None where it came to nothing."""
        result = self.done.get(RunRound(number, worker))
        return result if isinstance(result, Work) else None
