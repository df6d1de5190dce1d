"""The referee: opens what a claim reads against what is agreed, and judges it. Nobody votes. (SPEC.md 6.5)

An input is an earlier node's result (a path in the accused's trace), a constant, or a port of the program. A port
belongs to a bundle whose digest is agreed, or the law makes it itself: the index from the seed rule, the round's
number, the weights, the zeros of an empty slot.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from verification import merkle
from verification.arithmetic.numbers import FORMATS, Number, read_number
from verification.arithmetic.places import Site, Spec
from verification.arithmetic.shapes import ShapeError
from verification.claims import Judged, Result
from verification.errors import BadEvidence, Unavailable
from verification.grid import Grid
from verification.layout import MADE, SUMMARY, Held, Home, Origin, origin_of
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.operators import ARITHMETIC, made_by
from verification.outer import weights_of
from verification.program import Node, ProgramHead, Sized
from verification.statements import Mismatch, OpenedInput
from verification.tensors import Tensor, bundle_of_root, tensor_digest
from verification.units import Count, Digest


@dataclass(frozen=True)
class Contributed:
    """What stands in a slot of an outer step: its weight, and the digests of a contribution or of a crew's, of which
    each holds the `parameters` of a shard. (SPEC.md 4.17)"""

    weight: int
    digests: tuple[Digest, ...]
    parameters: tuple[tuple[int, ...], ...] = ()

    def at(self, index: int) -> tuple[Digest, int, int | None]:
        """Return for tensor `index` of a whole contribution which one holds it, where, and of how many tensors (None:
        of as many as a whole one). Of a crew the first one's summary stands for all: no outer step reads any."""
        for digest, parameters in zip(self.digests, self.parameters, strict=False):
            if index in parameters:
                return digest, parameters.index(index), len(parameters) + len(SUMMARY)
        if not self.parameters:
            return self.digests[0], index, None
        own, whole = len(self.parameters[0]), sum(map(len, self.parameters))
        return self.digests[0], own + index - whole, own + len(SUMMARY)


@dataclass(frozen=True)
class Execution:
    """One execution as far as public inputs and earlier claims fix it.

    `working` is the digest of the working state before it, `given` what a prologue is given: the round's number (int64
    0-d) and the records that the seed rule gives (int64 [max_steps, batch]). `slots` maps a slot that is not empty to
    what stands there, `ballast` is the weight of the last slot. A shard's programs are about a part of the model,
    `held`, and its inner step has `taken` tensors of these digests from others.
    """

    place: Place
    program: Digest
    start: Digest
    working: Digest | None = None
    data: Digest | None = None
    given: Mapping[Home, Tensor] = field(default_factory=dict)
    slots: Mapping[int, Contributed] | None = None
    ballast: int = 0
    held: Held | None = None
    taken: tuple[Digest, ...] = ()


Constants = Callable[[int], Tensor | Digest]
"""Gives a program's constant by its value number: a tensor, or the digest that brought numbers must lead to."""


def is_public(place: Place, head: ProgramHead, source: int, held: Held | None = None) -> bool:
    """Return whether a value comes from the ledger's record and from nothing that the accused itself has signed.

    The start state of a worker's round is named in its commitment; what an outer step reads is not. (SPEC.md 6.11)
    """
    if source >= len(head.inputs):
        return False
    home = origin_of(place, head, source, held).home
    return home in (Home.INDEX, Home.WEIGHTS, Home.CONTRIBUTION) or (
        home is Home.START and place is Place.OUTER
    )


def is_brought(
    place: Place, slots: Container[int], head: ProgramHead, source: int, held: Held | None = None
) -> bool:
    """Return whether a value must be opened: a node's result, or a port that the law does not make itself.

    `slots` are those that hold a contribution; for the others zeros stand.
    """
    if source >= len(head.inputs):
        return source >= head.first
    port = origin_of(place, head, source, held)
    is_empty = port.home is Home.CONTRIBUTION and port.slot not in slots
    return not is_empty and port.home not in MADE


def result_of(head: ProgramHead, number: int, node: Node, inputs: Sequence[Sized]) -> Result:
    """Return where node `number` makes its result; `inputs` are the node's, in its order.

    Raises Unavailable for an arithmetic that this version does not have, BadEvidence for an operator that is none of
    it, or that does not take or make such.
    """
    if head.arithmetic != ARITHMETIC:
        raise Unavailable(f"this version judges arithmetic {ARITHMETIC!r}, not {head.arithmetic!r}")
    site = Site(dict(node.attributes), tuple(map(_spec, inputs)), _spec(node))
    try:
        is_known = made_by(node.operator, site) == site.result
    except ShapeError as error:
        raise BadEvidence(f"node {number}: {error}") from error
    if not is_known:
        raise BadEvidence(f"node {number} ({node.operator}) is none of the arithmetic {ARITHMETIC}")
    return Result(site, node.operator, any(output.source == number for output in head.outputs))


def _spec(value: Sized) -> Spec:
    return Spec(value.dtype, tuple(map(int, value.shape)))


class Reader:
    """The numbers of a node's inputs, from what the law has and from blocks that a challenger brought, each checked."""

    def __init__(
        self,
        execution: Execution,
        head: ProgramHead,
        tracing: Tracing,
        node: Node,
        result: Result,
        constants: Constants,
        opened: Sequence[OpenedInput],
    ) -> None:
        """Check what was `opened`; raises BadEvidence for what does not open what is agreed, or is brought twice."""
        self._known: dict[int, Tensor | None] = {}
        agreed: dict[int, Digest] = {}
        self._blocks: dict[tuple[int, int, int], bytes] = {}
        self._unread: set[tuple[int, int, int]] = set()
        self._node, self._inputs = node, result.site.inputs
        specs = dict(zip(map(int, node.inputs), self._inputs, strict=True))
        for source in specs:
            if not is_brought(execution.place, execution.slots or (), head, source, execution.held):
                held = _law_has(execution, head, constants, source)
                if isinstance(held, bytes):
                    agreed[source] = held
                else:
                    self._known[source] = held
        if len({part.value for part in opened}) != len(opened):
            raise BadEvidence("the evidence brings an input twice")
        for part in opened:
            if part.value not in specs or part.value in self._known:
                raise BadEvidence(f"value {part.value} is no input of the node to be brought")
            digest = self._take(part, specs[part.value])
            if part.value not in agreed:
                _check(execution, head, tracing, int(part.value), digest, part.path)
            elif part.path or digest != agreed[int(part.value)]:
                raise BadEvidence("the blocks of a constant are another's")
            _require_whole(part, specs[part.value])

    def _take(self, part: OpenedInput, spec: Spec) -> Digest:
        digests, grid = set(), Grid(*spec)
        if not grid.numbers:
            raise BadEvidence(f"value {part.value} has no numbers to be brought")
        for block in part.blocks:
            place = int(part.value), int(block.row), int(block.block)
            if place in self._blocks:
                raise BadEvidence("the evidence brings a block twice")
            self._blocks[place] = block.data
            where = int(block.row), int(block.block)
            digests.add(grid.digest_of_block(where, block.data, block.in_row, block.in_tensor))
        self._unread |= {place for place in self._blocks if place[0] == part.value}
        if len(digests) != 1:
            raise BadEvidence("the blocks of an input do not belong to one tensor")
        return digests.pop()

    def __call__(self, place: int, index: int) -> Number:
        """Return number `index` of the node's input at a place; raises BadEvidence when it was not brought."""
        source, spec = int(self._node.inputs[place]), self._inputs[place]
        if source in self._known:
            held = self._known[source]
            return 0 if held is None else read_number(spec.dtype, held.data, index)
        row, block, rest = Grid(*spec).place(index)
        data = self._blocks.get((source, row, block))
        if data is None:
            raise BadEvidence(f"the evidence lacks number {index} of value {source}")
        self._unread.discard((source, row, block))
        return read_number(spec.dtype, data, rest)

    def require_all_read(self) -> None:
        """Raise BadEvidence when more was brought than was read."""
        if self._unread:
            raise BadEvidence("the evidence brings what the number does not read")


def _require_whole(part: OpenedInput, spec: Spec) -> None:
    """Raise BadEvidence for a block of another length: two liars may agree on the digest of anything."""
    grid, size = Grid(*spec), FORMATS[spec.dtype].size
    if any(len(block.data) != grid.length_of(block.block) * size for block in part.blocks):
        raise BadEvidence("a block does not have its length")


def judge(claim: Judged, result: Result, read: Reader) -> int | None:
    """Return what is right in place of a claim; raises BadEvidence unless it reads what was brought, all of it."""
    right = claim.right(result, read)
    read.require_all_read()
    return right


def judge_output(
    execution: Execution, head: ProgramHead, tracing: Tracing, constants: Constants, shown: Mismatch
) -> Digest:
    """Return the digest that an output of a trace should have; raises BadEvidence when it has it. (SPEC.md 6.5)"""
    if not shown.output < len(tracing.outputs):
        raise BadEvidence("the trace has no such output")
    source = tracing.sources[shown.output]
    if is_brought(execution.place, execution.slots or (), head, source, execution.held):
        _check(execution, head, tracing, source, shown.digest, shown.path)
    else:
        held = _law_has(execution, head, constants, source)
        if held is None:
            port = head.inputs[source]
            held = Grid(port.dtype, tuple(map(int, port.shape))).of_zeros
        if shown.path or shown.digest != (tensor_digest(held) if isinstance(held, Tensor) else held):
            raise BadEvidence("the output's source is not what the law has")
    if shown.digest == tracing.outputs[shown.output]:
        raise BadEvidence("the output is what its source gives")
    return shown.digest


def _check(
    execution: Execution,
    head: ProgramHead,
    tracing: Tracing,
    source: int,
    digest: Digest,
    path: Sequence[Digest],
) -> None:
    """Raise BadEvidence unless the path proves a value's digest in the trace or in the port's bundle."""
    if source >= head.first:
        merkle.verify_path("trace", tracing.root, digest, source - head.first, tracing.length, path)
        return
    port = origin_of(execution.place, head, source, execution.held)
    if port.home in (Home.DATA, Home.TAKEN):
        alone = execution.data if port.home is Home.DATA else execution.taken[port.index]
        if path or digest != alone:
            raise BadEvidence("an input does not open the agreed digest: it is no part of a bundle")
        return
    agreed, index, count = _bundle(execution, port)
    root = merkle.root_of_path("bundle", digest, index, count, path)
    if agreed is None or bundle_of_root(Count(count), root) != agreed:
        raise BadEvidence("an input does not open the agreed digest")


def _bundle(execution: Execution, port: Origin) -> tuple[Digest | None, int, int]:
    """Return the agreed bundle that a port is of, its place there, and how many tensors that has."""
    if port.home is Home.CONTRIBUTION:
        assert execution.slots is not None
        digest, index, count = execution.slots[port.slot].at(port.index)
        return digest, index, port.count if count is None else count
    return execution.start if port.home is Home.START else execution.working, port.index, port.count


def _law_has(
    execution: Execution, head: ProgramHead, constants: Constants, source: int
) -> Tensor | Digest | None:
    """Return a value that is not brought: a constant, what the law makes, or None for an empty slot's zeros."""
    if source >= len(head.inputs):
        return constants(source)
    home = origin_of(execution.place, head, source, execution.held).home
    if home in (Home.INDEX, Home.ROUND):
        return execution.given[home]
    if home is Home.WEIGHTS:
        weights = {slot: each.weight for slot, each in (execution.slots or {}).items()}
        return weights_of(math.prod(head.inputs[source].shape), weights, execution.ballast)
    return None
