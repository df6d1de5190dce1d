"""A shard's programs as an engine runs them, its inner step in legs, and all shards by turns. (SPEC.md 4.17)"""

from collections.abc import Callable, Sequence
from typing import Any

from trainer.rounds.engine import Engine, Handle
from trainer.rounds.training import RoundFailed, Start
from trainer.shards.legs import given_by, legs_of, taken_by, until
from verification.errors import BadEvidence, Malformed, Unsound
from verification.layout import STATE
from verification.library import StepFailed, failed
from verification.manifest import Cut
from verification.program import Port, inputs_read
from verification.tensors import Tensor
from verification.units import Digest

Made = list[tuple[int, Any]]
"""Crossings by their places in the cut, with their tensors in the engine's form."""


class Member:
    """One shard's programs as an engine knows them, and what they exchange."""

    def __init__(self, engine: Engine, cut: Cut, shard: int) -> None:
        self.engine, self.programs = engine, cut.shards[shard]
        inner = self.programs.inner.digest
        self.inner = engine.program(inner)
        ends = self.programs.prologue, self.programs.epilogue
        self._read = frozenset[int]().union(*(inputs_read(engine.program(ref.digest)) for ref in ends))
        self.working = len(engine.program(self.programs.prologue.digest).outputs)
        self.legs = legs_of(self.inner, self.working)
        self.known = [engine.learn(leg.program, inner, leg.finite) for leg in self.legs]
        self.given, self.taken = given_by(shard, cut.crossings), taken_by(shard, cut.crossings)
        self.ports = {place: self.working + number for number, place in enumerate(self.taken)}
        """The number of the port by which a crossing comes."""
        reads = [frozenset(leg.reads) for leg in self.legs]
        self.waits = [[place for place, port in self.ports.items() if port in read] for read in reads]
        """The crossings that each leg reads, and after the last all that are taken."""
        self.waits.append(self.taken)
        outputs = self.inner.outputs
        self.makes = [int(output.source) for output in outputs[: self.working]]
        self.gives = [
            (place, int(output.source))
            for place, output in zip(self.given, outputs[self.working :], strict=True)
        ]

    def of_start(self, start: Start) -> Start:
        """Return a shard's part of a whole state."""
        count = len(start) // len(STATE)
        return [
            start[kind * count + place] for kind in range(len(STATE)) for place in self.programs.parameters
        ]

    def read_of(self, start: Start) -> Start:
        """Return what a shard's round reads of a whole state, None for the rest of its part."""
        return [each if place in self._read else None for place, each in enumerate(self.of_start(start))]

    def held(self, step: int, crossing: int, tensor: Tensor) -> Any:
        """Return a crossing that came from another in the engine's form; raises BadEvidence for another than its port
        takes."""
        port = self.inner.inputs[self.ports[crossing]]
        _require_fit(port, tensor, f"crossing {crossing} of inner step {step}")
        return self.engine.hold(tensor)

    def failure(self, inputs: Sequence[Any], end: int) -> RoundFailed:
        """Return with what an inner step fails of which a leg has failed that ends before node `end`.

        Raises Unsound where it does not.
        """
        inner = self.programs.inner.digest
        try:
            self.engine.run(self.engine.learn(until(self.inner, end), inner), [inputs])
        except StepFailed as failure:
            return RoundFailed(failed(inner, failure.node))
        raise Unsound("a step that failed does not fail again")


class InnerStep:
    """One inner step of a member, a leg at a time."""

    def __init__(self, member: Member, working: Sequence[Any], is_checked: bool = False) -> None:
        """Where it `is_checked` each leg is computed in another way too."""
        self._member, self._next, self._is_checked = member, 0, is_checked
        self.inputs: list[Any] = [*working, *(None for _ in member.taken)]
        """The inner program's inputs; None for what has not come."""
        self._values = dict(enumerate(working))
        self.begun = self._made(range(member.working))
        """What crosses of the working state as it is."""

    @property
    def is_over(self) -> bool:
        """Whether all legs have run."""
        return self._next == len(self._member.legs)

    @property
    def lacking(self) -> list[int]:
        """The crossings for which the next leg waits; once all have run, those that no leg has read."""
        ports, wanted = self._member.ports, self._member.waits[self._next]
        return [place for place in wanted if self.inputs[ports[place]] is None]

    def take(self, crossing: int, tensor: Any) -> None:
        """Take a crossing in the engine's form."""
        port = self._member.ports[crossing]
        self.inputs[port] = self._values[port] = tensor

    def go_on(self) -> Made:
        """Run the next leg, which lacks nothing; return what crosses of what it makes.

        Raises RoundFailed, and Unsound where the leg does not come out the same in two ways: before anybody is given
        what it made.
        """
        member = self._member
        leg, digest = member.legs[self._next], member.known[self._next]
        given = [self._values[number] for number in leg.reads]
        try:
            made = member.engine.run(digest, [given])
        except StepFailed as failure:
            raise member.failure(self.inputs, leg.end) from failure
        if self._is_checked and not _comes_out_as(member.engine, digest, given, made):
            raise Unsound("computed in another way it has another digest")
        del given
        self._next += 1
        for number in leg.last:
            del self._values[number]
        self._values.update(zip(leg.makes, made, strict=True))
        return self._made(leg.makes)

    def working(self) -> list[Any]:
        """Return the working state after the step, once all legs have run."""
        return [self._values[number] for number in self._member.makes]

    def _made(self, numbers: Sequence[int]) -> Made:
        return [(place, self._values[number]) for place, number in self._member.gives if number in numbers]


class ByTurns:
    """All members of a crew in one process, whose turn it is that lacks nothing."""

    def __init__(self, members: Sequence[Member], cut: Cut) -> None:
        self.members, self.cut = members, cut
        self.items: tuple[Digest, ...] = ()
        """The items of the last inner step; the failure stands for those that were not made."""
        self._failures: dict[int, RoundFailed] = {}
        self._crossed: dict[int, Digest] = {}

    def begin(self, begun: Callable[[Member], Handle]) -> list[Handle]:
        """Return the working states that the prologues make; raises RoundFailed where one fails."""
        workings: list[Handle] = []
        try:
            for member in self.members:
                workings.append(begun(member))
        except RoundFailed as failure:
            self.items = self._filled([self._digest(each) for each in workings], len(self.members), failure)
            raise
        self.items = tuple(self._digest(each) for each in workings)
        return workings

    def advance(self, workings: Sequence[Handle], is_checked: bool = False) -> list[Handle]:
        """Return the working states after an inner step, all of it computed in two ways where it `is_checked`.

        Raises RoundFailed where a shard's program fails, Unsound where the two differ.
        """
        steps = self.turn(workings, is_checked)
        count = len(self.cut.crossings)
        ended = [step.working() if step.is_over else None for step in steps]
        found = [self._crossed.get(place) for place in range(count)]
        found += [None if working is None else self._digest(working) for working in ended]
        if not self._failures:
            if None in found:
                raise Malformed("the shards of the cut wait for each other: whoever made the run cheats")
            self.items = tuple(each for each in found if each is not None)
            return ended
        made = found[: found.index(None)]
        makers = [*(crossing.maker for crossing in self.cut.crossings), *range(len(steps))]
        first = {
            shard: next(n for n, item in enumerate(found) if item is None and makers[n] == shard)
            for shard in self._failures
        }
        failure = self._failures[min(first, key=lambda shard: first[shard])]
        self.items = self._filled([each for each in made if each is not None], len(found), failure)
        raise failure

    def turn(self, workings: Sequence[Handle], is_checked: bool = False) -> list[InnerStep]:
        """Return an inner step of each member, gone on with for as long as one of them can."""
        self._failures, self._crossed = {}, {}
        pairs = zip(self.members, workings, strict=True)
        steps = [InnerStep(member, each, is_checked) for member, each in pairs]
        for step in steps:
            self._deliver(steps, step.begun)
        while any(self._go_on(steps, shard) for shard in range(len(steps))):
            pass
        return steps

    def _go_on(self, steps: Sequence[InnerStep], shard: int) -> bool:
        """Run a shard's legs as far as they lack nothing; return whether any ran."""
        step, has_run = steps[shard], False
        while shard not in self._failures and not step.is_over and not step.lacking:
            try:
                self._deliver(steps, step.go_on())
            except RoundFailed as failure:
                self._failures[shard] = failure
            has_run = True
        return has_run

    def _deliver(self, steps: Sequence[InnerStep], made: Made) -> None:
        for crossing, tensor in made:
            (self._crossed[crossing],) = self.members[0].engine.digests([tensor])
            for taker in self.cut.crossings[crossing].takers:
                steps[taker].take(crossing, tensor)

    def _digest(self, working: Handle) -> Digest:
        return self.members[0].engine.digest(working)

    def _filled(self, made: Sequence[Digest], count: int, failure: RoundFailed) -> tuple[Digest, ...]:
        return (*made, *[failure.digest] * (count - len(made)))


def _comes_out_as(engine: Engine, leg: Digest, given: list[Any], made: Handle) -> bool:
    try:
        return engine.again(leg, given) == engine.digests(made)
    except StepFailed:
        return False


def _require_fit(port: Port, tensor: Tensor, name: str) -> None:
    """Raise BadEvidence unless a tensor has a port's dtype and shape."""
    if (tensor.dtype, tuple(tensor.shape)) != (port.dtype, tuple(port.shape)):
        wanted, found = (f"{each.dtype}{list(each.shape)}" for each in (port, tensor))
        raise BadEvidence(f"{name} must be {wanted}, not {found}")
