"""The law's executor in the node process: it reads programs itself, and others execute their nodes."""

from collections.abc import Sequence

import trio

from p2p.blobs import BlobStore
from trainer.compute import orders
from trainer.compute.client import URGENT, ComputeClient
from trainer.compute.referee import Referee
from verification.errors import Malformed, Unavailable
from verification.manifest import Manifest
from verification.program import Node, Program, decode_program, digest_of_program
from verification.tensors import Tensor
from verification.units import Count, Digest


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
            return await self._bench.ask(order, URGENT)
        return await self._referee.execute(order)
