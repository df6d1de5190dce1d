"""One narrowing game: where a dispute stands, what list it waits for, and what a list or a point makes of it.

The law folds it as the parties move, whoever tries a conviction again folds it from signed lists, and whoever collects
these asks it for the next one. (SPEC.md 6.3, 6.4)
"""

from dataclasses import dataclass, replace

from verification import narrowing
from verification.causes import Cause
from verification.errors import BadEvidence
from verification.executor import failures
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.program import ProgramHead
from verification.statements import MAX_ENTRIES, Answer, NodeList, Trace
from verification.units import Digest


@dataclass(frozen=True)
class PostedList:
    """A list of an accused that is in order, and the trace that it narrows; said once, for all challengers."""

    entries: tuple[Digest, ...]
    trace: Tracing | None = None


@dataclass(frozen=True)
class Game:
    """A claim in dispute: the value at `low` is agreed, that at `high` is `claimed`.

    Once one execution is left the accused has opened its `trace`, and `trail` holds the lists of it that have been
    pointed into, from the whole one down. `entries` is the list that a point is awaited for, None while a list is;
    `node` the value number at which the game has ended.
    """

    place: Place
    low: int
    high: int
    agreed: Digest | None
    claimed: Digest
    entries: tuple[Digest, ...] | None = None
    trace: Tracing | None = None
    trail: tuple[tuple[int, int, tuple[Digest, ...]], ...] = ()
    node: int | None = None

    @property
    def step(self) -> int:
        """The number of the inner step that is left, 0 for the other programs."""
        return self.high if self.place is Place.STEP else 0

    @property
    def awaited(self) -> str:
        """The slot of the next list: of states, a trace, or of its nodes; empty once the game has come to a node."""
        if self.node is not None:
            return ""
        if self.trace is not None:
            return NodeList.at(self.place, self.step, self.trace.low, self.trace.high)
        if self.high - self.low > 1:
            return Answer.at(self.low, self.high)
        return Trace.at(self.place, self.step)

    def check(
        self, body: Answer | Trace | NodeList, program: Digest, head: ProgramHead
    ) -> PostedList | Cause:
        """Return the awaited list if it is in order, or what is wrong with it; `program` is the place's."""
        if isinstance(body, Answer):
            fault = narrowing.answer_fault(self.claimed, body, failures(program, head))
            return fault or PostedList(body.entries)
        if isinstance(body, Trace):
            trace = narrowing.open_trace(program, head, self.claimed, body)
            return trace if isinstance(trace, Cause) else PostedList(body.entries, trace)
        assert self.trace is not None
        return narrowing.nodes_fault(self.trace, body) or PostedList(body.entries, self.trace)

    def take(self, listed: PostedList) -> "Game":
        """Return the game with the awaited list."""
        return replace(self, entries=listed.entries, trace=listed.trace)

    def point(self, index: int) -> "Game":
        """Return the game narrowed to an entry of its list; raises BadEvidence for one that it has not."""
        if self.entries is None or not 0 <= index < len(self.entries):
            raise BadEvidence("the index lies outside the list")
        if self.trace is None:
            assert self.agreed is not None
            low, high, agreed, claimed = narrowing.narrow(
                self.low, self.high, self.agreed, self.entries, index
            )
            return replace(self, low=low, high=high, agreed=agreed, claimed=claimed, entries=None)
        leaf, _ = narrowing.segments(self.trace.low, self.trace.high)[index]
        narrowed = replace(
            self,
            trace=narrowing.enter(self.trace, self.entries, leaf),
            trail=(*self.trail, (self.trace.low, self.trace.high, self.entries)),
            entries=None,
        )
        if self.trace.high - self.trace.low > MAX_ENTRIES:
            return narrowed
        return replace(narrowed, claimed=self.entries[index], node=self.trace.first + leaf)

    def at_end_of(self, other: "Game") -> "Game":
        """Return the game with the end that another one about the same claim has come to."""
        return replace(
            self, low=other.low, high=other.high, agreed=other.agreed, claimed=other.claimed, node=other.node
        )

    def toward(self, target: int) -> "Game":
        """Return the game narrowed to the entry that holds a step, or a leaf of the trace; raises BadEvidence."""
        if self.trace is None:
            ends = narrowing.positions(self.low, self.high)
        else:
            ends = tuple(end - 1 for _, end in narrowing.segments(self.trace.low, self.trace.high))
        index = next((index for index, end in enumerate(ends) if target <= end), len(ends))
        return self.point(index)
