"""Where a model is cut for machines of unequal memory and speed: the slowest shard as fast as can be. Pure.

A cut lies between two parameters, where the fewest bytes cross. Of all cuts whose slowest shard is nearly as fast as
that of the best, the one is taken that has the least sum of what crosses, over its mean, and of the shards' times, over
the slowest's and squared: so little crosses, and where that is alike the work is even.

Where a head is tied to a parameter of the first shard, a ring may be cheaper: that shard has the head too, so that the
matrix and its gradient cross no more; but it is at least as slow as the head is. Of the best line and the best ring the
one is taken of which the slowest shard's time and that of all that crosses are the least together.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.shards.depth import Depths, depths_of
from trainer.shards.layout import layout_of_inner, layout_of_rest, shards_of
from trainer.shards.memory import peak_of
from trainer.shards.places import Amount, Places, tie_of
from trainer.shards.segments import Pieces, pieces_of
from verification.errors import UserError
from verification.program import Program, size_bytes, values, work_units

SLACK = 0.05
"""The part by which the slowest shard may be slower than it must, where fewer bytes cross then."""
BYTE = 400
"""The work units that the fastest machine does while a byte crosses: at 50 billion a second over links of 1 Gbit/s."""
INNER = "inner"
"""The role of the program that is cut by depth; the others go with its parameters."""


@dataclass(frozen=True)
class Machine:
    """What one shard's machine has: bytes of memory, and work units that it does in a second.

    Raises UserError for less than one of either.
    """

    memory: int
    speed: int

    def __post_init__(self) -> None:
        if min(self.memory, self.speed) < 1:
            raise UserError(
                f"a machine of {self.memory} bytes and {self.speed} work units a second cannot hold a shard: "
                "leave it out"
            )


@dataclass(frozen=True)
class Cut:
    """A run's programs cut over depth: shard k holds the depths below `ends[k]`, the last one all others.

    In a ring all shards have an end, and the first one holds all others: so it has the head too. `shards` says which
    shard holds a parameter, in their order in the model; `pieces` are the programs' by their roles, whose segments run
    in an order with a `lead` (`trainer.shards.memory`).
    """

    ends: tuple[int, ...]
    shards: Mapping[str, int]
    pieces: Mapping[str, Pieces]
    lead: int = 1
    is_ring: bool = False

    @property
    def count(self) -> int:
        """How many shards there are."""
        return len(self.ends) + int(not self.is_ring)

    @property
    def peaks(self) -> list[int]:
        """The bytes that each shard needs, in the program in which it needs the most."""
        return [
            max(peak_of(each, shard, self.lead) for each in self.pieces.values())
            for shard in range(self.count)
        ]


def cut_at(
    programs: Iterable[Program],
    ends: Sequence[int],
    depths: Depths | None = None,
    lead: int = 1,
    is_ring: bool = False,
) -> Cut:
    """Return a run's programs cut at some depths, ascending; `depths` are the inner program's, where they are known."""
    by_role = {program.role: program for program in programs}
    depths = depths or depths_of(by_role[INNER])
    shards = shards_of(depths, ends, is_ring)
    layouts = {
        role: layout_of_inner(program, depths, ends, is_ring)
        if role == INNER
        else layout_of_rest(program, shards)
        for role, program in by_role.items()
    }
    pieces = {role: pieces_of(by_role[role], each) for role, each in layouts.items()}
    return Cut(tuple(ends), shards, pieces, lead, is_ring)


def cut_for(programs: Sequence[Program], machines: Sequence[Machine], lead: int = 1) -> Cut:
    """Return a run's programs cut over machines in their order, so that the slowest is as fast as can be: in a line, or
    in a ring where that is cheaper.

    Raises UserError where there are more machines than parameters, or where no cut was found that fits their memory.
    """
    inner = next(program for program in programs if program.role == INNER)
    depths = depths_of(inner)
    forms, found, refused = _forms(inner, depths, len(machines)), list[Cut](), list[UserError]()
    for places in forms:
        try:
            found.append(_fitting(programs, depths, places, machines, lead))
        except UserError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return min(found, key=lambda cut: _seconds_of(cut, machines))


def _fitting(
    programs: Sequence[Program], depths: Depths, places: Places, machines: Sequence[Machine], lead: int
) -> Cut:
    """Return the best cut of one form; raises as `cut_for`."""
    search = _Search(places, machines)
    while True:
        cut = cut_at(programs, search.ends(), depths, lead, places.is_ring)
        peaks = cut.peaks
        if all(peak <= machine.memory for peak, machine in zip(peaks, machines, strict=True)):
            return cut
        search.tighten(cut.ends, peaks)


def _forms(inner: Program, depths: Depths, machines: int) -> list[Places]:
    """Return where a line may be cut over some machines, and a ring if a head is tied and it has places enough."""
    line, tie = Places(inner, depths), tie_of(inner, depths)
    if tie is None or machines < 2:
        return [line]
    ring = Places(inner, depths, tie)
    return [line, ring] if machines < len(ring.ends) else [line]


def _seconds_of(cut: Cut, machines: Sequence[Machine]) -> float:
    """Return how long the slowest shard takes for its part of a step, and what crosses, one after the other."""
    pieces, known = cut.pieces[INNER], values(cut.pieces[INNER].program)
    works = (sum(work_units(each.program) for each in pieces.of(shard)) for shard in range(cut.count))
    slowest = max(work / machine.speed for work, machine in zip(works, machines, strict=True))
    crossing = sum(size_bytes(known[number]) for number, _, _ in pieces.crossings())
    return slowest + crossing * BYTE / max(machine.speed for machine in machines)


Stage = Callable[[int, int, int], float | None]
"""What it costs that a shard has all from one place to another; None where that may not be."""


class _Search:
    """The best cut under limits of memory, which tighten where a cut that was made needs more than there is."""

    def __init__(self, places: Places, machines: Sequence[Machine]) -> None:
        if not 0 < len(machines) < len(places.ends):
            raise UserError(
                f"{len(machines)} machines cannot hold shards of a model that can be cut into "
                f"{len(places.ends) - 1} at most: take fewer"
            )
        self._places, self._machines = places, machines
        self._limits = [math.inf] * len(machines)
        self._nearest = (math.inf, "")

    def ends(self) -> list[int]:
        """Return the depths at which to cut; raises UserError where no cut keeps within the limits."""
        fastest = self._path(self._seconds, max)
        if fastest is None:
            raise UserError(
                f"no cut over {len(self._machines)} machines fits their memory: {self._nearest[1]}; "
                "give it more, or take more machines"
            )
        bound = fastest[0] * (1 + SLACK)
        mean = sum(self._places.crossing) / len(self._places.crossing) or 1.0

        def cost(shard: int, low: int, high: int) -> float | None:
            seconds = self._seconds(shard, low, high)
            if seconds is None or seconds > bound:
                return None
            return self._places.crossing[high] / mean + (seconds / bound) ** 2

        narrowest = self._path(cost, operator.add)
        assert narrowest is not None
        ends = [self._places.ends[place] for place in narrowest[1]]
        return ends if self._places.is_ring else ends[:-1]

    def tighten(self, ends: Sequence[int], peaks: Sequence[int]) -> None:
        """Lower the limits of the shards of a cut that need more memory than their machines have."""
        places = [self._places.ends.index(end) for end in (0, *ends)]
        places += [] if self._places.is_ring else [len(self._places.ends) - 1]
        for shard, (peak, machine) in enumerate(zip(peaks, self._machines, strict=True)):
            share = peak / machine.memory
            if share > 1:
                weight = self._weight(shard, places[shard], places[shard + 1])
                self._limits[shard] = min(weight / share, weight - 1)
        worst = max(range(len(peaks)), key=lambda shard: peaks[shard] / self._machines[shard].memory)
        memory = self._machines[worst].memory
        line = f"the nearest needs {peaks[worst]} bytes of machine {worst + 1}, which has {memory}"
        self._nearest = min(self._nearest, (peaks[worst] / memory, line))

    def _path(
        self, stage: Stage, joined: Callable[[float, float], float]
    ) -> tuple[float, tuple[int, ...]] | None:
        """Return the least joined cost of all shards, and the places where they end; None where no cut may be."""
        count, last = len(self._machines), len(self._places.ends) - 1
        best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
        for shard in range(count):
            highs = range(shard + 1, last - (count - shard - 1) + 1) if shard < count - 1 else [last]
            longer = {}
            for high in highs:
                found = [
                    (joined(value, cost), (*path, high))
                    for low, (value, path) in best.items()
                    if low < high and (cost := stage(shard, low, high)) is not None
                ]
                if found:
                    longer[high] = min(found)
            best = longer
        return best.get(last)

    def _seconds(self, shard: int, low: int, high: int) -> float | None:
        """Return how long a shard takes for its part of a step; None where its memory is too small."""
        if self._weight(shard, low, high) > self._limits[shard]:
            return None
        return self._part(self._places.work, shard, low, high) / self._machines[shard].speed

    def _weight(self, shard: int, low: int, high: int) -> float:
        """Return about what memory a shard needs: its state, old and new, with gradients, and what it keeps of the
        forward pass for as many parts as it has begun."""
        places = self._places
        ahead = len(self._machines) - shard + int(places.is_ring)
        state, saved = (self._part(each, shard, low, high) for each in (places.state, places.saved))
        return 3 * state + saved * min(1.0, ahead / places.parts)

    def _part(self, amount: Amount, shard: int, low: int, high: int) -> int:
        """Return what of an amount a shard has that has all from one place to another."""
        part = amount.below[high] - amount.below[low]
        return part + amount.tail if shard == 0 else part
