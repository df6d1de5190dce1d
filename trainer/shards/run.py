"""Shards in one process: each with its own values alone, running segments one by one and moving only what crosses."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from trainer import exact
from trainer.programs.devices import products_for
from trainer.programs.interpreter import LoadedProgram, part_options
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.shards.memory import order_of
from trainer.shards.segments import Key, Pieces, Segment, pieces_of
from verification.library import StepFailed
from verification.program import Output, first_node
from verification.units import Count

Values = Mapping[int, torch.Tensor]
"""Tensors by the numbers of their values in the whole program."""

Choose = Callable[[Sequence[Segment]], int]
"""Says which of some segments that can run now runs next, by its place among them."""


@dataclass(frozen=True)
class Crossing:
    """A value on its way to another shard."""

    number: int
    taker: int
    tensor: torch.Tensor


class ShardStep:
    """One shard's part of a program, ready to run: it has its own segments and what they need, and nothing else.

    Segments with equal programs share one that is loaded.
    """

    def __init__(
        self, pieces: Pieces, shard: int, options: RunOptions, products: exact.Products, lead: int = 1
    ) -> None:
        """Load the shard's segments, in their order with a `lead` (`order_of`); raises as `LoadedProgram`."""
        inputs = len(pieces.program.inputs)
        self.inputs = pieces.inputs_of(shard)
        self.order = order_of(pieces, shard, lead)
        self._own = {segment.key: segment for segment in self.order}
        self._loaded = {
            program: LoadedProgram(program, options, products, is_part=True)
            for program in {segment.program: None for segment in self._own.values()}
        }
        self._outputs = frozenset(pieces.outputs_at(shard))
        self._finite = {int(output.source) for output in pieces.program.outputs if output.source >= inputs}
        self._takers: dict[int, list[int]] = {}
        for number, giver, taker in pieces.crossings():
            if giver == shard:
                self._takers.setdefault(number, []).append(taker)
        self._waiting: dict[Key, Segment] = {}
        self._reads: Counter[int] = Counter()
        self._held: dict[int, torch.Tensor] = {}

    @property
    def held(self) -> Values:
        """What the shard holds now."""
        return dict(self._held)

    def begin(self, inputs: Values) -> list[Crossing]:
        """Take the shard's own inputs for an execution; return those that others read."""
        self._waiting, self._held = dict(self._own), {}
        self._reads = Counter(number for segment in self._own.values() for number in segment.reads)
        self._reads.update(self._outputs)
        return self._given(inputs)

    def take(self, number: int, tensor: torch.Tensor) -> None:
        """Take a value, if anything of the shard is still to read it."""
        if self._reads[number]:
            self._held[number] = tensor

    def lacking(self, segment: Segment | None) -> list[int]:
        """Return what is not here yet of what a segment reads; of the outputs, once all segments have run, for None."""
        return [n for n in (self._outputs if segment is None else segment.reads) if n not in self._held]

    def ready(self) -> list[Segment]:
        """Return the segments that can run now, in the shard's order."""
        return [each for each in self._waiting.values() if all(number in self._held for number in each.reads)]

    def run(self, segment: Segment) -> list[Crossing]:
        """Run a segment that is ready; return what other shards read of what it makes.

        Raises StepFailed with the node's number in the whole program.
        """
        loaded = self._loaded[segment.program]
        try:
            made = loaded.run([self._held[number] for number in segment.reads])
        except StepFailed as failure:
            raise StepFailed(segment.nodes[failure.node - loaded.first], str(failure)) from failure
        loaded.rest()
        del self._waiting[segment.key]
        for number in segment.reads:
            self._reads[number] -= 1
            if not self._reads[number]:
                del self._held[number]
        for number, tensor in zip(segment.makes, made, strict=True):
            if number in self._finite:
                _require_finite(number, tensor)
        return self._given(dict(zip(segment.makes, made, strict=True)))

    def outputs(self) -> Values:
        """Return the outputs that the shard gets, once all segments have run, and hold nothing any more."""
        held, self._held = self._held, {}
        return {number: held[number] for number in self._outputs}

    def _given(self, made: Values) -> list[Crossing]:
        """Hold values, and return those of them that others read."""
        for number, tensor in made.items():
            self.take(number, tensor)
        return [
            Crossing(number, taker, tensor)
            for number, tensor in made.items()
            for taker in self._takers.get(number, ())
        ]


class ShardedProgram:
    """A program in pieces, all its shards in this process."""

    def __init__(self, pieces: Pieces, options: RunOptions = NODE_BY_NODE) -> None:
        """Raises as `LoadedProgram`."""
        self.pieces, self._options = pieces, options
        own, products = part_options(pieces.program, options), products_for(options)
        self.steps = [ShardStep(pieces, shard, own, products) for shard in pieces.layout.shards]

    def run(self, inputs: Sequence[torch.Tensor], choose: Choose = lambda ready: 0) -> list[torch.Tensor]:
        """Return the outputs in their order, as the whole program makes them; `choose` says what runs next.

        Raises StepFailed with the node at which the whole program fails.
        """
        try:
            return self._run(inputs, choose)
        except StepFailed as failure:
            raise self._first(inputs, failure) from failure

    def _run(self, inputs: Sequence[torch.Tensor], choose: Choose) -> list[torch.Tensor]:
        for crossings in [step.begin({n: inputs[n] for n in step.inputs}) for step in self.steps]:
            self._deliver(crossings)
        while ready := [(step, segment) for step in self.steps for segment in step.ready()]:
            step, segment = ready[choose([segment for _, segment in ready])]
            self._deliver(step.run(segment))
        made = [step.outputs() for step in self.steps]
        pairs = zip(self.pieces.program.outputs, self.pieces.layout.homes, strict=True)
        return [made[home][int(output.source)] for output, home in pairs]

    def _deliver(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            self.steps[crossing.taker].take(crossing.number, crossing.tensor)

    def _first(self, inputs: Sequence[torch.Tensor], failure: StepFailed) -> StepFailed:
        """Return the failure of the first node that fails in the program's order: nothing before it does."""
        while True:
            before = pieces_before(self.pieces, failure.node)
            try:
                ShardedProgram(before, self._options)._run(inputs, lambda ready: 0)
            except StepFailed as earlier:
                failure = earlier
            else:
                return failure


def pieces_before(pieces: Pieces, number: int) -> Pieces:
    """Return the pieces of what stands before a node in a program, by which shards find the first node that fails."""
    program, layout = pieces.program, pieces.layout
    pairs = zip(program.outputs, layout.homes, strict=True)
    kept = [(output, home) for output, home in pairs if output.source < number]
    kept = kept or [(Output("first", Count(0)), layout.owners[0] or 0)]
    outputs, homes = (tuple(output for output, _ in kept), tuple(home for _, home in kept))
    owners, parts, is_forward = layout.owners[:number], layout.parts[:number], layout.is_forward[:number]
    nodes = program.nodes[: number - first_node(program)]
    before = replace(layout, owners=owners, parts=parts, is_forward=is_forward, homes=homes)
    return pieces_of(replace(program, nodes=nodes, outputs=outputs), before)


def _require_finite(number: int, tensor: torch.Tensor) -> None:
    try:
        exact.require_finite(tensor)
    except exact.NonFinite as error:
        raise StepFailed(number, "an output holds NaN or infinity") from error
