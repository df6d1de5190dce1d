"""Bytes of answers under way: never more than there are, in order of arrival."""

import trio

from p2p.bounds import Slices, Turns


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


async def test_who_leaves_in_the_moment_in_which_its_turn_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Which of the two is seen first is up to chance."""
    for number in range(40):
        slices, done = Slices(1, 1.0), list[int]()

        async def work(number: int, until: float, slices: Slices = slices, done: list[int] = done) -> None:
            async with slices.turn():
                await trio.sleep_until(until)
            done.append(number)

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, 0, begun + 1.0)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(work, 1, begun + 1.5)
            nursery.start_soon(work, 2, begun + 1.5)
        assert sorted(done) == [0, 1, 2], number
        assert trio.current_time() <= begun + 3.0


async def test_no_more_than_may_go_on_at_a_time_and_all_get_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slices, most, done = Slices(2, 1.0), 0, list[int]()

    async def work(number: int, steps: int) -> None:
        nonlocal most
        async with slices.turn() as go_on:
            for _ in range(steps):
                await go_on()
                most = max(most, len(slices._since))
                await trio.sleep_until(trio.current_time() + 0.5)
            done.append(number)

    async with trio.open_nursery() as nursery:
        for number, steps in enumerate((40, 40, 2, 2, 4)):
            nursery.start_soon(work, number, steps)
    assert most == 2
    assert set(done[:3]) == {2, 3, 4}
    assert trio.current_time() <= 2 + 0.5 * 88 / 2 + 1


async def test_all_tasks_of_a_turn_wait_for_one_turn(autojump_clock: trio.testing.MockClock) -> None:
    slices, steps = Slices(1, 1.0), list[str]()

    async def work(name: str, tasks: int) -> None:
        async with slices.turn() as go_on, trio.open_nursery() as nursery:

            async def part() -> None:
                for _ in range(3):
                    await go_on()
                    steps.append(name)
                    await trio.sleep_until(trio.current_time() + 1)

            for _ in range(tasks):
                nursery.start_soon(part)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "many", 5)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(work, "one", 1)
    assert steps.count("many") == 15
    assert steps.index("one") <= 10
