"""What the node asks of the compute process, and what comes back. Bundles travel as blobs of the peer's store."""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

from trainer.programs.options import RunOptions
from trainer.rounds.machine import GroupMember, Kernels
from verification.claims import Judged, Split
from verification.honest.actions import Traced
from verification.honest.within import Own
from verification.manifest import BundleRef, Place
from verification.statements import Commit, OpenedInput, Spoiled
from verification.units import Address, Count, Digest, Round


@dataclass(frozen=True)
class StepDone:
    """Progress: an inner step of the running job is done."""

    step: Count


@dataclass(frozen=True)
class Failed:
    """The order could not be done: `kind` names the error's class, `node` is a failed step's node or -1."""

    kind: str
    message: str
    node: int


R = TypeVar("R")
ORDERS: "dict[str, type[Order[Any]]]" = {}
"""All orders, by name."""
REPLIES: dict[str, type[Any]] = {kind.__name__: kind for kind in (StepDone, Failed)}
"""All that comes back, by name: progress and failures may answer any order."""


class Order(Generic[R]):
    """What the node asks; R is the dataclass that answers it.

    A subclass is the one declaration of an order. Whoever does it stands in `trainer.compute.process` under
    `does`, and mypy checks that it returns R; `ComputeClient.ask` returns R to who asks.
    """

    reply: ClassVar[type[Any]]

    def __init_subclass__(cls) -> None:
        (base,) = cls.__orig_bases__  # type: ignore[attr-defined]
        (cls.reply,) = get_args(base)
        ORDERS[cls.__name__], REPLIES[cls.reply.__name__] = cls, cls.reply


NO_STEP = Count(0)

MICRO = 1_000_000
"""Losses travel as integers, in millionths."""


@dataclass(frozen=True)
class Prepared:
    """Whether the golden step was reproduced, whether a step of drawn numbers came out the same in two ways, the speed
    in inner steps per 1,000 seconds, the kernels, and what a step made in two ways takes, in thousandths of a step."""

    golden: bool
    agrees: bool
    speed: Count
    kernels: Kernels
    check_cost: Count


@dataclass(frozen=True)
class Prepare(Order[Prepared]):
    """The first order: load a run, to be executed as `options` say; without a bound there, in the memory there is."""

    manifest: bytes
    store: str
    threads: Count
    options: RunOptions


@dataclass(frozen=True)
class JobDone:
    """F's result; the contribution is in the store. A round that failed has none: its digest stands for the failure.

    `group` are the machines that made its last step, where there were several.
    """

    digests: tuple[Digest, ...]
    contribution: BundleRef
    norm: Count
    loss: int
    failed: bool
    group: tuple[GroupMember, ...] = ()


@dataclass(frozen=True)
class RunJob(Order[JobDone]):
    """Compute F for one worker's round; an `own` one is computed with the peer's conduct, an audit never is.

    Inner step `rerun` is computed again in another way before the result is told; 0: none is.
    """

    number: Round
    worker: Address
    beacon: Digest
    steps: Count
    start: BundleRef
    own: bool
    rerun: Count = NO_STEP


@dataclass(frozen=True)
class StatesListed:
    """The digests, in order."""

    digests: tuple[Digest, ...]


@dataclass(frozen=True)
class ListSteps(Order[StatesListed]):
    """Compute the state digests after some inner steps of a job."""

    job: RunJob
    steps: tuple[Count, ...]


@dataclass(frozen=True)
class Summand:
    """One contribution that enters an outer step, and its weight; a negative one takes it back."""

    slot: Count
    weight: int
    contribution: BundleRef


@dataclass(frozen=True)
class RunOuterStep(Order[BundleRef]):
    """Compute the next state."""

    start: BundleRef
    slots: tuple[Summand, ...]
    ballast: Count


@dataclass(frozen=True)
class Checked:
    """Whether the blob holds that contribution, and what shows that its author signed something else."""

    ok: bool
    spoiled: Spoiled | None


@dataclass(frozen=True)
class CheckContribution(Order[Checked]):
    """Decode a fetched blob and compare it with what `worker` committed to."""

    worker: Address
    commit: Commit


@dataclass(frozen=True)
class DisputedExecution:
    """One disputed execution, of a worker's round or of an outer step; `step` numbers an inner step, else 0."""

    work: RunJob | RunOuterStep
    place: Place
    step: Count


Trail = tuple[tuple[Count, Count, tuple[Digest, ...]], ...]
"""Lists of an accused's trace: (low, high, entries), from the whole one down."""


@dataclass(frozen=True)
class TraceNodes(Order[Traced]):
    """Compute the digests of all node results of an execution."""

    execution: DisputedExecution


@dataclass(frozen=True)
class SplitClaim(Order[Own]):
    """Compute what one's own node gives where a claim about it is split."""

    execution: DisputedExecution
    node: Count
    claim: Split


@dataclass(frozen=True)
class Opened:
    """What evidence must bring."""

    inputs: tuple[OpenedInput, ...]


@dataclass(frozen=True)
class OpenClaim(Order[Opened]):
    """Bring what a claim reads of a node's inputs, with their paths."""

    execution: DisputedExecution
    node: Count
    claim: Judged
    trail: Trail


@dataclass(frozen=True)
class Proved:
    """The digest and its path."""

    digest: Digest
    path: tuple[Digest, ...]


@dataclass(frozen=True)
class ProveValue(Order[Proved]):
    """Prove the digest of a value of an execution."""

    execution: DisputedExecution
    value: Count
    trail: Trail
