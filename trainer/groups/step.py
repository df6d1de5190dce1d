"""An inner step as one member makes it: its segments on torch tensors, and the totals exchanged between them."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from trainer import exact
from trainer.groups.split import Key, Reduction, Share, Split, outline, split
from trainer.groups.spread import spread_of
from trainer.programs.interpreter import LoadedProgram, part_options
from trainer.programs.kernels import TORCH_DTYPES, KernelFailed
from trainer.programs.options import RunOptions
from verification.arithmetic.definition import Combine
from verification.library import StepFailed
from verification.program import Program
from verification.units import Count, Digest

_SIGN = 0x80000000


class Exchange(Protocol):
    """What the members of a group do together: each gives a 1-D int64 tensor on the CPU, all of one length."""

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the greatest number at each place over all members, in any memory; raises Unavailable."""
        ...

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum at each place over all members, in any memory; raises Unavailable."""
        ...


class NotTogether(Exception):
    """Part of the step cannot be made by some member: whoever makes the whole of it will see what it comes to."""


class MemberStep:
    """One member's part of an inner step, ready to run."""

    def __init__(self, parts: Split, options: RunOptions, products: exact.Products) -> None:
        """Load the segments; raises as `LoadedProgram`."""
        self._split = parts
        self._products = products
        self._segments = [
            None if each.program is None else LoadedProgram(each.program, options, products, is_part=True)
            for each in parts.segments
        ]
        self._ending = _last_reads(parts)
        self.micros = Count(0)
        """Microseconds that the last run computed, without what it waited for others."""

    def run(self, inputs: Sequence[torch.Tensor], exchange: Exchange) -> list[torch.Tensor]:
        """Return the whole step's outputs, which every member makes alike; inputs are not changed.

        Raises NotTogether on every member alike, and what the exchange raises.
        """
        held: dict[Key, torch.Tensor] = {
            (number, None): tensor.to(self._products.device) for number, tensor in enumerate(inputs)
        }
        found: dict[int, list[torch.Tensor]] = {each.number: [] for each in self._split.reductions}
        self.micros = Count(0)
        for number in range(len(self._segments)):
            began = time.perf_counter()
            is_made = self._make(number, held)
            self.micros = Count(self.micros + round(1e6 * (time.perf_counter() - began)))
            waiting = [each for each in self._split.reductions if _exchanges(each, number)]
            if waiting:
                self._exchange(waiting, held if is_made else None, found, exchange)
            elif not is_made:
                raise NotTogether
            for key in self._ending[number]:
                held.pop(key, None)
        return self._outputs(held)

    def _make(self, number: int, held: dict[Key, torch.Tensor]) -> bool:
        """Run a segment; return whether it came to its end."""
        segment, loaded = self._split.segments[number], self._segments[number]
        if loaded is None:
            return True
        try:
            made = loaded.run([held[key] for key in segment.reads])
        except StepFailed:
            return False
        held.update(zip(segment.makes, made, strict=True))
        return True

    def _outputs(self, held: Mapping[Key, torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs; raises NotTogether where one that was made here holds NaN or infinity."""
        made = [held[key] for key in self._split.outputs]
        try:
            for (number, _), tensor in zip(self._split.outputs, made, strict=True):
                if number >= self._split.inputs:
                    exact.require_finite(tensor)
        except exact.NonFinite as error:
            raise NotTogether from error
        return made

    def _exchange(
        self,
        waiting: Sequence[Reduction],
        held: dict[Key, torch.Tensor] | None,
        found: dict[int, list[torch.Tensor]],
        exchange: Exchange,
    ) -> None:
        """Exchange the next total of each reduction, and keep the results of those that were the last.

        The first of the greatest numbers is 1 where a member has nothing to give.
        """
        own = self._own_totals(waiting, held, found)
        numbers = {Combine.MAX: [torch.tensor([int(own is None)])], Combine.ADD: list[torch.Tensor]()}
        for place, each in enumerate(waiting):
            size = _size(each, len(found[each.number]))
            given = torch.zeros(size) if own is None else own[place]
            numbers[each.totals[len(found[each.number])].combine].append(given)
        greatest = exchange.greatest(_joined(numbers.pop(Combine.MAX)))
        if int(greatest[0]):
            raise NotTogether
        assert held is not None
        added = exchange.sum(_joined(numbers[Combine.ADD])) if numbers[Combine.ADD] else greatest[:0]
        rest = {Combine.MAX: greatest[1:], Combine.ADD: added}
        for each in waiting:
            totals = found[each.number]
            kind, size = each.totals[len(totals)].combine, _size(each, len(totals))
            totals.append(rest[kind][:size].to(self._products.device))
            rest[kind] = rest[kind][size:]
            if len(totals) == len(each.totals):
                held[each.number, None] = _finished(each, held, found.pop(each.number))

    def _own_totals(
        self,
        waiting: Sequence[Reduction],
        held: dict[Key, torch.Tensor] | None,
        found: dict[int, list[torch.Tensor]],
    ) -> list[torch.Tensor] | None:
        """Return the totals of the member's own terms, None where there are none."""
        if held is None:
            return None
        try:
            return [
                _own_total(each, [held[key] for key in each.reads], found[each.number], self._products)
                for each in waiting
            ]
        except (exact.NonFinite, KernelFailed, IndexError):
            return None


class Parts:
    """One program's member steps, by the member's share; the last one is kept, for shares seldom change."""

    def __init__(self, program: Program, options: RunOptions, products: exact.Products) -> None:
        """Raises UserError where the program cannot be split. Parts are compiled where the whole is worth it."""
        self._program, self._products = program, products
        self._options = part_options(program, options)
        self._spread = spread_of(program)
        self._last: tuple[Share, MemberStep] | None = None

    @property
    def records(self) -> int:
        """How many records there are to share."""
        return self._spread.records

    @property
    def outline(self) -> Digest:
        """What all members must have in common."""
        return outline(self._program, self._spread)

    def of(self, share: Share) -> MemberStep:
        """Return the step of a member with a share, ready to run."""
        if self._last is None or self._last[0] != share:
            self._last = None
            parts = split(self._program, share, self._spread)
            self._last = share, MemberStep(parts, self._options, self._products)
        return self._last[1]


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return integers of any dtype one after another as int64 on the CPU."""
    sizes = [part.numel() for part in parts]
    made = torch.empty(sum(sizes), dtype=torch.int64)
    for place, part in zip(made.split(sizes), parts, strict=True):
        place.copy_(part.reshape(-1))
    return made


def _exchanges(reduction: Reduction, after: int) -> bool:
    return reduction.after <= after < reduction.after + len(reduction.totals)


def _size(reduction: Reduction, which: int) -> int:
    """Return how many numbers a total of a reduction has; one exponent serves all rows of a `scatter_sum`."""
    is_single = reduction.node.operator == "scatter_sum" and which == 0
    return 1 if is_single else math.prod(reduction.node.shape)


def _own_total(
    reduction: Reduction,
    values: Sequence[torch.Tensor],
    totals: Sequence[torch.Tensor],
    products: exact.Products,
) -> torch.Tensor:
    """Return the next total of a reduction over the member's own terms: integers in the result's order.

    `verification.arithmetic.sums` defines them.
    """
    node, terms = reduction.node, reduction.terms
    attributes = dict(node.attributes)
    if reduction.is_local:
        return _orders(values[0]) if node.operator == "amax" else values[0].to(torch.int64)
    if node.operator == "product":
        left, _, right, _ = values
        return exact.integer_product(left, right, attributes["bits"][0], products)
    if node.operator == "scatter_sum":
        index, rows = values[0].reshape(-1), attributes["rows"][0]
        flat = values[1].reshape(len(index), -1)
        if not totals:
            if not (int(index.min()) >= 0 and int(index.max()) < rows):
                raise KernelFailed(f"an index is outside 0..{rows - 1}")
            return exact.largest_exponent(flat)
        return exact.fixed_point_scatter(index, flat, rows, totals[0].view(()), terms)
    dims = attributes["dims"]
    if not totals:
        return exact.largest_exponent(values[0], dims)
    kept = [size for place, size in enumerate(values[0].shape) if place not in dims]
    return exact.fixed_point_sum(values[0], dims, totals[0].view(kept), terms)


def _finished(
    reduction: Reduction, held: dict[Key, torch.Tensor], totals: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return a reduction's result from its totals over all terms."""
    node = reduction.node
    if node.operator == "product":
        _, left, _, right = (held[key] for key in reduction.reads)
        total = totals[0].view(node.shape).to(torch.float64)
        return exact.scaled(total, left, right, dict(node.attributes)["bits"][0])
    if len(totals) == 2:
        divisor = reduction.terms if node.operator == "mean" else 1
        return exact.rounded_sum(totals[1], totals[0], reduction.terms, divisor).view(node.shape)
    dtype = TORCH_DTYPES[node.dtype]
    made = _at_orders(totals[0], dtype) if node.operator == "amax" else totals[0].to(dtype)
    return made.view(node.shape)


def _orders(numbers: torch.Tensor) -> torch.Tensor:
    """Return integers that order numbers as `verification.arithmetic.numbers.order_of` does; NaN is above all."""
    if numbers.dtype is not torch.float32:
        return numbers.to(torch.int64)
    settled = torch.where(numbers.isnan(), torch.nan, numbers + 0.0)
    words = settled.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    return torch.where(words >= _SIGN, _SIGN - words, words)


def _at_orders(orders: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers that `_orders` gives integers for."""
    if dtype is not torch.float32:
        return orders.to(dtype)
    words = torch.where(orders < 0, _SIGN - orders, orders)
    return torch.where(words >= _SIGN, words - 2 * _SIGN, words).to(torch.int32).view(torch.float32)


def _last_reads(parts: Split) -> list[list[Key]]:
    """Return, per segment, the values that nothing reads after it and its exchange."""
    last: dict[Key, int] = {}
    for number, segment in enumerate(parts.segments):
        last.update(dict.fromkeys((*segment.reads, *segment.makes), number))
    for reduction in parts.reductions:
        end = reduction.after + len(reduction.totals) - 1
        for key in (*reduction.reads, (reduction.number, None)):
            last[key] = max(last.get(key, 0), end)
    for key in parts.outputs:
        last.pop(key, None)
    ending: list[list[Key]] = [[] for _ in parts.segments]
    for key, number in last.items():
        ending[number].append(key)
    return ending
