"""One shard's side of a program that several machines execute together: its segments in its order, and its letters."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from trainer.shards.mail import Mail
from trainer.shards.run import Crossing, Values

MICRO = 1_000_000
Clock = Callable[[], float]
S = TypeVar("S")


class Runner(Protocol[S]):
    """A shard's part of a program, ready to run: `ShardStep`, or what stands for one in an experiment."""

    @property
    def order(self) -> Sequence[S]:
        """The shard's segments in the order in which they run."""
        ...

    def begin(self, inputs: Values) -> list[Crossing]:
        """Take the shard's own inputs; return those that others read."""
        ...

    def lacking(self, segment: S | None) -> list[int]:
        """Return what is not here yet of what a segment reads; of the outputs for None."""
        ...

    def take(self, number: int, tensor: torch.Tensor) -> None:
        """Take a value of another shard."""
        ...

    def run(self, segment: S) -> list[Crossing]:
        """Run a segment that lacks nothing; return what others read; raises StepFailed."""
        ...

    def outputs(self) -> Values:
        """Return the outputs that the shard gets, once all segments have run."""
        ...


class Execution(Generic[S]):
    """One execution of a program by one shard, a segment at a time, whatever carries its values."""

    def __init__(self, runner: Runner[S], inputs: Values) -> None:
        """Begin with the shard's own inputs; `begun` is what others read of those."""
        self._runner = runner
        self._left = deque(runner.order)
        self.begun = runner.begin(inputs)

    @property
    def is_over(self) -> bool:
        """Whether all segments have run."""
        return not self._left

    def lacking(self) -> list[int]:
        """Return what must be taken before it goes on, or ends."""
        return self._runner.lacking(self._left[0] if self._left else None)

    def take(self, number: int, tensor: torch.Tensor) -> None:
        """Take a value of another shard."""
        self._runner.take(number, tensor)

    def go_on(self) -> list[Crossing]:
        """Run the next segment; return what others read of what it makes. Raises StepFailed."""
        return self._runner.run(self._left.popleft())

    def outputs(self) -> Values:
        """Return the outputs that the shard gets, at the end."""
        return self._runner.outputs()


@dataclass(frozen=True)
class Spent:
    """What an execution took of a stage: microseconds that it computed and waited for others, bytes that it sent and
    received."""

    computed: int
    waited: int
    sent: int
    received: int


class Stage:
    """Executes one shard's part of programs, and exchanges what crosses by its mail.

    It sends what others read as soon as it is made, and is done when its own part is: for the next execution it waits
    only for what that reads.
    """

    def __init__(self, mail: Mail, clock: Clock = time.perf_counter) -> None:
        self._mail, self._clock = mail, clock
        self.spent = Spent(0, 0, 0, 0)
        """What the last execution took."""

    def execute(self, number: int, runner: Runner[S], inputs: Values) -> Values:
        """Return the outputs that the shard gets in execution `number` of its part of a program.

        Raises StepFailed with the node's number in the whole program, and as `Mail.take`.
        """
        mail, computed, began = self._mail, 0.0, self._clock()
        sent, received = mail.sent, mail.received
        execution = Execution(runner, inputs)
        del inputs  # which end where they are read
        crossings = execution.begun
        while True:
            for crossing in crossings:
                mail.give(number, crossing)
            del crossings
            for lacking in execution.lacking():
                execution.take(lacking, mail.take(number, lacking))
            if execution.is_over:
                break
            start = self._clock()
            crossings = execution.go_on()
            computed += self._clock() - start
        whole = self._clock() - began
        self.spent = Spent(
            round(MICRO * computed),
            round(MICRO * (whole - computed)),
            mail.sent - sent,
            mail.received - received,
        )
        return execution.outputs()
