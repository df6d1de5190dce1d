"""One stage of `bench shards`: its segments take the time that a machine of a stated speed would, and make nothing.

Which values cross when, and how many bytes they have, is a real program's; they travel for real. As a process:
`python -m benchmarks.staged PARTS SHARD STEPS ADDRESS...`, with the addresses of all stages in their order.
"""

import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.groups.links import Door, Links
from trainer.shards.mail import Mail
from trainer.shards.memory import order_of
from trainer.shards.run import Crossing, Values
from trainer.shards.segments import Pieces
from trainer.shards.stage import Stage
from verification import codec
from verification.program import size_bytes, values, work_units

PORT = 4901
SECRET = bytes(32)
"""Of a laboratory's stages, which nobody else reaches."""
ROOM = 32 << 20
MAX_SCENE = 1 << 30
"""Bytes of a file that tells all stages' parts; it is our own."""
LATE_SECONDS = 1e-3
"""What a stage may be late between two segments without losing it: the interpreter's time for a wait that is none."""


@dataclass(frozen=True)
class Task:
    """A segment: its work units, and which values it reads and makes."""

    work: int
    reads: tuple[int, ...]
    makes: tuple[int, ...]


@dataclass(frozen=True)
class Sent:
    """A value that others read: its number and bytes, and who they are."""

    number: int
    size: int
    takers: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A shard's part of an inner step: its tasks in order, its inputs and outputs, and what others read."""

    tasks: tuple[Task, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sent: tuple[Sent, ...]


@dataclass(frozen=True)
class Scene:
    """All stages' parts, and their machines' speeds in work units a second."""

    parts: tuple[Part, ...]
    speeds: tuple[int, ...]


def parts_of(pieces: Pieces, lead: int) -> list[Part]:
    """Return each shard's part of a step."""
    known, takers = values(pieces.program), dict[int, tuple[int, ...]]()
    for number, _, taker in pieces.crossings():
        takers[number] = (*takers.get(number, ()), taker)
    return [
        Part(
            tuple(
                Task(work_units(each.program), each.reads, each.makes)
                for each in order_of(pieces, shard, lead)
            ),
            tuple(pieces.inputs_of(shard)),
            tuple(pieces.outputs_at(shard)),
            tuple(
                Sent(n, size_bytes(known[n]), each)
                for n, each in takers.items()
                if pieces.layout.owners[n] == shard
            ),
        )
        for shard in pieces.layout.shards
    ]


class Emulated:
    """A shard's part whose tasks take their work units over a speed. (`trainer.shards.stage.Runner`)"""

    def __init__(self, part: Part, speed: float) -> None:
        self._part, self._speed = part, speed
        self.order: Sequence[Task] = part.tasks
        self._sent = {each.number: each for each in part.sent}
        self._nothing = torch.zeros(max([0, *(each.size for each in part.sent)]), dtype=torch.uint8)
        self._held: set[int] = set()
        self._reads: Counter[int] = Counter()
        self._free = 0.0

    def begin(self, inputs: Values) -> list[Crossing]:
        """Begin a step; inputs are not there."""
        self._held = set()
        self._reads = Counter(number for task in self.order for number in task.reads)
        self._reads.update(self._part.outputs)
        return self._made(self._part.inputs)

    def lacking(self, segment: Task | None) -> list[int]:
        """Return what has not come yet."""
        needed = self._part.outputs if segment is None else segment.reads
        return [number for number in needed if number not in self._held]

    def take(self, number: int, tensor: torch.Tensor) -> None:
        """Take note that a value has come."""
        if self._reads[number]:
            self._held.add(number)

    def run(self, segment: Task) -> list[Crossing]:
        """Let a task's time pass."""
        now = time.perf_counter()
        self._free = (self._free if now - self._free < LATE_SECONDS else now) + segment.work / self._speed
        time.sleep(max(0.0, self._free - now))
        for number in segment.reads:
            self._reads[number] -= 1
            if not self._reads[number]:
                self._held.remove(number)
        return self._made(segment.makes)

    def outputs(self) -> Values:
        """Return nothing."""
        return {}

    def _made(self, numbers: Sequence[int]) -> list[Crossing]:
        self._held.update(number for number in numbers if self._reads[number])
        return [
            Crossing(number, taker, self._nothing[: self._sent[number].size])
            for number in numbers
            if number in self._sent
            for taker in self._sent[number].takers
        ]


def neighbours_of(parts: Sequence[Part], shard: int) -> set[int]:
    """Return the shards with which a shard exchanges values."""
    pairs = {(n, taker) for n, part in enumerate(parts) for each in part.sent for taker in each.takers}
    return {other for pair in pairs if shard in pair for other in pair} - {shard}


def play(stage: Stage, mail: Mail, part: Part, speed: float, steps: int) -> dict[str, Any]:
    """Make steps; return when each ended, and what all but the first took."""
    runner, ended, spent = Emulated(part, speed), [time.monotonic()], []
    for number in range(steps):
        stage.execute(number, runner, {})
        ended.append(time.monotonic())
        spent.append(stage.spent)
    return {
        "ended": ended,
        "computed": sum(each.computed for each in spent[1:]),
        "waited": sum(each.waited for each in spent[1:]),
        "sent": spent[-1].sent,
        "arrived": mail.most_arrived,
        "leaving": mail.most_leaving,
    }


def main() -> None:
    """Be one stage among those at the addresses, and tell what came of it as a line of JSON."""
    path, own, steps, *addresses = sys.argv[1:]
    shard, scene = int(own), codec.decode(Scene, Path(path).read_bytes(), MAX_SCENE)
    others = neighbours_of(scene.parts, shard)
    door = Door(socket.create_server((addresses[shard], PORT)), SECRET, bytes)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    mail = Mail(others, ROOM)
    places = {number: (address, PORT) for number, address in enumerate(addresses)}
    Links(mail, door.meet(0, shard, places, others))
    told = play(Stage(mail), mail, scene.parts[shard], scene.speeds[shard], int(steps))
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    signal.pause()  # the others may still read what was sent last; the laboratory ends it


if __name__ == "__main__":
    main()
