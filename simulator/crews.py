"""A crew's round in a simulation: all members compute at once, each on its own machine, and letters go between them."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from simulator.toy import DATA
from trainer.rounds.engine import Engine, Job
from trainer.rounds.training import RoundFailed, Start
from trainer.shards.crew import Crews, MemberOutcome
from verification.crews import Item, items_of, made_by, roots_of_shared, taken_by
from verification.manifest import Cut, Manifest, Post
from verification.tensors import Tensor
from verification.units import Count, Digest


class Room:
    """Where the members of a crew leave what crosses; a round that fails for one fails for all who wait for it."""

    def __init__(self) -> None:
        """Start empty."""
        self._changed = threading.Condition()
        self._letters: dict[tuple[int, int], Tensor] = {}
        self._failure: Digest | None = None

    def give(self, step: int, crossing: int, tensor: Tensor) -> None:
        """Leave a tensor."""
        with self._changed:
            self._letters[step, crossing] = tensor
            self._changed.notify_all()

    def take(self, step: int, crossing: int) -> Tensor:
        """Return a tensor once it is there; raises RoundFailed."""
        key = step, crossing
        with self._changed:
            self._changed.wait_for(lambda: key in self._letters or self._failure is not None)
            if key in self._letters:
                return self._letters[key]
            assert self._failure is not None
            raise RoundFailed(self._failure)

    def end(self, failure: Digest) -> None:
        """Tell all who wait that a member's round has failed."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()


@dataclass
class Seat:
    """One member's side of the room: it keeps what it `took`, by step and crossing."""

    room: Room
    took: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def give(self, step: int, crossing: int, tensor: Tensor) -> None:
        """Leave a tensor."""
        self.room.give(step, crossing, tensor)

    def take(self, step: int, crossing: int) -> Tensor:
        """Return a tensor once it is there, and keep it; raises RoundFailed."""
        self.took[step, crossing] = self.room.take(step, crossing)
        return self.took[step, crossing]

    def taken(self, step: int) -> list[Tensor]:
        """Return what was taken in a step, in the order of the crossings."""
        return [
            tensor for (at, _), tensor in sorted(self.took.items(), key=lambda each: each[0]) if at == step
        ]


@dataclass(frozen=True)
class Share:
    """What one member has of a crew's round: its outcome, its items by digest, and what it took."""

    outcome: MemberOutcome
    made: tuple[Digest, ...]
    taken: tuple[Digest, ...]
    shared: tuple[Digest, ...]
    seat: Seat


def share_round(
    manifest: Manifest, number: int, job: Job, start: Start, engines: Sequence[Engine]
) -> list[Share]:
    """Have the members of a crew of cut `number`, each on its engine, compute a round; return what each has."""
    cut, room = manifest.cuts[number], Room()
    seats = [Seat(room) for _ in engines]

    def run(shard: int) -> MemberOutcome:
        post = Post(Count(number), Count(shard))
        outcome = Crews(engines[shard], manifest, DATA).run(job, start, post, seats[shard])
        if outcome.failed is not None:
            room.end(outcome.failed)
        return outcome

    with ThreadPoolExecutor(len(engines)) as threads:
        outcomes = list(threads.map(run, range(len(engines))))
    return [
        _share(cut, shard, job.steps, outcome, seat)
        for shard, (outcome, seat) in enumerate(zip(outcomes, seats, strict=True))
    ]


def _share(cut: Cut, shard: int, steps: int, outcome: MemberOutcome, seat: Seat) -> Share:
    given = [place for place, each in enumerate(cut.crossings) if each.maker == shard]
    taken = [place for place, each in enumerate(cut.crossings) if shard in each.takers]

    def digest(item: Item) -> Digest:
        if item.crossing is None:
            return outcome.states[item.step]
        if item.shard == shard:
            return outcome.given[item.step - 1][given.index(item.crossing)]
        return outcome.taken[item.step - 1][taken.index(item.crossing)]

    mine, theirs = made_by(cut, shard, steps), taken_by(cut, shard, steps)
    known = {item: digest(item) for item in (*mine, *theirs)}
    assert set(known) <= set(items_of(cut, steps))
    return Share(
        outcome, tuple(known[item] for item in mine), tuple(known[item] for item in theirs),
        roots_of_shared(cut, shard, steps, known), seat,
    )  # fmt: skip
