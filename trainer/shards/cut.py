"""Where a model is cut for machines of unequal memory and speed: the slowest shard as fast as can be. Pure.

A cut lies between two parameters, where the fewest bytes cross. Of all cuts whose slowest shard is nearly as fast as
that of the best, the one is taken that has the least sum of what crosses, over its mean, and of the shards' times, over
the slowest's and squared: so little crosses, and where that is alike the work is even.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from trainer.shards.depth import Depths, depths_of, parameter_of
from trainer.shards.layout import layout_of_inner, layout_of_rest, shards_of
from trainer.shards.memory import peak_of
from trainer.shards.roots import read_roots, roots_of
from trainer.shards.segments import Pieces, pieces_of
from verification.errors import UserError
from verification.program import Program, first_node, node_work, size_bytes, values

SLACK = 0.05
"""The part by which the slowest shard may be slower than it must, where fewer bytes cross then."""
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

    `shards` says which shard holds a parameter, in their order in the model; `pieces` are the programs' by their roles,
    whose segments run in an order with a `lead` (`trainer.shards.memory`).
    """

    ends: tuple[int, ...]
    shards: Mapping[str, int]
    pieces: Mapping[str, Pieces]
    lead: int = 1

    @property
    def peaks(self) -> list[int]:
        """The bytes that each shard needs, in the program in which it needs the most."""
        return [
            max(peak_of(each, shard, self.lead) for each in self.pieces.values())
            for shard in range(len(self.ends) + 1)
        ]


def cut_at(
    programs: Iterable[Program], ends: Sequence[int], depths: Depths | None = None, lead: int = 1
) -> Cut:
    """Return a run's programs cut at some depths, ascending; `depths` are the inner program's, where they are known."""
    by_role = {program.role: program for program in programs}
    depths = depths or depths_of(by_role[INNER])
    shards = shards_of(depths, ends)
    layouts = {
        role: layout_of_inner(program, depths, ends) if role == INNER else layout_of_rest(program, shards)
        for role, program in by_role.items()
    }
    pieces = {role: pieces_of(by_role[role], each) for role, each in layouts.items()}
    return Cut(tuple(ends), shards, pieces, lead)


def cut_for(programs: Sequence[Program], machines: Sequence[Machine], lead: int = 1) -> Cut:
    """Return a run's programs cut over machines in their order, so that the slowest is as fast as can be.

    Raises UserError where there are more machines than parameters, or where no cut was found that fits their memory.
    """
    inner = next(program for program in programs if program.role == INNER)
    depths = depths_of(inner)
    search = _Search(_Places(inner, depths), machines)
    while True:
        cut = cut_at(programs, search.ends(), depths, lead)
        peaks = cut.peaks
        if all(peak <= machine.memory for peak, machine in zip(peaks, machines, strict=True)):
            return cut
        search.tighten(cut.ends, peaks)


class _Places:
    """Where a cut may be, and what lies below each place: sums over all depths that are less."""

    def __init__(self, inner: Program, depths: Depths) -> None:
        first, known, roots = first_node(inner), values(inner), roots_of(inner)
        work, state, saved, change = ([0] * (depths.count + 1) for _ in range(4))
        reach = [(depth, depth) for depth in depths.of]
        is_saved = [False] * len(known)
        for number, (node, sources) in enumerate(
            zip(inner.nodes, read_roots(inner, roots), strict=True), first
        ):
            if roots[number] != number:
                continue
            depth = depths.of[number]
            work[depth] += node_work(node, [known[source] for source in node.inputs])
            for source in sources:
                reach[source] = min(reach[source][0], depth), max(reach[source][1], depth)
                is_saved[source] |= depths.is_forward[source] and not depths.is_forward[number]
        for number, (low, high) in enumerate(reach):
            size, is_state = size_bytes(known[number]), number < len(inner.inputs)
            change[low] += size
            change[high] -= size
            state[depths.of[number]] += size if is_state and parameter_of(inner.inputs[number].name) else 0
            saved[depths.of[number]] += size if is_saved[number] and not is_state else 0
        crossing = list(accumulate(change))
        starts = sorted(set(depths.starts.values()))
        gaps = (range(low, high) for low, high in pairwise(starts))
        self.ends = [0, *(1 + min(gap, key=lambda depth: crossing[depth]) for gap in gaps), depths.count]
        self.crossing = [0, *(crossing[end - 1] for end in self.ends[1:-1]), 0]
        self.work, self.state, self.saved = (self._below(each) for each in (work, state, saved))
        self.parts = max(1, *depths.parts).bit_length()

    def _below(self, each: Sequence[int]) -> list[int]:
        sums = [0, *accumulate(each)]
        return [sums[end] for end in self.ends]


Stage = Callable[[int, int, int], float | None]
"""What it costs that a shard has all from one place to another; None where that may not be."""


class _Search:
    """The best cut under limits of memory, which tighten where a cut that was made needs more than there is."""

    def __init__(self, places: _Places, machines: Sequence[Machine]) -> None:
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
        return [self._places.ends[place] for place in narrowest[1][:-1]]

    def tighten(self, ends: Sequence[int], peaks: Sequence[int]) -> None:
        """Lower the limits of the shards of a cut that need more memory than their machines have."""
        places = [self._places.ends.index(end) for end in (0, *ends)] + [len(self._places.ends) - 1]
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
        return (self._places.work[high] - self._places.work[low]) / self._machines[shard].speed

    def _weight(self, shard: int, low: int, high: int) -> float:
        """Return about what memory a shard needs: its state, old and new, with gradients, and what it keeps of the
        forward pass for as many parts as it has begun."""
        places, ahead = self._places, len(self._machines) - shard
        state, saved = places.state[high] - places.state[low], places.saved[high] - places.saved[low]
        return 3 * state + saved * min(1.0, ahead / places.parts)
