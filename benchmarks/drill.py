"""Machines of a group that holds a model in parts are killed, each in turn, in the middle of a round.

    proofswarm bench drill [--kills 10] [--machines 3] [--rounds 60] [--json FILE]

It is `demo --shards` with a second worker and a verifier. The first machine is the group's leader, whose node goes with
it. A machine is started again at once, and the next is killed when the group has contributed to a round since.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import publish
from trainer.commands.console import Console
from trainer.commands.demo import DemoSettings, run_demo
from trainer.commands.group import ticket_of
from trainer.commands.scene import Seat, Tell, start
from trainer.commands.sharded_demo import ShardedScene, in_shards
from trainer.folder import RunFolder
from verification.state import State
from verification.units import Round


@dataclass
class Kill:
    """A machine that was killed, the leader is 0, in which round and when; and seconds until its group contributed to
    a state again, None: it did not."""

    machine: int
    round: Round
    at: float
    back: float | None = None


@dataclass
class Drilled(ShardedScene):
    """A sharded demo whose first worker's machines are killed; how many times, what was done, and how long rounds took.

    A kill takes place half a usual round after its round has opened.
    """

    kills: int = 0
    done: list[Kill] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    deadline: float = 0.0
    opened: tuple[int, float] = (-1, 0.0)

    def act(self, state: State, tell: Tell) -> None:
        """Start the other machines, and kill one when it is time."""
        super().act(state, tell)
        now, number = time.monotonic(), len(state.rounds) - 1
        self.deadline = state.manifest.windows.commit / 1000
        if number != self.opened[0]:
            if self.opened[0] >= 0:
                self.seconds.append(now - self.opened[1])
            self.opened = number, now
        if self._is_back(state) and self._is_amid(state, now):
            self._kill(Round(number), now, tell)

    def _is_back(self, state: State) -> bool:
        """Whether the group has contributed since the last kill; what it took is noted."""
        account, last = self.seats[0].account, self.done[-1] if self.done else None
        since = 0 if last is None else last.round + 1
        if not any(worked.was_included(account) for worked in state.rounds[since:]):
            return False
        if last is not None and last.back is None:
            last.back = time.monotonic() - last.at
        return True

    def _is_amid(self, state: State, now: float) -> bool:
        """Whether it is the middle of a round to which the group has not committed yet."""
        usual = sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else 0.0
        return (
            len(self.done) < self.kills
            and bool(self.seconds)
            and now - self.opened[1] > usual / 2
            and self.seats[0].account not in state.current.commits
        )

    def _kill(self, number: Round, now: float, tell: Tell) -> None:
        machine = len(self.done) % self.machines
        self.done.append(Kill(machine, number, now))
        tell(f"round {number}: machine {machine + 1} of {self.machines} is killed, the kill {len(self.done)}")
        if machine:
            self.members[machine - 1].kill()
            self.members[machine - 1].wait()
            self.members[machine - 1] = self.member(machine + 1)
            return
        seat = self.seats[0]
        assert seat.process is not None
        seat.process.kill()
        seat.process.wait()
        for member in self.members:  # which end with their leader
            member.wait()
        self.members.clear()
        ticket_of(self.folder, seat.recorded_as).unlink()
        start(self.folder, seat)


def run(kills: int, machines: int, rounds: int, folder: Path, json: Path | None) -> int:
    """Run the drill and return the demo's exit status, or 1 where too few were killed; raises UserError."""
    scenes: list[Drilled] = []

    def made(folder: RunFolder, seats: Sequence[Seat], machines: int, whole: int, limit: int) -> Drilled:
        scenes.append(Drilled(folder, seats, machines, whole, limit, kills=kills))
        return scenes[-1]

    settings = DemoSettings(folder, "none", rounds, 2, 1, 0, None, accumulate=4)
    status = run_demo(settings, partial(in_shards, machines, make=made))
    (scene,) = scenes
    rows = [
        {"machine": each.machine, "round": int(each.round), "back_seconds": each.back} for each in scene.done
    ]
    publish(rows, summarise(scene, status), Console(), json)
    return status if len(scene.done) == kills else 1


def summarise(scene: Drilled, status: int) -> dict[str, Any]:
    """Return the figures that count: the longest round, and what no round may take longer than."""
    backs = [each.back for each in scene.done if each.back is not None]
    return {
        "kills": len(scene.done),
        "rounds": len(scene.seconds),
        "longest_round_seconds": round(max(scene.seconds, default=0.0), 2),
        "median_round_seconds": round(sorted(scene.seconds)[len(scene.seconds) // 2], 2)
        if scene.seconds
        else None,
        "deadline_seconds": scene.deadline,
        "longest_until_back_seconds": round(max(backs), 2) if backs else None,
        "ends_in_order": status == 0,
    }
