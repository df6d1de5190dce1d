"""What every kind of statement has: its place, and for what it is said once. (SPEC.md 3.2, 3.10)"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from verification import codec
from verification.manifest import Place
from verification.units import Address, Count, Round


class Once(StrEnum):
    """For what one sender says a kind of statement once: nothing is said without bound. (SPEC.md 3.10)

    `verification.bounds` counts each of them.
    """

    RUN = "a run"
    ROUND = "a round or session"
    LAPSE = "a round or session, and a time away"
    WORK = "a worker's round"
    SEAL = "a seal"
    LIST = "a list that a dispute waits for"
    POINT = "a list of a dispute"
    DISPUTE = "a dispute"
    CONTRIBUTION = "a contribution"
    DEMAND = "a demand"
    CONVICT = "a convict"


class Placed:
    """What may be said: a body that knows its place, its round and a slot within it. (SPEC.md 3.2)

    A kind that may be said several times in a round tells its statements apart by facts, which `at` puts into the slot.
    """

    limit: ClassVar[int] = codec.MAX_MESSAGE
    """Bytes that an encoded body may have."""

    once: ClassVar[Once]
    """For what a sender says it once."""

    begins: ClassVar[bool] = False
    """Whether it begins something, so that the excluded may not say it; what ends something they may. (SPEC.md 3.7)"""

    price: ClassVar[str] = ""
    """What it costs its sender, for people."""

    @property
    def slot(self) -> str:
        """The place within a round that the body fills: a peer says one thing per slot, by default one of a kind."""
        return self.at()

    @classmethod
    def at(cls, *facts: int | str | bytes) -> str:
        """Return the slot of this kind that such facts give."""
        return "/".join([cls.__name__, *(f.hex() if isinstance(f, bytes) else str(f) for f in facts)])


@dataclass(frozen=True)
class OfRound(Placed):
    """A body about one round, over whose head it is signed."""

    round: Round


@dataclass(frozen=True)
class ExecutionRef:
    """One execution by name: in `worker`'s round, or of the outer step that it signed.

    `step` numbers an inner step from 1, else it is 0.
    """

    round: Round
    worker: Address
    place: Place
    step: Count


@dataclass(frozen=True)
class OfExecution(OfRound):
    """A body about one execution of its sender's: its first fields name it, but for the sender."""

    place: Place
    step: Count

    @property
    def slot(self) -> str:
        return self.at(self.place, self.step)


@dataclass(frozen=True)
class OfResult(OfExecution):
    """A body about the result of one node of an execution, by the number of its value."""

    node: Count

    @property
    def facts(self) -> tuple[int | None, ...]:
        """What tells a node's statements of this kind apart."""
        return ()

    @property
    def slot(self) -> str:
        return self.at_node(self.place, self.step, self.node, *self.facts)

    @classmethod
    def at_node(cls, place: Place, step: int, node: int, *facts: int | None) -> str:
        """Return the slot of this kind about a node that such facts give."""
        return cls.at(place, step, node, *("" if fact is None else fact for fact in facts))


class OfRun(Placed):
    """A body that belongs to the whole run."""

    round: ClassVar[Round] = Round(0)
    """It is signed over round 0's head."""
