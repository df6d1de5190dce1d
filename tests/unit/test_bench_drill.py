"""`bench drill`: when it kills a machine, and what it counts."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.drill import Drilled, Kill, summarise
from trainer.commands.scene import Seat
from trainer.folder import RunFolder
from verification.units import Address, Round

GROUP, OTHER = Address(bytes(20)), Address(b"\1" * 20)


def drilled(tmp_path: Path) -> Drilled:
    folder = RunFolder(tmp_path)
    seats = [Seat(name, who, "worker", [], folder, name) for name, who in (("a", GROUP), ("b", OTHER))]
    return Drilled(folder, seats, 3, 100, 50, kills=2)


def state(*included: set[Address], commits: tuple[Address, ...] = ()) -> Any:
    """A run whose rounds included these, in whose newest round these have committed."""
    rounds = [SimpleNamespace(was_included=each.__contains__, commits=commits) for each in included]
    return SimpleNamespace(rounds=rounds, current=rounds[-1])


def test_a_machine_is_killed_amid_a_round_of_a_group_that_is_back(tmp_path: Path) -> None:
    scene, now = drilled(tmp_path), time.monotonic()
    scene.opened, scene.seconds = (1, now - 3.0), [4.0, 8.0, 4.0]
    assert not scene._is_back(state(set(), {OTHER}))
    assert scene._is_back(state({GROUP}, set())) and scene._is_amid(state({GROUP}, set()), now)
    assert not scene._is_amid(state({GROUP}, set(), commits=(GROUP,)), now)
    assert not scene._is_amid(state({GROUP}, set()), now - 1.5)
    scene.done = [Kill(0, Round(1), now - 5.0)]
    assert not scene._is_back(state({GROUP}, set(), {OTHER})) and scene.done[0].back is None
    assert scene._is_back(state({GROUP}, set(), {OTHER}, {GROUP})) and (scene.done[0].back or 0) >= 5.0
    scene.done.append(Kill(1, Round(4), now))
    assert not scene._is_amid(state({GROUP}, set()), now)


def test_the_longest_round_counts_and_nothing_is_said_of_none(tmp_path: Path) -> None:
    scene = drilled(tmp_path)
    assert (
        summarise(scene, 1)["longest_until_back_seconds"] is None and not summarise(scene, 1)["ends_in_order"]
    )
    scene.seconds, scene.deadline, scene.done = [1.0, 9.0, 2.0], 30.0, [Kill(0, Round(2), 0.0, 5.0)]
    found = summarise(scene, 0)
    assert (found["longest_round_seconds"], found["median_round_seconds"]) == (9.0, 2.0)
    assert (found["kills"], found["longest_until_back_seconds"], found["deadline_seconds"]) == (1, 5.0, 30.0)
