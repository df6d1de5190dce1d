"""F, the pure function of a round: prologue, inner steps, epilogue; and the outer step. (SPEC.md 4)

Written over an `Engine`, so that the same code runs real tensors (`trainer.engine`) and toys in tests. What a cheat
does differently is a `Conduct`; the honest one changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verification.manifest import Manifest
from verification.sampling import leaf_steps, record_index
from verification.state import Place
from verification.tensors import Bundle, Tensor
from verification.units import Address, Digest, Round

Handle = Any
"""An engine's own form of a bundle: tensors in a program's order."""


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

    def run(self, program: Digest, inputs: Sequence[Handle]) -> Handle:
        """Execute a program on the concatenated inputs; raises StepFailed."""
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
    """How a worker goes about its round. This one is honest; `trainer.cheats` has the others."""

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
    """What F gives: a state digest per leaf and the contribution, with its loss for people to look at."""

    digests: tuple[Digest, ...]
    contribution: Bundle
    loss: float


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
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Outcome:
        """Compute a round; `on_step` hears the number of each inner step done. Raises StepFailed."""
        leaves = leaf_steps(job.steps, self._manifest.work.leaf_every)
        digests = []
        start = self._engine.load(state)
        working: Handle = None
        for number, working in self._trajectory(job, start, conduct):
            if number in leaves:
                digests.append(self._engine.digest(working))
            on_step(number)
        contribution = self._engine.run(self._manifest.programs.epilogue.digest, [start, working])
        loss = self._engine.loss(contribution)
        return Outcome(tuple(digests), conduct.contribution(job, self._engine.dump(contribution)), loss)

    def digests_after(
        self, job: Job, state: Bundle, steps: Sequence[int], conduct: Conduct = HONEST
    ) -> tuple[Digest, ...]:
        """Return the state digests after the inner steps in `steps` (ascending): a dispute's list."""
        found = []
        for number, working in self._trajectory(job, self._engine.load(state), conduct):
            if number in steps:
                found.append(self._engine.digest(working))
            if number >= steps[-1]:
                break
        return tuple(found)

    def inputs_of(self, job: Job, state: Bundle, place: Place, step: int) -> tuple[Bundle, ...]:
        """Return the input bundles of a disputed execution in the order that SPEC.md 6.5 gives.

        `step` counts the inner steps that came before it. Not for the outer step, whose inputs are contributions.
        """
        if place is Place.PROLOGUE:
            return state, self._engine.dump(self._data)
        for number, working in self._trajectory(job, self._engine.load(state), HONEST):
            if number == step:
                bundle = self._engine.dump(working)
                return (state, bundle) if place is Place.EPILOGUE else (bundle,)
        raise ValueError(f"the round has no inner step {step}")

    def golden(self, state: Bundle) -> Digest:
        """Return the state digest after one inner step from `state` on record 0: what a machine must reproduce."""
        work = self._manifest.work
        zeros = Tensor("int64", (work.max_steps, work.batch), bytes(8 * work.max_steps * work.batch))
        inputs = [self._engine.load(state), self._data, self._engine.load(Bundle((zeros,)))]
        working = self._engine.run(self._manifest.programs.prologue.digest, inputs)
        return self._engine.digest(self._engine.run(self._manifest.programs.inner.digest, [working]))

    def next_state(self, inputs: Sequence[Tensor | None]) -> Bundle:
        """Return the outer step's result on the inputs that `verification.outer.outer_inputs` lays out."""
        handle = [None if tensor is None else self._engine.load(Bundle((tensor,)))[0] for tensor in inputs]
        return self._engine.dump(self._engine.run(self._manifest.programs.outer.digest, [handle]))

    def _trajectory(self, job: Job, start: Handle, conduct: Conduct) -> Iterator[tuple[int, Handle]]:
        """Yield (inner steps done, working state), beginning with the prologue's output at 0."""
        index = conduct.index(job, record_index(self._manifest, job.beacon, job.worker, job.steps))
        inputs = [conduct.start(job, start), self._data, self._engine.load(Bundle((index,)))]
        working = self._engine.run(self._manifest.programs.prologue.digest, inputs)
        if (change := conduct.disturb(job, 0)) is not None:
            gathered = self._engine.dump(working)
            working = self._engine.load(change(gathered, gathered))
        yield 0, working

        def advance(state: Handle) -> Handle:
            return self._engine.run(self._manifest.programs.inner.digest, [state])

        for number in range(1, job.steps + 1):
            change = conduct.disturb(job, number)
            before = None if change is None else self._engine.dump(working)
            working = conduct.step(job, number, working, advance)
            if change is not None and before is not None:
                working = self._engine.load(change(before, self._engine.dump(working)))
            yield number, working
