"""One member's part of an inner step: programs on its own records, and between them the totals over all records. Pure.

What a program computes before any total is known is its first segment. A node that reduces over the batch stands
between segments, and what reads its result comes later; all that can reduce at once do so in one exchange.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.groups.spread import Batch, Spread, local_shape, spread_of
from verification.arithmetic.definition import Total
from verification.arithmetic.places import Site, Spec
from verification.digest import tagged
from verification.errors import UserError
from verification.operators import definition_of, operator_of
from verification.program import Node, Output, Port, Program, check_program, first_node, values
from verification.units import Count, Digest

Key = tuple[int, Batch | None]
"""A value by its number: as a member holds it, or of one that holds no single records the places of the member's."""


@dataclass(frozen=True)
class Share:
    """A member's records of a batch of `of`: `count` from number `first` on."""

    first: int
    count: int
    of: int


@dataclass(frozen=True)
class Segment:
    """A program on a member's records, None where nothing is to do: it reads `reads` and makes `makes`, in order."""

    program: Program | None
    reads: tuple[Key, ...]
    makes: tuple[Key, ...]


@dataclass(frozen=True)
class Reduction:
    """A node over all records, whose totals are exchanged one after another from the end of segment `after` on.

    It reads `reads`. One that `is_local` reads its own number: its segment makes the only total, of the member's own
    terms, by the node's own operator. `terms` is how many terms the last total has over all records.
    """

    number: int
    node: Node
    after: int
    totals: tuple[Total, ...]
    terms: int
    reads: tuple[Key, ...]
    is_local: bool


@dataclass(frozen=True)
class Split:
    """A member's part of a step: how many inputs it has, segments in order, the reductions between them, and the
    values of the outputs."""

    inputs: int
    segments: tuple[Segment, ...]
    reductions: tuple[Reduction, ...]
    outputs: tuple[Key, ...]


def shares(records: int, members: int) -> list[Share]:
    """Return how a batch is divided among members, as evenly as it goes; raises UserError for too few records."""
    if records < members:
        raise UserError(
            f"a batch of {records} records cannot be split over {members} machines: "
            f"take a group of at most {records}, or a larger training.batch"
        )
    ends = [records * place // members for place in range(members + 1)]
    return [Share(low, high - low, records) for low, high in itertools.pairwise(ends)]


def split(program: Program, share: Share, spread: Spread | None = None) -> Split:
    """Return a member's part of an inner program; `spread` is the program's, where it is known already.

    Raises UserError where the program cannot be split (see `spread_of`).
    """
    plan = _Plan(program, spread or spread_of(program))
    outputs = [(int(output.source), None) for output in program.outputs]
    wanted: list[dict[Key, None]] = [{} for _ in range(plan.last + 1)]
    for reduction in plan.reductions.values():
        for key in reduction.reads:
            if reduction.is_local or key[1] is not None or not plan.is_held(key[0]):
                wanted[reduction.after][key] = None
            elif not plan.is_given(key[0]):
                wanted[plan.place[key[0]]][key] = None
    wanted[-1].update((key, None) for key in outputs if not plan.is_given(key[0]))
    segments: list[Segment] = []
    for number in range(plan.last, -1, -1):
        made = _Piece(plan, share, number).segment(tuple(wanted[number]))
        for key in made.reads:
            if not plan.is_given(key[0]):
                wanted[plan.place[key[0]]][key] = None
        segments.insert(0, made)
    return Split(len(program.inputs), tuple(segments), tuple(plan.reductions.values()), tuple(outputs))


def outline(program: Program, spread: Spread) -> Digest:
    """Return the digest of what members exchange and when, which all of a group must have in common."""
    reductions = _Plan(program, spread).reductions.values()
    each = ((r.number, r.after, r.terms, *(total.combine.value for total in r.totals)) for r in reductions)
    return tagged("group outline", *(repr(one).encode() for one in each))


class _Plan:
    """Which segment makes each value of a program, by its number in `place`, whatever a member's share."""

    def __init__(self, program: Program, spread: Spread) -> None:
        self.program, self.spread = program, spread
        self.first, self.known = first_node(program), values(program)
        self.reductions: dict[int, Reduction] = {}
        levels = [0] * self.first
        for number, node in enumerate(program.nodes, self.first):
            level = max((levels[source] for source in node.inputs), default=0)
            if number in spread.reduces:
                self.reductions[number] = self._reduction(number, node, level)
                level += len(self.reductions[number].totals)
            levels.append(level)
        self.last = max(levels)
        self.place = self._places()

    def is_given(self, number: int) -> bool:
        """Return whether a value is there before any segment that reads it: an input, or made by an exchange."""
        return number < len(self.program.inputs) or number in self.reductions

    def is_held(self, number: int) -> bool:
        """Return whether a value is kept from segment to segment: no constant and no view."""
        return self.is_given(number) or (number >= self.first and not self.is_view(number))

    def is_view(self, number: int) -> bool:
        """Return whether a node makes a view, which every segment that reads it makes for itself."""
        return number >= self.first and operator_of(self.program.nodes[number - self.first].operator).is_view

    def read(self, number: int) -> list[Key]:
        """Return how a node reads its inputs."""
        place = number - self.first
        batches = self.spread.batches
        return [
            (int(source), batch if batches[source] is None else None)
            for source, batch in zip(self.program.nodes[place].inputs, self.spread.reads[place], strict=True)
        ]

    def _reduction(self, number: int, node: Node, level: int) -> Reduction:
        specs = [
            Spec(value.dtype, tuple(value.shape))
            for value in (*map(self.known.__getitem__, node.inputs), node)
        ]
        site = Site(dict(node.attributes), tuple(specs[:-1]), specs[-1])
        totals = definition_of(node.operator, site).totals
        is_local = len(totals) == 1 and not operator_of(node.operator).multiplies
        reads: Sequence[Key] = [(number, None)] if is_local else self.read(number)
        return Reduction(number, node, level, totals, totals[-1].count(site), tuple(reads), is_local)

    def _places(self) -> list[int]:
        """Each value is made where the first that reads it needs it, for nothing else should hold it before."""
        place = [self.last] * len(self.known)
        for number in range(len(self.known) - 1, self.first - 1, -1):
            needed = self.reductions[number].after if number in self.reductions else place[number]
            for source in self.program.nodes[number - self.first].inputs:
                place[source] = min(place[source], needed)
        return place


class _Piece:
    """One segment while it is being cut from a program."""

    def __init__(self, plan: _Plan, share: Share, number: int) -> None:
        self._plan, self._share, self._number = plan, share, number
        self._count = 0
        self._at: dict[Key, Count] = {}
        self._nodes: list[Node] = []

    def segment(self, wanted: Sequence[Key]) -> Segment:
        """Return the segment that makes what is `wanted`."""
        if not wanted:
            return Segment(None, (), ())
        plan, needed = self._plan, self._needed(wanted)
        reads = [(number, None) for number in needed if self._is_port(number)]
        constants = [number for number in needed if len(plan.program.inputs) <= number < plan.first]
        for key in [*reads, *((number, None) for number in constants)]:
            self._at[key] = Count(len(self._at))
        self._count = len(self._at)
        made = [number for number in needed if (number, None) not in self._at]
        for number in made:
            self._emit(number)
        outputs = [Output(str(place), self._placed(key)) for place, key in enumerate(wanted)]
        program = Program(
            plan.program.version,
            plan.program.arithmetic,
            plan.program.role,
            tuple(self._port(number) for number, _ in reads),
            tuple(plan.program.constants[number - len(plan.program.inputs)] for number in constants),
            tuple(self._nodes),
            tuple(outputs),
        )
        check_program(program)
        return Segment(program, tuple(reads), tuple(wanted))

    def _is_port(self, number: int) -> bool:
        """Return whether the segment reads a value that is there before it."""
        plan = self._plan
        if number in plan.reductions:
            reduction = plan.reductions[number]
            return not (reduction.is_local and reduction.after == self._number)
        if number < plan.first:
            return number < len(plan.program.inputs)
        return plan.place[number] < self._number and not plan.is_view(number)

    def _needed(self, wanted: Sequence[Key]) -> list[int]:
        """Return the numbers of all values that the segment reads or makes, in order."""
        found, waiting = set[int](), [number for number, _ in wanted]
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            if number >= self._plan.first and not self._is_port(number):
                waiting += [source for source, _ in self._plan.read(number)]
        return sorted(found)

    def _port(self, number: int) -> Port:
        value = self._plan.known[number]
        return Port(str(number), value.dtype, self._shape(number))

    def _shape(self, number: int) -> tuple[Count, ...]:
        batch = self._plan.spread.batches[number]
        return local_shape(self._plan.known[number], batch, self._share.count)

    def _emit(self, number: int) -> None:
        node = self._plan.program.nodes[number - self._plan.first]
        sources = tuple(self._placed(key) for key in self._plan.read(number))
        made = Node(node.operator, sources, node.attributes, node.dtype, self._shape(number))
        self._at[number, None] = self._add(made)

    def _placed(self, key: Key) -> Count:
        """Return the number of a value in the segment; the member's places of one are cut where they are first read."""
        number, batch = key
        if batch is None or key in self._at:
            return self._at[key]
        self._at[key] = self._cut(number, batch)
        return self._at[key]

    def _cut(self, number: int, batch: Batch) -> Count:
        """Return the number of the member's places of a value that holds those of all."""
        value, share, source = self._plan.known[number], self._share, self._at[number, None]
        whole, axis, parted = value.shape[batch.axis], batch.axis, list(value.shape)
        if batch.outer > 1:
            parted[axis : axis + 1] = [Count(batch.outer), Count(whole // batch.outer)]
            axis += 1
            source = self._add(Node("view", (source,), (), value.dtype, tuple(parted)))
        low, high = share.first * batch.rows, (share.first + share.count) * batch.rows
        cut = (("dim", (axis,)), ("start", (low,)), ("step", (1,)), ("stop", (high,)))
        parted[axis] = Count(high - low)
        source = self._add(Node("slice", (source,), cut, value.dtype, tuple(parted)))
        if batch.outer > 1:
            shape = local_shape(value, batch, share.count)
            source = self._add(Node("view", (source,), (), value.dtype, shape))
        return source

    def _add(self, node: Node) -> Count:
        self._nodes.append(node)
        return Count(self._count + len(self._nodes) - 1)
