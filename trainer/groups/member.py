"""The side of a group's member: it holds nothing of the run but what its leader gives it."""

import socket
from collections.abc import Callable

import torch

from trainer.groups import wire
from trainer.groups.meeting import WAYS, Leaving
from trainer.groups.messages import MakeStep, Ready, StepEnded, Welcome
from trainer.groups.split import Share
from trainer.groups.step import Exchange, NotTogether, Parts
from trainer.groups.wire import Channel
from trainer.programs.conversion import to_torch
from trainer.programs.devices import products_for
from trainer.programs.options import RunOptions
from verification.errors import Unavailable, UserError
from verification.program import MAX_PROGRAM, decode_program
from verification.tensors import Tensor
from verification.units import Count

Tell = Callable[[str], None]
Between = Callable[[Exchange], Exchange]
"""What stands between a member and the others: nothing, or an experiment."""


def reached(address: str, port: int, secret: bytes, draw: wire.Draw) -> Channel:
    """Return the channel to a leader; raises Unavailable, BadSignature."""
    try:
        connection = socket.create_connection((address, port), wire.GREETING_SECONDS)
    except OSError as error:
        raise Unavailable(
            f"nobody leads a group at {address} port {port}: {error.strerror or error}"
        ) from error
    return wire.as_member(wire.at_once(connection), secret, draw)


class Member:
    """A machine that shares a leader's inner steps."""

    def __init__(
        self,
        channel: Channel,
        welcome: Welcome,
        leader: str,
        options: RunOptions,
        between: Between = lambda exchange: exchange,
    ) -> None:
        """Take the program that the leader at an address gave; raises as `LoadedProgram`, Unavailable, UserError."""
        self._channel, self._between = channel, between
        program = decode_program(welcome.programs[0], MAX_PROGRAM)
        self._parts = Parts(program, options, products_for(options))
        if welcome.way not in WAYS:
            raise UserError(
                f"the leader exchanges by {welcome.way!r}: install its version of proofswarm here"
            )
        self._meeting = WAYS[welcome.way].visit(welcome.meeting, leader, channel.own_address)
        channel.send(Ready(self._parts.outline))
        self._generation = 0
        self._exchange: Leaving | None = None
        self._working: list[torch.Tensor] = []
        self._micros = Count(0)
        self.steps = 0
        """How many steps it has made."""

    def serve(self) -> None:
        """Make steps until the leader goes, which raises Unavailable."""
        try:
            self._serve()
        finally:
            self._part()
            self._meeting.close()

    def _serve(self) -> None:
        while True:
            step = self._channel.receive(MakeStep)
            try:
                self._make(step)
                self.steps += 1
            except Unavailable:
                self._part()
            except NotTogether:
                self._working = []
            self._channel.send(StepEnded(step.number, self._micros))

    def _make(self, step: MakeStep) -> None:
        """Meet the others if they are new ones, take the state where it is given, and make the member's share."""
        counts, place = [int(count) for count in step.counts], int(step.place)
        if self._exchange is None or step.generation != self._generation:
            self._part()
            self._exchange = self._meeting.meet(int(step.generation), place, len(counts))
            self._generation = int(step.generation)
        if step.given:
            self._working = []
            self._working = [to_torch(self._channel.receive(Tensor)) for _ in range(int(step.given))]
        share = Share(sum(counts[:place]), counts[place], sum(counts))
        made = self._parts.of(share)
        self._working = made.run(self._working, self._between(self._exchange))
        self._micros = made.micros

    def _part(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        self._exchange = None
