"""A peer's turns at fetching: one author that is slow holds up its own contributions only."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import trio

from p2p.blobs import BlobStore
from p2p.bounds import GoOn
from p2p.exchange import Exchange
from p2p.transport import PeerAddress
from simulator.toy import minimal
from trainer.events import EventLog
from trainer.peer.depot import FETCHES, FETCHES_PER_AUTHOR, SLICE_SECONDS, Depot
from trainer.peer.record import Record
from verification.digest import tagged
from verification.units import Address, Digest, Millis

CHUNK_SECONDS = 19.9
"""How long a source takes that must not be later than 20 s with a chunk."""
SLOW, HONEST = Address(b"\x01" * 20), Address(b"\x02" * 20)


class Fetches:
    """An exchange that knows who is slow: blobs of `never` never come, others at once."""

    def __init__(self, store: BlobStore) -> None:
        self.store, self.never, self.going = store, set[Digest](), Counter[Digest]()

    async def fetch(self, blob: Digest, sources: Sequence[PeerAddress], limit: int, go_on: GoOn) -> Path:
        """Take a chunk whenever it may for ever, or write the blob down."""
        self.going[blob] += 1
        try:
            while blob in self.never:
                await go_on()
                await trio.sleep_until(trio.current_time() + CHUNK_SECONDS)
            path = self.store.path(self.store.put(b"bytes"))
        finally:
            self.going[blob] -= 1
        return path


def depot(folder: Path) -> tuple[Depot, Fetches]:
    """A depot, and what fetches for it."""
    store = BlobStore(folder / "blobs")
    fetches = Fetches(store)
    record = Record(EventLog(folder / "peer.jsonl", "0xa"), lambda: Millis(0))
    made = Depot(store, cast(Exchange, fetches), minimal(), record)
    made._limits = {"state": 1000, "contribution": 1000}
    return made, fetches


async def test_an_author_that_serves_nothing_holds_two_slots_and_states_wait_for_none(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The clock stands still: who waited for a turn would wait for good."""
    here, fetches = depot(tmp_path)
    held = [tagged("held", bytes([number])) for number in range(2 * FETCHES)]
    fetches.never.update(held)
    async with trio.open_nursery() as nursery:
        for blob in held:
            nursery.start_soon(here.fetch_contribution, blob, SLOW, ())
        await trio.testing.wait_all_tasks_blocked()
        assert fetches.going.total() == FETCHES_PER_AUTHOR < FETCHES
        await here.fetch_contribution(tagged("honest"), HONEST, ())
        nursery.cancel_scope.cancel()


async def test_a_state_comes_while_every_slot_is_held(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    here, fetches = depot(tmp_path)
    async with trio.open_nursery() as nursery:
        for number in range(2 * FETCHES):
            blob = tagged("held", bytes([number]))
            fetches.never.add(blob)
            author = Address(bytes([number // FETCHES_PER_AUTHOR]) * 20)
            nursery.start_soon(here.fetch_contribution, blob, author, ())
        await trio.testing.wait_all_tasks_blocked()
        assert fetches.going.total() == FETCHES
        await here.fetch_state(tagged("state"), ())
        nursery.cancel_scope.cancel()


async def test_authors_that_hold_every_slot_give_them_up_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    here, fetches = depot(tmp_path)
    async with trio.open_nursery() as nursery:
        for number in range(FETCHES):
            blob = tagged("held", bytes([number]))
            fetches.never.add(blob)
            author = Address(bytes([3 + number // FETCHES_PER_AUTHOR]) * 20)
            nursery.start_soon(here.fetch_contribution, blob, author, ())
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await here.fetch_contribution(tagged("honest"), HONEST, ())
        assert trio.current_time() - began == SLICE_SECONDS
        nursery.cancel_scope.cancel()
