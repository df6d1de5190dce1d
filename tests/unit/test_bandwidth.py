"""A limited link carries so many bytes a second, and statements go before tensors."""

import pytest
import trio

from p2p.bandwidth import Link, Meter


def test_a_meter_says_when_the_link_is_free() -> None:
    meter = Meter(100)
    assert meter.wait(5.0) == 0
    meter.charge(50, 5.0)
    meter.charge(100, 5.0)
    assert meter.wait(5.0) == pytest.approx(1.5)
    assert meter.wait(6.0) == pytest.approx(0.5)
    assert meter.wait(60.0) == 0
    meter.charge(100, 60.0)
    assert meter.wait(60.0) == pytest.approx(1.0)


async def test_bulk_keeps_to_the_rate_in_order_of_arrival(autojump_clock: trio.testing.MockClock) -> None:
    link, began, sent = Link(100), trio.current_time(), list[tuple[str, float]]()

    async def send(name: str) -> None:
        await link.turn(100, True)
        sent.append((name, trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(send, name)
            await trio.testing.wait_all_tasks_blocked()
    assert [name for name, _ in sent] == ["a", "b", "c"]
    assert [at for _, at in sent] == pytest.approx([0, 1, 2])


async def test_statements_go_at_once_on_a_full_link_and_bulk_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    link, began = Link(100), trio.current_time()
    await link.turn(1000, True)
    assert link.is_full
    await link.turn(50, False)
    assert trio.current_time() == began
    await link.turn(100, True)
    assert trio.current_time() - began == pytest.approx(10.5)


async def test_who_gives_up_waiting_sends_nothing_and_counts_for_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    link, began = Link(100), trio.current_time()
    await link.turn(100, True)
    with trio.move_on_after(0.5):
        await link.turn(10_000, True)
    await link.turn(100, True)
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_without_a_limit_nothing_waits() -> None:
    link = Link(None)
    await link.turn(1 << 40, True)
    assert not link.is_full
