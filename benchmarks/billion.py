"""A step over a billion parameters of which no machine holds a tensor: a dispute about it takes little more.

The weights repeat the PERIOD rows of a counter-based generator. A machine makes those rows, and of the others such as
its fault has touched; kernels, statements, paths, law and file of evidence are those of any run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks.faults import lost, number_of, reads_of
from benchmarks.hearing import ACCUSED, CHALLENGER, Case, hear
from simulator.duel import contest, sealed_round
from simulator.toy import minimal
from trainer import exact
from trainer.programs.conversion import from_torch
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.operators import bind
from trainer.rounds.reexecution import Holding, open_claim
from trainer.rounds.totals import Array, FastTotals
from trainer.rounds.training import Disputed
from verification import merkle
from verification.arithmetic.definition import Part, Totals, finish, range_total
from verification.arithmetic.numbers import Number
from verification.arithmetic.places import Spec
from verification.claims import Judged
from verification.digest import ZERO
from verification.executions import result_at
from verification.grid import Grid, Rows
from verification.honest.actions import Computed, OpenClaim, Results, SplitClaim, Traced, TraceProgram
from verification.honest.openings import Values
from verification.honest.within import Held, RangeTotal
from verification.manifest import BundleRef, Place, ProgramRef, Programs
from verification.operators import ARITHMETIC
from verification.program import (
    VERSION,
    Attributes,
    Node,
    Output,
    Port,
    Program,
    digest_of_program,
    first_node,
    values,
)
from verification.tensors import Tensor, bundle_digest, row_leaves, tensor_digest
from verification.units import Amount, Count, Digest

PERIOD = 64
SIZES = ((1 << 10, 1 << 8), (1 << 13, 1 << 11), (1 << 16, 1 << 14))
"""Rows and columns of the weights: 2^18, 2^24 and 2^30 numbers."""

NUMBERS = (0.9, 0.001, 4096.0)
"""The constants of `step`, values 3 to 5: momentum, rate, and the grid of the norm."""

X_SCALE, X, W_SCALE, W, Y, ACROSS, GRADIENT, DECAYED, MOMENTUM = range(6, 15)
CHANGE, UPDATED, SCALED, ON_GRID, SQUARES, NORM = range(15, 21)
"""The numbers of the nodes of `step`, after its ports w, m, x and its constants."""


def step(rows: int, columns: int) -> Program:
    """Return a step of one layer: y = xw, a gradient, momentum, new weights, and their squared norm on a grid."""
    wide, tall, out = (rows, columns), (1, rows), (1, columns)
    bits, over_rows, over_columns = ("bits", (14,)), ("dim", (0,)), ("dim", (1,))
    nodes = (
        _node("row_exponent", (2,), "int16", (1, 1), over_columns),
        _node("quantise", (2, X_SCALE), "int16", tall, bits, over_columns),
        _node("row_exponent", (0,), "int16", out, over_rows),
        _node("quantise", (0, W_SCALE), "int16", wide, bits, over_rows),
        _node("product", (X, X_SCALE, W, W_SCALE), "float32", out, bits),
        _node("permute", (2,), "float32", (rows, 1), ("dims", (1, 0))),
        _node("multiply", (ACROSS, Y), "float32", wide),
        _node("multiply", (1, 3), "float32", wide),
        _node("add", (DECAYED, GRADIENT), "float32", wide),
        _node("multiply", (MOMENTUM, 4), "float32", wide),
        _node("subtract", (0, CHANGE), "float32", wide),
        _node("multiply", (UPDATED, 5), "float32", wide),
        _node("cast", (SCALED,), "int64", wide),
        _node("multiply", (ON_GRID, ON_GRID), "int64", wide),
        _node("sum", (SQUARES,), "int64", (), ("dims", (0, 1)), ("keepdim", (0,))),
    )
    ports = tuple(
        Port(name, "float32", _counts(shape)) for name, shape in (("w", wide), ("m", wide), ("x", tall))
    )
    constants = tuple(from_torch(torch.tensor(number)) for number in NUMBERS)
    made = (("w", UPDATED), ("m", MOMENTUM), ("x", 2), ("norm", NORM))
    outputs = tuple(Output(name, Count(source)) for name, source in made)
    return Program(VERSION, ARITHMETIC, "inner", ports, constants, nodes, outputs)


def _node(operator: str, inputs: tuple[int, ...], dtype: str, shape: tuple[int, ...], *facts: Any) -> Node:
    attributes: Attributes = facts
    return Node(operator, tuple(map(Count, inputs)), attributes, dtype, _counts(shape))


def _counts(shape: Sequence[int]) -> tuple[Count, ...]:
    return tuple(map(Count, shape))


@dataclass(frozen=True)
class Fault:
    """Number `index` of node `node` is wrong: what stands at `where` of an input is lost, or its sign is another."""

    name: str
    node: int
    index: int
    where: tuple[int, int] | None = None


def planted(rows: int, columns: int) -> list[Fault]:
    """Return one fault for each way in which a number may read a billion others, or one."""
    row, column = rows // 3 * 2 + 1, columns // 2 + 1
    number = row * columns + column
    return [
        Fault("one term of a product", Y, column, (0, row)),
        Fault("weight gradient", GRADIENT, number, (0, row)),
        Fault("optimizer", UPDATED, number),
        Fault("one term of a sum over all", NORM, 0, (0, number)),
    ]


@dataclass(frozen=True)
class RepeatingRows:
    """A tensor whose row r is row `kept[r]` of `distinct`. (`verification.grid.Rows`)"""

    distinct: Tensor
    kept: Array

    @cached_property
    def leaves(self) -> Sequence[Digest]:
        """The leaf of each row."""
        leaves = row_leaves(self.distinct)
        return [leaves[place] for place in self.kept]

    def blocks(self, row: int) -> Sequence[bytes]:
        """Return the blocks of a row."""
        return self.distinct.blocks(int(self.kept[row]))


@dataclass
class RowTotals:
    """Totals over all numbers of a tensor of repeating rows, each of which has one: a distinct row's is taken once."""

    total: FastTotals
    kept: Array
    width: int

    def __post_init__(self) -> None:
        self._rows: dict[tuple[int, Totals], Array] = {}

    def __call__(self, which: int, index: int, totals: Totals, low: int, high: int) -> Part:
        """Return what `total` does."""
        first, last = -(-low // self.width), high // self.width
        if first >= last:
            return self.total(which, index, totals, low, high)
        rows = self._of_rows(which, totals)[self.kept[first:last]]
        combine = self.total.result.definition.totals[which].combine
        start = self.total.result.definition.totals[which].start
        edges = (low, first * self.width), (last * self.width, high)
        parts = [self.total(which, index, totals, *edge) for edge in edges if edge[0] < edge[1]]
        whole = int(rows.max() if combine is combine.MAX else rows.sum(dtype=np.int64))
        return combine.of([*parts, whole], start)

    def _of_rows(self, which: int, totals: Totals) -> Array:
        """Return the totals of the distinct rows."""
        if (which, totals) not in self._rows:
            _, first = np.unique(self.kept, return_index=True)
            found = [
                self.total(which, 0, totals, int(row) * self.width, (int(row) + 1) * self.width)
                for row in first
            ]
            self._rows[which, totals] = np.array(found, dtype=np.int64)
        return self._rows[which, totals]


class Machine:
    """One side: the step of a round, made of the distinct rows alone; `fault` is its own."""

    def __init__(self, rows: int, columns: int, fault: Fault | None = None) -> None:
        """A fault that touches one row of a tensor makes this row distinct."""
        self.program, self._fault = step(rows, columns), fault
        self._size = rows, columns
        self._specs = [Spec(value.dtype, tuple(map(int, value.shape))) for value in values(self.program)]
        special = [fault.index // columns] if fault is not None and self._is_tall(fault.node) else []
        self._kept = np.arange(rows) % PERIOD
        self._kept[special] = PERIOD
        self._wide = PERIOD + len(special)
        self._products = exact.Products(torch.device("cpu"))
        source = [*range(PERIOD), *(row % PERIOD for row in special)]
        self.made: list[torch.Tensor] = [
            exact.normal_f32(b"billion", "w", (PERIOD, columns), 0.02)[source],
            exact.normal_f32(b"billion", "m", (PERIOD, columns), 0.001)[source],
            exact.normal_f32(b"billion", "x", (1, PERIOD))[:, source],
            *(torch.tensor(number) for number in NUMBERS),
        ]
        for number in range(first_node(self.program), len(self._specs)):
            self.made.append(self._run(number))

    def compute(self, action: Computed, results: Results) -> Any:
        """Return what a move asks for."""
        match action:
            case TraceProgram():
                return self.traced
            case SplitClaim(_, node, claim):
                return self.told(node).split(claim)
            case OpenClaim(_, node, claim, trail):
                disputed = Disputed(Place.STEP, digest_of_program(self.program), (None,) * 3)
                ports = tuple(map(self._digest, range(len(self.program.inputs))))
                sources = Values((), self._digest, lambda number: (ports, number), self.rows, self.rows)
                holding = Holding(disputed, self.program, node, self.told(node), sources)
                return open_claim(holding, self.traced.results, claim, trail)
        raise AssertionError(f"no move in a single step asks for {action}")

    @cached_property
    def traced(self) -> Traced:
        """The step by digest."""
        outputs = tuple(self._digest(int(output.source)) for output in self.program.outputs)
        first = first_node(self.program)
        return Traced(None, outputs, tuple(map(self._digest, range(first, len(self._specs)))))

    @property
    def start(self) -> Digest:
        """The digest of the working state before."""
        return bundle_digest([self._digest(port) for port in range(3)])

    def told(self, number: int) -> Held:
        """Return a node as the machine shows it."""
        fault, held = self._fault, self.held(number)
        if fault is None or fault.where is None or fault.node != number:
            return held
        return _losing(held, fault.where)

    def held(self, number: int) -> Held:
        """Return a node with what its inputs hold."""
        return self._held(number, self.rows(number))

    def rows(self, number: int) -> Rows:
        """Return a value as its digest sees it."""
        tensor = from_torch(self.made[number])
        if self._is_tall(number):
            return RepeatingRows(tensor, self._kept)
        if self._is_long(number):
            return from_torch(self.made[number][:, self._kept])
        return tensor

    def _digest(self, number: int) -> Digest:
        rows = self.rows(number)
        if isinstance(rows, Tensor):
            return tensor_digest(rows)
        return Grid(*self._specs[number]).digest(merkle.subtree("row", rows.leaves))

    def _run(self, number: int) -> torch.Tensor:
        """Return what a node makes, by its kernel on distinct rows, or from its totals where it adds up all rows."""
        node = self.program.nodes[number - first_node(self.program)]
        if node.operator in ("product", "sum"):
            held = self._held(number, None)
            numbers = [self._number(held, index) for index in range(held.result.grid.numbers)]
            made = torch.tensor(numbers, dtype=TORCH_DTYPES[node.dtype]).reshape(tuple(map(int, node.shape)))
        else:
            inputs = [self.made[source] for source in node.inputs]
            specs = [Spec(self._specs[s].dtype, tuple(self.made[s].shape)) for s in node.inputs]
            shape = [self._wide if size == self._size[0] else size for size in node.shape]
            kernel = bind(number, replace(node, shape=_counts(shape)), specs, self._products)
            made = kernel(*inputs).contiguous()
        return self._struck(number, made)

    def _number(self, held: Held, index: int) -> Number:
        if held.result.operator != "product":
            return number_of(held, index)
        return finish(held.result.definition, held.result.site, index, held.read, (self._dots[index],))

    @cached_property
    def _dots(self) -> list[int]:
        """The integer products of x with every column of w, over all rows."""
        counts = np.bincount(self._kept, minlength=self._wide)
        left = self.made[X].numpy().astype(np.int64) * counts
        found: list[int] = (left @ self.made[W].numpy().astype(np.int64))[0].tolist()
        return found

    def _struck(self, number: int, made: torch.Tensor) -> torch.Tensor:
        fault = self._fault
        if fault is None or fault.node != number:
            return made
        made = made.clone()
        row, column = divmod(fault.index, self._size[1])
        place = (
            (int(self._kept[row]), column)
            if self._is_tall(number)
            else np.unravel_index(fault.index, made.shape)
        )
        if fault.where is None:
            made[place] *= -1
        else:
            made[place] = number_of(_losing(self._held(number, None), fault.where), fault.index)
        return made

    def _held(self, number: int, made: Rows | None) -> Held:
        result = result_at(self.program, number)
        sources = [int(source) for source in self.program.nodes[number - first_node(self.program)].inputs]
        arrays = {source: self.made[source].numpy() for source in sources}

        def read_many(place: int, indices: Array) -> Array:
            source = sources[place]
            if self._is_tall(source):
                rows, columns = np.divmod(indices, self._specs[source].shape[1])
                return arrays[source][self._kept[rows], columns]
            flat = arrays[source].reshape(-1)
            return flat[self._kept[indices]] if self._is_long(source) else flat[indices]

        def read(place: int, index: int) -> Number:
            found: Number = read_many(place, np.array([index]))[0].item()
            return found

        fast: RangeTotal = FastTotals(result, read, read_many)
        if result.operator == "sum":
            fast = RowTotals(FastTotals(result, read, read_many), self._kept, self._size[1])
        return Held(result, read, made, fast)

    def _is_tall(self, number: int) -> bool:
        return self._specs[number].shape[:1] == self._size[:1]

    def _is_long(self, number: int) -> bool:
        return self._specs[number].shape == (1, self._size[0])


def _losing(held: Held, where: tuple[int, int]) -> Held:
    """Return a node whose machine loses what stands in a place of an input: that of one term, or of no total."""
    lost_term = where[1]

    def read(place: int, index: int) -> Number:
        number = held.read(place, index)
        return lost(number) if (place, index) == where else number

    def total(which: int, index: int, totals: Totals, low: int, high: int) -> Part:
        assert held.fast_total is not None
        if not low <= lost_term < high:
            return held.fast_total(which, index, totals, low, high)
        defined = held.result.definition.totals[which]
        parts = [range_total(defined, held.result.site, index, read, totals, lost_term, lost_term + 1)]
        edges = (low, lost_term), (lost_term + 1, high)
        parts += [held.fast_total(which, index, totals, *edge) for edge in edges if edge[0] < edge[1]]
        return defined.combine.of(parts, defined.start)

    return replace(held, read=read, fast_total=total)


@dataclass(frozen=True)
class OneProgram:
    """The law's library: the step's program."""

    held: Program

    def program(self, digest: Digest) -> Program:
        """Return it."""
        return self.held


def measure(rows: int, columns: int, fault: Fault, challenger: Machine) -> dict[str, Any]:
    """Bring a fault before the law, and return its row."""
    accused = Machine(rows, columns, fault)
    program = ProgramRef(digest_of_program(accused.program), ZERO)
    frame = minimal(max_steps=1, leaf_every=1, batch=1, slots=1, min_workers=1)
    start = BundleRef(challenger.start, ZERO)
    manifest = replace(frame, title="a billion", programs=Programs(*[program] * 4), start=start)
    state = sealed_round(manifest, "billion", ACCUSED, CHALLENGER, 1, Amount(10**9))
    claimed, found = (
        ((start.digest, bundle_digest(side.traced.outputs)), ZERO) for side in (accused, challenger)
    )
    library = OneProgram(accused.program)
    said = contest(state, claimed, found, library)
    heard = hear(Case(state, library, said, accused.compute, challenger.compute))
    claim = heard.dispute.game.claim
    is_there = isinstance(claim, Judged) and claim.index == fault.index
    if isinstance(claim, Judged) and fault.where is not None:
        is_there = is_there and fault.where in reads_of(claim, challenger.held(fault.node))
    named = heard.is_about(fault.node) and is_there
    return {"parameters": rows * columns, "fault": fault.name, "named": named, **heard.row}


def run(tell: Callable[[str], None], sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Return the rows of all faults at all sizes."""
    found = []
    for rows, columns in sizes:
        tell(f"{rows * columns:,} parameters in one matrix")
        challenger = Machine(rows, columns)
        for fault in planted(rows, columns):
            found.append(measure(rows, columns, fault, challenger))
            named = "named" if found[-1]["named"] else "NOT named"
            tell(f"{fault.name}: {named}, {found[-1]['judged']} of node {found[-1]['node']}")
    return found
