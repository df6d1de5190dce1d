"""Computing elementwise values again where they are read late, from what is there anyway, instead of keeping them.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016), recompute segments of a network; here one loop
takes the members that another one computed before it. The expressions are the same, so the numbers are.
"""

import math
from collections.abc import Sequence

from trainer.programs.loops.groups import FULL, MAX_MEMBERS, Group, GroupNode, LoopStep

DISTANCE = 24
"""Works between a value's last use and one for which it is made again: what is near would gain nothing."""
DEEPEST = 8
"""Members that a group takes in to make one value again."""
SPARE = 16
"""A value so many times smaller may be kept longer for it."""


def compute_again(works: Sequence[LoopStep], sizes: dict[int, int]) -> None:
    """Let groups make values again that they read long after others did; `works` are in their order.

    `sizes` are the bytes of all values that end with their last reader; one that is none of them is always there.
    """
    _Recomputation(works, sizes).run()


class _Recomputation:
    def __init__(self, works: Sequence[LoopStep], sizes: dict[int, int]) -> None:
        self.works = works
        self.sizes = sizes
        self.places = {work: place for place, work in enumerate(works)}
        self.makers = {root: work for work in works for root in work.makes}
        self.readers: dict[int, set[LoopStep]] = {}
        for work in works:
            self._read(work)

    def run(self) -> None:
        for root, maker in sorted(self.makers.items(), key=lambda made: made[0]):
            if isinstance(maker, Group) and root in self.sizes:
                self._make_again(root, maker)

    def _read(self, work: LoopStep) -> None:
        for root in work.reads:
            self.readers.setdefault(root, set()).add(work)

    def _make_again(self, root: int, maker: Group) -> None:
        """Give the last readers of a value what makes it, if they are far from those that must read it."""
        last, late = self.places[maker], []
        for reader in sorted(self.readers.get(root, ()), key=self.places.__getitem__):
            place = self.places[reader]
            taken = self._taken(root, maker, reader) if place - last > DISTANCE else None
            if isinstance(reader, Group) and taken is not None:
                late.append((reader, taken))
            else:
                last, late = place, []
        for reader, taken in late:
            for number in reader.reads:
                self.readers[number].discard(reader)
            # In the order of their numbers: a loop computes its members as they come.
            reader.members = dict(sorted({**taken, **reader.members}.items()))
            self._read(reader)

    def _taken(self, root: int, maker: Group, reader: LoopStep) -> dict[int, GroupNode] | None:
        """Return the members that `reader` must take in to make a value itself, or None where it cannot."""
        if not isinstance(reader, Group) or reader.depth:
            return None
        taken: dict[int, GroupNode] = {}
        waiting = [root]
        while waiting:
            member = maker.members.get(waiting.pop())
            if member is None or member.kind != FULL or len(taken) == DEEPEST:
                return None
            if math.prod(member.node.shape) != reader.rows * reader.columns:  # it reads a part of the value
                return None
            taken[member.number] = member
            waiting += [
                operand.root
                for operand in member.operands
                if operand.root not in taken and not self._is_there(operand.root, root, reader)
            ]
        members = {**taken, **reader.members}
        joint = Group(reader.rows, reader.columns, reader.soft, members=members)
        fits = len(members) <= MAX_MEMBERS and all(joint.holds(member) for member in members.values())
        return taken if fits else None

    def _is_there(self, root: int, value: int, reader: Group) -> bool:
        """Return whether a reader finds a buffer: kept for others about as long, or small beside the value."""
        if root in reader.members or root not in self.sizes:
            return True
        near = self.places[reader] - DISTANCE
        others = self.readers.get(root, ())
        return self.sizes[root] * SPARE <= self.sizes[value] or any(self.places[o] >= near for o in others)
