"""Constant folding: what is quantised of a program's constants is made once, when the program is loaded.

A frozen matrix is a float32 constant, and each product reads it quantised along one of its sides. Folded, a program has
those integers and exponents as constants in the float32's place, and lacks the nodes that made them. Nothing else is
folded: a mask or a table is cheaper made in a loop than read from memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trainer import exact
from trainer.programs.conversion import seen_by_law, to_torch
from trainer.programs.kernels import Kernel, KernelFailed
from verification.program import Node, Output, Program, first_node, values
from verification.units import Count

QUANTISING = ("row_exponent", "quantise")


@dataclass(frozen=True)
class Folded:
    """A program that makes the outputs of another: its constants for torch, and each value's number in that one."""

    program: Program
    constants: tuple[torch.Tensor, ...]
    numbers: Sequence[int]


def fold(program: Program, kernels: Sequence[Kernel], device: torch.device) -> Folded:
    """Return a checked program with its constants on a device, what is quantised of them among them.

    A constant that is read in no other way is not there itself. `kernels` are the nodes' own; where one of them fails
    on the constants nothing is folded: the step ends there.
    """
    cut = _Cut(program)
    try:
        made = cut.made(kernels, device)
    except (exact.NonFinite, KernelFailed):
        cut, made = _Cut(program, ()), {}
    first, inputs = first_node(program), range(len(program.inputs))
    constants = {
        number: to_torch(constant).to(device)
        for number, constant in enumerate(program.constants, len(program.inputs))
        if number in cut.read or not cut.gone
    } | made
    if not cut.gone:
        return Folded(program, tuple(constants.values()), range(first + len(program.nodes)))
    nodes = [number for number in range(first, first + len(program.nodes)) if number not in cut.gone]
    numbers = (*inputs, *constants, *nodes)
    return Folded(_renumbered(program, numbers, made), tuple(constants.values()), numbers)


class _Cut:
    """Which nodes of a program are gone when those that quantise constants are constants."""

    def __init__(self, program: Program, operators: Sequence[str] = QUANTISING) -> None:
        self.program, self.first = program, first_node(program)
        self.total = len(values(program))
        users: list[list[int]] = [[] for _ in range(self.total)]
        for number, node in enumerate(program.nodes, self.first):
            for source in node.inputs:
                users[source].append(number)
        for output in program.outputs:
            users[output.source].append(self.total)
        steady = self._steady()
        folded = {number for number in steady if self._node(number).operator in operators}
        self.gone = set(folded)
        for number in sorted(steady - folded, reverse=True):
            if users[number] and self.gone.issuperset(users[number]):
                self.gone.add(number)
        self.kept = {number for number in folded if not self.gone.issuperset(users[number])}
        """Values that become constants."""
        self.read = {n for n in range(self.first) if not users[n] or not self.gone.issuperset(users[n])}
        """Inputs and constants that are still read."""

    def made(self, kernels: Sequence[Kernel], device: torch.device) -> dict[int, torch.Tensor]:
        """Return the values that become constants, by number, in the memory of one float32 constant beside them."""
        wanted = sorted(self._behind_kept())
        last = {int(source): number for number in wanted for source in self._node(number).inputs}
        known: dict[int, torch.Tensor] = {}
        for number in wanted:
            sources = [int(source) for source in self._node(number).inputs]
            for source in sources:
                if source < self.first:
                    constant = self.program.constants[source - len(self.program.inputs)]
                    known.setdefault(source, to_torch(constant).to(device))
            known[number] = kernels[number - self.first](*[known[source] for source in sources])
            for source in dict.fromkeys(sources):
                if last[source] == number and source not in self.kept:
                    del known[source]
        return {number: known[number].contiguous() for number in sorted(self.kept)}

    def _behind_kept(self) -> set[int]:
        """Return the nodes that make the values that become constants, those among them."""
        found, border = set(self.kept), list(self.kept)
        while border:
            sources = {int(source) for source in self._node(border.pop()).inputs if source >= self.first}
            border += sources - found
            found |= sources
        return found

    def _steady(self) -> set[int]:
        """Return the nodes that read constants, and nothing else at any remove."""
        found = set(range(len(self.program.inputs), self.first))
        for number, node in enumerate(self.program.nodes, self.first):
            if node.inputs and found.issuperset(node.inputs):
                found.add(number)
        return {number for number in found if number >= self.first}

    def _node(self, number: int) -> Node:
        return self.program.nodes[number - self.first]


def _renumbered(program: Program, numbers: Sequence[int], made: dict[int, torch.Tensor]) -> Program:
    """Return the program of the values with some numbers, in this order, `made` being constants."""
    place = {number: Count(at) for at, number in enumerate(numbers)}
    known, first = values(program), first_node(program)
    inputs = len(program.inputs)
    constants = [
        seen_by_law(made[number]) if number in made else program.constants[number - inputs]
        for number in numbers[inputs:]
        if number < first or number in made
    ]
    nodes = [
        replace(node, inputs=tuple(place[source] for source in node.inputs))
        for number in numbers
        if number not in made and isinstance(node := known[number], Node)
    ]
    outputs = tuple(Output(output.name, place[output.source]) for output in program.outputs)
    return replace(program, constants=tuple(constants), nodes=tuple(nodes), outputs=outputs)
