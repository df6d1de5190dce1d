"""A program in stretches that need no more memory than there is: its nodes in their order, some at a time. Pure.

Shards keep together what belongs to one part of a model; stretches keep the program's order, so they become as short as
a single node, and a step that ends does so where the whole does. What a later stretch reads is made once. A view costs
nothing, and is made again wherever it is read. Where a single node does not fit it runs in bands, if it can.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from trainer.shards.bands import Bands, bands_of
from trainer.shards.memory import constant_bytes, need_of
from trainer.shards.segments import part_of
from verification.errors import Refused
from verification.operators import operator_of
from verification.program import Program, first_node, size_bytes, values

NARROW = 0.75
"""A stretch ends at the place where least is alive of those from this part of its greatest length on."""

EXACT = 16
"""A stretch may be shorter than it could be by its length over this: seeking it is what loading a run takes."""


@dataclass(frozen=True)
class Stretch:
    """A part of a program: it reads the values `reads` and makes `makes`, by their numbers in the whole program.

    `nodes` are the numbers of its program's nodes there; those before `first` are views that it makes again. `last`
    are the values that no later one reads, nor any output. One that needs too much memory as it is runs in `bands`.
    """

    program: Program
    first: int
    nodes: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    last: tuple[int, ...]
    bands: Bands | None = None

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that run."""
        return (self.program,) if self.bands is None else tuple(self.bands.programs.values())

    @property
    def need(self) -> int:
        """An upper estimate in bytes of the memory in which it runs, its constants left out."""
        return max(map(need_of, self.programs))


def held_bytes(stretches: Iterable[Stretch]) -> int:
    """Return the bytes of the constants of stretches, which stay in memory when they have been loaded."""
    return sum(
        constant_bytes(program) for program in {each for stretch in stretches for each in stretch.programs}
    )


def stretches_of(program: Program, memory: int) -> tuple[Stretch, ...]:
    """Return a checked program in stretches of at most `memory` bytes each, as few as can be by turns.

    Raises Refused, with the bytes that are needed, where a single node takes more and does not run in bands.
    """
    cut, found = _Cut(program), list[Stretch]()
    begin, end, length = cut.first, cut.first + len(program.nodes), 1
    while begin < end:
        longest = cut.longest(begin, length, memory)
        if longest > begin:
            stop = longest if longest == end else cut.narrowest(begin, longest)
            found.append(cut.stretch(begin, stop))
            length = longest - begin
        else:
            found.append(cut.in_bands(begin, memory))
            stop = found[-1].nodes[-1] + 1
        begin = stop
    return tuple(found)


class _Cut:
    """A program, what stands behind each of its views, and how long each value is read."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.first, self._known = first_node(program), values(program)
        self._total = len(self._known)
        self._behind = list(range(self.first))
        """The number of what each value views, its own where it is none."""
        for number, node in enumerate(program.nodes, self.first):
            is_view = operator_of(node.operator).is_view and node.inputs
            self._behind.append(self._behind[node.inputs[0]] if is_view else number)
        self._outputs = {int(output.source) for output in program.outputs}
        self._until = self._ends()
        self._alive = self._crossing()

    def longest(self, begin: int, length: int, memory: int) -> int:
        """Return about where the longest stretch ends that begins at a node and fits, seeking from some length on."""
        fits, too_far = begin, self._total + 1
        while too_far - fits > 1 + (fits - begin) // EXACT:
            stop = min(begin + length, self._total)
            if stop >= too_far or stop <= fits:
                stop = (fits + too_far) // 2
            if self.stretch(begin, stop).need <= memory:
                fits = stop
                if fits == self._total:
                    break
                length *= 2
            else:
                too_far = stop
        return fits

    def in_bands(self, begin: int, memory: int) -> Stretch:
        """Return the longest stretch from a node on that runs in bands; raises Refused where that node does not."""
        found, stop = None, begin + 1
        while stop <= self._total:
            stretch = self.stretch(begin, stop)
            again = sum(number < begin for number in stretch.nodes)
            bands = bands_of(stretch.program, first_node(stretch.program) + again, memory)
            if bands is None:
                break
            found, stop = replace(stretch, bands=bands), stop + 1
        if found is None:
            need, role = self.stretch(begin, begin + 1).need, self._program.role
            raise Refused(f"node {begin} of the {role} program alone needs {need} bytes, limit {memory}")
        return found

    def narrowest(self, begin: int, longest: int) -> int:
        """Return where the fewest bytes cross, the last such place, from a part of the way to `longest` on."""
        shortest = begin + max(1, int(NARROW * (longest - begin)))
        return min(range(shortest, longest + 1), key=lambda stop: (self._alive[stop], -stop))

    def stretch(self, begin: int, stop: int) -> Stretch:
        """Return the stretch of the nodes from `begin` on, before `stop`."""
        own = range(begin, stop)
        sources = self._sources(own)
        reads = sorted(
            n for n in sources if n < len(self._program.inputs) or self._behind[n] == n >= self.first
        )
        constants = sorted(n for n in sources if len(self._program.inputs) <= n < self.first)
        nodes = [*sorted(n for n in sources if n >= self.first and self._behind[n] != n), *own]
        makes = [n for n in own if self._leaves(n, stop)] or [own[-1]]
        last = [n for n in reads if self._until[n] < stop]
        program = part_of(self._program, reads, constants, nodes, makes)
        return Stretch(program, begin, tuple(nodes), tuple(reads), tuple(makes), tuple(last))

    def _leaves(self, number: int, stop: int) -> bool:
        """Return whether a value is wanted from `stop` on, or by nobody: it may end the step all the same."""
        is_view = self._behind[number] != number
        return number in self._outputs or (not is_view and not number < self._until[number] < stop)

    def _sources(self, own: range) -> set[int]:
        """Return what nodes read beside each other, with the views between it and what they view."""
        found, waiting = set[int](), list[int]()
        for number in own:
            waiting += self._program.nodes[number - self.first].inputs
        while waiting:
            number = waiting.pop()
            if number in own or number in found:
                continue
            found.add(number)
            if self._behind[number] != number:
                waiting += self._program.nodes[number - self.first].inputs
        return found

    def _ends(self) -> list[int]:
        """Return, per value, the last node that reads it or a view of it; outputs are read after all."""
        found = list(range(self._total))
        for number, node in enumerate(self._program.nodes, self.first):
            for source in node.inputs:
                behind = self._behind[source]
                found[behind] = max(found[behind], number)
        for number in self._outputs:
            found[number] = self._total
        return found

    def _crossing(self) -> list[int]:
        """Return, per number, the bytes that nodes before it make for it and later ones."""
        change = [0] * (self._total + 2)
        for number in range(self.first, self._total):
            if self._behind[number] == number and self._until[number] > number:
                size = size_bytes(self._known[number])
                change[number + 1] += size
                change[self._until[number] + 1] -= size
        return list(_sums(change))


def _sums(changes: Sequence[int]) -> Iterator[int]:
    total = 0
    for change in changes:
        total += change
        yield total
