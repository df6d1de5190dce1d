"""What the node asks of the compute process, and what comes back. Bundles travel as blobs of the peer's store."""

from dataclasses import dataclass

from verification.manifest import BundleRef
from verification.tensors import Bundle, Tensor
from verification.units import Address, Count, Digest, Round

MICRO = 1_000_000
"""Losses travel as integers, in millionths."""


@dataclass(frozen=True)
class Prepare:
    """The first order: load a run. `cheat` is a name of `trainer.cheats`, played from round `cheat_from`; `memory` in
    bytes bounds what one program may need."""

    manifest: bytes
    store: str
    threads: Count
    cheat: str
    cheat_from: Count
    memory: Count


@dataclass(frozen=True)
class Prepared:
    """The golden step was reproduced (or not), the speed in inner steps per 1,000 seconds, and the most bytes that the
    blob of a contribution may have."""

    golden: bool
    speed: Count
    contribution_limit: Count


@dataclass(frozen=True)
class RunJob:
    """Compute F for one worker's round; `own` follows the peer's conduct, an audit is honest."""

    number: Round
    worker: Address
    beacon: Digest
    steps: Count
    start: BundleRef
    own: bool


@dataclass(frozen=True)
class JobDone:
    """F's result; the contribution is in the store."""

    digests: tuple[Digest, ...]
    contribution: BundleRef
    norm: Count
    loss: int


@dataclass(frozen=True)
class StepDone:
    """Progress: an inner step of the running job is done."""

    step: Count


@dataclass(frozen=True)
class ListSteps:
    """Compute the state digests after some inner steps of a job."""

    job: RunJob
    steps: tuple[Count, ...]


@dataclass(frozen=True)
class Listed:
    """The digests, in order."""

    digests: tuple[Digest, ...]


@dataclass(frozen=True)
class MakeInputs:
    """Make the input bundles of a disputed execution of a job."""

    job: RunJob
    place: str
    step: Count


@dataclass(frozen=True)
class Inputs:
    """Input bundles with their bytes."""

    bundles: tuple[Bundle, ...]


@dataclass(frozen=True)
class Slot:
    """One included contribution and its weight."""

    slot: Count
    steps: Count
    contribution: BundleRef


@dataclass(frozen=True)
class RunOuterStep:
    """Compute the next state."""

    start: BundleRef
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Made:
    """A bundle that is now in the store."""

    ref: BundleRef


@dataclass(frozen=True)
class CheckContribution:
    """Decode a blob and compare it with what a contribution must be."""

    ref: BundleRef


@dataclass(frozen=True)
class Checked:
    """Whether the blob holds that contribution."""

    ok: bool


@dataclass(frozen=True)
class Execute:
    """The law's executor: run a program on tensors; None stands for zeros."""

    program: Digest
    inputs: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Executed:
    """The program's outputs."""

    outputs: Bundle


@dataclass(frozen=True)
class Failed:
    """The order could not be done: `kind` names the error's class, `node` is a failed step's node or -1."""

    kind: str
    message: str
    node: int


ORDERS = {
    k.__name__: k for k in (Prepare, RunJob, ListSteps, MakeInputs, RunOuterStep, CheckContribution, Execute)
}
REPLIES = {
    k.__name__: k for k in (Prepared, JobDone, StepDone, Listed, Inputs, Made, Checked, Executed, Failed)
}
