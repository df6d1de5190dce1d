"""What a member of a crew gives: once it is made, to whom it goes, in pieces, and nothing else."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p.messages import CrossingBytes
from trainer.compute.orders import PIECE, Given
from trainer.peer.outbox import TOGETHER, Outbox, letters_of, pieces_of
from verification.errors import Malformed, Unavailable
from verification.manifest import Crossing, Cut, ProgramRef, Shard, WorkUnits
from verification.units import Count, Digest

REF = ProgramRef(Digest(bytes(32)), Digest(bytes(32)))
UNITS = WorkUnits(Count(1), Count(1), Count(1))
SHARDS = tuple(Shard(REF, REF, REF, UNITS, (Count(number),)) for number in range(3))
CUT = Cut(SHARDS, (Crossing(Count(0), (Count(1),)), Crossing(Count(0), (Count(1), Count(2)))))
STEPS = 6


def outbox(held: int = 1 << 20) -> Outbox:
    """What shard 0 gives: a long tensor to one other, a short one to two."""
    return Outbox(CUT, {0: PIECE + 1, 1: 2}, STEPS, held)


def given(step: int, crossing: int, data: bytes, more: bool = False) -> Given:
    """A piece from the compute process."""
    return Given(Count(step), Count(crossing), data, more)


async def test_a_piece_comes_once_it_is_made() -> None:
    box, found = outbox(), list[CrossingBytes]()

    async def ask(number: int) -> None:
        found.append(await box.pieces(1, 1, [0], number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 1)
        await wait_all_tasks_blocked()
        box.put(given(1, 0, bytes(PIECE)))
        await wait_all_tasks_blocked()
        assert found == []
        box.put(given(1, 0, b"x"))
    assert found == [CrossingBytes((b"x",), None)]
    assert (await box.pieces(1, 1, [0], 0)).data == (bytes(PIECE),)
    assert box.sent == PIECE + 1
    assert pieces_of(PIECE + 1) == 2 and pieces_of(PIECE) == 1 and pieces_of(0) == 1


async def test_what_does_not_go_there_is_malformed() -> None:
    box = outbox()
    for taker, step, crossings, number in (
        (2, 1, [0], 0),
        (2, 1, [1, 0], 0),
        (1, 0, [0], 0),
        (1, STEPS + 1, [0], 0),
        (1, 1, [0], 2),
        (1, 1, [1, 0], 1),
        (1, 1, [7], 0),
        (1, 1, [], 0),
        (1, 1, [1] * (TOGETHER + 1), 0),
    ):
        with pytest.raises(Malformed):
            await box.pieces(taker, step, crossings, number)


async def test_a_letter_brings_what_is_there_by_then_from_its_beginning_on() -> None:
    cut = Cut(SHARDS, (Crossing(Count(0), (Count(1),)),) * 3)
    box, found = Outbox(cut, {0: 1, 1: 2, 2: PIECE}, STEPS), list[CrossingBytes]()

    async def ask() -> None:
        found.append(await box.pieces(1, 1, [0, 1, 2], 0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        box.put(given(1, 1, b"bc"))
        await wait_all_tasks_blocked()
        box.put(given(1, 0, b"a", more=True))
        await wait_all_tasks_blocked()
        assert found == []
        box.put(given(1, 2, bytes(PIECE)))
    assert found == [CrossingBytes((b"a", b"bc"), None)]  # which the third does not fit beside
    assert (await box.pieces(1, 1, [1], 0)).data == (b"bc",)
    assert box.sent == 5


def test_what_is_smaller_than_the_next_goes_with_it() -> None:
    sizes = {0: 64, 1: 100, 2: 64, 3: 100, 4: 100, 5: 4, 6: PIECE, 7: PIECE + 1}
    assert letters_of(sizes, [0, 1, 2, 3, 4, 5, 6, 7]) == [(0, 1), (2, 3), (4,), (5,), (6,), (7,)]
    assert letters_of(sizes, [0, 2, 4]) == [(0,), (2, 4)] and letters_of(sizes, []) == []
    rising = {number: number + 1 for number in range(TOGETHER + 1)}
    assert letters_of(rising, range(TOGETHER + 1)) == [tuple(range(TOGETHER)), (TOGETHER,)]


async def test_a_failure_stands_for_what_is_not_made_and_a_closed_round_for_nothing() -> None:
    box, failure = outbox(), Digest(b"f" * 32)
    box.put(given(1, 1, b"ab"))
    box.fail(failure)
    assert await box.pieces(2, 1, [1], 0) == CrossingBytes((b"ab",), None)
    assert await box.pieces(2, 2, [1], 0) == CrossingBytes((), failure)
    box.close()
    with pytest.raises(Unavailable, match="the round is over"):
        await box.pieces(2, 1, [1], 0)


async def test_above_its_bound_it_drops_what_all_have_who_take_it() -> None:
    box = outbox(held=2)
    for step in (1, 2, 3):
        box.put(given(step, 1, b"ab"))
    assert box.size == 6  # nobody has asked for anything
    await box.pieces(1, 3, [1], 0)
    box.put(given(4, 1, b"ab"))
    assert box.size == 8  # one of two has
    await box.pieces(2, 3, [1], 0)
    box.put(given(5, 1, b"ab"))
    assert box.size == 8
    assert (await box.pieces(1, 2, [1], 0)).data == (b"ab",)
