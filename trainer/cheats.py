"""The cheats that the demo and the tests play, each as the part of F that it does differently."""

from collections.abc import Callable

from trainer.rounds import HONEST, Conduct, Handle, Job
from verification.digest import tagged
from verification.errors import UserError
from verification.tensors import Bundle, Tensor


class SkipSteps(Conduct):
    """Does the first half of the inner steps and repeats the state it has for the rest."""

    def step(self, job: Job, number: int, working: Handle, advance: Callable[[Handle], Handle]) -> Handle:
        """Advance only in the first half."""
        return advance(working) if 2 * number <= job.steps else working


class Noise(Conduct):
    """Shows honest leaves and sends a poisoned contribution: the first tensor is noise."""

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Replace the bytes of the first tensor."""
        first, *rest = bundle.tensors
        seed = tagged("noise", job.worker, job.beacon)
        data = (seed * (len(first.data) // len(seed) + 1))[: len(first.data)]
        return Bundle((Tensor(first.dtype, first.shape, data), *rest))


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


class _From(Conduct):
    """Plays another conduct from a round on, and is honest before."""

    def __init__(self, conduct: Conduct, first: int) -> None:
        """Cheat from round `first`."""
        self._conduct, self._first = conduct, first

    def _of(self, job: Job) -> Conduct:
        return self._conduct if job.number >= self._first else HONEST

    def start(self, job: Job, state: Handle) -> Handle:
        """Let the conduct see every state, and follow it from its round on."""
        chosen = self._conduct.start(job, state)
        return chosen if job.number >= self._first else state

    def index(self, job: Job, index: Tensor) -> Tensor:
        """Ask the conduct of this round."""
        return self._of(job).index(job, index)

    def step(self, job: Job, number: int, working: Handle, advance: Callable[[Handle], Handle]) -> Handle:
        """Ask the conduct of this round."""
        return self._of(job).step(job, number, working, advance)

    def contribution(self, job: Job, bundle: Bundle) -> Bundle:
        """Ask the conduct of this round."""
        return self._of(job).contribution(job, bundle)


CHEATS: dict[str, type[Conduct]] = {
    "none": Conduct,
    "skip-steps": SkipSteps,
    "noise": Noise,
    "stale": Stale,
    "wrong-data": WrongData,
}


def conduct_named(name: str, first_round: int) -> Conduct:
    """Return the conduct that plays cheat `name` from a round on; raises UserError for an unknown name."""
    if name not in CHEATS:
        raise UserError(f"unknown cheat {name!r}: choose one of {', '.join(CHEATS)}")
    return _From(CHEATS[name](), first_round)
