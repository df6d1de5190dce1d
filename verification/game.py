"""One narrowing game, from inner steps to one number: where a dispute stands, and what a list or a point makes of it.

The law folds it as the parties move, whoever tries a conviction again folds it from signed lists, and whoever collects
these asks it for the next one. (SPEC.md 6.3, 6.4)
"""

from dataclasses import dataclass, replace

from verification import claims, narrowing
from verification.causes import Cause
from verification.claims import Claim, Listed, Result
from verification.errors import BadEvidence
from verification.library import failed, failures
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.program import ProgramHead
from verification.statements import MAX_ENTRIES, Answer, NodeList, Trace
from verification.units import Digest

Body = Answer | Trace | NodeList | Listed
"""What an accused says in a game."""


@dataclass(frozen=True)
class PostedList:
    """A list of an accused that is in order, said once, for all challengers: of states, of a trace, or in a node."""

    entries: tuple[Digest, ...]
    trace: Tracing | None = None
    listed: Listed | None = None


@dataclass(frozen=True)
class Game:
    """A claim in dispute: the value at `low` is agreed, that at `high` is `claimed`.

    Once one execution is left the accused has opened its `trace`, and `trail` holds the lists of it that have been
    pointed into, from the whole one down. `entries` is the list that a point is awaited for, None while a list is. At
    one node, of value number `node`, what is claimed of its `result` goes on as a `claim`, and `listed` is its list.
    A shard's inner step is claimed to have `given` other shards so much as well. (SPEC.md 4.17)
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
    result: Result | None = None
    claim: Claim | None = None
    listed: Listed | None = None
    given: tuple[Digest, ...] = ()

    @property
    def step(self) -> int:
        """The number of the inner step that is left, 0 for the other programs."""
        return self.high if self.place is Place.STEP else 0

    @property
    def program(self) -> Digest:
        """The program of the trace."""
        assert self.trace is not None
        return self.trace.program

    @property
    def awaited(self) -> str:
        """The slot of the next list: of states, a trace, its nodes, or within a node; empty where evidence is due."""
        if self.node is not None:
            awaits = None if self.claim is None else claims.awaited(self.claim)
            return awaits[0].at_node(self.place, self.step, self.node, *awaits[1]) if awaits else ""
        if self.trace is not None:
            return NodeList.at(self.place, self.step, self.trace.low, self.trace.high)
        if self.high - self.low > 1:
            return Answer.at(self.low, self.high)
        return Trace.at(self.place, self.step)

    @property
    def has_list(self) -> bool:
        """Return whether a point is awaited."""
        return self.entries is not None or self.listed is not None

    def check(self, body: Body, program: Digest, head: ProgramHead) -> PostedList | Cause:
        """Return the awaited list if it is in order, or what is wrong with it; `program` is the place's."""
        if isinstance(body, Answer):
            fault = narrowing.answer_fault(self.claimed, body, failures(program, head))
            return fault or PostedList(body.entries)
        if isinstance(body, Trace):
            trace = narrowing.open_trace(program, head, self.claimed, body, self.given)
            return trace if isinstance(trace, Cause) else PostedList(body.entries, trace)
        if isinstance(body, NodeList):
            assert self.trace is not None
            return narrowing.nodes_fault(self.trace, body) or PostedList(body.entries, self.trace)
        assert isinstance(self.claim, claims.Split)
        assert self.result is not None
        return self.claim.fault(self.result, body) or PostedList((), self.trace, body)

    def take(self, posted: PostedList) -> "Game":
        """Return the game with the awaited list."""
        if posted.listed is not None:
            return replace(self, listed=posted.listed)
        return replace(self, entries=posted.entries, trace=posted.trace)

    def point(self, index: int) -> "Game":
        """Return the game narrowed to an entry of its list; raises BadEvidence for one that it has not."""
        if self.listed is not None:
            assert self.claim is not None
            assert self.result is not None
            narrowed_claim = claims.narrowed(self.claim, self.result, self.listed, index)
            return replace(self, claim=narrowed_claim, listed=None)
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

    def fault(self) -> Cause | None:
        """Return what shows by itself of the node's result that the game has come to, None where nothing does."""
        assert self.trace is not None
        assert self.node is not None
        assert self.result is not None
        if self.claimed == failed(self.trace.program, self.node):
            return Cause.TRACE_GOES_ON if self.trace.failed != self.node else None
        is_empty_else = not self.result.grid.numbers and self.claimed != self.result.grid.empty
        return Cause.WRONG_NUMBER if is_empty_else else None

    def arrive(self, result: Result) -> "Game":
        """Return the game that has come to a node, with what is claimed of its `result`."""
        assert self.trace is not None
        assert self.node is not None
        failure = failed(self.trace.program, self.node)
        is_open = bool(result.grid.numbers) or self.claimed == failure
        return replace(
            self, result=result, claim=claims.claim_of(result, self.claimed, failure) if is_open else None
        )

    def at_end_of(self, other: "Game") -> "Game":
        """Return the game with the end that another one about the same claim has come to."""
        return replace(
            self, low=other.low, high=other.high, agreed=other.agreed, claimed=other.claimed, node=other.node,
            result=other.result,
            claim=other.claim,
        )  # fmt: skip

    def toward(self, target: int) -> "Game":
        """Return the game narrowed to the entry that holds a step, or a leaf of the trace; raises BadEvidence."""
        if self.trace is None:
            ends = narrowing.positions(self.low, self.high)
        else:
            ends = tuple(end - 1 for _, end in narrowing.segments(self.trace.low, self.trace.high))
        index = next((index for index, end in enumerate(ends) if target <= end), len(ends))
        return self.point(index)
