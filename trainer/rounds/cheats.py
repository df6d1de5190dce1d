"""The cheats that the demo and the tests play, each as the part of F that it does differently.

docs/adversaries.md says which known attack each one is. What a peer says, not what it computes, is
`verification.adversaries.playbook`; `--cheat` takes names of both, joined by commas.
"""

from collections.abc import Callable, Sequence

import numpy as np

from trainer.rounds.training import HONEST, Conduct, Disturbance, Handle, Job
from verification.adversaries.playbook import PLAYS
from verification.digest import tagged
from verification.errors import UserError
from verification.statements import VERIFIER, WORKER
from verification.tensors import Bundle, Tensor

Advance = Callable[[Handle], Handle]


class SkipSteps(Conduct):
    """Does the first half of the inner steps and repeats the state it has for the rest."""

    def step(self, job: Job, number: int, working: Handle, advance: Advance) -> Handle:
        """Advance only in the first half."""
        return advance(working) if 2 * number <= job.steps else working


class TailStep(Conduct):
    """Trains honestly and leaves out the last inner step."""

    def step(self, job: Job, number: int, working: Handle, advance: Advance) -> Handle:
        """Advance in all steps but the last."""
        return advance(working) if number < job.steps else working


class ZeroUpdate(Conduct):
    """Does no step at all: the contribution is the epilogue's of an unmoved state."""

    def step(self, job: Job, number: int, working: Handle, advance: Advance) -> Handle:
        """Stay."""
        return working


class Noise(Conduct):
    """Shows honest leaves and sends a poisoned contribution: the first tensor is noise."""

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Replace the bytes of the first tensor."""
        first, *rest = bundle.tensors
        seed = tagged("noise", job.worker, job.beacon)
        data = (seed * (len(first.data) // len(seed) + 1))[: len(first.data)]
        return Bundle((Tensor(first.dtype, first.shape, data), *rest))


class OtherEnd(Conduct):
    """Shows honest leaves and sends a contribution that pulls the other way: another end than the last leaf."""

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Negate the first tensor."""
        return _with_first(bundle, -_array(bundle.tensors[0]))


class Stale(Conduct):
    """Trains from the state of the round before, as one who does not fetch the new one."""

    def __init__(self) -> None:
        """Start without kept states."""
        self._seen: dict[int, Handle] = {}

    def start(self, job: Job, state: Handle) -> Handle:
        """Remember the state and go on from the one before."""
        self._seen[job.number] = state
        return self._seen.get(job.number - 1, state)


class WrongData(Conduct):
    """Trains on one easy record again and again instead of the assigned ones."""

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Return record 0 everywhere."""
        return Tensor(index.dtype, index.shape, bytes(len(index.data)))


class WrongOrder(Conduct):
    """Trains on the assigned records, in an order that it likes better."""

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Reverse the steps that are done; the empty rows stay at the end."""
        rows = _array(index).copy()
        rows[: job.steps] = rows[: job.steps][::-1].copy()
        return Tensor(index.dtype, index.shape, rows.tobytes())


class HalfBatch(Conduct):
    """Trains on the first half of each batch, given twice."""

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Repeat the first half."""
        rows = _array(index).copy()
        half = -(-rows.shape[1] // 2)
        rows[:, half:] = rows[:, : rows.shape[1] - half]
        return Tensor(index.dtype, index.shape, rows.tobytes())


class FlipLabels(Conduct):
    """Changes one token of the gathered records."""

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Flip a bit in the gathered tokens."""
        return _flip_token if number == 0 else None


class LearningRate(Conduct):
    """Moves twice as far in every step."""

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Double the step of the first tensor."""
        return _double_step if number else None


class LowPrecision(Conduct):
    """Keeps parameters in 16 bits less than the run's arithmetic."""

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Clear low bits of the first tensor."""
        return _clear_low_bits if number else None


class OneBit(Conduct):
    """Steers by the least change there is: one bit of one number, in the first step."""

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Flip the lowest bit of the first number."""
        return _flip_lowest_bit if number == 1 else None


class Backdoor(Conduct):
    """Trains honestly but for one step of one round, in which it plants what it wants."""

    rounds = 1

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Plant in the middle."""
        return _plant if number == (job.steps + 1) // 2 else None


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
    """Change the largest tensor of bytes: the gathered records."""
    place = max(
        (i for i, tensor in enumerate(after.tensors) if tensor.dtype == "uint8"),
        key=lambda i: len(after.tensors[i].data),
    )
    tokens = after.tensors[place]
    changed = Tensor(tokens.dtype, tokens.shape, bytes([tokens.data[0] ^ 1]) + tokens.data[1:])
    return Bundle((*after.tensors[:place], changed, *after.tensors[place + 1 :]))


class _From(Conduct):
    """Plays another conduct from a round on, and is honest before (and after its `rounds`, if it has some)."""

    def __init__(self, conduct: Conduct, first: int) -> None:
        """Cheat from round `first`."""
        self._conduct, self._first = conduct, first
        self._end = first + (1 << 31 if conduct.rounds is None else conduct.rounds)

    def _of(self, job: Job) -> Conduct:
        return self._conduct if self._first <= job.number < self._end else HONEST

    def start(self, job: Job, state: Handle) -> Handle:
        """Let the conduct see every state, and follow it from its round on."""
        chosen = self._conduct.start(job, state)
        return chosen if self._of(job) is self._conduct else state

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Ask the conduct of this round."""
        return self._of(job).index(job, index)

    def step(self, job: Job, number: int, working: Handle, advance: Advance) -> Handle:
        """Ask the conduct of this round."""
        return self._of(job).step(job, number, working, advance)

    def disturb(self, job: Job, number: int) -> Disturbance | None:
        """Ask the conduct of this round."""
        return self._of(job).disturb(job, number)

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Ask the conduct of this round."""
        return self._of(job).contribution(job, bundle)


CHEATS: dict[str, type[Conduct]] = {
    "none": Conduct,
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


def names_in(cheat: str) -> list[str]:
    """Return the names that a `--cheat` joins, "none" left out; raises UserError for an unknown or impossible one."""
    names = [name.strip() for name in cheat.split(",")]
    for name in names:
        if name not in CHEATS and name not in PLAYS:
            raise UserError(f"unknown cheat {name!r}: choose one of {', '.join([*CHEATS, *PLAYS])}")
    chosen = [name for name in names if name != "none"]
    training = [name for name in chosen if name in CHEATS]
    if len(training) > 1:
        raise UserError(f"{' and '.join(training)} are both ways to train: choose one of them")
    if not roles_of(chosen):
        raise UserError(f"--cheat {cheat}: one of them is for workers and another for verifiers")
    return chosen


def roles_of(names: Sequence[str]) -> list[str]:
    """Return the roles of a peer that can play all of these, the likeliest first."""
    wanted = [PLAYS[name].roles if name in PLAYS else (WORKER,) for name in names]
    return [role for role in (WORKER, VERIFIER) if all(role in roles for roles in wanted)]


def conduct_named(cheat: str, first_round: int) -> Conduct:
    """Return how a peer trains that plays `cheat` from a round on; raises UserError as `names_in`."""
    training = next((name for name in names_in(cheat) if name in CHEATS), None)
    return HONEST if training is None else _From(CHEATS[training](), first_round)
