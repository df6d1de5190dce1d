"""Which shard makes each value of a run's programs, once the depths are known at which the model is cut. Pure."""

import bisect
from collections.abc import Mapping, Sequence

from trainer.shards.depth import Depths, parameter_of
from trainer.shards.roots import read_roots, roots_of
from trainer.shards.segments import Layout, Owner
from verification.operators import operator_of
from verification.program import Program, first_node, size_bytes, values

SHARED = 0
"""The shard of what belongs to no parameter: it has the tokens first, and gradients end there."""
SWEEPS = 8
"""How often nodes are looked at again after others have moved."""
DRAWN = 24
"""How many nodes move together at most: more than unpack a value."""


def layout_of_inner(program: Program, depths: Depths, ends: Sequence[int], is_ring: bool = False) -> Layout:
    """Return the layout of an inner program of which shard k holds depths below `ends[k]`, the last all others; in a
    ring each shard has an end, and the first all others."""
    owners: list[Owner] = [_shard_at(depth, ends, is_ring) for depth in depths.of]
    homes = homes_of(program, shards_of(depths, ends, is_ring))
    placed = _with_less_crossing(program, owners, homes)
    return Layout(placed, depths.parts, depths.is_forward, homes, is_ring)


def layout_of_rest(program: Program, shards: Mapping[str, int]) -> Layout:
    """Return the layout of a prologue, epilogue or outer step; `shards` says which parameter is where.

    What depends on one parameter is in its shard, and all else in that of what belongs to all.
    """
    names = [parameter_of(port.name) for port in program.inputs]
    found: list[set[str]] = [{name} if name else set() for name in names]
    found += [set() for _ in program.constants]
    for node in program.nodes:
        found.append(set[str]().union(*(found[source] for source in node.inputs)))
    owners: list[Owner] = [shards[next(iter(each))] if len(each) == 1 else SHARED for each in found]
    homes = homes_of(program, shards)
    count = len(owners)
    return Layout(_with_less_crossing(program, owners, homes), (0,) * count, (False,) * count, homes)


def shards_of(depths: Depths, ends: Sequence[int], is_ring: bool = False) -> dict[str, int]:
    """Return the shard of each parameter, in their order in the model."""
    starts = sorted(depths.starts.items(), key=lambda each: each[1])
    return {name: _shard_at(start, ends, is_ring) for name, start in starts}


def _shard_at(depth: int, ends: Sequence[int], is_ring: bool) -> int:
    shard = bisect.bisect_right(ends, depth)
    return shard % len(ends) if is_ring else shard


def homes_of(program: Program, shards: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shard that gets each output: its parameter's, or that of what belongs to all."""
    names = (parameter_of(output.name) for output in program.outputs)
    return tuple(SHARED if name is None else shards[name] for name in names)


def _with_less_crossing(program: Program, owners: Sequence[Owner], homes: Sequence[int]) -> tuple[Owner, ...]:
    """Return owners under which fewer bytes cross: nodes move to where they are read or what they read is made, singly
    or with those that are made for them alone.

    Products stay, for they are most of the work.
    """
    moves = _Moves(program, owners, homes)
    numbers = [
        number
        for number, node in enumerate(program.nodes, moves.first)
        if moves.owners[number] is not None and not operator_of(node.operator).multiplies
    ]
    movable = frozenset(numbers)
    for sweep in range(SWEEPS):
        moved = [moves.move(number) for number in (numbers if sweep % 2 else reversed(numbers))]
        drawn = [moves.draw(number, movable) for number in reversed(numbers)]
        if not any(moved) and not any(drawn):
            break
    return tuple(moves.owners)


class _Moves:
    """Owners that change, and how many readers each value has in each shard."""

    def __init__(self, program: Program, owners: Sequence[Owner], homes: Sequence[int]) -> None:
        roots = roots_of(program)
        self.first = first_node(program)
        self.owners = [
            owner if root == number else None
            for number, (owner, root) in enumerate(zip(owners, roots, strict=True))
        ]
        self._sizes = [size_bytes(value) for value in values(program)]
        self._sources = read_roots(program, roots)
        self._readers: list[dict[int, int]] = [{} for _ in owners]
        for place, sources in enumerate(self._sources):
            for source in sources:
                self._count(source, self.owners[self.first + place], 1)
        for output, home in zip(program.outputs, homes, strict=True):
            if (root := roots[output.source]) is not None:
                self._count(root, home, 1)

    def move(self, number: int) -> bool:
        """Give a node to the neighbour with which the fewest bytes cross.

        With as many as now it goes where all are that read it: it arrives there no later.
        """
        owner, sources = self.owners[number], self._sources[number - self.first]
        neighbours = {*self._readers[number], *(self.owners[source] for source in sources)} - {owner}
        gains = {shard: self._gain(number, shard) for shard in neighbours if shard is not None}
        best = min(gains, key=lambda shard: (-gains[shard], shard), default=None)
        if best is None or gains[best] < 0 or (gains[best] == 0 and self._readers[number].keys() != {best}):
            return False
        self._give(number, best)
        return True

    def draw(self, number: int, movable: frozenset[int]) -> bool:
        """Give a node that one other shard alone reads to that, with as many of those that are then read there alone as
        make the fewest bytes cross: so a value that is packed for its way is unpacked at its end."""
        owner, shards = self.owners[number], set(self._readers[number])
        if len(shards) != 1 or shards == {owner}:
            return False
        (taker,) = shards
        moved, waiting = list[int](), {number}
        gain = best = kept = 0
        while waiting and len(moved) < DRAWN:
            each = max(waiting)
            gain += self._gain(each, taker)
            self._give(each, taker)
            moved.append(each)
            if gain > best:
                best, kept = gain, len(moved)
            behind = (source for source in self._sources[each - self.first] if source in movable)
            alone = (s for s in behind if self.owners[s] == owner and self._readers[s].keys() == {taker})
            waiting = waiting - {each} | set(alone)
        for each in reversed(moved[kept:]):
            self._give(each, owner)
        return kept > 0

    def _give(self, number: int, shard: Owner) -> None:
        for source in self._sources[number - self.first]:
            self._count(source, self.owners[number], -1)
            self._count(source, shard, 1)
        self.owners[number] = shard

    def _gain(self, number: int, shard: int) -> int:
        """Return how many bytes fewer cross once a node has moved to a shard."""
        owner = self.owners[number]
        assert owner is not None
        gain = self._sizes[number] * (
            len(self._readers[number].keys() - {owner}) - len(self._readers[number].keys() - {shard})
        )
        for source in self._sources[number - self.first]:
            is_last = self._readers[source].get(owner, 0) == 1 and self.owners[source] != owner
            is_new = shard not in self._readers[source] and self.owners[source] != shard
            gain += self._sizes[source] * (int(is_last) - int(is_new))
        return gain

    def _count(self, number: int, shard: Owner, change: int) -> None:
        if shard is None:
            return
        counts = self._readers[number]
        counts[shard] = counts.get(shard, 0) + change
        if not counts[shard]:
            del counts[shard]
