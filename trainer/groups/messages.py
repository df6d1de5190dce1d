"""What a group's leader and its members say to each other, and a member to the process that averages for it."""

from dataclasses import dataclass
from enum import StrEnum

from verification.units import Count, Digest


@dataclass(frozen=True)
class Welcome:
    """To a new member: the encoded programs that it shares, an inner one or where the model is split (`SHARDS`) those
    of a round; by what way, and what it has to know to meet the others there."""

    programs: tuple[bytes, ...]
    way: str
    meeting: str


@dataclass(frozen=True)
class Ready:
    """To the leader: the program is loaded, and steps may come. `outline` says how it is split (`split.outline`)."""

    outline: Digest


@dataclass(frozen=True)
class MakeStep:
    """To every member: make step `number` in `generation`, a set of members that lasts until somebody comes or goes.

    `counts` are the records of each, the leader's first, and `place` is the receiver's among them. `given` tensors of
    the working state follow: all or, where the member has it after its last step, none.
    """

    number: Count
    generation: Count
    place: Count
    counts: tuple[Count, ...]
    given: Count


@dataclass(frozen=True)
class StepEnded:
    """To the leader: step `number` is over here, whether or not it came to its end, and took so many microseconds."""

    number: Count
    micros: Count


SHARDS = "shards"
"""The way of a group whose machines hold a model in parts."""


@dataclass(frozen=True)
class Able:
    """To the leader: the bytes of memory and work units a second of which a shard may make use, and at which port the
    stages before it reach this machine."""

    memory: Count
    speed: Count
    port: Count


@dataclass(frozen=True)
class Hold:
    """After an order to hold a shard of the model cut at `ends`: which, with what lead, in which generation of the
    group, and where the machines of all shards are, the leader's first. In a ring there are as many ends as machines.
    """

    generation: Count
    shard: Count
    lead: Count
    ends: tuple[Count, ...]
    places: tuple[tuple[str, Count], ...]


class Deed(StrEnum):
    """What the leader has a stage do."""

    HOLD = "hold"
    BEGIN = "begin"
    STEP = "step"
    CHECK = "check"
    REPLACE = "replace"
    TELL = "tell"
    SHOW = "show"
    END = "end"
    ABANDON = "abandon"


@dataclass(frozen=True)
class StageOrder:
    """To every stage: do something; `number` is that of the execution, where there is one.

    A step is made `before` a node only where that is not 0. The tensors follow whose places are `given`.
    """

    number: Count
    deed: Deed
    before: Count
    given: tuple[Count, ...]


class Trouble(StrEnum):
    """How an order ended at a stage."""

    NONE = ""
    FAILED = "failed"
    UNSOUND = "unsound"
    ABANDONED = "abandoned"
    GONE = "gone"


@dataclass(frozen=True)
class StageDone:
    """To the leader: an order is done here, or came to grief, at `node` where a step failed.

    `spent` is what it took: microseconds computed and waited, bytes sent and received. `digests` are those of tensors
    by their places; the tensors follow whose places are `given`.
    """

    number: Count
    trouble: Trouble
    node: Count
    spent: tuple[Count, Count, Count, Count]
    digests: tuple[tuple[Count, Digest], ...]
    given: tuple[Count, ...]


@dataclass(frozen=True)
class Averaging:
    """From a process that averages: where it listens, as multiaddrs."""

    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Average:
    """To it: sum `numbers`, int64 in little-endian bytes, with the other members of a generation.

    `exchange` counts what they have done together.
    """

    generation: Count
    exchange: Count
    place: Count
    members: Count
    numbers: bytes


@dataclass(frozen=True)
class Averaged:
    """From it: the sums, in the same form; or, where `is_sum` is false, why there are none."""

    is_sum: bool
    numbers: bytes
    reason: str


@dataclass(frozen=True)
class Part:
    """From averaging process to averaging process: who takes part in which exchange, and the checksum of its limbs."""

    exchange: Count
    place: Count
    checksum: Count
