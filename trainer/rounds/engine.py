"""What F computes with: an engine that executes programs, and which one a peer's own rounds run on."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verification.program import Program
from verification.tensors import Bundle, Tensor
from verification.units import Address, Digest, Round

Handle = Any
"""An engine's own form of a bundle: tensors in a program's order."""

Tap = Callable[[int, Any], None]
"""Called with a node's number and what it made, in the engine's form."""


class Unread(Protocol):
    """A tensor that lies in a store."""

    def read(self) -> Tensor:
        """Return it in memory that nobody else has."""
        ...


class Overwritten(Exception):
    """A step that took its inputs' memory must be made again from the round's start."""


class Engine(Protocol):
    """Executes programs on bundles that stay in the engine's own form between steps."""

    def load(self, bundle: Bundle) -> Handle:
        """Return the engine's form of a bundle."""
        ...

    def dump(self, handle: Handle) -> Bundle:
        """Return the bundle with its bytes."""
        ...

    def shown(self, handle: Handle) -> Bundle:
        """Return the bundle in the engine's own memory where it can be, for who reads it before anything else runs."""
        ...

    def hold(self, given: Tensor | Unread) -> Any:
        """Return the engine's form of a tensor that it may leave unread until a program needs it."""
        ...

    def digest(self, handle: Handle) -> Digest:
        """Return the bundle's digest (SPEC.md 2.3); raises StepFailed where a step that led to it turns out to fail."""
        ...

    def digests(self, handle: Handle) -> list[Digest]:
        """Return the digest of each of the bundle's tensors."""
        ...

    def program(self, digest: Digest) -> Program:
        """Return a program by its digest."""
        ...

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a program that is made of another one's nodes from now on; return its digest.

        A part, which may read and make what goes on inside of a program, tells by `finite` the places of the outputs
        that end the step where they hold NaN or infinity; None is for what could be a run's program itself.
        """
        ...

    def run(self, digest: Digest, inputs: Sequence[Handle], tap: Tap | None = None) -> Handle:
        """Execute a program on the concatenated inputs; raises StepFailed. `tap` hears every node's result."""
        ...

    def again(self, digest: Digest, inputs: Handle) -> list[Digest]:
        """Return the digests of what a program makes, computed in another way than `run` does; raises StepFailed."""
        ...

    def own(self, working: Handle, kept: Handle) -> Handle:
        """Return a working state that `advance` may write over: what stands in it twice or is `kept` is copied."""
        ...

    def advance(self, digest: Digest, working: Handle, is_checked: bool) -> Handle:
        """Execute an inner step, and `is_checked` in another way too; `working` is its `own`, and is lost.

        Raises StepFailed, Unsound where two ways differ, and Overwritten where the step may have to end.
        """
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


Conduct = Callable[[Engine, Job], Engine]
"""What a peer computes a round of its own with, given the machine's engine. Audits run on that one itself."""


def honest(engine: Engine, job: Job) -> Engine:
    """Return the machine's engine."""
    return engine


def read(given: Tensor | Unread) -> Tensor:
    """Return a tensor that is given, in memory or not."""
    return given if isinstance(given, Tensor) else given.read()
