"""A shard's inner program in legs: what runs from one wait for another shard to the next. Pure.

Legs keep the program's order, so a step that fails does so at the program's first node that does, whatever of other
shards is still to come. `trainer.shards.demand` puts the nodes so that parts of the batch overlap.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainer.shards.roots import roots_of
from trainer.shards.segments import part_of
from verification.manifest import Crossing
from verification.operators import operator_of
from verification.program import Output, Program, Sized, first_node, values
from verification.units import Count

ROLE = "leg"
"""The role of a leg's program: it is none of the four of a run."""


@dataclass(frozen=True)
class Leg:
    """A program that reads the values `reads` and makes `makes`, by their numbers in the shard's program.

    `finite` are the places of those that it makes which end the step where they hold NaN or infinity; `last` are the
    values that no later leg reads, and no output is. `end` is the number after that of its last node there.
    """

    program: Program
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    finite: tuple[int, ...]
    last: tuple[int, ...]
    end: int


def legs_of(inner: Program, working: int) -> tuple[Leg, ...]:
    """Return the legs of an inner program whose first `working` inputs are its working state, the others crossings.

    A leg ends before a node that reads what was not here before, if something has been multiplied or given since the
    last one, and after a tensor for another shard, or several in a row; a scalar for another waits for the leg's end.
    """
    plan = _Plan(inner)
    ends = [*_ends(inner, working), plan.total]
    stretches = list(zip([plan.first, *ends[:-1]], ends, strict=True))
    drafts = [plan.draft(begin, end, is_first=place == 0) for place, (begin, end) in enumerate(stretches)]
    drafts = [draft for draft in drafts if draft.own]
    last_read = {number: place for place, draft in enumerate(drafts) for number in draft.reads}
    return tuple(plan.leg(draft, place, last_read) for place, draft in enumerate(drafts))


def taken_by(shard: int, crossings: Sequence[Crossing]) -> list[int]:
    """Return the crossings that a shard takes, in their order."""
    return [place for place, crossing in enumerate(crossings) if shard in crossing.takers]


def given_by(shard: int, crossings: Sequence[Crossing]) -> list[int]:
    """Return the crossings that a shard makes, in their order."""
    return [place for place, crossing in enumerate(crossings) if crossing.maker == shard]


def until(inner: Program, end: int) -> Program:
    """Return an inner program as far as the node before `end`, each value with its number: it fails where that does."""
    made = tuple(output for output in inner.outputs if output.source < end)
    made = made or (Output("first", Count(0)),)
    return replace(inner, role=ROLE, nodes=inner.nodes[: end - first_node(inner)], outputs=made)


def _ends(inner: Program, working: int) -> list[int]:
    """Return the nodes before which legs end, but for the last."""
    first, known, found = first_node(inner), values(inner), list[int]()
    given = {int(output.source) for output in inner.outputs[working:]}
    here, has_work = set(range(working)), False
    for number, node in enumerate(inner.nodes, first):
        fresh = {int(source) for source in node.inputs if source < len(inner.inputs)} - here
        if fresh and has_work:
            found.append(number)
            has_work = False
        here |= fresh
        has_work |= operator_of(node.operator).multiplies or number in given
        if _is_last(number, given, known):
            found.append(number + 1)
            has_work = False
    return sorted(set(found))


def _is_last(number: int, given: Collection[int], known: Sequence[Sized]) -> bool:
    """Return whether a node makes a tensor for another shard, and the next one none that may go with it."""

    def is_tensor(each: int) -> bool:
        return each in given and bool(known[each].shape)

    return is_tensor(number) and number + 1 < len(known) and not is_tensor(number + 1)


@dataclass(frozen=True)
class _Draft:
    """What a leg reads, its nodes in order, and those of them that it makes for all."""

    reads: tuple[int, ...]
    constants: tuple[int, ...]
    nodes: tuple[int, ...]
    own: tuple[int, ...]
    end: int


class _Plan:
    """A shard's program, and what whoever reads it makes (`trainer.shards.roots`)."""

    def __init__(self, inner: Program) -> None:
        self.program, self.first, self.total = inner, first_node(inner), len(values(inner))
        self.outputs = {int(output.source) for output in inner.outputs}
        roots = roots_of(inner)
        read = {int(source) for node in inner.nodes for source in node.inputs}
        self._is_shared = [
            roots[number] != number and number in read and number not in self.outputs
            for number in range(self.total)
        ]
        """Whether a value is made wherever it is read, and nowhere else."""

    def draft(self, begin: int, end: int, is_first: bool) -> _Draft:
        """Return what the nodes from `begin` to before `end` need; the first leg gives constants that are outputs."""
        inputs, own = len(self.program.inputs), [n for n in range(begin, end) if not self._is_shared[n]]
        shown = [n for n in sorted(self.outputs) if inputs <= n < self.first] if is_first else []
        needed = self._needed([*own, *shown], begin)
        inside = set(own)
        nodes = [n for n in needed if n >= self.first and (n in inside or self._is_shared[n])]
        constants = [n for n in needed if inputs <= n < self.first]
        reads = sorted(set(needed) - set(nodes) - set(constants))
        return _Draft(tuple(reads), tuple(constants), tuple(nodes), (*shown, *own), end)

    def leg(self, draft: _Draft, place: int, last_read: Mapping[int, int]) -> Leg:
        """Return the leg at a place, where it is known in which one each value is last read."""
        makes = [n for n in draft.own if n in self.outputs or last_read.get(n, -1) > place]
        makes = makes or [draft.own[-1]]  # of which nobody reads anything, but it may end the step
        finite = tuple(at for at, number in enumerate(makes) if number in self.outputs)
        last = tuple(n for n in draft.reads if last_read[n] == place and n not in self.outputs)
        program = part_of(self.program, draft.reads, draft.constants, draft.nodes, makes)
        return Leg(replace(program, role=ROLE), draft.reads, tuple(makes), finite, last, draft.end)

    def _needed(self, own: Iterable[int], begin: int) -> list[int]:
        found, waiting = set[int](), list(own)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            if number >= self.first and (number >= begin or self._is_shared[number]):
                waiting += map(int, self.program.nodes[number - self.first].inputs)
        return sorted(found)
