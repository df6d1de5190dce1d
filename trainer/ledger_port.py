"""The node's way to the ledger: SQLite and the law run in a worker thread, one call at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trainer import orders
from trainer.workbench import URGENT, Workbench
from verification.ledger.local import Entry, LocalLedger
from verification.state import State
from verification.tensors import Bundle, Tensor
from verification.units import Digest


class RemoteExecutor:
    """The law's executor in the node: asks the compute process. Called from the ledger's worker thread."""

    def __init__(self, bench: Workbench) -> None:
        """Execute on `bench`."""
        self._bench = bench

    def execute(self, program: Digest, inputs: Sequence[Tensor | None]) -> Bundle:
        """Return the program's outputs; raises what `Executor.execute` raises."""
        order = orders.Execute(program, tuple(inputs))
        reply = trio.from_thread.run(self._bench.ask, order, URGENT)
        outputs: Bundle = reply.outputs
        return outputs


class LedgerPort:
    """One ledger behind a lock. Whoever looks at the state holds the lock, since the thread changes it in place."""

    def __init__(self, path: Path, bench: Workbench) -> None:
        """`open` must be awaited before anything else."""
        self._path, self._bench = path, bench
        self._lock = trio.Lock()
        self._ledger: LocalLedger

    async def open(self) -> None:
        """Fold the ledger's log; raises UserError."""
        self._ledger = await trio.to_thread.run_sync(LocalLedger, self._path, RemoteExecutor(self._bench))

    async def refresh(self) -> list[Entry]:
        """Fold what is new, let due deadlines pass, and return the new entries."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.tick)
            return self._ledger.entries()

    async def submit(self, data: bytes) -> None:
        """Put a signed statement on the ledger; raises a Violation when it is refused."""
        async with self._lock:
            await trio.to_thread.run_sync(self._ledger.submit, data)

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        """Hold the lock and the newest folded state."""
        async with self._lock:
            yield self._ledger.state
