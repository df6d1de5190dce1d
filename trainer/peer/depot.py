"""What a peer holds of a run's blobs: taken over, fetched, served to others, and pruned."""

from collections import defaultdict
from collections.abc import Sequence

import trio

from p2p.blobs import BlobStore
from p2p.bounds import GoOn, Slices, at_once
from p2p.bundles import check_bundle, read_bundle
from p2p.exchange import Exchange
from p2p.transport import PeerAddress
from trainer.peer.record import Record
from trainer.runs.library import published
from verification.errors import UserError
from verification.honest import decide
from verification.manifest import BundleRef, Manifest
from verification.sizes import PlacedPrograms, contribution_size, state_size
from verification.state import State
from verification.tensors import Bundle
from verification.units import Address, Digest

KEEP_SECONDS = 60.0
"""A blob younger than this is never pruned: it may not be on the ledger yet."""
FETCHES, FETCHES_PER_AUTHOR = 8, 2
"""How many contributions are fetched at a time, and of one author: slow ones must not hold up those of others."""
SLICE_SECONDS = 2.0
"""How long a fetch may go on while others wait."""


class Depot:
    """One peer's store, and the exchange with those of others."""

    def __init__(self, store: BlobStore, exchange: Exchange, manifest: Manifest, record: Record) -> None:
        """`exchange` works on `store`."""
        self._store, self._exchange, self._record = store, exchange, record
        self._all = published(manifest)
        self._turns = Slices(FETCHES, SLICE_SECONDS)
        self._authors: dict[Address, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(FETCHES_PER_AUTHOR)
        )
        self._limits: dict[str, int] = {}

    def adopt(self, source: BlobStore) -> None:
        """Copy what the submitter published beside the ledger; raises UserError for what is not there whole."""
        for blob in self._all:
            if self._store.has(blob):
                continue
            if not source.has(blob) or self._store.put_file(source.path(blob)) != blob:
                raise UserError(
                    f"{source.folder} lacks blob {blob.hex()} or holds it damaged: copy the run's blobs/ again"
                )

    def expect(self, programs: PlacedPrograms) -> None:
        """Learn from the run's programs how long states and contributions are, before any is fetched or read."""
        self._limits = {"state": state_size(programs), "contribution": contribution_size(programs)}

    @property
    def _longest(self) -> int:
        return max(self._limits.values())

    def serve(self) -> None:
        """Answer others who ask for blobs."""
        self._exchange.serve()

    async def fetch_state(self, blob: Digest, sources: Sequence[PeerAddress]) -> None:
        """Have a state here; it waits for no other fetch. Raises what `Exchange.fetch` raises."""
        await self._fetch(blob, "state", sources)

    async def fetch_contribution(self, blob: Digest, author: Address, sources: Sequence[PeerAddress]) -> None:
        """Have a contribution here, in its author's turn. Raises what `Exchange.fetch` raises."""
        async with self._authors[author], self._turns.turn() as go_on:
            await self._fetch(blob, "contribution", sources, go_on)

    async def _fetch(
        self, blob: Digest, what: str, sources: Sequence[PeerAddress], go_on: GoOn = at_once
    ) -> None:
        if self._store.has(blob):
            return
        path = await self._exchange.fetch(blob, sources, self._limits[what], go_on)
        self._record.write("fetched", what=what, blob=blob.hex(), size=path.stat().st_size)

    async def read(self, ref: BundleRef) -> Bundle:
        """Return a bundle that is here; raises Malformed for a blob that does not hold it, Unavailable without one."""
        return await trio.to_thread.run_sync(read_bundle, self._store, ref, self._longest)

    async def check(self, ref: BundleRef) -> None:
        """Raise what `read` raises, in the memory of one tensor."""
        await trio.to_thread.run_sync(check_bundle, self._store, ref, self._longest)

    def needed(self, state: State) -> set[Digest]:
        """Return the blobs that programs, rounds, audits, disputes or newcomers may still ask for.

        Newcomers try their machines on the start state, and take it from all members: it stays as the programs do.
        """
        rounds = decide.needed_rounds(state)
        keep = {ref.blob for number in rounds for ref in decide.blobs_of_round(state, number)}
        return keep.union(self._all)

    async def prune(self, keep: set[Digest]) -> None:
        """Delete all other blobs that have lain here for a while."""
        await trio.to_thread.run_sync(self._store.prune, keep, KEEP_SECONDS)
