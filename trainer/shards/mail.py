"""What a shard has received and not yet read, and made and not yet sent: bounded, so that the slow are waited for.

A stage computes in one thread; for each neighbour one thread sends and one receives. What has arrived may take `room`
bytes while the stage computes. While it waits, for a value or until somebody takes one, everything is let in: else two
that wait for each other would wait for ever. The order of segments bounds how much that is (`trainer.shards.memory`).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from trainer.shards.run import Crossing
from verification.errors import Unavailable


@dataclass(frozen=True)
class Letter:
    """A value on its way: in which execution it is read, its number in the whole program, and its tensor."""

    execution: int
    number: int
    tensor: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.tensor.nbytes


Send = Callable[[Letter], None]
"""Takes a letter to another shard, as long as that takes; raises Unavailable."""


class Abandoned(Exception):
    """An execution has been given up, here or elsewhere."""


class Mail:
    """One stage's letters, both ways. Executions are numbered, and ascend."""

    def __init__(self, takers: Iterable[int], room: int) -> None:
        """`room` bytes may have arrived, and as many wait for each taker; a larger letter goes alone."""
        self._changed = threading.Condition()
        self._room = room
        self._arrived: dict[tuple[int, int], torch.Tensor] = {}
        self._leaving: dict[int, deque[Letter]] = {taker: deque() for taker in takers}
        self._in, self._out = 0, dict.fromkeys(self._leaving, 0)
        self._waits = False
        self._least = 0
        """The number of the first execution that has not been abandoned."""
        self._end: Unavailable | None = None
        self.sent = self.received = 0
        """Bytes that the stage gave and took."""
        self.most_arrived = self.most_leaving = 0
        """The most bytes that were here at a time, while the stage computed, and for one taker."""

    def take(self, execution: int, number: int) -> torch.Tensor:
        """Return a value once it is here; raises Abandoned, Unavailable."""
        key = execution, number
        with self._changed:
            self._wait(execution, lambda: key in self._arrived)
            tensor = self._arrived.pop(key)
            self._in -= tensor.nbytes
            self.received += tensor.nbytes
            self._changed.notify_all()
            return tensor

    def give(self, execution: int, crossing: Crossing) -> None:
        """Have a value sent, once there is room for it; raises Abandoned, Unavailable."""
        letter, taker = Letter(execution, crossing.number, crossing.tensor), crossing.taker
        with self._changed:
            self._wait(execution, lambda: self._fits(self._out[taker], letter.size))
            self._leaving[taker].append(letter)
            self._out[taker] += letter.size
            self.sent += letter.size
            self.most_leaving = max(self.most_leaving, self._out[taker])
            self._changed.notify_all()

    def arrive(self, letter: Letter) -> None:
        """Take in what another shard sends, once there is room for it or the stage waits; raises Unavailable."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waits or self._fits(self._in, letter.size) or self._is_over(letter.execution)
            )
            if self._end is not None:
                raise self._end
            if letter.execution < self._least:
                return
            self._arrived[letter.execution, letter.number] = letter.tensor
            self._in += letter.size
            if not self._waits:
                self.most_arrived = max(self.most_arrived, self._in)
            self._changed.notify_all()

    def deliver(self, taker: int, send: Send) -> None:
        """Send what is for a taker until the mail ends or nobody is there: a thread's work."""
        try:
            while (letter := self._next(taker)) is not None:
                send(letter)
                with self._changed:
                    self._out[taker] -= letter.size
                    self._changed.notify_all()
        except Unavailable as error:
            self.close(error)

    def abandon(self, execution: int) -> None:
        """Give up all executions until this one, and forget what was theirs."""
        with self._changed:
            self._least = max(self._least, execution + 1)
            for key in [key for key in self._arrived if key[0] < self._least]:
                self._in -= self._arrived.pop(key).nbytes
            for taker, letters in self._leaving.items():
                kept = deque(letter for letter in letters if letter.execution >= self._least)
                self._out[taker] -= sum(letter.size for letter in letters) - sum(each.size for each in kept)
                self._leaving[taker] = kept
            self._changed.notify_all()

    def close(self, reason: Unavailable) -> None:
        """End it: whoever waits hears the first reason."""
        with self._changed:
            self._end = self._end or reason
            self._changed.notify_all()

    def _fits(self, held: int, size: int) -> bool:
        return not held or held + size <= self._room

    def _is_over(self, execution: int) -> bool:
        return self._end is not None or execution < self._least

    def _wait(self, execution: int, until: Callable[[], bool]) -> None:
        """Have the stage wait; raises Abandoned, Unavailable."""
        if not self._is_over(execution) and not until():
            self._waits = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: until() or self._is_over(execution))
            self._waits = False
        if execution < self._least:
            raise Abandoned
        if self._end is not None:
            raise self._end

    def _next(self, taker: int) -> Letter | None:
        """Return what a taker gets next, once there is something; None where nothing comes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None or self._leaving[taker])
            return None if self._end is not None else self._leaving[taker].popleft()
