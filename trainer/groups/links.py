"""The connections between the stages of a group whose machines hold shards: each pair that exchanges values has one.

A stage connects to those after it and is reached by those before it. A value goes as its head, a message, and its
bytes as they lie in memory; both frames are authenticated as all of a group's are (`trainer.groups.wire`).
"""

import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from trainer.groups import wire
from trainer.groups.wire import Channel
from trainer.programs.kernels import DTYPE_NAMES, TORCH_DTYPES
from trainer.shards.mail import Letter, Mail
from verification.errors import Malformed, Unavailable, Violation
from verification.units import Count

FINDING_SECONDS = 30.0
"""How long a stage waits for those before it to connect, each as soon as it is told."""
Places = Mapping[int, tuple[str, int]]
"""Where the stages' machines are reached, by the shards that they hold."""


@dataclass(frozen=True)
class Neighbour:
    """From a stage to the one to which it connects: which it is, in which generation of the group."""

    generation: Count
    shard: Count


@dataclass(frozen=True)
class ValueHead:
    """Before a value's bytes: which it is, in which execution, and of what form."""

    execution: Count
    number: Count
    dtype: str
    shape: tuple[Count, ...]


class Door:
    """Where the stages before a machine's connect to it."""

    def __init__(self, listener: socket.socket, secret: bytes, draw: wire.Draw) -> None:
        """Let neighbours in from now on; they know the group's secret."""
        self._listener, self._secret, self._draw = listener, secret, draw
        self._changed = threading.Condition()
        self._came: dict[tuple[int, int], Channel] = {}
        wire.let_in(listener, self._greet)

    @property
    def port(self) -> int:
        """Where it is."""
        return int(self._listener.getsockname()[1])

    def meet(self, generation: int, own: int, places: Places, others: Iterable[int]) -> dict[int, Channel]:
        """Return the channels to other stages by their shards; raises Unavailable where one is not reached."""
        channels: dict[int, Channel] = {}
        try:
            for other in sorted(others, reverse=True):
                later = other > own
                channels[other] = (
                    self._reached(generation, own, places[other])
                    if later
                    else self._awaited(generation, other)
                )
        except (Unavailable, Violation) as error:
            for channel in channels.values():
                channel.close()
            raise Unavailable(f"stage {own + 1} does not reach another one: {error}") from error
        return {other: channel.lasting() for other, channel in channels.items()}

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()

    def _reached(self, generation: int, own: int, place: tuple[str, int]) -> Channel:
        try:
            connection = socket.create_connection(place, wire.GREETING_SECONDS)
        except OSError as error:
            raise Unavailable(f"nobody answers at {place[0]} port {place[1]}") from error
        channel = wire.as_member(wire.at_once(connection), self._secret, self._draw)
        channel.send(Neighbour(Count(generation), Count(own)))
        return channel

    def _awaited(self, generation: int, other: int) -> Channel:
        key = generation, other
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._came, FINDING_SECONDS):
                raise Unavailable(f"stage {other + 1} did not come")
            return self._came.pop(key)

    def _greet(self, connection: socket.socket) -> None:
        try:
            channel = wire.as_leader(wire.at_once(connection), self._secret, self._draw)
            neighbour = channel.receive(Neighbour, wire.GREETING_SECONDS)
        except (Unavailable, Violation):
            connection.close()
            return
        with self._changed:
            self._came[int(neighbour.generation), int(neighbour.shard)] = channel
            self._changed.notify_all()


class Links:
    """The channels of one stage while a generation lasts: for each a thread that sends and one that receives."""

    def __init__(self, mail: Mail, channels: Mapping[int, Channel]) -> None:
        """Carry a stage's mail by channels to other shards."""
        self._mail, self._channels = mail, channels
        for taker, channel in channels.items():
            for work in ((mail.deliver, taker, _sender(channel)), (self._receive, channel)):
                threading.Thread(target=work[0], args=work[1:], daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._mail.close(Unavailable("the stages have parted"))
        for channel in self._channels.values():
            channel.end()

    def _receive(self, channel: Channel) -> None:
        try:
            while True:
                self._mail.arrive(receive_value(channel))
        except Unavailable as error:
            self._mail.close(error)
        except Violation as error:
            self._mail.close(Unavailable(f"another stage sends what is no value: {error}"))


def _sender(channel: Channel) -> Any:
    return lambda letter: send_value(channel, letter)


def send_value(channel: Channel, letter: Letter) -> None:
    """Send a value; raises Unavailable."""
    tensor = letter.tensor.detach().cpu().contiguous()
    shape = tuple(Count(size) for size in tensor.shape)
    head = ValueHead(Count(letter.execution), Count(letter.number), DTYPE_NAMES[tensor.dtype], shape)
    array: Any = tensor.numpy()
    channel.send(head)
    channel.send_data(array.reshape(-1).view(np.uint8).data)


def receive_value(channel: Channel) -> Letter:
    """Return the value that comes next; raises Unavailable, Violation."""
    head = channel.receive(ValueHead)
    data, kind = channel.receive_data(), TORCH_DTYPES.get(head.dtype)
    if kind is None:
        raise Malformed(f"a value of unknown dtype {head.dtype!r}")
    shape = cast(tuple[int, ...], head.shape)
    try:
        tensor = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        return Letter(int(head.execution), int(head.number), tensor.reshape(shape))
    except (RuntimeError, ValueError) as error:
        raise Malformed(f"a value of {len(data)} bytes is no {head.dtype}{list(shape)}") from error
