"""A crew's round: several members each compute a shard of the model, and an auditor all of them. (SPEC.md 4.17)

Written over an `Engine`, as `trainer.rounds.training` is. An inner step runs in legs (`trainer.shards.legs`): each once
what it reads of others is here.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, overload

from trainer.rounds.engine import Engine, Handle, Job
from trainer.rounds.training import Disputed, Executions, RoundFailed, Start
from trainer.shards.members import ByTurns, InnerStep, Member
from verification.crews import held_at
from verification.errors import BadEvidence
from verification.manifest import Manifest, Place, Post
from verification.tensors import Bundle, Tensor
from verification.units import Count, Digest


class Exchange(Protocol):
    """Carries what crosses between the members of a crew; a crossing goes by its place in the cut."""

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Give a tensor of inner step `step` (from 1) to all that take it, without waiting for them; there is `more`
        where others that were made with it follow at once."""
        ...

    def take(self, step: int, crossing: int) -> Tensor:
        """Return another's tensor once it is here; raises RoundFailed where its maker tells that the round fails."""
        ...


@dataclass(frozen=True)
class MemberOutcome:
    """What a member's round gives: digests of its working state after 0, 1, ... inner steps, and for each inner step
    the digest of every crossing that it makes, and takes, in the cut's order.

    Of a round that fails there is no contribution, and `failed` stands for it and for all that was not made.
    """

    states: tuple[Digest, ...]
    given: tuple[tuple[Digest, ...], ...]
    taken: tuple[tuple[Digest, ...], ...]
    contribution: Bundle | None
    loss: float
    failed: Digest | None = None


@dataclass(frozen=True)
class CrewOutcome:
    """What an auditor finds: for 0 inner steps the digest of each shard's working state, for each further one that of
    each crossing of the step and then of each shard's working state; and each shard's contribution and its loss.

    Where a shard's program fails, `failed` stands for its first item that was not made and for all that follow, and
    there is no contribution.
    """

    items: tuple[tuple[Digest, ...], ...]
    contributions: tuple[Bundle, ...]
    losses: tuple[float, ...]
    failed: Digest | None = None


class Crews(Executions):
    """F of the crews of a run, over one engine, manifest and data set; `job.worker` is the crew's lead."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        data: Bundle,
        others: Mapping[int, Engine] | None = None,
    ) -> None:
        """`data` is the one tensor whose digest is the manifest's data root; `others` are engines of single shards, for
        who plays a crew whose machines are not alike."""
        super().__init__(engine, manifest, data)
        self._members: dict[Post, Member] = {}
        self._others = dict(others or {})

    def over(self, engine: Engine) -> "Crews":
        """Return F over another engine that takes the handles of this one, as a conduct's does."""
        made = copy(self)
        made._engine, made._members = engine, {}
        return made

    def run(
        self,
        job: Job,
        start: Start,
        post: Post,
        exchange: Exchange,
        on_step: Callable[[int], None] = lambda step: None,
        checked: int = 0,
    ) -> MemberOutcome:
        """Compute a member's round from a whole state; `on_step` hears the number of inner steps done, and step
        `checked` is made in two ways.

        Raises what the exchange does, BadEvidence for a tensor that is not what the program reads, and Unsound where
        the two ways differ.
        """
        member, notes = self._member(post), _Notes(job.steps)
        try:
            working = self._begun(job, start, member)
            notes.states.append(self._engine.digest(working))
            on_step(0)
            for step in range(1, job.steps + 1):
                working = self._advanced(member, working, step, exchange, notes, step == checked)
                notes.states.append(self._engine.digest(working))
                on_step(step)
            contribution = self._ended(member, start, working)
        except RoundFailed as failure:
            return notes.outcome(member, None, 0.0, failure.digest)
        return notes.outcome(member, self._engine.dump(contribution), self._engine.loss(contribution), None)

    def audit(
        self,
        job: Job,
        start: Start,
        cut: int,
        on_step: Callable[[int], None] = lambda step: None,
        checked: int = 0,
    ) -> CrewOutcome:
        """Compute the round of a whole crew of the run's cut number `cut`, its shards by turns; step `checked` is made
        in two ways.

        Raises Unsound where those differ.
        """
        crew = ByTurns(self._all(cut), self._manifest.cuts[cut])
        items: list[tuple[Digest, ...]] = []
        try:
            workings = crew.begin(lambda member: self._begun(job, start, member))
            items.append(crew.items)
            on_step(0)
            for step in range(1, job.steps + 1):
                workings = crew.advance(workings, step == checked)
                items.append(crew.items)
                on_step(step)
            made = [
                self._ended(member, start, working)
                for member, working in zip(crew.members, workings, strict=True)
            ]
        except RoundFailed as failure:
            if len(items) <= job.steps:
                items.append(crew.items)
            width = len(crew.cut.crossings) + len(crew.members)
            missing = [(failure.digest,) * width] * (job.steps + 1 - len(items))
            return CrewOutcome((*items, *missing), (), (), failure.digest)
        losses = tuple(self._engine.loss(each) for each in made)
        return CrewOutcome(tuple(items), tuple(self._engine.dump(each) for each in made), losses)

    def begun(self, job: Job, start: Start, post: Post) -> Handle:
        """Return a member's working state as its prologue makes it of a whole state; raises RoundFailed."""
        return self._begun(job, start, self._member(post))

    def disputed(
        self,
        job: Job,
        start: Start,
        post: Post,
        place: Place,
        step: int,
        taken: Callable[[int], Sequence[Tensor]] | None = None,
    ) -> Disputed:
        """Return an execution of a member's round, which ends just before it. (SPEC.md 6.4)

        What it read of others in a step is what `taken` gives, in the cut's order; without it all shards are computed
        by turns, and what none has made is None. Raises RoundFailed when the round ends earlier, BadEvidence for what
        is taken and is not what the program reads.
        """
        member = self._member(post)
        about: dict[str, Any] = {"held": held_at(self._manifest, post), "start": _Unheld(self._engine, start)}
        if place is Place.PROLOGUE:
            inputs = self._gathering(job, self._loaded(member.of_start(start)))
            return Disputed(place, member.programs.prologue.digest, inputs, **about)
        done = step - 1 if place is Place.STEP else job.steps
        if taken is None:
            inputs = self._found(job, start, post, done, place is Place.STEP)
        else:
            inputs = self._retold(job, start, member, done, taken)
            if place is Place.STEP:
                last = _Told(member, taken)
                inputs += [member.held(step, each, last.take(step, each)) for each in member.taken]
        if place is Place.STEP:
            return Disputed(place, member.programs.inner.digest, inputs, **about)
        before = self._loaded(member.of_start(start))
        return Disputed(place, member.programs.epilogue.digest, [*before, *inputs], **about)

    def _found(self, job: Job, start: Start, post: Post, done: int, is_step: bool) -> list[Any]:
        """Return a shard's working state after some steps, all shards by turns, with what it takes in the next one."""
        crew = ByTurns(self._all(post.cut), self._manifest.cuts[post.cut])
        workings = crew.begin(lambda member: self._begun(job, start, member))
        for _ in range(done):
            workings = crew.advance(workings)
        if not is_step:
            return list(workings[post.shard])
        return crew.turn(workings)[post.shard].inputs

    def _retold(
        self, job: Job, start: Start, member: Member, done: int, taken: Callable[[int], Sequence[Tensor]]
    ) -> list[Any]:
        """Return a shard's working state after some steps in which it took what is told."""
        working, told = self._begun(job, start, member), _Told(member, taken)
        for step in range(1, done + 1):
            working = self._advanced(member, working, step, told, _Notes(done))
        return list(working)

    def _begun(self, job: Job, start: Start, member: Member) -> Handle:
        inputs = self._gathering(job, self._loaded(member.read_of(start)))
        return self._run(member.programs.prologue, [inputs], member.engine)

    def _advanced(
        self,
        member: Member,
        working: Handle,
        number: int,
        exchange: Exchange,
        notes: "_Notes",
        is_checked: bool = False,
    ) -> Handle:
        """Return a member's working state after an inner step; raises RoundFailed, Unsound, and as `Exchange.take`."""
        step = InnerStep(member, working, is_checked)
        made = step.begun
        while True:
            for place, (crossing, tensor) in enumerate(made, 1):
                (notes.given[number - 1][crossing],) = self._engine.digests([tensor])
                exchange.give(number, crossing, self._engine.dump([tensor]).tensors[0], place < len(made))
            for crossing in step.lacking:
                tensor = member.held(number, crossing, exchange.take(number, crossing))
                (notes.taken[number - 1][crossing],) = self._engine.digests([tensor])
                step.take(crossing, tensor)
            if step.is_over:
                return step.working()
            made = step.go_on()

    def _ended(self, member: Member, start: Start, working: Handle) -> Handle:
        inputs = [self._loaded(member.read_of(start)), working]
        return self._run(member.programs.epilogue, inputs, member.engine)

    def _all(self, cut: int) -> list[Member]:
        count = len(self._manifest.cuts[cut].shards)
        return [self._member(Post(Count(cut), Count(shard))) for shard in range(count)]

    def _member(self, post: Post) -> Member:
        if post not in self._members:
            engine = self._others.get(int(post.shard), self._engine)
            self._members[post] = Member(engine, self._manifest.cuts[post.cut], post.shard)
        return self._members[post]


class _Unheld(Sequence[Any]):
    """A whole state in an engine's form, a tensor at a time: a member may have no room for all of it."""

    def __init__(self, engine: Engine, start: Start) -> None:
        self._engine, self._start = engine, start

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return _Unheld(self._engine, self._start[place])
        given = self._start[place]
        return None if given is None else self._engine.hold(given)


class _Notes:
    """The digests of a member's round, as they are made."""

    def __init__(self, steps: int) -> None:
        self.states: list[Digest] = []
        self.given: list[dict[int, Digest]] = [{} for _ in range(steps)]
        self.taken: list[dict[int, Digest]] = [{} for _ in range(steps)]

    def outcome(
        self, member: Member, contribution: Bundle | None, loss: float, failure: Digest | None
    ) -> MemberOutcome:
        """Return the outcome, in which a failure stands for what is missing."""
        missing = [] if failure is None else [failure] * (len(self.given) + 1 - len(self.states))

        def rows(
            noted: Sequence[Mapping[int, Digest]], places: Sequence[int]
        ) -> tuple[tuple[Digest, ...], ...]:
            return tuple(
                tuple(each[n] if failure is None else each.get(n, failure) for n in places) for each in noted
            )

        given, taken = rows(self.given, member.given), rows(self.taken, member.taken)
        return MemberOutcome((*self.states, *missing), given, taken, contribution, loss, failure)


class _Told:
    """What a member says that it took, in place of an exchange; what it gives nobody hears."""

    def __init__(self, member: Member, taken: Callable[[int], Sequence[Tensor]]) -> None:
        self._places, self._taken = member.taken, taken

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Forget it."""

    def take(self, step: int, crossing: int) -> Tensor:
        """Return what was taken; raises BadEvidence where something is missing."""
        tensors = self._taken(step)
        if len(tensors) != len(self._places):
            raise BadEvidence(f"inner step {step} takes {len(self._places)} tensors, not {len(tensors)}")
        return tensors[self._places.index(crossing)]
