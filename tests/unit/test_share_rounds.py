"""A member's round that cannot go on: whom it names. (SPEC.md 4.17)"""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from simulator.toy_crew import with_crews
from trainer.peer.share import Outlook, Seat, ShareRound
from verification.manifest import Post
from verification.statements import Receipt, Stuck
from verification.units import Address, Count, Round

OWN, MATE = Address(b"own".ljust(20)), Address(b"mate".ljust(20))


class Bench:
    """A compute process that never comes to an end."""

    async def ask(self, *order: Any) -> None:
        await trio.sleep_forever()


async def signed(receipt: Receipt) -> bytes:
    raise AssertionError("there is nothing to sign")


@pytest.mark.parametrize("is_late", [False, True])
async def test_who_computes_still_names_a_neighbour_that_committed_without_its_receipt_once_it_is_late(
    is_late: bool, autojump_clock: trio.testing.MockClock
) -> None:
    looks = [Outlook(None, False, MATE)] * 3 + [Outlook(None, is_late, MATE)] * 3 + [Outlook(OWN, False)]

    async def look() -> Outlook:
        return looks.pop(0)

    job: Any = SimpleNamespace(number=Round(0), steps=Count(1))
    seat = Seat(job, Post(Count(0), Count(0)), with_crews().cuts[0], (OWN, MATE), {}, {})
    bench: Any = Bench()
    letters: Any = SimpleNamespace(begin=lambda number, desk: None)
    found = await ShareRound(seat, bench, letters, signed, look).run()
    assert found == Stuck(Round(0), MATE if is_late else OWN)
    assert len(looks) == (3 if is_late else 0)
