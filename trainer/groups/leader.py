"""The leader's side of a group: who is in it, and what each is to do."""

import contextlib
import queue
import socket
from collections.abc import Callable, Sequence

import torch

from trainer.groups import wire
from trainer.groups.meeting import WAYS, Leaving
from trainer.groups.messages import MakeStep, Ready, StepEnded, Welcome
from trainer.groups.split import Share, shares
from trainer.groups.step import Exchange, Parts
from trainer.groups.wire import Channel
from trainer.programs.conversion import from_torch
from verification.errors import Refused, Unavailable, Violation
from verification.units import Count

LOADING_SECONDS = 600.0
"""How long a newcomer may take to load a program."""

Tell = Callable[[str], None]


class Leader:
    """A group of `size` machines, the leader's own included, that members join at a listening socket.

    The first step waits until all are there; after that those make a step who are there when it begins.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        size: int,
        draw: wire.Draw,
        tell: Tell,
        way: str,
        program: bytes,
        parts: Parts,
    ) -> None:
        """Let members come, who get the inner `program` of which the leader has its `parts`.

        Members exchange totals by `way`, one of `WAYS`; `tell` hears a line for people when one comes or goes. Raises
        UserError where a batch has too few records for all.
        """
        shares(parts.records, size)
        self._listener, self._secret, self._size = listener, secret, size
        self._draw, self._tell = draw, tell
        self._arrivals: queue.SimpleQueue[Channel] = queue.SimpleQueue()
        self._members: list[Channel] = []
        self._micros: dict[Channel, Count] = {}
        self._busy: list[Channel] = []
        """Those who heard of the last step, and of all that goes with it."""
        self._is_complete = False
        self._number = self._generation = 0
        self._exchange: Leaving | None = None
        self._meeting = WAYS[way].host(listener.getsockname()[0])
        self._welcome, self._outline = Welcome((program,), way, self._meeting.text), parts.outline
        wire.let_in(listener, self._greet)

    def gather(self) -> int:
        """Return how many members there are now; the first time it waits for all."""
        missing = self._size - 1 - len(self._members)
        if not self._is_complete and missing:
            self._tell(f"the group waits for {missing} more: proofswarm group --ticket TICKET on each")
        while not self._is_complete and len(self._members) < self._size - 1:
            self._admit(self._arrivals.get())
        self._is_complete = True
        with contextlib.suppress(queue.Empty):
            while len(self._members) < self._size - 1:
                self._admit(self._arrivals.get_nowait())
        for member in [each for each in self._members if not self._is_there(each)]:
            self._drop(member)
        return 1 + len(self._members)

    def micros(self) -> list[Count]:
        """Return how many microseconds each member computed in the last step that it told of; 0 before the first."""
        return [self._micros.get(member, Count(0)) for member in self._members]

    def begin(self, divided: Sequence[Share], state: Sequence[torch.Tensor], is_shared: bool) -> Exchange:
        """Have every member make its share of a step; raises Unavailable."""
        is_new = self._exchange is None
        self._number, self._generation = self._number + 1, self._generation + is_new
        counts = tuple(Count(share.count) for share in divided)
        given = [] if is_shared and not is_new else state
        busy = list(self._members)
        for place, member in enumerate(self._members, 1):
            number, generation = Count(self._number), Count(self._generation)
            _told(busy, member, MakeStep(number, generation, Count(place), counts, Count(len(given))))
        self._busy = busy
        if self._exchange is None:
            self._exchange = self._meeting.meet(self._generation, 0, len(divided))
        for tensor in map(from_torch, given):
            for member in list(busy):  # all of it to whoever is there, for they would wait for the rest
                _told(busy, member, tensor)
        if len(busy) < len(self._members):
            raise Unavailable("a member of the group is gone")
        return self._exchange

    def recover(self) -> None:
        """Part from the exchange, which ends it for all, and keep the members who then say that they are there."""
        self._part()
        for member in list(self._members):
            if member not in self._busy or not self._has_ended(member):
                self._drop(member)

    def close(self) -> None:
        """Let everybody go."""
        self._part()
        self._meeting.close()
        self._listener.close()
        for member in self._members:
            member.close()

    def _greet(self, connection: socket.socket) -> None:
        """Give the program to one that proves to be a member, and take it in when it has loaded it."""
        try:
            channel = wire.as_leader(wire.at_once(connection), self._secret, self._draw)
            channel.send(self._welcome)
            if channel.receive(Ready, LOADING_SECONDS).outline != self._outline:
                raise Refused("it splits the step in another way: install this version of proofswarm there")
        except (Unavailable, Violation) as error:
            connection.close()
            self._tell(f"a machine did not become a member of the group: {error}")
        else:
            self._arrivals.put(channel)
            self._tell("a machine has come to the group")

    def _admit(self, member: Channel) -> None:
        self._members.append(member)
        self._part()
        self._tell(f"the group has {1 + len(self._members)} of {self._size} machines")

    def _drop(self, member: Channel) -> None:
        member.close()
        self._members.remove(member)
        self._micros.pop(member, None)
        self._part()
        self._tell(
            f"a machine has left the group, which goes on with {1 + len(self._members)} of {self._size}"
        )

    def _part(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        self._exchange = None

    def _is_there(self, member: Channel) -> bool:
        """Read that steps have ended; return False at the end of the connection."""
        try:
            while member.is_readable():
                self._hear(member)
        except (Unavailable, Violation):
            return False
        return True

    def _has_ended(self, member: Channel) -> bool:
        """Wait until a member says that the last step is over."""
        try:
            while self._hear(member) < self._number:
                pass
        except (Unavailable, Violation):
            return False
        return True

    def _hear(self, member: Channel) -> Count:
        """Return the number of the next step that is over at a member; raises as `Channel.receive`."""
        ended = member.receive(StepEnded, self._meeting.recovery)
        self._micros[member] = ended.micros
        return ended.number


def _told(busy: list[Channel], member: Channel, message: object) -> None:
    """Send a message to a member, who is not busy any more where it does not arrive."""
    try:
        member.send(message)
    except Unavailable:
        busy.remove(member)
