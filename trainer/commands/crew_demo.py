"""`demo --crew N`: N members of N owners train as one worker a model of which none has memory for more than its shard.

Beside them are a whole worker and the verifiers. Where a member cheats there are two crews, so that there is another
for its place when it has been excluded.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from p2p.blobs import BlobStore
from trainer.commands.demo import DemoSettings, run_demo
from trainer.commands.ending import Check
from trainer.commands.scene import Scene, Seat, Tell, in_one_folder
from trainer.commands.sharded_demo import GIB, ROOM
from trainer.events import read_events
from trainer.folder import RunFolder
from trainer.rounds.cheats import is_for_members
from trainer.runs.ledgers import genesis_of
from trainer.runs.library import StoredPrograms
from verification.errors import UserError
from verification.manifest import Manifest
from verification.program import peak_bytes
from verification.report.words import data_size

WHOLE = 1
"""Workers beside the crew that compute rounds alone."""


@dataclasses.dataclass
class CrewScene(Scene):
    """A demo whose first seats are of crews of so many `members`; a step takes `whole` bytes, a member has `limit`."""

    members: int
    whole: int
    limit: int

    def checks(self, tell: Tell) -> list[Check]:
        """Return whether every shard was held in rounds that its crew computed to the end."""
        rounds: dict[int, set[int]] = {shard: set() for shard in range(self.members)}
        for seat in self.seats:
            for event in read_events(seat.log):
                if event["kind"] == "computed" and event["own"] and "shard" in event:
                    rounds[event["shard"]].add(event["round"])
        together = set.intersection(*rounds.values())
        told = (
            f"{self.members} members of {self.members} owners, with {data_size(self.limit)} of memory each, made "
            f"{len(together)} rounds together: an inner step takes {data_size(self.whole)} whole"
        )
        return [(bool(together), told)]


def run_with_crew(settings: DemoSettings, members: int) -> int:
    """Run the demo with a crew of so many members and return its exit status; raises UserError."""
    if settings.names and not is_for_members(settings.names):
        raise UserError(
            f"--cheat {settings.cheat}: in a demo with a crew one of its members cheats; take false-activations, "
            "false-gradients, frame-neighbour, two-faced or none"
        )
    posts = tuple(range(1, members + 1)) * (2 if settings.names else 1)
    workers = len(posts) + WHOLE
    return run_demo(dataclasses.replace(settings, workers=workers, posts=posts), with_crew)


@contextmanager
def with_crew(folder: RunFolder, seats: Sequence[Seat]) -> Iterator[Scene]:
    """Start every peer in the run's own folder, those that hold shards with little memory.

    Raises UserError where a shard takes as much as the whole.
    """
    manifest = genesis_of(folder).manifest
    members = len(manifest.cuts[0].shards)
    limit, whole = memory_of(folder, manifest)
    for seat in seats:
        if "--shard" in seat.options:
            seat.options = [*seat.options, "--memory", repr(limit / GIB)]
    with in_one_folder(folder, seats):
        yield CrewScene(folder, seats, members, whole, limit)


def memory_of(folder: RunFolder, manifest: Manifest) -> tuple[int, int]:
    """Return the bytes of memory in which any shard fits, and what an inner step takes whole; raises UserError where
    that is no more."""
    library = StoredPrograms(BlobStore(folder.blobs), manifest)
    refs = [ref for shard in manifest.cuts[0].shards for ref in shard.all()]
    limit = int(ROOM * max(peak_bytes(library.program(ref.digest)) for ref in refs))
    whole = peak_bytes(library.program(manifest.programs.inner.digest))
    if limit >= whole:
        raise UserError(
            f"--crew: a member needs {data_size(limit)}, and the whole takes {data_size(whole)}: take more members"
        )
    return limit, whole
