"""F, the pure function of a round: prologue, inner steps, epilogue; and the outer step. (SPEC.md 4)

Written over an `Engine`, so that the same code runs real tensors (`trainer.rounds.torch_engine`) and toys in tests.
What a cheat does differently is a `Conduct`; the honest one changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verification.errors import ProofswarmError
from verification.executor import StepFailed, failed
from verification.manifest import Manifest, Place, ProgramRef
from verification.program import Program
from verification.sampling import leaf_steps, record_index
from verification.tensors import Bundle, Tensor
from verification.units import Address, Digest, Round

Handle = Any
"""An engine's own form of a bundle: tensors in a program's order."""

Tap = Callable[[int, Any], None]
"""Called with a node's number and what it made, in the engine's form."""


@dataclass(frozen=True)
class Disputed:
    """One execution: its program, its inputs in the engine's form (None: zeros), and the outputs that were claimed.

    `claimed` is None for whoever claims what the execution gives. `slots` are those that hold a contribution.
    """

    place: Place
    program: Digest
    inputs: Sequence[Any]
    claimed: Handle | None = None
    slots: frozenset[int] = frozenset()


class RoundFailed(ProofswarmError):
    """The arithmetic ends a round; `digest` stands for every state from there on and for the contribution."""

    def __init__(self, digest: Digest) -> None:
        super().__init__("the round fails")
        self.digest = digest


class Engine(Protocol):
    """Executes programs on bundles that stay in the engine's own form between steps."""

    def load(self, bundle: Bundle) -> Handle:
        """Return the engine's form of a bundle."""
        ...

    def dump(self, handle: Handle) -> Bundle:
        """Return the bundle with its bytes."""
        ...

    def digest(self, handle: Handle) -> Digest:
        """Return the bundle's digest (SPEC.md 2.3)."""
        ...

    def digests(self, handle: Handle) -> list[Digest]:
        """Return the digest of each of the bundle's tensors."""
        ...

    def program(self, digest: Digest) -> Program:
        """Return a program by its digest."""
        ...

    def run(self, digest: Digest, inputs: Sequence[Handle], tap: Tap | None = None) -> Handle:
        """Execute a program on the concatenated inputs; raises StepFailed. `tap` hears every node's result."""
        ...

    def loss(self, contribution: Handle) -> float:
        """Return the mean training loss that a contribution carries."""
        ...


@dataclass(frozen=True)
class Job:
    """One worker's round: what F depends on besides the manifest."""

    number: Round
    worker: Address
    beacon: Digest
    steps: int


class Conduct:
    """How a worker goes about its round. This one is honest; `trainer.rounds.cheats` has the others.

    `rounds` is in how many rounds it plays, None for all.
    """

    rounds: int | None = None

    def start(self, job: Job, state: Handle) -> Handle:
        """Return the state that the round starts from."""
        return state

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Return the records that the round trains on, int64 [max_steps, batch]."""
        return index

    def step(self, job: Job, number: int, working: Handle, advance: Callable[[Handle], Handle]) -> Handle:
        """Return the working state after inner step `number` (from 1)."""
        return advance(working)

    def disturb(self, job: Job, number: int) -> "Disturbance | None":
        """Return what is made of inner step `number` (0: of the gathered start); None leaves it as it is."""
        return None

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Return the contribution that is committed and sent."""
        return bundle


Disturbance = Callable[[Bundle, Bundle], Bundle]
"""(working state before, after) to the one that the worker goes on with."""


HONEST = Conduct()


@dataclass(frozen=True)
class Outcome:
    """What F gives: a state digest per leaf and the contribution, with its loss for people to look at.

    Of a round that fails there is no contribution, and `failed` is the digest that stands for it.
    """

    digests: tuple[Digest, ...]
    contribution: Bundle | None
    loss: float
    failed: Digest | None = None


class Rounds:
    """F over one engine, manifest and data set."""

    def __init__(self, engine: Engine, manifest: Manifest, data: Bundle) -> None:
        """`data` is the one tensor whose digest is the manifest's data root."""
        self._engine = engine
        self._manifest = manifest
        self._data = engine.load(data)

    def run(
        self,
        job: Job,
        state: Bundle,
        conduct: Conduct = HONEST,
        on_step: Callable[[int, Handle], None] = lambda step, working: None,
    ) -> Outcome:
        """Compute a round; `on_step` hears the number of inner steps done and the working state."""
        leaves = leaf_steps(job.steps, self._manifest.work.leaf_every)
        digests: list[Digest] = []
        start = self._engine.load(state)
        working: Handle = None
        try:
            for number, working in self._trajectory(job, start, conduct):
                if number in leaves:
                    digests.append(self._engine.digest(working))
                on_step(number, working)
            contribution = self._run(self._manifest.programs.epilogue, [start, working])
        except RoundFailed as failure:
            missing = [failure.digest] * (len(leaves) - len(digests))
            return Outcome((*digests, *missing), None, 0.0, failure.digest)
        loss = self._engine.loss(contribution)
        return Outcome(tuple(digests), conduct.contribution(job, self._engine.dump(contribution)), loss)

    def digests_after(
        self, job: Job, state: Bundle, steps: Sequence[int], conduct: Conduct = HONEST
    ) -> tuple[Digest, ...]:
        """Return the state digests after the inner steps in `steps` (ascending): a dispute's list. (SPEC.md 6.3)"""
        found: list[Digest] = []
        try:
            for number, working in self._trajectory(job, self._engine.load(state), conduct):
                if number in steps:
                    found.append(self._engine.digest(working))
                if number >= steps[-1]:
                    break
        except RoundFailed as failure:
            found += [failure.digest] * (len(steps) - len(found))
        return tuple(found)

    def disputed(
        self, job: Job, state: Bundle, place: Place, step: int, conduct: Conduct = HONEST
    ) -> Disputed:
        """Return an execution of a round with what its author claims of it; not the outer step. (SPEC.md 6.4)

        Raises RoundFailed when the round ends before.
        """
        programs, start = self._manifest.programs, self._engine.load(state)
        inputs = self._gathering(job, start, conduct)
        before: Handle = None
        for number, working in self._trajectory(job, start, conduct):
            if place is Place.PROLOGUE:
                return Disputed(place, programs.prologue.digest, inputs, _claim(conduct, working))
            if place is Place.STEP and number == step - 1 and conduct is HONEST:
                return Disputed(place, programs.inner.digest, working)
            if place is Place.STEP and number == step:
                return Disputed(place, programs.inner.digest, before, _claim(conduct, working))
            before = working
        made = None
        if conduct is not HONEST:
            honest = self._engine.dump(self._run(programs.epilogue, [start, before]))
            made = self._engine.load(conduct.contribution(job, honest))
        return Disputed(place, programs.epilogue.digest, [*start, *before], made)

    def disputed_outer(self, inputs: Sequence[Tensor | None], slots: Iterable[int]) -> Disputed:
        """Return the execution of the outer step on what `verification.outer.outer_inputs` lays out."""
        program = self._manifest.programs.outer.digest
        return Disputed(Place.OUTER, program, self._loaded(inputs), None, frozenset(slots))

    def opening(self, state: Bundle) -> Handle:
        """Return the working state in which a round from `state` on record 0 alone begins."""
        work = self._manifest.work
        zeros = Tensor("int64", (work.max_steps, work.batch), bytes(8 * work.max_steps * work.batch))
        inputs = [self._engine.load(state), self._data, self._engine.load(Bundle((zeros,)))]
        return self._engine.run(self._manifest.programs.prologue.digest, inputs)

    def golden(self, state: Bundle) -> Digest:
        """Return the state digest after one inner step from `opening`: what a machine must reproduce."""
        working = self.opening(state)
        return self._engine.digest(self._engine.run(self._manifest.programs.inner.digest, [working]))

    def next_state(self, inputs: Sequence[Tensor | None]) -> Bundle:
        """Return the outer step's result on the inputs that `verification.outer.outer_inputs` lays out."""
        program = self._manifest.programs.outer.digest
        return self._engine.dump(self._engine.run(program, [self._loaded(inputs)]))

    def _trajectory(self, job: Job, start: Handle, conduct: Conduct) -> Iterator[tuple[int, Handle]]:
        """Yield (inner steps done, working state), beginning with the prologue's output at 0."""
        programs = self._manifest.programs
        working = self._run(programs.prologue, [self._gathering(job, start, conduct)])
        if (change := conduct.disturb(job, 0)) is not None:
            gathered = self._engine.dump(working)
            working = self._engine.load(change(gathered, gathered))
        yield 0, working

        def advance(state: Handle) -> Handle:
            return self._run(programs.inner, [state])

        for number in range(1, job.steps + 1):
            change = conduct.disturb(job, number)
            before = None if change is None else self._engine.dump(working)
            working = conduct.step(job, number, working, advance)
            if change is not None and before is not None:
                working = self._engine.load(change(before, self._engine.dump(working)))
            yield number, working

    def _gathering(self, job: Job, start: Handle, conduct: Conduct) -> list[Any]:
        """Return the prologue's inputs."""
        index = conduct.index(job, record_index(self._manifest, job.beacon, job.worker, job.steps))
        return [*conduct.start(job, start), *self._data, *self._engine.load(Bundle((index,)))]

    def _run(self, program: ProgramRef, inputs: Sequence[Handle]) -> Handle:
        try:
            return self._engine.run(program.digest, inputs)
        except StepFailed as failure:
            raise RoundFailed(failed(program.digest, failure.node)) from failure

    def _loaded(self, inputs: Sequence[Tensor | None]) -> list[Any]:
        return [None if tensor is None else self._engine.load(Bundle((tensor,)))[0] for tensor in inputs]


def _claim(conduct: Conduct, handle: Handle) -> Handle | None:
    return None if conduct is HONEST else handle
