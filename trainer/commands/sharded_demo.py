"""`demo --shards N`: the first worker is N machines, each of which holds a part of a model that fits none of them.

Whatever a peer of this demo computes, it may take less memory than an inner step takes as a whole: the first worker's
machines hold shards, the others run their programs out of files.
"""

import dataclasses
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from p2p.blobs import BlobStore
from trainer.commands.demo import BATCH, DemoSettings, run_demo
from trainer.commands.ending import Check
from trainer.commands.group import ticket_of
from trainer.commands.scene import Scene, Seat, Tell, end, in_one_folder
from trainer.events import read_events
from trainer.folder import RunFolder
from trainer.groups.messages import SHARDS
from trainer.lifetimes import held, python
from trainer.runs.ledgers import genesis_of
from trainer.shards.cut import INNER, Machine, cut_for
from trainer.shards.worker import ROLES
from verification.errors import UserError
from verification.program import Program, decode_program, peak_bytes
from verification.report.words import data_size
from verification.state import State

MUCH = 1 << 50
"""Bytes of memory that any shard fits."""
ROOM = 1.5
"""What a machine may take over what the largest of equal shards needs: machines differ, and values on their way have
to lie somewhere."""
GIB = 1 << 30


@dataclasses.dataclass
class ShardedScene(Scene):
    """A demo whose first worker is so many machines; `whole` is what a step takes, `limit` what each machine may."""

    machines: int
    whole: int
    limit: int
    members: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def act(self, state: State, tell: Tell) -> None:
        """Start the other machines when the first has written the group's ticket."""
        ticket = ticket_of(self.folder, self.seats[0].recorded_as)
        if self.members or not ticket.exists():
            return
        tell(
            f"an inner step takes {data_size(self.whole)}, no peer may take more than {data_size(self.limit)}: "
            f"{self.seats[0].name} is {self.machines} machines"
        )
        self.members += [self.member(number) for number in range(2, self.machines + 1)]

    def member(self, number: int) -> subprocess.Popen[bytes]:
        """Start another machine of the group, which has its ticket."""
        ticket = ticket_of(self.folder, self.seats[0].recorded_as)
        options = "--ticket", str(ticket), "--memory", repr(self.limit / GIB)
        with ticket.with_name(f"machine-{number}.log").open("ab") as log:
            command = python("-m", "trainer.cli", "group", *options)
            return subprocess.Popen(held(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def checks(self, tell: Tell) -> list[Check]:
        """Return whether all machines held a part of the model in the first worker's last step."""
        said = [event["members"] for event in read_events(self.seats[0].log) if event["kind"] == "group"]
        held = [each["shard"]["numbers"] for each in said[-1] if each["shard"]] if said else []
        parts = ", ".join(f"{number / sum(held):.0%}" for number in held)
        told = f"{self.seats[0].name}'s {len(held)} machines held {parts} of the model, of which none may hold all"
        return [(len(held) == self.machines and all(held), told)]


MakeScene = Callable[[RunFolder, Sequence[Seat], int, int, int], ShardedScene]


def run_in_shards(settings: DemoSettings, machines: int) -> int:
    """Run the demo with a first worker of so many machines and return its exit status; raises UserError."""
    if settings.cheat_number == 0:
        raise UserError(
            "the first worker is a group, and a group does not cheat: take --workers 2 or more, or --cheat none"
        )
    return run_demo(dataclasses.replace(settings, accumulate=BATCH), partial(in_shards, machines))


@contextmanager
def in_shards(
    machines: int, folder: RunFolder, seats: Sequence[Seat], make: MakeScene = ShardedScene
) -> Iterator[Scene]:
    """Start every peer in the run's own folder, with little memory, and the other machines of the first one's group.

    `make` makes the scene, of a `ShardedScene`'s arguments. Raises UserError where a shard takes as much as the whole.
    """
    programs = _programs_of(folder)
    whole, limit = peak_bytes(programs[INNER]), memory_for(programs, machines)
    for seat in seats:
        seat.options = [*seat.options, "--memory", repr(limit / GIB)]
    seats[0].options = [*seats[0].options, "--group", str(machines), "--group-by", SHARDS]
    with in_one_folder(folder, seats):
        scene = make(folder, seats, machines, whole, limit)
        try:
            yield scene
        finally:
            end(scene.members)


def memory_for(programs: Mapping[str, Program], machines: int) -> int:
    """Return the bytes of memory in which each of so many machines holds a shard of a round's programs, by their roles;
    raises UserError where that is no less than the inner step takes whole."""
    cut = cut_for([programs[role] for role in ROLES], [Machine(MUCH, 1)] * machines)
    limit, whole = int(ROOM * max(cut.peaks)), peak_bytes(programs[INNER])
    if limit >= whole:
        raise UserError(
            f"--shards: a machine of {machines} needs {data_size(limit)}, and the whole takes {data_size(whole)}: "
            "take more machines"
        )
    return limit


def _programs_of(folder: RunFolder) -> dict[str, Program]:
    """Return a run's programs by their roles."""
    store, manifest = BlobStore(folder.blobs), genesis_of(folder).manifest
    programs = [decode_program(store.get(ref.blob)) for ref in manifest.programs.all()]
    return {program.role: program for program in programs}
