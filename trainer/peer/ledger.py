"""The node's way to the ledger: it and the law run in a worker thread, one call at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from p2p.blobs import BlobStore
from trainer.compute import orders
from trainer.compute.client import URGENT, ComputeClient
from trainer.compute.referee import Referee
from trainer.folder import RunFolder
from trainer.runs.ledgers import clock_of, open_ledger
from verification.errors import Malformed, Unavailable
from verification.executor import Executor
from verification.ledger.log import Entry, Twice
from verification.ledger.port import Ledger
from verification.manifest import Manifest
from verification.program import Node, Program, decode_program, digest_of_program
from verification.state import State
from verification.tensors import Tensor
from verification.units import Count, Digest, Millis


class RemoteExecutor:
    """The law's executor in the node: reads programs itself, and has their nodes executed in another process.

    Called from the ledger's worker thread.
    """

    def __init__(self, bench: ComputeClient, referee: Referee, store: BlobStore, manifest: Manifest) -> None:
        """Execute on `bench` when it is idle, else by `referee`; programs lie in `store`."""
        self._bench, self._referee, self._store = bench, referee, store
        self._blobs = {ref.digest: ref.blob for ref in manifest.programs.all()}
        self._programs: dict[Digest, Program] = {}

    def program(self, digest: Digest) -> Program:
        """Return a program of the run; raises Unavailable for another, Malformed for bytes that are not it."""
        if digest not in self._programs:
            if digest not in self._blobs:
                raise Unavailable(f"the run has no program {digest.hex()}")
            program = decode_program(self._store.get(self._blobs[digest]))
            if digest_of_program(program) != digest:
                raise Malformed("a program's blob has another digest than the manifest says")
            self._programs[digest] = program
        return self._programs[digest]

    def execute_node(self, arithmetic: str, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Return what a node makes; raises what `Executor.execute_node` raises."""
        order = orders.ExecuteNode(arithmetic, Count(number), node, tuple(inputs))
        return trio.from_thread.run(self._execute, order)

    async def _execute(self, order: orders.ExecuteNode) -> Tensor:
        """Ask whoever is free: behind a round a verdict would hold up the ledger, and all who write to it."""
        if self._bench.is_idle:
            made: orders.Executed = await self._bench.ask(order, URGENT)
            return made.result
        return await self._referee.execute(order)


class LedgerPort:
    """One ledger behind a lock. Whoever looks at the state holds the lock, since the thread changes it in place."""

    def __init__(self, folder: RunFolder, executor: Executor) -> None:
        """`open` must be awaited before anything but `now`."""
        self._folder, self._executor = folder, executor
        self._now = clock_of(folder)
        self._lock = trio.Lock()
        self._ledger: Ledger
        self.contradictions: list[Twice] = []
        self.height = 0
        """The number of the newest entry."""

    async def open(self) -> None:
        """Fold the ledger's log; raises UserError."""
        self._ledger = await trio.to_thread.run_sync(open_ledger, self._folder, self._executor)
        self._now = self._ledger.now

    def now(self) -> Millis:
        """Return the ledger's time, which everything that a peer says, does or records goes by."""
        return self._now()

    async def refresh(self) -> list[Entry]:
        """Fold what is new, let due deadlines pass, and return the new entries."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.tick)
            self.contradictions = await trio.to_thread.run_sync(self._ledger.contradictions)
            entries = self._ledger.entries()
            if entries:
                self.height = entries[-1].seq
            return entries

    async def submit(self, data: bytes) -> None:
        """Put a signed statement on the ledger; raises a Violation when it is refused."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.submit, data)

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        """Hold the lock and the newest folded state."""
        async with self._lock:
            yield self._ledger.state
