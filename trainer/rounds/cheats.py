"""The cheats of training that the demo and the tests play: each is an engine that returns other numbers.

docs/adversaries.md says which known attack each one is. What a peer says, not what it computes, is
`verification.adversaries.playbook`; `--cheat` takes names of both, joined by commas.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from trainer.rounds.engine import Conduct, Engine, Handle, Job, Tap, Unread, honest
from verification.adversaries.playbook import PLAYS
from verification.arithmetic.numbers import INDEX
from verification.arithmetic.shapes import INTEGERS
from verification.digest import tagged
from verification.errors import UserError
from verification.layout import PROLOGUE
from verification.library import StepFailed
from verification.program import Program
from verification.statements import VERIFIER, WORKER
from verification.tensors import Bundle, Tensor
from verification.units import Digest

Execute = Callable[[Handle], Handle]
"""Runs the program at hand on these inputs."""

Change = Callable[[Bundle, Bundle], Bundle]
"""(working state before, after) to the one that the worker goes on with."""


class Cheat:
    """A machine's engine that does as it is told, but for what a subclass does differently, in one job of its own.

    In a dispute it opens the nodes that it executes (`tap`) and the outputs that it claimed: a cheat that answers
    honestly one level down. `rounds` is in how many rounds it plays, None for all; `early` is how many rounds it must
    have seen before.
    """

    rounds: int | None = None
    early: int = 0

    def __init__(self, engine: Engine, job: Job, seen: dict[int, Handle]) -> None:
        """`seen` is what the same cheat keeps from job to job."""
        self.job = job
        self.seen = seen
        self._engine = engine
        self._steps = 0
        self._is_disputed = False

    def begin(self, inputs: Handle, execute: Execute) -> Handle:
        """Return the working state that the prologue makes of start state, data and record index."""
        return execute(inputs)

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Return the working state after inner step `number` (from 1)."""
        return execute(working)

    def end(self, inputs: Handle, execute: Execute) -> Handle:
        """Return the contribution that the epilogue makes of start and working state."""
        return execute(inputs)

    def run(self, digest: Digest, inputs: Sequence[Handle], tap: Tap | None = None) -> Handle:
        """Execute a program of the job in this cheat's way; raises StepFailed. A dispute's step is the next one."""
        handles = [handle for part in inputs for handle in part]
        self._is_disputed = tap is not None

        def execute(handles: Handle) -> Handle:
            return self._engine.run(digest, [handles], tap)

        match self._engine.program(digest).role:
            case "prologue":
                self._steps = 0
                return self.begin(handles, execute)
            case "inner":
                number = self._steps + 1
                self._steps += not self._is_disputed
                return self.step(number, handles, execute)
            case "epilogue":
                return self.end(handles, execute)
        return execute(handles)

    def again(self, digest: Digest, inputs: Handle) -> list[Digest]:
        """Find nothing wrong with itself."""
        return self.digests(self.run(digest, [inputs]))

    def own(self, working: Handle, kept: Handle) -> Handle:
        """Return the state: nothing is written over."""
        return working

    def advance(self, digest: Digest, working: Handle, is_checked: bool = False) -> Handle:
        """Write over nothing, and find nothing wrong with itself."""
        return self.run(digest, [working])

    def load(self, bundle: Bundle) -> Handle:
        """As the machine's engine."""
        return self._engine.load(bundle)

    def hold(self, given: Tensor | Unread) -> Any:
        """As the machine's engine."""
        return self._engine.hold(given)

    def dump(self, handle: Handle) -> Bundle:
        """As the machine's engine."""
        return self._engine.dump(handle)

    def shown(self, handle: Handle) -> Bundle:
        """As the machine's engine."""
        return self._engine.shown(handle)

    def digest(self, handle: Handle) -> Digest:
        """As the machine's engine."""
        return self._engine.digest(handle)

    def digests(self, handle: Handle) -> list[Digest]:
        """As the machine's engine."""
        return self._engine.digests(handle)

    def program(self, digest: Digest) -> Program:
        """As the machine's engine."""
        return self._engine.program(digest)

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """As the machine's engine."""
        return self._engine.learn(program, of, finite)

    def loss(self, contribution: Handle) -> float:
        """As the machine's engine."""
        return self._engine.loss(contribution)

    def repeat(self, working: Handle, execute: Execute) -> Handle:
        """Return the state as it is; a dispute is shown the nodes of the step that was left out."""
        if self._is_disputed:
            with contextlib.suppress(StepFailed):
                execute(working)
        return working

    def changed(self, change: Change, before: Handle, after: Handle) -> Handle:
        """Return what a change makes of a working state."""
        return self.load(change(self.dump(before), self.dump(after)))


class SkipSteps(Cheat):
    """Does the first half of the inner steps and repeats the state it has for the rest."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Advance only in the first half."""
        return execute(working) if 2 * number <= self.job.steps else self.repeat(working, execute)


class TailStep(Cheat):
    """Trains honestly and leaves out the last inner step."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Advance in all steps but the last."""
        return execute(working) if number < self.job.steps else self.repeat(working, execute)


class ZeroUpdate(Cheat):
    """Does no step at all: the contribution is the epilogue's of an unmoved state."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Stay."""
        return self.repeat(working, execute)


class Noise(Cheat):
    """Shows honest leaves and sends a poisoned contribution: the first tensor is noise."""

    def end(self, inputs: Handle, execute: Execute) -> Handle:
        """Replace the bytes of the first tensor."""
        first, *rest = self.dump(execute(inputs)).tensors
        seed = tagged("noise", self.job.worker, self.job.beacon)
        data = (seed * (len(first.data) // len(seed) + 1))[: len(first.data)]
        return self.load(Bundle((Tensor(first.dtype, first.shape, data), *rest)))


class OtherEnd(Cheat):
    """Shows honest leaves and sends a contribution that pulls the other way: another end than the last leaf."""

    def end(self, inputs: Handle, execute: Execute) -> Handle:
        """Negate the first tensor."""
        bundle = self.dump(execute(inputs))
        return self.load(_with_first(bundle, -_array(bundle.tensors[0])))


class Stale(Cheat):
    """Trains from the state of the round before, as one who does not fetch the new one."""

    early = 1

    def begin(self, inputs: Handle, execute: Execute) -> Handle:
        """Remember the state and go on from the one before."""
        state, read = inputs[: -len(PROLOGUE)], inputs[-len(PROLOGUE) :]
        self.seen[self.job.number] = state
        return execute([*self.seen.get(self.job.number - 1, state), *read])


class _OtherRecords(Cheat, ABC):
    """Trains on other records than the assigned ones."""

    def begin(self, inputs: Handle, execute: Execute) -> Handle:
        """Gather them."""
        *read, index, number = inputs
        (records,) = self.dump([index]).tensors
        rows = self.records(_array(records).copy())
        other = self.load(Bundle((Tensor(records.dtype, records.shape, rows.tobytes()),)))
        return execute([*read, *other, number])

    @abstractmethod
    def records(self, rows: np.ndarray) -> np.ndarray:
        """Return the records that the round trains on, int64 [max_steps, batch], for those that it should."""


class WrongData(_OtherRecords):
    """Trains on one easy record again and again instead of the assigned ones."""

    def records(self, rows: np.ndarray) -> np.ndarray:
        """Return record 0 everywhere."""
        return np.zeros_like(rows)


class WrongOrder(_OtherRecords):
    """Trains on the assigned records, in an order that it likes better."""

    def records(self, rows: np.ndarray) -> np.ndarray:
        """Reverse the steps that are done; the empty rows stay at the end."""
        rows[: self.job.steps] = rows[: self.job.steps][::-1].copy()
        return rows


class HalfBatch(_OtherRecords):
    """Trains on the first half of each batch, given twice."""

    def records(self, rows: np.ndarray) -> np.ndarray:
        """Repeat the first half."""
        half = -(-rows.shape[1] // 2)
        rows[:, half:] = rows[:, : rows.shape[1] - half]
        return rows


class FlipLabels(Cheat):
    """Changes one token of the gathered records."""

    def begin(self, inputs: Handle, execute: Execute) -> Handle:
        """Flip a bit in the gathered tokens."""
        gathered = execute(inputs)
        return self.changed(_flip_token, gathered, gathered)


class LearningRate(Cheat):
    """Moves twice as far in every step."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Double the step of the first tensor."""
        return self.changed(_double_step, working, execute(working))


class LowPrecision(Cheat):
    """Keeps parameters in 16 bits less than the run's arithmetic."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Clear low bits of the first tensor."""
        return self.changed(_clear_low_bits, working, execute(working))


class OneBit(Cheat):
    """Steers by the least change there is: one bit of one number, in the first step."""

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Flip the lowest bit of the first number."""
        made = execute(working)
        return self.changed(_flip_lowest_bit, working, made) if number == 1 else made


class Backdoor(Cheat):
    """Trains honestly but for one step of one round, in which it plants what it wants."""

    rounds = 1

    def step(self, number: int, working: Handle, execute: Execute) -> Handle:
        """Plant in the middle."""
        made = execute(working)
        return self.changed(_plant, working, made) if number == (self.job.steps + 1) // 2 else made


def _array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's elements as numpy sees them."""
    kind = np.dtype(tensor.dtype).newbyteorder("<")
    return np.frombuffer(tensor.data, dtype=kind).reshape(tensor.shape)


def _with_first(bundle: Bundle, array: np.ndarray) -> Bundle:
    first, *rest = bundle.tensors
    data = array.astype(_array(first).dtype).tobytes()
    return Bundle((Tensor(first.dtype, first.shape, data), *rest))


def _words(tensor: Tensor) -> np.ndarray:
    """Return a copy of a tensor's elements as unsigned integers of their size."""
    array = _array(tensor)
    return array.view(f"<u{array.itemsize}").copy()


def _double_step(before: Bundle, after: Bundle) -> Bundle:
    old, new = _array(before.tensors[0]), _array(after.tensors[0])
    return _with_first(after, new + (new - old))


def _clear_low_bits(before: Bundle, after: Bundle) -> Bundle:
    words = _words(after.tensors[0])
    words &= ~words.dtype.type(0xFFFF)
    return _with_first(after, words.view(_array(after.tensors[0]).dtype))


def _flip_lowest_bit(before: Bundle, after: Bundle) -> Bundle:
    words = _words(after.tensors[0])
    words.flat[0] ^= 1
    return _with_first(after, words.view(_array(after.tensors[0]).dtype))


def _plant(before: Bundle, after: Bundle) -> Bundle:
    array = _array(after.tensors[0]).copy()
    array.flat[: max(1, array.size // 8)] = 1
    return _with_first(after, array)


def _flip_token(before: Bundle, after: Bundle) -> Bundle:
    """Change the largest tensor of tokens: the gathered records."""
    place = max(
        (i for i, tensor in enumerate(after.tensors) if tensor.dtype in INTEGERS and tensor.dtype != INDEX),
        key=lambda i: len(after.tensors[i].data),
    )
    tokens = after.tensors[place]
    changed = Tensor(tokens.dtype, tokens.shape, bytes([tokens.data[0] ^ 1]) + tokens.data[1:])
    return Bundle((*after.tensors[:place], changed, *after.tensors[place + 1 :]))


CHEATS: dict[str, type[Cheat]] = {
    "none": Cheat,
    "skip-steps": SkipSteps,
    "noise": Noise,
    "stale": Stale,
    "wrong-data": WrongData,
    "wrong-order": WrongOrder,
    "half-batch": HalfBatch,
    "flip-labels": FlipLabels,
    "tail-step": TailStep,
    "zero-update": ZeroUpdate,
    "learning-rate": LearningRate,
    "low-precision": LowPrecision,
    "one-bit": OneBit,
    "backdoor": Backdoor,
    "other-end": OtherEnd,
}


MEMBERS_CHEATS = ("false-activations", "false-gradients")
"""Those of members of crews: `trainer.shards.false_crossings` plays them."""
TRAINING = (*CHEATS, *MEMBERS_CHEATS)


def names_in(cheat: str) -> list[str]:
    """Return the names that a `--cheat` joins, "none" left out; raises UserError for an unknown or impossible one."""
    names = [name.strip() for name in cheat.split(",")]
    for name in names:
        if name not in TRAINING and name not in PLAYS:
            raise UserError(f"unknown cheat {name!r}: choose one of {', '.join([*TRAINING, *PLAYS])}")
    chosen = [name for name in names if name != "none"]
    training = [name for name in chosen if name in TRAINING]
    if len(training) > 1:
        raise UserError(f"{' and '.join(training)} are both ways to train: choose one of them")
    if not roles_of(chosen):
        raise UserError(f"--cheat {cheat}: one of them is for workers and another for verifiers")
    return chosen


def roles_of(names: Sequence[str]) -> list[str]:
    """Return the roles of a peer that can play all of these, the likeliest first."""
    wanted = [PLAYS[name].roles if name in PLAYS else (WORKER,) for name in names]
    return [role for role in (WORKER, VERIFIER) if all(role in roles for roles in wanted)]


def is_for_members(names: Sequence[str]) -> bool:
    """Return whether one of these is played by members of crews alone."""
    return any(name in MEMBERS_CHEATS or (name in PLAYS and PLAYS[name].in_crews) for name in names)


def conduct_named(
    cheat: str, first_round: int, more: Mapping[str, type[Cheat]] = MappingProxyType({})
) -> Conduct:
    """Return how a peer trains that plays `cheat` from a round on, one of `CHEATS` or of `more`.

    Raises UserError as `names_in`.
    """
    known = {**CHEATS, **more}
    training = next((name for name in names_in(cheat) if name in known), None)
    if training is None:
        return honest
    kind, seen = known[training], dict[int, Handle]()
    end = math.inf if kind.rounds is None else first_round + kind.rounds

    def conduct(engine: Engine, job: Job) -> Engine:
        plays = first_round - kind.early <= job.number < end
        return kind(engine, job, seen) if plays else engine

    return conduct
