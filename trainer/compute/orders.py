"""What the node asks of the compute process, and what comes back. Bundles travel as blobs of the peer's store."""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

from trainer.programs.options import RunOptions
from trainer.rounds.machine import GroupMember, Kernels
from verification.claims import Judged, Split
from verification.content import CHUNK_BYTES
from verification.honest.actions import Traced
from verification.honest.within import Own
from verification.manifest import BundleRef, Place, Post
from verification.statements import Commit, OpenedInput, Spoiled
from verification.units import Address, Count, Digest, Round


@dataclass(frozen=True)
class StepDone:
    """Progress: an inner step of the running job is done."""

    step: Count


PIECE = CHUNK_BYTES
"""Bytes of what crosses between members of a crew that go in one message."""


@dataclass(frozen=True)
class Given:
    """A piece of what a member has made in inner step `step` for others of its crew: crossing number `crossing`.

    There is `more` where pieces that were made with it follow at once.
    """

    step: Count
    crossing: Count
    data: bytes
    more: bool = False


@dataclass(frozen=True)
class Waiting:
    """A member has nothing to do before crossing number `crossing` of inner step `step` is brought."""

    step: Count
    crossing: Count


News = StepDone | Given | Waiting
"""What a job tells while it goes on."""


@dataclass(frozen=True)
class Failed:
    """The order could not be done: `kind` names the error's class, `node` is a failed step's node or -1."""

    kind: str
    message: str
    node: int


R = TypeVar("R")
ORDERS: "dict[str, type[Order[Any]]]" = {}
"""All orders, by name."""
REPLIES: dict[str, type[Any]] = {kind.__name__: kind for kind in (StepDone, Given, Waiting, Failed)}
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


NO_STEP = FIRST = Count(0)

MICRO = 1_000_000
"""Losses travel as integers, in millionths."""


@dataclass(frozen=True)
class Prepared:
    """Whether the golden step was reproduced, whether a step of drawn numbers came out the same in two ways, the speed
    in inner steps per 1,000 seconds, the kernels, and what a step made in two ways takes, in thousandths of a step.

    A shard has no golden step, and counts as having reproduced it: its own step is checked in two ways alone."""

    golden: bool
    agrees: bool
    speed: Count
    kernels: Kernels
    check_cost: Count


@dataclass(frozen=True)
class Prepare(Order[Prepared]):
    """The first order: load a run, to be executed as `options` say; without a bound there, in the memory there is.

    Who has a `post` computes with its shard's programs, and keeps in the folder `taken` what it takes from others.
    """

    manifest: bytes
    store: str
    threads: Count
    options: RunOptions
    post: Post | None = None
    taken: str = ""


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

    Inner step `rerun` is computed again in another way before the result is told; 0: none is. A `post` says whose part
    of a crew's round it is, where it stands in another order; by itself the job is what one whole worker makes.
    """

    number: Round
    worker: Address
    beacon: Digest
    steps: Count
    start: BundleRef
    own: bool
    rerun: Count = NO_STEP
    post: Post | None = None


@dataclass(frozen=True)
class ShareDone:
    """What a member has of a crew's round: by digest the items that it made and took, and its contribution as JobDone.

    `waited` are the milliseconds that it had nothing to do for want of what others make. Only a shard that makes the
    loss has one.
    """

    digests: tuple[Digest, ...]
    taken: tuple[Digest, ...]
    contribution: BundleRef
    norm: Count
    loss: int | None
    failed: bool
    waited: Count


@dataclass(frozen=True)
class RunShare(Order[ShareDone]):
    """Compute one's part of a crew's round, at the job's post; the job's worker is the lead. (SPEC.md 4.17)

    It tells what is Given, and waits for what the node brings. What was taken once is read again, and then nothing is
    waited for; a round that is committed to is computed `again`, on what was taken alone.
    """

    job: RunJob
    again: bool = False


@dataclass(frozen=True)
class Filed:
    """What was brought has its place, or nobody waits for it any more."""


@dataclass(frozen=True)
class Bring(Order[Filed]):
    """Give the member's round that runs the next pieces of what it takes, by crossing; `failed` stands for a round that
    fails elsewhere."""

    step: Count
    pieces: tuple[tuple[Count, bytes], ...]
    failed: Digest | None = None


@dataclass(frozen=True)
class CrewDone:
    """All items of a crew's round, the contribution of each shard, and its loss; of a failed one each is the
    failure's."""

    digests: tuple[Digest, ...]
    contributions: tuple[BundleRef, ...]
    loss: int
    failed: bool


@dataclass(frozen=True)
class RunCrew(Order[CrewDone]):
    """Compute all of a crew's round by turns, as its auditor."""

    job: RunJob
    cut: Count


Job = RunJob | RunShare | RunCrew
"""What takes long, and is given up between two steps; urgent orders are done meanwhile."""


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
    """One contribution that enters an outer step, and its weight; a negative one takes it back.

    A crew of cut `cut` has the contribution of its first shard, and those of the others are its `mates`.
    """

    slot: Count
    weight: int
    contribution: BundleRef
    mates: tuple[BundleRef, ...] = ()
    cut: Count = FIRST


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
    """One disputed execution, of a worker's round or of an outer step; `step` numbers an inner step, else 0.

    A member's own is computed on what it took, another's from the round's start, all shards by turns.
    """

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
