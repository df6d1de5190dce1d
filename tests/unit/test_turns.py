"""Bytes of answers under way: never more than there are, in order of arrival."""

import trio

from p2p.bounds import Turns


async def test_who_wants_more_than_is_free_waits_in_order() -> None:
    turns, done = Turns(10), list[str]()

    async def use(name: str, size: int, until: trio.Event) -> None:
        async with turns.hold(size):
            done.append(name)
            await until.wait()

    async with trio.open_nursery() as nursery:
        first, others = trio.Event(), trio.Event()
        others.set()
        assert turns.is_idle
        for name, size, until in (("a", 6, first), ("b", 5, others), ("c", 4, others), ("d", 99, others)):
            nursery.start_soon(use, name, size, until)
            await trio.testing.wait_all_tasks_blocked()
        assert done == ["a"]
        assert not turns.is_idle
        first.set()
    assert done == ["a", "b", "c", "d"]
    assert turns.is_idle


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    turns = Turns(10)
    async with turns.hold(10):
        with trio.move_on_after(0):
            async with turns.hold(1):
                raise AssertionError("there was nothing free")
    async with turns.hold(10):
        pass
    assert turns.is_idle
