"""Both sides of a dispute on one machine: an honest one that makes nothing twice, and one with a fault."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import ref

import torch

from benchmarks.faults import Fault, struck
from simulator.duel import Party
from trainer.programs.conversion import from_torch
from trainer.programs.interpreter import Tap
from trainer.rounds.engine import Job
from trainer.rounds.reexecution import Holding, held_of
from trainer.rounds.torch_engine import Tensors, TorchEngine
from trainer.rounds.training import Disputed, Rounds
from verification.digest import tagged
from verification.executions import result_at
from verification.honest.actions import (
    Computed,
    ListStates,
    OpenClaim,
    Results,
    SplitClaim,
    Traced,
    TraceProgram,
)
from verification.honest.openings import Values
from verification.library import failed
from verification.manifest import Place
from verification.program import Program, first_node, program_head
from verification.tensors import Bundle, Tensor, bundle_digest, tensor_digest
from verification.units import Digest

Inputs = Sequence[Sequence[torch.Tensor | None]]


class KeepingEngine(TorchEngine):
    """Keeps what a round's programs made of which tensors, which programs never change, and the digests of states."""

    def __init__(self, programs: Mapping[Digest, bytes]) -> None:
        """As `TorchEngine`."""
        super().__init__(programs)
        self._loaded: dict[Bundle, Tensors] = {}
        self._made: dict[tuple[Any, ...], tuple[Inputs, Tensors]] = {}

    def load(self, bundle: Bundle) -> Tensors:
        """Return the bundle's tensors, the same each time."""
        if bundle not in self._loaded:
            self._loaded[bundle] = super().load(bundle)
        return self._loaded[bundle]

    def run(self, digest: Digest, inputs: Inputs, tap: Tap | None = None) -> Tensors:
        """Run a program, or return what it made of these tensors before if nobody listens."""
        key = (digest, *(id(tensor) for part in inputs for tensor in part))
        if key not in self._made or tap is not None:
            self._made[key] = inputs, super().run(digest, inputs, tap)
        return self._made[key][1]

    def own(self, working: Iterable[torch.Tensor], kept: Sequence[torch.Tensor | None]) -> Tensors:
        """Return the state: nothing is written over."""
        return list(working)

    def advance(self, digest: Digest, working: Tensors, is_checked: bool = False) -> Tensors:
        """Run a step as any program: what it is made of stays."""
        return self.run(digest, [working])

    def know(self, value: torch.Tensor, digest: Digest) -> None:
        """Keep the digest of a tensor."""
        self._digests[id(value)] = ref(value), digest

    def digest(self, handle: Tensors) -> Digest:
        """Return the bundle digest of torch tensors, whose own are kept."""
        known = dict(self._digests)
        found = super().digest(handle)
        self._digests = known | self._digests
        return found


class Honest(Party):
    """A party that computes the outer step too, on what `outer` lays out, and executes what is disputed once.

    It keeps, of the nodes that it is told of beforehand, what a dispute below them asks for.
    """

    engine: KeepingEngine

    def __init__(self, engine: KeepingEngine, rounds: Rounds, job: Job, start: Bundle) -> None:
        """As `Party`."""
        super().__init__(engine, rounds, job, start)
        self.outer: Sequence[Tensor | None] = ()
        self.traced: dict[Place, Traced] = {}
        self.kept: dict[tuple[Place, int], Holding] = {}

    def execution(self, place: Place, step: int) -> Disputed:
        """Return an execution of the round, or of its outer step."""
        if place is Place.OUTER:
            return self.rounds.disputed_outer(self.outer, [0])
        return super().execution(place, step)

    def made(self, place: Place) -> Tensors:
        """Return what the execution at a place without steps makes."""
        execution = self.execution(place, 0)
        return self.engine.run(execution.program, [execution.inputs])

    def trace(self, place: Place, step: int, nodes: Sequence[int]) -> None:
        """Execute, digest every node's result, and keep some nodes with all that they read."""
        disputed = self.execution(place, step)
        program = self.engine.program(disputed.program)
        first, outputs = first_node(program), {int(output.source) for output in program.outputs}
        wanted = {*nodes, *(int(s) for node in nodes for s in program.nodes[node - first].inputs)}
        results, kept = list[Digest](), dict[int, Tensor]()

        def noted(number: int, value: torch.Tensor) -> None:
            results.extend(self.engine.digests([value]))
            if number in outputs:
                self.engine.know(value, results[-1])
            if number in wanted:
                kept[number] = from_torch(value)

        made = self.engine.run(disputed.program, [disputed.inputs], noted)
        self.traced[place] = Traced(None, tuple(self.engine.digests(made)), tuple(results))
        for number in wanted - set(kept):
            is_port = number < len(program.inputs)
            constant = None if is_port else program.constants[number - len(program.inputs)]
            kept[number] = constant or from_torch(disputed.inputs[number])
        for node in nodes:
            self.kept[place, node] = self._hold_node(disputed, program, node, kept)

    def _hold_node(
        self, disputed: Disputed, program: Program, node: int, kept: Mapping[int, Tensor]
    ) -> Holding:
        inputs = [kept[int(source)] for source in program.nodes[node - first_node(program)].inputs]
        held = held_of(result_at(program, node), inputs, kept[node])

        def port(number: int) -> Digest:
            return self.engine.digests([disputed.inputs[number]])[0]

        def bundle(number: int) -> tuple[list[Digest], int]:
            tensors, index = disputed.bundle_of(program_head(program), number)
            return self.engine.digests(list(tensors)), index

        return Holding(disputed, program, node, held, Values((), port, bundle, kept.__getitem__, kept.get))

    def compute(self, action: Computed, results: Results | None = None) -> Any:
        """Return what a move asks for."""
        return (
            self.traced[action.execution.place]
            if isinstance(action, TraceProgram)
            else super().compute(action, results)
        )

    def hold(self, action: SplitClaim | OpenClaim) -> Holding:
        """Return the node that a move asks about."""
        return self.kept[action.execution.place, action.node]


class Faulty:
    """The honest machine but for a fault at one node; `end` is what the execution comes to.

    What it says of all that reads what is wrong plays no part in a dispute, and is invented.
    """

    def __init__(self, holding: Holding, right: Traced, fault: Fault) -> None:
        """`holding` is the honest machine's of the node, `right` its trace."""
        program, digest = holding.program, holding.disputed.program
        first, sources = first_node(program), program.nodes[fault.node - first_node(program)].inputs
        inputs = [holding.values.tensor(int(source)) for source in sources]
        self.held = struck(fault, program, holding.held, [i for i in inputs if isinstance(i, Tensor)])
        self.states: tuple[Digest, ...] = ()
        if self.held.made is None:
            self.end = failed(digest, fault.node)
            self.traced = Traced(fault.node, (), (*right.results[: fault.node - first], self.end))
            return
        assert isinstance(self.held.made, Tensor)
        wrong, results = tensor_digest(self.held.made), list(right.results)
        for number in _depending(program, fault.node):
            results[number - first] = tagged("invented", wrong, results[number - first])
        results[fault.node - first] = wrong
        numbered = enumerate(int(output.source) for output in program.outputs)
        outputs = [results[n - first] if n >= first else right.outputs[place] for place, n in numbered]
        self.end = bundle_digest(outputs)
        self.traced = Traced(None, tuple(outputs), tuple(results))

    def compute(self, action: Computed, results: Results) -> Any:
        """Return what a move of the accused asks for; `states` are what it lists."""
        if isinstance(action, ListStates):
            return self.states
        if isinstance(action, TraceProgram):
            return self.traced
        assert isinstance(action, SplitClaim)
        return self.held.split(action.claim)


def _depending(program: Program, number: int) -> set[int]:
    """Return a node and all that read what is made of it."""
    found = {number}
    for place, node in enumerate(program.nodes, first_node(program)):
        if not found.isdisjoint(map(int, node.inputs)):
            found.add(place)
    return found
