"""The parts of a program that a file of evidence brings, each found by its number and checked by its path once."""

from collections.abc import Iterable
from typing import TypeVar

from verification import codec, merkle
from verification.arithmetic.places import MAX_DIMENSIONS
from verification.errors import BadEvidence
from verification.evidence.file import Constant, ProgramPart
from verification.program import Node, Port, Sized, check_head, check_node, digest_of_parts
from verification.tensors import ITEM_BYTES
from verification.units import Count, Digest

T = TypeVar("T")
Brought = dict[int, tuple[T, tuple[Digest, ...]]]
"""What was brought, with its path, by value number."""


class Parts:
    """A program's nodes and constants as a file brings them. Work is linear in the file, whatever asks for them."""

    def __init__(self, part: ProgramPart, expected: Digest) -> None:
        """Hold parts of the program with a digest; raises a Violation for those of another, and for one named twice."""
        check_head(part.head)
        if digest_of_parts(part.head, part.constants_root, part.nodes_root) != expected:
            raise BadEvidence("the program is not the run's")
        self.head = part.head
        self._roots = part.constants_root, part.nodes_root
        self._nodes, self._constants = _by_number(part.nodes), _by_number(part.constants)
        self._checked: dict[int, Node | Constant] = {}

    def value(self, number: int) -> Sized:
        """Return the port, constant or node with a number; raises a Violation for one that is not as its path says."""
        if number < len(self.head.inputs):
            return self.head.inputs[number]
        if number >= self.head.first:
            return self.node(number)
        constant = self.constant(number)
        return Port("", constant.dtype, constant.shape)

    def node(self, number: int) -> Node:
        """Return a node; raises a Violation for one that is missing or not the program's."""
        known = self._checked.get(number)
        if isinstance(known, Node):
            return known
        if number not in self._nodes:
            raise BadEvidence("the file lacks the node")
        node, path = self._nodes[number]
        place, root = number - self.head.first, Digest(self._roots[1])
        merkle.verify_path("node", root, codec.encode(node), place, self.head.nodes, path)
        check_node(number, node)
        self._checked[number] = node
        return node

    def constant(self, number: int) -> Constant:
        """Return a constant's head; raises a Violation for one that is missing or not the program's."""
        known = self._checked.get(number)
        if isinstance(known, Constant):
            return known
        if number not in self._constants:
            raise BadEvidence("the file lacks a constant of the node")
        constant, path = self._constants[number]
        place, root = number - len(self.head.inputs), Digest(self._roots[0])
        merkle.verify_path("constant", root, constant.digest, place, self.head.constants, path)
        _check_sized(number, constant)
        self._checked[number] = constant
        return constant


def _check_sized(number: int, constant: Constant) -> None:
    if constant.dtype not in ITEM_BYTES or len(constant.shape) > MAX_DIMENSIONS:
        raise BadEvidence(f"constant {number} is no tensor")


def _by_number(brought: Iterable[tuple[Count, T, tuple[Digest, ...]]]) -> Brought[T]:
    found: Brought[T] = {}
    for number, part, path in brought:
        if number in found:
            raise BadEvidence(f"the file brings value {number} of the program twice")
        found[int(number)] = part, path
    return found
