"""A second compute process, for the law alone: it runs while there are verdicts, and none waits behind a round."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from trainer.compute import orders
from trainer.compute.client import URGENT, ComputeClient
from verification.errors import ProofswarmError, Unavailable
from verification.tensors import Tensor

IDLE_SECONDS = 60.0
"""How long the process stays after its last verdict: a dispute rarely comes alone, and torch takes seconds to load."""


@dataclass
class _Case:
    """A node to execute, and what came of it once that is told."""

    order: orders.ExecuteNode
    told: trio.Event = field(default_factory=trio.Event)
    result: Tensor | ProofswarmError | None = None


class Referee:
    """Executes one node after the other in a process that is started for the first and ended when idle."""

    def __init__(
        self, threads: int, environment: Mapping[str, str] | None = None, idle: float = IDLE_SECONDS
    ) -> None:
        """`run` does the work. `threads` are those of one product; `idle` is in seconds."""
        given = os.environ if environment is None else environment
        self._environment = {**given, "OMP_NUM_THREADS": str(threads)}
        self._idle = idle
        self._docket, self._cases = trio.open_memory_channel[_Case](0)
        self.starts = 0
        """How many processes have been started."""

    async def execute(self, order: orders.ExecuteNode) -> Tensor:
        """Return what a node makes; raises what the process raised, Unavailable when it died: the next may not."""
        case = _Case(order)
        await self._docket.send(case)
        await case.told.wait()
        if isinstance(case.result, ProofswarmError):
            raise case.result
        assert case.result is not None
        return case.result

    async def run(self) -> None:
        """Wait for cases and have them executed, until cancelled."""
        while True:
            first = await self._cases.receive()
            self.starts += 1
            async with (
                trio.open_nursery() as nursery,
                ComputeClient(self._environment).running(nursery) as bench,
            ):
                await self._sit(bench, first)

    async def _sit(self, bench: ComputeClient, case: _Case) -> None:
        """Execute until there is nothing to do for a while, or the process may have died."""
        while True:
            try:
                case.result = await bench.ask(case.order, URGENT)
            except ProofswarmError as error:
                case.result = error
            case.told.set()
            if isinstance(case.result, Unavailable):
                return
            with trio.move_on_after(self._idle) as waiting:
                case = await self._cases.receive()
            if waiting.cancelled_caught:
                return
