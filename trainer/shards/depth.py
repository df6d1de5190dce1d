"""How deep in its model each value of an inner program stands: cut by depth, what belongs together stays so. Pure.

The forward pass is what the loss depends on, and its order is the program's. All else follows from what is read: a
gradient stands where the forward values stand of which it is made, an update where its parameter is first read.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.rounds.batches import batches_of
from trainer.shards.roots import read_roots, roots_of
from verification.program import Program, first_node, size_bytes, values

LOSS = "loss_sum"
"""The output to which a step's loss is added."""
PULLS = 4
"""What a node reads decides where it stands if it is as large as the largest over this."""


@dataclass(frozen=True)
class Depths:
    """How deep the values of an inner program stand.

    `of` is each value's depth, by its number, below `count`; of what no shard makes by itself (`trainer.shards.roots`)
    it says nothing. `parts` are the parts of the batch on which a value depends, bit by bit, where the gradient of each
    is taken by itself. `is_forward` says whether the loss depends on it, `starts` where each parameter is first read.
    """

    of: tuple[int, ...]
    parts: tuple[int, ...]
    is_forward: tuple[bool, ...]
    starts: Mapping[str, int]
    count: int


def parameter_of(name: str) -> str | None:
    """Return the parameter that an input's or output's name tells, None where it tells none. (SPEC.md 2.4)"""
    kind, _, rest = name.partition("/")
    if kind == "working":
        rest = rest.partition("/")[2]
    return rest or None


def depths_of(program: Program) -> Depths:
    """Return how deep the values of an inner program stand."""
    walk = _Walk(program)
    walk.place_forward()
    walk.place_inputs()
    walk.place_rest()
    walk.place_by_readers()
    starts = {name: walk.of[number] for number, name in enumerate(walk.names) if name is not None}
    return Depths(tuple(walk.of), tuple(walk.parts), tuple(walk.is_forward), starts, walk.count)


class _Walk:
    """The depths of a program while they are being found."""

    def __init__(self, program: Program) -> None:
        roots = roots_of(program)
        self._program, self._first = program, first_node(program)
        self._sizes = [size_bytes(value) for value in values(program)]
        self._sources = read_roots(program, roots)
        self._made = [number for number in range(self._first, len(roots)) if roots[number] == number]
        self._readers = _readers(program, self._sources, self._made)
        self.names = [parameter_of(port.name) for port in program.inputs]
        self.is_forward = _forward(program)
        self._touched = self._parts()
        self.parts = _adopted(program, self._touched)
        self.of = [0] * len(roots)
        self.count = 1
        self._stands: list[list[int]] = [[] for _ in roots]
        """Where a value can be had, ascending: where it is made, and where the forward pass reads it."""

    def place_forward(self) -> None:
        """Place the forward pass by the program's order, each part of the batch as the first; what depends on no part
        is placed where it is first read, so that a matrix goes with its product."""
        order = [number for number in self._made if self.is_forward[number]]
        once = self._of_part(order, 0)
        self.count = max(1, len(once))
        for number in order:
            self.of[number] = self.count - 1
        for part in range(max(self._touched).bit_length()):
            for depth, number in enumerate(self._of_part(order, part)):
                self.of[number] = depth
        for number in reversed(order):
            if not self._touched[number]:
                readers = [reader for reader in self._readers[number] if self.is_forward[reader]]
                self.of[number] = min((self.of[reader] for reader in readers), default=self.count - 1)
        for number in order:
            for value in (number, *self._sources[number - self._first]):
                self._stands[value].append(self.of[number])
        self._stands = [sorted(set(each)) for each in self._stands]

    def place_inputs(self) -> None:
        """Place each parameter where it is first read, its state with it, and what belongs to all at the front."""
        for number, name in enumerate(self.names):
            if name is not None:
                stands = self._stands[self.names.index(name)] or [0]
                self._stands[number], self.of[number] = stands, stands[0]

    def place_rest(self) -> None:
        """Place gradients and updates, in the program's order; what is made of parameters alone can be had where they
        can."""
        for number in self._made:
            sources = self._sources[number - self._first]
            if self._is_gradient(number):
                self.of[number] = self._below(sources)
            elif not self.is_forward[number]:
                largest = max(sources, key=lambda source: (bool(self._stands[source]), self._sizes[source]))
                self._stands[number] = self._stands[largest]

    def place_by_readers(self) -> None:
        """Place what is made of parameters alone where it is read; and so what is made of activations alone and larger
        than they are, as the gradient of a head is that is tied to an embedding, with what is made of that. A scalar of
        such, as the norm of all gradients is, stands as far in front as they do."""
        large = self._large()
        for number in reversed(self._made):
            readers = self._readers[number]
            if not readers or self.is_forward[number]:
                continue
            if not self._is_gradient(number):
                self.of[number] = max(self.of[reader] for reader in readers) if self._stands[number] else 0
            elif number in large:
                self.of[number] = min(self.of[number], *(self.of[reader] for reader in readers))
        pulling = set(large)
        for number in self._made:
            sources, is_scalar = (
                self._sources[number - self._first],
                not self._program.nodes[number - self._first].shape,
            )
            if found := (pulling if is_scalar else large).intersection(sources):
                self.of[number] = min(self.of[number], *(self.of[source] for source in found))
                pulling.update([number] if is_scalar else [])

    def _large(self) -> set[int]:
        """Return the gradients that are made of activations alone and larger than they are, or as large and of such."""
        large, of_parameters = set[int](), {n for n, name in enumerate(self.names) if name is not None}
        for number in self._made:
            sources = self._sources[number - self._first]
            if not self._touched[number]:
                of_parameters.update([] if of_parameters.isdisjoint(sources) else [number])
            elif self._is_gradient(number) and of_parameters.isdisjoint(sources):
                small = sum(self._sizes[source] for source in sources if source not in large)
                least = max((self._sizes[source] for source in sources if source in large), default=small + 1)
                if self._sizes[number] >= max(least, small + 1):
                    large.add(number)
        return large

    def _below(self, sources: Sequence[int]) -> int:
        """Return where a gradient stands: going down from the gradients it is made of, where all else can be had."""
        largest = max(self._sizes[source] for source in sources)
        pulling = [source for source in sources if PULLS * self._sizes[source] >= largest]
        gradients = [source for source in pulling if self._is_gradient(source)]
        gradients = gradients or [source for source in sources if self._is_gradient(source)]
        above = min((self.of[source] for source in gradients), default=self.count - 1)
        stands = (self._stands[source] for source in pulling if not self._is_gradient(source))
        return min((_last_until(each, above) for each in stands if each), default=above)

    def _is_gradient(self, number: int) -> bool:
        return bool(self._touched[number]) and not self.is_forward[number]

    def _of_part(self, numbers: Iterable[int], part: int) -> list[int]:
        return [number for number in numbers if self._touched[number] == 1 << part]

    def _parts(self) -> list[int]:
        """Return the parts of the batch that each value depends on; all is one part where not all are trained alike."""
        _, batches = batches_of(self._program)
        found = [0] * self._first
        for number, node in enumerate(self._program.nodes, self._first):
            mask = 1 << batches.index(number) if number in batches else 0
            for source in node.inputs:
                mask |= found[source]
            found.append(mask)
        forward = [number for number in self._made if self.is_forward[number]]
        passes = [
            [
                self._program.nodes[number - self._first].operator
                for number in forward
                if found[number] == 1 << part
            ]
            for part in range(len(batches))
        ]
        return found if all(each == passes[0] for each in passes) else [int(mask > 0) for mask in found]


def _readers(program: Program, sources: Sequence[Sequence[int]], made: Iterable[int]) -> list[list[int]]:
    """Return, per value, the nodes of single shards that read it."""
    first = first_node(program)
    found: list[list[int]] = [[] for _ in values(program)]
    for number in made:
        for source in sources[number - first]:
            found[source].append(number)
    return found


def _adopted(program: Program, touched: Sequence[int]) -> list[int]:
    """Return the parts of values, where what depends on no part and is read for a single one, as a mask, is of that."""
    first, found = first_node(program), list(touched)
    readers: list[set[int]] = [set() for _ in touched]
    for number in range(len(found) - 1, first - 1, -1):
        if not found[number] and len(readers[number]) == 1:
            (mask,) = readers[number]
            found[number] = mask if mask.bit_count() == 1 else 0
        for source in program.nodes[number - first].inputs:
            readers[source].add(found[number])
    return found


def _forward(program: Program) -> list[bool]:
    """Return, per value, whether the loss depends on it."""
    first = first_node(program)
    total = next(int(output.source) for output in program.outputs if output.name == LOSS)
    ports = [number for number, port in enumerate(program.inputs) if port.name == LOSS]
    found = [False] * (first + len(program.nodes))
    for source in program.nodes[total - first].inputs:
        found[source] = source not in ports
    for number in range(len(found) - 1, first - 1, -1):
        if found[number]:
            for source in program.nodes[number - first].inputs:
                found[source] = True
    return found


def _last_until(places: Sequence[int], limit: int) -> int:
    """Return the last of some ascending places that is not above a limit, or the first of all."""
    return places[max(0, bisect.bisect_right(places, limit) - 1)]
