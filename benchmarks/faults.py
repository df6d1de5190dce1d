"""Faults of a machine: one number of one node wrong, one term of a sum lost, another constant, a failure that is none.

A fault strikes where a node's kernel has made its result. Asked about the node afterwards, the machine answers from
what it computed with, so a dispute ends at what is really wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trainer import exact
from trainer.programs.conversion import from_torch, to_torch
from trainer.programs.kernels import Kernel, KernelFailed
from trainer.programs.operators import bind
from trainer.programs.tracing.capture import TracedRun
from trainer.rounds.totals import Array, FastTotals
from verification.arithmetic.definition import Totals, finish
from verification.arithmetic.numbers import FLOAT, EndsStep, Number, single
from verification.arithmetic.places import Spec
from verification.claims import Judged, Range, Sum, Term, Value
from verification.honest.within import Held
from verification.manifest import Place
from verification.operators import operator_of
from verification.program import Program, first_node
from verification.tensors import Tensor
from verification.units import Count

Where = tuple[int, int]
"""An input's place and a flat index in it."""

_TRIES = 4096


def number_of(held: Held, index: int) -> Number:
    """Return number `index` of a node as one's own inputs give it; raises EndsStep."""
    totals: Totals = held.split(Sum(index, 0)).totals if held.result.definition.totals else ()
    return finish(held.result.definition, held.result.site, index, held.read, totals)


def reads_of(claim: Judged, held: Held) -> set[Where]:
    """Return all that a claim reads."""
    found: set[Where] = set()

    def noted(place: int, index: int) -> Number:
        found.add((place, index))
        return held.read(place, index)

    claim.right(held.result, noted)
    return found


def misreading(held: Held, where: Where, value: Callable[[Any], Any]) -> Held:
    """Return a node whose machine reads `value` of what stands in one place of an input."""

    def read(place: int, index: int) -> Number:
        number = held.read(place, index)
        return value(number) if (place, index) == where else number

    def read_many(place: int, indices: Array) -> Array:
        assert isinstance(held.fast_total, FastTotals)
        numbers = held.fast_total.read_many(place, indices)
        is_there = (indices == where[1]) & (place == where[0])
        return np.where(is_there, value(numbers), numbers).astype(numbers.dtype)

    return replace(held, read=read, fast_total=FastTotals(held.result, read, read_many))


def lost(number: Any) -> Any:
    """Return what is read in place of a number that is lost."""
    return number * 0


class Flip:
    """One number of the result has its sign turned: its terms are right, and what they give is another number."""

    def __init__(self) -> None:
        self.index = -1

    def strike(self, kernel: Kernel, tensors: tuple[torch.Tensor, ...], held: Held) -> torch.Tensor:
        """Return the result with one number wrong: of the first from the middle on that is not zero."""
        made = kernel(*tensors).contiguous().clone()
        flat = made.view(-1)
        nonzero = torch.nonzero(flat[len(flat) // 2 :]).view(-1)
        self.index = len(flat) // 2 + int(nonzero[0])
        flat[self.index] *= -1
        return made

    def told(self, held: Held) -> Held:
        """Return the node as the machine shows it."""
        return held

    def is_named(self, claim: Judged, held: Held) -> bool:
        """Return whether a judged claim is about what is wrong; `held` is the true node."""
        return isinstance(claim, Value) and claim.index == self.index


class Misread:
    """One number of the result is made with one of input `place` lost, and is wrong by more than `least` of it."""

    def __init__(self, place: int = 0, least: float = 0.0) -> None:
        self._place, self._least = place, least
        self.index, self.where = -1, (-1, -1)

    def strike(self, kernel: Kernel, tensors: tuple[torch.Tensor, ...], held: Held) -> torch.Tensor:
        """Return the result with one number wrong."""
        made = kernel(*tensors).contiguous().clone()
        flat = made.view(-1)
        for index, where in self._candidates(held):
            try:
                wrong = number_of(misreading(held, where, lost), index)
            except EndsStep:
                continue
            right = flat[index].item()
            if np.isfinite(wrong) and abs(wrong - right) > self._least * abs(right):
                self.index, self.where, flat[index] = index, where, wrong
                return made
        raise AssertionError("no number of the node changes with what it reads")

    def told(self, held: Held) -> Held:
        """Return the node as the machine shows it."""
        return misreading(held, self.where, lost)

    def is_named(self, claim: Judged, held: Held) -> bool:
        """Return whether a judged claim is about what is wrong; `held` is the true node."""
        is_there = not isinstance(claim, Term) and claim.index == self.index
        return is_there and self.where in reads_of(claim, held)

    def _candidates(self, held: Held) -> Iterator[tuple[int, Where]]:
        """Yield numbers of the result, from its middle on, each with one that it reads."""
        for index in self._indices(held):
            claim = self._counting(held, index) if held.result.definition.totals else Value(index, (), 0)
            where = [where for where in reads_of(claim, held) if where[0] == self._place]
            yield from ((index, found) for found in where)

    def _indices(self, held: Held) -> Iterator[int]:
        """Yield numbers of the result; of a scatter those of a row that the middle index names."""
        result, start = held.result, held.result.grid.numbers // 2
        if result.operator == "scatter_sum":
            width = result.grid.numbers // result.site.one("rows")
            start = int(held.read(0, result.definition.totals[-1].count(result.site) // 2)) * width
        yield from range(start, min(start + _TRIES, result.grid.numbers))

    def _counting(self, held: Held, index: int) -> Range:
        """Return one term of the number's last total that counts: where there is more, by halves."""
        totals = held.split(Sum(index, 0)).totals[:-1]
        low, high = 0, held.result.definition.totals[-1].count(held.result.site)
        while high - low > 1:
            middle = (low + high) // 2
            left, right = (
                self._total(held, index, totals, *part) for part in ((low, middle), (middle, high))
            )
            low, high = (low, middle) if abs(left) >= abs(right) else (middle, high)
        return Range(index, totals, low, high, 0)

    def _total(self, held: Held, index: int, totals: Totals, low: int, high: int) -> int:
        assert held.fast_total is not None
        made = held.fast_total(len(totals), index, totals, low, high)
        assert made is not None
        return made


class Constant:
    """The whole result is made with half as much again of a constant, which stands at `place` among the inputs."""

    def __init__(self, place: int) -> None:
        self._place = place

    def strike(self, kernel: Kernel, tensors: tuple[torch.Tensor, ...], held: Held) -> torch.Tensor:
        """Return the result with all numbers wrong."""
        changed = [t * 1.5 if place == self._place else t for place, t in enumerate(tensors)]
        return kernel(*changed)

    def told(self, held: Held) -> Held:
        """Return the node as the machine shows it."""
        return misreading(held, (self._place, 0), lambda number: single(number * 1.5))

    def is_named(self, claim: Judged, held: Held) -> bool:
        """Return whether a judged claim is about what is wrong; `held` is the true node."""
        right = claim.right(held.result, held.read)
        return isinstance(claim, Value) and right != claim.right(held.result, self.told(held).read)


class FalseFailure:
    """The machine says that the node ends the step."""

    def strike(self, kernel: Kernel, tensors: tuple[torch.Tensor, ...], held: Held) -> torch.Tensor:
        """Raise KernelFailed."""
        raise KernelFailed("no reason")

    def told(self, held: Held) -> Held:
        """Return the node as the machine shows it."""
        return held

    def is_named(self, claim: Judged, held: Held) -> bool:
        """Return whether a judged claim is about what is wrong; `held` is the true node."""
        return isinstance(claim, Term)


@dataclass(frozen=True)
class Fault:
    """What is wrong at node `node` of the program at a place."""

    name: str
    place: Place
    node: int
    wrong: Flip | Misread | Constant | FalseFailure


def struck(fault: Fault, program: Program, held: Held, inputs: Sequence[Tensor]) -> Held:
    """Return what a machine with a fault holds of its node; `held` is the true one, made of `inputs`."""
    node = program.nodes[fault.node - first_node(program)]
    specs = [Spec(tensor.dtype, tuple(map(int, tensor.shape))) for tensor in inputs]
    kernel = bind(fault.node, node, specs, exact.Products(torch.device("cpu")))
    try:
        made = fault.wrong.strike(kernel, tuple(map(to_torch, inputs)), held)
    except KernelFailed:
        return fault.wrong.told(replace(held, made=None))
    return fault.wrong.told(replace(held, made=from_torch(made)))


def faults(run: TracedRun) -> list[Fault]:
    """Return one fault for every kind of node that matters."""
    prologue, inner, epilogue, outer = run.prologue, run.inner, run.epilogue, run.outer
    step, shapes = Place.STEP, {tensor.shape for tensor in run.start.tensors}
    products, softmax = _nodes(inner, "product"), _nodes(inner, "exp")[0]
    (loss,) = _nodes(inner, "log")
    weights = [n for n in products if n > loss and inner.nodes[n - first_node(inner)].shape in shapes]
    forward = next(n for n in products if "add" in _readers(inner, n))  # of a residual: what counts for all
    backward = next(n for n in products if n > loss and n not in weights)
    return [
        Fault("forward product", step, forward, Flip()),
        Fault("backward product", step, backward, Misread(0)),
        Fault("weight-gradient product", step, weights[-1], Misread(2)),
        Fault("one term of a sum", Place.EPILOGUE, _nodes(epilogue, "sum")[0], Misread(0)),
        Fault("softmax", step, softmax, Misread(0, 0.5)),
        Fault("norm", step, _nodes(inner, "mean")[0], Misread(0)),
        Fault("cross-entropy", step, _nodes(inner, "take_along")[0], Misread(1)),
        Fault("embedding gradient", step, _nodes(inner, "scatter_sum")[0], Misread(1)),
        Fault("optimizer", step, _update(inner, "mlp"), Flip()),
        _constant(inner),
        Fault("gather", Place.PROLOGUE, _nodes(prologue, "gather")[0], Misread(1)),
        Fault("compression", Place.EPILOGUE, _nodes(epilogue, "round")[0], Misread(0)),
        Fault("outer step", Place.OUTER, _update(outer, "mlp"), Flip()),
        Fault("false failure", step, softmax, FalseFailure()),
    ]


def _nodes(program: Program, operator: str) -> list[int]:
    """Return the numbers of all nodes of an operator."""
    first = first_node(program)
    return [first + place for place, node in enumerate(program.nodes) if node.operator == operator]


def _readers(program: Program, number: int) -> set[str]:
    """Return the operators that read a value, and those that read views of it."""
    found: set[str] = set()
    for place, node in enumerate(program.nodes):
        if number in node.inputs:
            found.add(node.operator)
            if operator_of(node.operator).is_view:
                found |= _readers(program, first_node(program) + place)
    return found


def _update(program: Program, name: str) -> int:
    """Return the node that makes the last of the new parameters whose name holds a word."""
    return [int(o.source) for o in program.outputs if "parameter/" in o.name and name in o.name][-1]


def _constant(program: Program) -> Fault:
    """Return the fault at the node that reads a constant first, of the float32 number that comes into use last."""
    count, first = len(program.inputs), first_node(program)
    numbers = [count + n for n, c in enumerate(program.constants) if c.dtype == FLOAT and not c.shape]
    readers = {n: next((p for p, node in enumerate(program.nodes) if n in node.inputs), -1) for n in numbers}
    chosen = max(numbers, key=readers.__getitem__)
    inputs = program.nodes[readers[chosen]].inputs
    return Fault("constant", Place.STEP, first + readers[chosen], Constant(inputs.index(Count(chosen))))
