"""F, the pure function of a round: prologue, inner steps, epilogue; and the outer step. (SPEC.md 4)

Written over an `Engine`, so that the same code runs real tensors (`trainer.rounds.torch_engine`) and toys in tests.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from trainer.rounds.engine import Engine, Handle, Job, Overwritten, Unread
from verification.errors import ProofswarmError
from verification.layout import Held, Home, origin_of
from verification.library import StepFailed, failed
from verification.manifest import Manifest, Place, ProgramRef
from verification.program import ProgramHead, inputs_read
from verification.sampling import leaf_steps, record_index, round_number
from verification.tensors import Bundle, Tensor
from verification.units import Digest, Round

Start = Sequence[Tensor | Unread | None]
"""A state that a round starts from, None for what no program of it reads. What is unread is read where a program needs
it, and is not held between: an inner step runs in the memory of the working state alone."""


@dataclass(frozen=True)
class Disputed:
    """One execution: its program and its inputs in the engine's form (None: zeros).

    `slots` are those that hold a contribution, `crews` gives for those of crews the places of each shard's parameters
    with its contribution. A shard's programs are about a part of the model, `held`, of the whole `start`.
    """

    place: Place
    program: Digest
    inputs: Sequence[Any]
    slots: frozenset[int] = frozenset()
    crews: Mapping[int, Sequence[tuple[Sequence[int], Sequence[Any]]]] = field(default_factory=dict)
    held: Held | None = None
    start: Sequence[Any] = ()

    def bundle_of(self, head: ProgramHead, number: int) -> tuple[Sequence[Any], int]:
        """Return the bundle that input `number` is of, in the engine's form, and its place there."""
        port = origin_of(self.place, head, number, self.held)
        if port.home is Home.START and self.held is not None:
            return self.start, port.index
        if port.home is Home.CONTRIBUTION:
            for parameters, contribution in self.crews.get(port.slot, ()):
                if port.index in parameters:
                    return contribution, parameters.index(port.index)
        first = number - port.index
        return self.inputs[first : first + port.count], port.index


class RoundFailed(ProofswarmError):
    """The arithmetic ends a round; `digest` stands for every state from there on and for the contribution."""

    def __init__(self, digest: Digest) -> None:
        super().__init__("the round fails")
        self.digest = digest


@dataclass(frozen=True)
class RoundOutcome:
    """What F gives: a state digest per leaf and the contribution, with its loss for people to look at.

    Of a round that fails there is no contribution, and `failed` is the digest that stands for it.
    """

    digests: tuple[Digest, ...]
    contribution: Bundle | None
    loss: float
    failed: Digest | None = None


class Executions:
    """Executions of a run's programs by one engine: what whole rounds and a crew's have in common."""

    def __init__(self, engine: Engine, manifest: Manifest, data: Bundle) -> None:
        """`data` is the one tensor whose digest is the manifest's data root."""
        self._engine = engine
        self._manifest = manifest
        self._data = engine.load(data)

    def _gathering(self, job: Job, start: Handle) -> list[Any]:
        """Return the prologue's inputs."""
        index = record_index(self._manifest, job.beacon, job.worker, job.steps)
        given = self._engine.load(Bundle((index, round_number(job.number))))
        return [*start, *self._data, *given]

    def _run(self, program: ProgramRef, inputs: Sequence[Handle], engine: Engine | None = None) -> Handle:
        """Return what a program makes, by another engine if given; raises RoundFailed."""
        try:
            return (engine or self._engine).run(program.digest, inputs)
        except StepFailed as failure:
            raise RoundFailed(failed(program.digest, failure.node)) from failure

    def _loaded(self, inputs: Start) -> list[Any]:
        return [None if given is None else self._engine.hold(given) for given in inputs]


class Rounds(Executions):
    """F over one engine, manifest and data set."""

    def over(self, engine: Engine) -> "Rounds":
        """Return F over another engine that takes the handles of this one, as a conduct's does."""
        made = copy(self)
        made._engine = engine
        return made

    def run(
        self, job: Job, state: Start, on_step: Callable[[int], None] = lambda step: None, checked: int = 0
    ) -> RoundOutcome:
        """Compute a round; `on_step` hears the number of inner steps done, and step `checked` is made in two ways.

        Raises Unsound where those differ.
        """
        leaves = leaf_steps(job.steps, self._manifest.work.leaf_every)
        digests: list[Digest] = []
        working: Handle = None
        try:
            for number, working in self._trajectory(job, state, checked):
                if number in leaves:
                    digests.append(self._digest(working))
                on_step(number)
            working = self._read_at_the_end(working)
            contribution = self._run(self._manifest.programs.epilogue, [self._loaded(state), working])
        except RoundFailed as failure:
            missing = [failure.digest] * (len(leaves) - len(digests))
            return RoundOutcome((*digests, *missing), None, 0.0, failure.digest)
        return RoundOutcome(tuple(digests), self._engine.dump(contribution), self._engine.loss(contribution))

    def digests_after(self, job: Job, state: Start, steps: Sequence[int]) -> tuple[Digest, ...]:
        """Return the state digests after the inner steps in `steps` (ascending): a dispute's list. (SPEC.md 6.3)"""
        found: list[Digest] = []
        try:
            for number, working in self._trajectory(job, state):
                if number in steps:
                    found.append(self._digest(working))
                if number >= steps[-1]:
                    break
        except RoundFailed as failure:
            found += [failure.digest] * (len(steps) - len(found))
        return tuple(found)

    def disputed(self, job: Job, state: Start, place: Place, step: int) -> Disputed:
        """Return an execution of a round, which ends just before it; not the outer step. (SPEC.md 6.4)

        Raises RoundFailed when the round ends earlier.
        """
        programs = self._manifest.programs
        if place is Place.PROLOGUE:
            return Disputed(place, programs.prologue.digest, self._gathering(job, self._loaded(state)))
        working: Handle = None
        for number, working in self._trajectory(job, state):
            if place is Place.STEP and number == step - 1:
                return Disputed(place, programs.inner.digest, working)
        return Disputed(place, programs.epilogue.digest, [*self._loaded(state), *working])

    def disputed_outer(
        self,
        inputs: Start,
        slots: Iterable[int],
        crews: Mapping[int, Sequence[tuple[Sequence[int], Start]]] | None = None,
    ) -> Disputed:
        """Return the execution of the outer step on what `verification.outer.outer_inputs` lays out.

        `crews` gives for the slots of crews what `verification.layout.joined` takes.
        """
        program, loaded = self._manifest.programs.outer.digest, {}
        for slot, shares in (crews or {}).items():
            loaded[slot] = [(places, self._loaded(share)) for places, share in shares]
        return Disputed(Place.OUTER, program, self._loaded(inputs), frozenset(slots), loaded)

    def opening(self, state: Start) -> Handle:
        """Return the working state in which round 0 from `state` on record 0 alone begins."""
        work = self._manifest.work
        zeros = Tensor("int64", (work.max_steps, work.batch), bytes(8 * work.max_steps * work.batch))
        given = self._engine.load(Bundle((zeros, round_number(Round(0)))))
        start = self._loaded(state)
        inputs = [*start, *self._data, *given]
        return self._owned(self._engine.run(self._manifest.programs.prologue.digest, [inputs]), state, start)

    def golden(self, state: Start) -> Digest:
        """Return the state digest after one inner step from `opening`: what a machine must reproduce."""
        inner = self._manifest.programs.inner.digest
        try:
            return self._engine.digest(self._engine.advance(inner, self.opening(state), False))
        except Overwritten:
            return self._engine.digest(self._engine.run(inner, [self.opening(state)]))

    def next_state(self, inputs: Start) -> Bundle:
        """Return the outer step's result on the inputs that `verification.outer.outer_inputs` lays out."""
        made = list(self._engine.run(self._manifest.programs.outer.digest, [self._loaded(inputs)]))
        del inputs  # or two states and a copy of one are held at a time
        made.reverse()
        return Bundle(tuple(self._engine.dump([made.pop()]).tensors[0] for _ in range(len(made))))

    def _trajectory(self, job: Job, state: Start, checked: int = 0) -> Iterator[tuple[int, Handle]]:
        """Yield (inner steps done, working state), beginning with the prologue's output at 0.

        A state is lost when the next one is asked for.
        """
        working = self._begun(job, state)
        yield 0, working
        for number in range(1, job.steps + 1):
            working = self._advanced(job, state, number, working, number == checked)
            yield number, working

    def _begun(self, job: Job, state: Start) -> Handle:
        start = self._loaded(state)
        made = self._run(self._manifest.programs.prologue, [self._gathering(job, start)])
        return self._owned(made, state, start)

    def _owned(self, working: Handle, state: Start, start: Handle) -> Handle:
        """Return a working state that inner steps may write over: of the start, what was read for it alone too."""
        kept = [loaded for given, loaded in zip(state, start, strict=True) if isinstance(given, Tensor)]
        return self._engine.own(working, kept)

    def _read_at_the_end(self, working: Handle) -> list[Any]:
        """Return what the epilogue reads of a working state, None for the rest."""
        program = self._engine.program(self._manifest.programs.epilogue.digest)
        first, read = len(program.inputs) - len(working), inputs_read(program)
        return [each if number in read else None for number, each in enumerate(working, first)]

    def _advanced(self, job: Job, state: Start, number: int, working: Handle, is_checked: bool) -> Handle:
        """Return the working state after inner step `number`; raises RoundFailed, Unsound."""
        inner = self._manifest.programs.inner
        try:
            return self._engine.advance(inner.digest, working, is_checked)
        except StepFailed as failure:
            raise RoundFailed(failed(inner.digest, failure.node)) from failure
        except Overwritten:
            working = self._begun(job, state)
            for _ in range(number):
                working = self._run(inner, [working])
            return working

    def _digest(self, working: Handle) -> Digest:
        """Return a working state's digest; raises RoundFailed where an inner step before it turns out to fail."""
        try:
            return self._engine.digest(working)
        except StepFailed as failure:
            raise RoundFailed(failed(self._manifest.programs.inner.digest, failure.node)) from failure
