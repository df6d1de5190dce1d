"""Groups of members in threads of one process, which exchange totals in memory."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

from trainer.groups.split import Share, split
from trainer.groups.spread import spread_of
from trainer.groups.step import Exchange, MemberStep
from trainer.programs.devices import products_for
from trainer.programs.options import NODE_BY_NODE, RunOptions
from verification.program import Program

R = TypeVar("R")
PATIENCE = 120.0
"""Seconds for which a member waits for the others, which ends a test that would hang."""


class Memory:
    """Where the members of a group in one process meet."""

    def __init__(self, members: int) -> None:
        self._given: list[torch.Tensor] = [torch.empty(0)] * members
        self._barrier = Barrier(members)

    def reduced(
        self, place: int, numbers: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return what all members' numbers are reduced to."""
        self._given[place] = numbers
        self._barrier.wait(PATIENCE)
        made = reduce(torch.stack(self._given))
        self._barrier.wait(PATIENCE)
        return made


class InMemory:
    """An exchange of one member with the others in its process."""

    def __init__(self, memory: Memory, place: int) -> None:
        self._memory, self._place = memory, place
        self.exchanges = 0

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the greatest numbers."""
        self.exchanges += 1
        return self._memory.reduced(self._place, numbers, lambda given: given.amax(0))

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sums."""
        return self._memory.reduced(self._place, numbers, lambda given: given.sum(0))


def together(members: Sequence[Callable[[InMemory], R]]) -> list[R]:
    """Return what each member makes, all at once."""
    memory = Memory(len(members))
    exchanges = [InMemory(memory, place) for place in range(len(members))]
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(lambda member, exchange: member(exchange), members, exchanges))


def steps_of(
    program: Program, shares: Sequence[Share], options: RunOptions = NODE_BY_NODE
) -> list[MemberStep]:
    """Return each member's part of an inner program."""
    spread = spread_of(program)
    return [MemberStep(split(program, share, spread), options, products_for(options)) for share in shares]


def made_together(steps: Sequence[MemberStep], inputs: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Return every member's outputs of one step."""

    def member(step: MemberStep) -> Callable[[Exchange], list[torch.Tensor]]:
        return lambda exchange: step.run(inputs, exchange)

    return together([member(step) for step in steps])
