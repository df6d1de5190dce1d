"""A group's exchanges by hivemind's averager, in a process of its own (`trainer.groups.averaging`).

It sums only: for a maximum every member's numbers are put side by side, and each takes the greatest.
"""

import subprocess
from typing import TypeVar

import torch

from trainer.compute import children
from trainer.groups import limbs
from trainer.groups.messages import Average, Averaged, Averaging
from trainer.groups.pipes import read, write
from verification.errors import Malformed, Unavailable, UserError
from verification.units import Count

M = TypeVar("M")
PROCESS = "trainer.groups.averaging"
ENDING_SECONDS = 10.0
RECOVERY_SECONDS = 240.0
"""The averager's time-outs together, with some room."""


class AveragedMeeting:
    """The process that averages for this machine, and where others reach it."""

    recovery = RECOVERY_SECONDS

    def __init__(self, address: str, leader: str) -> None:
        """Start it at an address, for a group whose leader's is reached at some multiaddrs; raises Unavailable."""
        self._process = children.start((PROCESS, address, *leader.split()))
        self.text = " ".join(_reply(self._process, Averaging).addresses)

    @classmethod
    def hosted(cls, address: str) -> "AveragedMeeting":
        """Open a meeting."""
        return cls(address, "")

    @classmethod
    def visited(cls, text: str, leader: str, own: str) -> "AveragedMeeting":
        """Come to a leader's."""
        return cls(own, text)

    def meet(self, generation: int, place: int, members: int) -> "AveragedExchange":
        """Return the exchange of a member; raises UserError for more members than an average stays exact for."""
        if members > limbs.MAX_MEMBERS:
            raise UserError(
                f"hivemind sums exactly for {limbs.MAX_MEMBERS} machines at most: use --group-by gloo"
            )
        return AveragedExchange(self._process, generation, place, members)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class AveragedExchange:
    """The exchange of one member with a fixed set of others."""

    def __init__(self, process: "subprocess.Popen[bytes]", generation: int, place: int, members: int) -> None:
        self._process = process
        self._generation, self._place, self._members = generation, place, members
        self._exchanges = 0

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the greatest number at each place; raises Unavailable."""
        beside = torch.zeros(self._members, len(numbers), dtype=torch.int64)
        beside[self._place] = numbers
        return self.sum(beside.view(-1)).view(self._members, -1).amax(0)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sums modulo 2^64; raises Unavailable."""
        self._exchanges += 1
        order = Average(
            Count(self._generation),
            Count(self._exchanges),
            Count(self._place),
            Count(self._members),
            numbers.contiguous().numpy().tobytes(),
        )
        assert self._process.stdin is not None
        try:
            write(self._process.stdin, order)
        except OSError as error:
            raise Unavailable("the process that averages has died") from error
        made = _reply(self._process, Averaged)
        if not made.is_sum:
            raise Unavailable(f"the group's averages failed: {made.reason}")
        return torch.frombuffer(bytearray(made.numbers), dtype=torch.int64)

    def close(self) -> None:
        """Leave: nothing is under way between two exchanges."""


def _reply(process: "subprocess.Popen[bytes]", kind: type[M]) -> M:
    assert process.stdout is not None
    try:
        made = read(process.stdout, kind)
    except Malformed as error:
        raise Unavailable("the process that averages has died") from error
    if made is None:
        raise Unavailable(
            "the process that averages has died: is hivemind installed? pip install 'proofswarm[groups]'"
        )
    return made
