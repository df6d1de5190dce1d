"""A program in pieces: for each shard segments, ordinary programs that run one after another and meet at values. Pure.

Whoever owns a value makes it, once; where another shard reads it, it crosses. Views, integers that are only made wider,
and what constants alone make are owned by nobody (`trainer.shards.roots`): each segment that reads one makes it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainer.shards.roots import read_roots, roots_of
from verification.program import Node, Output, Port, Program, Sized, check_program, first_node, values
from verification.units import Count

Owner = int | None
"""The shard that makes a value; None where whoever reads it does."""

Key = tuple[int, int, int, int]
"""Level, shard and parts of a segment, and its place among those that have these in common."""


FIRST = 0
"""The shard that has both ends of the model, in a ring."""

Group = tuple[int, int, int]
"""Level, shard and parts."""


@dataclass(frozen=True)
class Segment:
    """A program of one shard: it reads the values `reads` and makes `makes`, by their numbers in the whole program.

    `nodes` are the numbers of its program's nodes there; `is_forward` says that they are of the forward pass.
    Nodes that have nothing to do with each other are in different segments, and segments that do the same to several
    parts of a batch or several parameters have equal programs. `lap` is the last of its values' (`laps_of`).
    """

    key: Key
    is_forward: bool
    program: Program
    nodes: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    lap: int = 0

    @property
    def level(self) -> int:
        """How many segments come before it on the longest way."""
        return self.key[0]

    @property
    def shard(self) -> int:
        """Whose it is."""
        return self.key[1]

    @property
    def parts(self) -> int:
        """The parts of the batch that all of its nodes depend on, bit by bit."""
        return self.key[2]


@dataclass(frozen=True)
class Layout:
    """How a program is cut: each value's owner, its parts of the batch, and whether it is of the forward pass; and for
    each output its home, the shard that gets it. In a ring the first shard has both ends of the model."""

    owners: tuple[Owner, ...]
    parts: tuple[int, ...]
    is_forward: tuple[bool, ...]
    homes: tuple[int, ...]
    is_ring: bool = False

    @property
    def shards(self) -> range:
        """The shards' numbers."""
        return range(1 + max([*self.homes, *(owner for owner in self.owners if owner is not None)]))


@dataclass(frozen=True)
class Pieces:
    """A program cut by a layout, its segments in one order in which they can run."""

    program: Program
    layout: Layout
    segments: tuple[Segment, ...]

    def of(self, shard: int) -> list[Segment]:
        """Return a shard's segments."""
        return [segment for segment in self.segments if segment.shard == shard]

    def inputs_of(self, shard: int) -> list[int]:
        """Return the values that are a shard's own inputs."""
        return [n for n in range(len(self.program.inputs)) if self.layout.owners[n] == shard]

    def outputs_at(self, shard: int) -> list[int]:
        """Return the values that are outputs which a shard gets."""
        pairs = zip(self.program.outputs, self.layout.homes, strict=True)
        return list(dict.fromkeys(int(output.source) for output, home in pairs if home == shard))

    def crossings(self) -> Iterator[tuple[int, int, int]]:
        """Yield each value that crosses with who gives and who takes it, once, however often that one reads it."""
        for taker in self.layout.shards:
            reads = [number for segment in self.of(taker) for number in segment.reads]
            for number in dict.fromkeys([*reads, *self.outputs_at(taker)]):
                giver = self.layout.owners[number]
                if giver not in (taker, None):
                    yield number, giver, taker


def laps_of(program: Program, layout: Layout, is_taken: Callable[[int], bool]) -> list[int]:
    """Return how often the way to each value has come round a ring to the first shard, which takes some of others: 1
    once the forward pass has, 2 once the backward pass has too. In no ring it is 0."""
    found = [0] * len(values(program))
    if not layout.is_ring:
        return found
    first = first_node(program)
    for number in range(len(found)):
        if is_taken(number):
            found[number] = 1 if layout.is_forward[number] else 2
        elif number >= first:
            found[number] = max((found[source] for source in program.nodes[number - first].inputs), default=0)
    return found


def pieces_of(program: Program, layout: Layout) -> Pieces:
    """Return the segments of a program under a layout."""
    plan = _Plan(program, layout)
    groups: dict[Group, list[int]] = {}
    for number in range(plan.first, len(plan.known)):
        if (owner := layout.owners[number]) is not None:
            groups.setdefault((plan.levels[number], owner, layout.parts[number]), []).append(number)
    for output, home in zip(program.outputs, layout.homes, strict=True):
        if layout.owners[output.source] is None:
            groups.setdefault(plan.group_at(int(output.source), home), []).append(int(output.source))
    for number in plan.unread:  # they may end the step all the same
        groups.setdefault((0, 0, 0), []).append(number)
    segments = [
        plan.segment((*group, place), own)
        for group in sorted(groups)
        for place, own in enumerate(plan.by_passes(sorted(set(groups[group]))))
    ]
    return Pieces(program, layout, tuple(segments))


class _Plan:
    """How long the way to each value is, in segments, and who reads it."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self._layout = program, layout
        self.first, self.known = first_node(program), values(program)
        self._roots = roots_of(program)
        self._sources = read_roots(program, self._roots)
        self._outputs = {self._roots[output.source] for output in program.outputs}
        self._readers: list[list[int]] = [[] for _ in self.known]
        for number, sources in enumerate(self._sources, self.first):
            for source in sources:
                if layout.owners[number] is not None:
                    self._readers[source].append(number)
        self.levels = self._levels()
        self._laps = laps_of(program, layout, lambda number: layout.owners[number] not in (FIRST, None))

    @property
    def unread(self) -> list[int]:
        """The nodes that constants alone make and nobody reads."""
        read = {int(source) for node in self.program.nodes for source in node.inputs}
        read.update(int(output.source) for output in self.program.outputs)
        made = range(self.first, len(self.known))
        return [number for number in made if self._roots[number] is None and number not in read]

    def group_at(self, number: int, home: int) -> Group:
        """Return where a shard makes an output that nobody owns."""
        root = self._roots[number]
        if root is None:
            return 0, home, 0
        is_apart = self._layout.owners[root] != home
        return self.levels[root] + int(is_apart), home, self._layout.parts[root]

    def by_passes(self, own: Sequence[int]) -> list[list[int]]:
        """Return values in groups of one pass each, the forward pass first, that are else as `apart`.

        A segment of both would wait for gradients that wait for its forward values.
        """
        passes = (
            [n for n in own if self._layout.is_forward[n] is is_forward] for is_forward in (True, False)
        )
        return [each for numbers in passes for each in self.apart(numbers)]

    def apart(self, own: Sequence[int]) -> list[list[int]]:
        """Return values in the least groups between which nothing is read, in the order of their first ones."""
        leader = {number: number for number in own}
        for number in own:
            sources = self._sources[number - self.first] if number >= self.first else ()
            for source in (*sources, self._roots[number]):
                if source in leader:
                    one, other = sorted((_leader(leader, source), _leader(leader, number)))
                    leader[other] = one
        found: dict[int, list[int]] = {}
        for number in own:
            found.setdefault(_leader(leader, number), []).append(number)
        return list(found.values())

    def segment(self, key: Key, own: Sequence[int]) -> Segment:
        """Return the segment of nodes that one shard makes at one level."""
        inputs, needed, inside = len(self.program.inputs), self._needed(own), set(own)
        reads = [n for n in needed if n not in inside and self._layout.owners[n] is not None]
        constants = [n for n in needed if inputs <= n < self.first]
        nodes = [n for n in needed if n >= self.first and (n in inside or self._layout.owners[n] is None)]
        makes = [number for number in own if self._leaves(number, inside)]
        made = part_of(self.program, reads, constants, nodes, makes)
        is_forward = self._layout.is_forward[own[0]]
        lap = max(self._laps[number] for number in own) if key[1] == FIRST else 0
        return Segment(key, is_forward, made, tuple(nodes), tuple(reads), tuple(makes), lap)

    def _needed(self, own: Sequence[int]) -> list[int]:
        """Return the numbers of all values that a segment reads or makes: what all parts share, then a part's own."""
        found, waiting, inside = set[int](), list(own), set(own)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            if number >= self.first and (number in inside or self._layout.owners[number] is None):
                waiting += self.program.nodes[number - self.first].inputs
        return sorted(found, key=lambda number: (self._layout.parts[number], number))

    def _leaves(self, number: int, inside: set[int]) -> bool:
        """Return whether a value is wanted outside of its segment, or by nobody: it may end the step all the same."""
        readers = self._readers[number]
        is_wanted = number in self._outputs or self._layout.owners[number] is None
        return is_wanted or not readers or any(reader not in inside for reader in readers)

    def _levels(self) -> list[int]:
        levels = [0] * self.first
        for number, sources in enumerate(self._sources, self.first):
            levels.append(max((levels[s] + self._steps(s, number) for s in sources), default=0))
        for number in range(len(levels) - 1, self.first - 1, -1):
            readers = self._readers[number]
            if readers and number not in self._outputs and not any(self._steps(number, r) for r in readers):
                levels[number] = min(levels[reader] for reader in readers)
        return levels

    def _steps(self, source: int, number: int) -> int:
        """Return 1 where a value is read in a segment after the one that makes it, in any case; else 0."""
        owners, parts = self._layout.owners, self._layout.parts
        is_apart = owners[source] != owners[number] or (
            source >= self.first and parts[source] != parts[number]
        )
        return int(owners[number] is not None and is_apart)


def part_of(
    program: Program,
    reads: Sequence[int],
    constants: Sequence[int],
    nodes: Sequence[int],
    makes: Sequence[int],
) -> Program:
    """Return the program of some of another's nodes, which gives `makes`: all by their numbers there, in order."""
    known, inputs, first = values(program), len(program.inputs), first_node(program)
    at = {number: Count(place) for place, number in enumerate([*reads, *constants, *nodes])}
    made = Program(
        program.version,
        program.arithmetic,
        program.role,
        tuple(_port(place, known[number]) for place, number in enumerate(reads)),
        tuple(program.constants[number - inputs] for number in constants),
        tuple(_moved(program.nodes[number - first], at) for number in nodes),
        tuple(Output(str(place), at[number]) for place, number in enumerate(makes)),
    )
    check_program(made)
    return made


def _leader(leader: dict[int, int], number: int) -> int:
    """Return the first of a value's group, and remember it."""
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = leader[number]
    return number


def _port(place: int, value: Sized) -> Port:
    return Port(str(place), value.dtype, value.shape)


def _moved(node: Node, at: dict[int, Count]) -> Node:
    inputs = tuple(at[source] for source in node.inputs)
    return Node(node.operator, inputs, node.attributes, node.dtype, node.shape)
