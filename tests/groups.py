"""Groups of members in threads of one process, which exchange totals in memory."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import torch

from p2p.blobs import BlobStore
from tests.tiny import STEPS, WORKER, data_of, start_of
from trainer.groups.split import Share, shares, split
from trainer.groups.spread import spread_of
from trainer.groups.step import Exchange, MemberStep, NotTogether, Parts
from trainer.programs.devices import products_for
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import RoundOutcome, Rounds
from trainer.runs.create import Created
from verification.digest import tagged
from verification.errors import Unavailable
from verification.program import Program, decode_program
from verification.tensors import Bundle
from verification.units import Count, Digest, Round

R = TypeVar("R")
JOB = Job(Round(1), WORKER, tagged("beacon"), STEPS)
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
        """Return what all members' numbers are reduced to; raises Unavailable when one has left."""
        self._given[place] = numbers
        try:
            self._barrier.wait(PATIENCE)
            made = reduce(torch.stack(self._given))
            self._barrier.wait(PATIENCE)
        except BrokenBarrierError as error:
            raise Unavailable("a member has left") from error
        return made

    def leave(self) -> None:
        """End all exchanges, now and later."""
        self._barrier.abort()


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


class Liar:
    """An exchange that adds one to a member's first sum of every exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the greatest numbers."""
        return self._exchange.greatest(numbers)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sums of what the others say and of something else."""
        return self._exchange.sum(numbers + (torch.arange(len(numbers)) == 0))


class Threads:
    """A group whose other members run in threads of this process; the last of them lies, or leaves at a step."""

    def __init__(self, size: int, lies: bool = False, leaves_at: int = 0) -> None:
        self._size, self._lies, self._leaves_at = size, lies, leaves_at
        self.counts: list[int] = []
        """How many members began each step."""
        self.given = 0
        """How many working states the leader gave."""
        self._states: list[list[torch.Tensor]] = [[] for _ in range(size)]
        self._running: list[Future[None]] = []

    def joined(self, program: bytes, parts: Parts) -> "Threads":
        """Take the inner program, as `GroupEngine` wants it."""
        shares(parts.records, self._size)
        decoded, products = decode_program(program), products_for(NODE_BY_NODE)
        self._parts = [Parts(decoded, NODE_BY_NODE, products) for _ in range(self._size)]
        self._pool = ThreadPoolExecutor(self._size)
        return self

    def gather(self) -> int:
        """Return how many there are, when the last step has ended."""
        for each in self._running:
            each.result()
        return self._size

    def begin(self, divided: Sequence[Share], state: Sequence[torch.Tensor], is_shared: bool) -> Exchange:
        """Start the other members."""
        memory = Memory(len(divided))
        self.counts.append(len(divided))
        self.given += not is_shared
        if not is_shared:
            self._states = [[tensor.clone() for tensor in state] for _ in divided]
        self._running = [
            self._pool.submit(self._make, place, divided[place], memory) for place in range(1, len(divided))
        ]
        return InMemory(memory, 0)

    def micros(self) -> list[Count]:
        """Return as many microseconds as the other members have places."""
        return [Count(place) for place in range(1, self._size)]

    def recover(self) -> None:
        """Go on without the one that has left."""
        wait(self._running)
        self._running, self._size = [], self._size - 1

    def _make(self, place: int, share: Share, memory: Memory) -> None:
        is_last = place == self._size - 1
        if is_last and len(self.counts) == self._leaves_at:
            memory.leave()
            return
        exchange: Exchange = InMemory(memory, place)
        with suppress(NotTogether):
            step = self._parts[place].of(share)
            self._states[place] = step.run(
                self._states[place], Liar(exchange) if is_last and self._lies else exchange
            )


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


def programs_of(made: Created) -> dict[Digest, bytes]:
    """Its programs by digest."""
    store = BlobStore(made.folder.blobs)
    return {ref.digest: store.get(ref.blob) for ref in made.manifest.programs.all()}


def outcome(
    made: Created,
    engine: TorchEngine,
    start: Bundle | None = None,
    checked: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
) -> RoundOutcome:
    """A round by an engine."""
    tensors = (start or start_of(made)).tensors
    return Rounds(engine, made.manifest, data_of(made, engine)).run(JOB, tensors, on_step, checked)


def alone(made: Created, start: Bundle | None = None) -> RoundOutcome:
    """The round by one machine."""
    return outcome(made, TorchEngine(programs_of(made)), start)
