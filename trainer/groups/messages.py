"""What a group's leader and its members say to each other."""

from dataclasses import dataclass

from verification.units import Count


@dataclass(frozen=True)
class Welcome:
    """To a new member: the encoded inner program, whose steps it shares, and the port where members meet."""

    program: bytes
    meeting: Count


@dataclass(frozen=True)
class Ready:
    """To the leader: the program is loaded, and steps may come."""


@dataclass(frozen=True)
class MakeStep:
    """To every member: make step `number` in `generation`, a set of members that lasts until somebody comes or goes.

    `counts` are the records of each, the leader's first, and `place` is the receiver's among them. `is_given`: the
    leader gives the working state first; else it is the member's own after its last step.
    """

    number: Count
    generation: Count
    place: Count
    counts: tuple[Count, ...]
    is_given: bool


@dataclass(frozen=True)
class StepEnded:
    """To the leader: step `number` is over here, whether or not it came to its end."""

    number: Count
