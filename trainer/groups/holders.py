"""The leader's end of a machine that holds a shard: what it is told to do, and what it says has come of that."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from trainer.groups.links import receive_value, send_value
from trainer.groups.messages import Able, Deed, Hold, StageDone, StageOrder, Trouble
from trainer.groups.wire import Channel
from trainer.shards.cut import Machine
from trainer.shards.mail import Letter
from trainer.shards.stage import Spent
from verification.errors import Unavailable, Violation
from verification.units import Count

Tensors = Mapping[int, torch.Tensor]
NOTHING: Mapping[int, Callable[[], torch.Tensor]] = {}
NO_TIME = Spent(0, 0, 0, 0)


@dataclass(frozen=True)
class Answer:
    """What a stage said of an order, with the tensors that it gives, by their places."""

    done: StageDone
    given: Tensors


Heard = SimpleQueue[tuple["Holder", Answer | None]]
"""What members say, in the order in which it comes; None of one that is gone."""


class Holder:
    """A member that has said what it can do; a thread hears what it says."""

    def __init__(self, channel: Channel, able: Able, heard: Heard, wake: Callable[[], None]) -> None:
        """What the member says goes to `heard`, and `wake` is called too where it is in trouble, or gone."""
        self._channel, self._heard, self._wake = channel.lasting(), heard, wake
        self.machine = Machine(int(able.memory), int(able.speed))
        self.place = channel.other_address, int(able.port)
        self.answered = 0
        """The number of the last order of which it has said what came."""
        self.is_gone = self._is_closed = False
        self.spent = NO_TIME
        """What the last execution took of which it told."""
        threading.Thread(target=self._listen, daemon=True).start()

    def order(
        self,
        number: int,
        deed: Deed,
        before: int = 0,
        hold: Hold | None = None,
        given: Mapping[int, Callable[[], torch.Tensor]] = NOTHING,
    ) -> None:
        """Tell it to do something, with tensors by their places, which are made one after another.

        Where it is gone, nothing happens.
        """
        places = tuple(Count(place) for place in given)
        try:
            self._channel.send(StageOrder(Count(number), deed, Count(before), places))
            if hold is not None:
                self._channel.send(hold)
            for place, make in given.items():
                send_value(self._channel, Letter(number, place, make()))
        except Unavailable:
            self.is_gone = True

    def close(self) -> None:
        """Let it go."""
        self._is_closed = True
        self._channel.end()

    def _listen(self) -> None:
        try:
            while True:
                done = self._channel.receive(StageDone)
                values = [receive_value(self._channel) for _ in done.given]
                if done.trouble not in (Trouble.NONE, Trouble.ABANDONED):
                    self._wake()
                self._heard.put((self, Answer(done, {value.number: value.tensor for value in values})))
        except (Unavailable, Violation):
            self._heard.put((self, None))
            if not self._is_closed:
                self._wake()
