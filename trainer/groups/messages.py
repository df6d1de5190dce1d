"""What a group's leader and its members say to each other, and a member to the process that averages for it."""

from dataclasses import dataclass

from verification.units import Count, Digest


@dataclass(frozen=True)
class Welcome:
    """To a new member: the encoded inner program, whose steps it shares, by what way members exchange totals, and what
    it has to know to meet the others there."""

    program: bytes
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
