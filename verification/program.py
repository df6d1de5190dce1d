"""Programs: training as a document. A flat list of numbered nodes over inputs and constants; no torch. (SPEC.md 2.5)

A value's number counts inputs first, then constants, then nodes; a node refers to lower numbers only, so a program has
no cycles and its order is its order of execution. Attributes are integers; a float travels as a 0-d float32 constant.
What an operator means belongs to the arithmetic version that the program names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from verification import codec, merkle
from verification.arithmetic.places import MAX_DIMENSIONS
from verification.digest import tagged
from verification.errors import Malformed, Refused
from verification.operators import operator_of
from verification.tensors import ITEM_BYTES, Tensor, tensor_digest
from verification.units import Count, Digest

VERSION = "program/1"
"""Version of this encoding."""

MAX_ELEMENTS = 1 << 40
"""Elements that one value may have."""

MAX_PROGRAM = 1 << 30
"""Bytes that an encoded program may have unless its reader says otherwise."""

Attributes = tuple[tuple[str, tuple[int, ...]], ...]
"""Named integers, sorted by name."""


@dataclass(frozen=True)
class Port:
    """An input: its name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[Count, ...]


@dataclass(frozen=True)
class Node:
    """One operator, executed on the values with the numbers `inputs`; makes one tensor of `dtype` and `shape`."""

    operator: str
    inputs: tuple[Count, ...]
    attributes: Attributes
    dtype: str
    shape: tuple[Count, ...]


@dataclass(frozen=True)
class Output:
    """A result: its name and the number of the value that it is."""

    name: str
    source: Count


@dataclass(frozen=True)
class Program:
    """`role` is one of prologue, inner, epilogue, outer by convention; `arithmetic` names the operators' semantics."""

    version: str
    arithmetic: str
    role: str
    inputs: tuple[Port, ...]
    constants: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class ProgramHead:
    """All of a program but its constants and nodes, of which it gives the numbers: what a digest opens to first."""

    version: str
    arithmetic: str
    role: str
    inputs: tuple[Port, ...]
    outputs: tuple[Output, ...]
    constants: Count
    nodes: Count

    @property
    def first(self) -> int:
        """The number of the program's first node."""
        return len(self.inputs) + self.constants


Sized = Port | Tensor | Node
"""What a value's number points at; all have `dtype` and `shape`."""


def encode_program(program: Program) -> bytes:
    """Return the canonical encoding, the bytes whose digest a manifest names."""
    return codec.encode(program)


def program_digest(encoded: bytes) -> Digest:
    """Return the digest of an encoded program, whatever it says; raises Malformed for bytes that are none."""
    return digest_of_program(codec.decode(Program, encoded, MAX_PROGRAM))


def digest_of_program(program: Program) -> Digest:
    """Return the digest of a program: it opens by head, constant and node. (SPEC.md 2.5)"""
    return digest_of_parts(program_head(program), *roots_of(program))


def program_head(program: Program) -> ProgramHead:
    """Return the head of a program."""
    counts = Count(len(program.constants)), Count(len(program.nodes))
    return ProgramHead(
        program.version, program.arithmetic, program.role, program.inputs, program.outputs, *counts
    )


def roots_of(program: Program) -> tuple[bytes, bytes]:
    """Return the roots over the constants' digests and over the encoded nodes; no bytes where there are none."""
    constants, nodes = constant_leaves(program), node_leaves(program)
    return (
        merkle.root("constant", constants) if constants else b"",
        merkle.root("node", nodes) if nodes else b"",
    )


def constant_leaves(program: Program) -> list[Digest]:
    """Return the leaves of the tree over a program's constants."""
    return [tensor_digest(constant) for constant in program.constants]


def node_leaves(program: Program) -> list[bytes]:
    """Return the leaves of the tree over a program's nodes."""
    return [codec.encode(node) for node in program.nodes]


def digest_of_parts(head: ProgramHead, constants: bytes, nodes: bytes) -> Digest:
    """Return the digest of a program from its head and its two roots. (SPEC.md 2.5)"""
    return tagged("program", codec.encode(head), constants, nodes)


def decode_program(data: bytes, limit: int = MAX_PROGRAM) -> Program:
    """Return the program that `data` encodes.

    Raises Malformed for bytes over `limit`, not canonical, of an unknown version, with a reference that is not lower
    than its node, with a name used twice, or with a size out of range; the message names the node by its number.
    """
    program = codec.decode(Program, data, limit)
    check_program(program)
    return program


def check_program(program: Program) -> None:
    """Check everything that needs no knowledge of operators; raises Malformed (see `decode_program`)."""
    check_head(program_head(program))
    for number, node in enumerate(program.nodes, first_node(program)):
        check_node(number, node)


def check_head(head: ProgramHead) -> None:
    """Check the part of a program that is not its constants and nodes; raises Malformed."""
    if head.version != VERSION:
        raise Malformed(f"unknown program version {head.version!r}")
    for place, port in enumerate(head.inputs):
        _check_sized(f"input {place}", port)
    if not head.outputs:
        raise Malformed("a program needs an output")
    if any(output.source >= head.first + head.nodes for output in head.outputs):
        raise Malformed("an output refers to a value that does not exist")
    _check_unique("input", [port.name for port in head.inputs])
    _check_unique("output", [output.name for output in head.outputs])


def check_node(number: int, node: Node) -> None:
    """Check one node by itself; raises Malformed."""
    _check_sized(f"node {number}", node)
    if any(source >= number for source in node.inputs):
        raise Malformed(f"node {number} refers to a value that is not before it")
    names = [name for name, _ in node.attributes]
    if names != sorted(set(names)):
        raise Malformed(f"node {number} has attributes out of order or twice")


def first_node(program: Program) -> int:
    """Return the number of the program's first node."""
    return len(program.inputs) + len(program.constants)


def place_of(program: Program, number: int) -> str:
    """Return for people where a node stands: the nearest port or output, in references, that bears a name.

    Parameters come first at equal distance, since their names tell the layer.
    """
    named = {int(output.source): output.name for output in reversed(program.outputs)}
    named |= {place: port.name for place, port in enumerate(program.inputs)}
    first, seen, border = first_node(program), {number}, [number]
    while border:
        names = [named[value] for value in border if value in named]
        if names:
            return min(names, key=lambda name: ("parameter/" not in name, names.index(name)))
        nodes = [program.nodes[value - first] for value in border if value >= first]
        reached = dict.fromkeys(int(source) for node in nodes for source in node.inputs)
        border = [value for value in reached if value not in seen]
        seen.update(border)
    return ""


def values(program: Program) -> Sequence[Sized]:
    """Return inputs, constants and nodes, so that a value's number is its index."""
    return (*program.inputs, *program.constants, *program.nodes)


def elements(value: Sized) -> int:
    """Return the number of elements of a value."""
    return math.prod(value.shape)


def size_bytes(value: Sized) -> int:
    """Return a value's size in bytes."""
    return elements(value) * ITEM_BYTES[value.dtype]


def outputs_of(program: Program) -> list[Sized]:
    """Return the values that are the program's outputs, in order."""
    known = values(program)
    return [known[output.source] for output in program.outputs]


def encoded_size(outputs: Sequence[Sized]) -> int:
    """Return how many bytes the encoding of a bundle of such tensors has. (SPEC.md 1.2, 2.3)"""
    heads = tuple((output.dtype, output.shape, b"") for output in outputs)
    sizes = [size_bytes(output) for output in outputs]
    # msgpack tells a byte string's length in 1, 2 or 4 bytes; the heads' empty ones took 1.
    return len(codec.encode((heads,))) + sum(
        size + (size >= 1 << 8) + 2 * (size >= 1 << 16) for size in sizes
    )


def work_units(program: Program) -> int:
    """Return the cost of one execution in work units: about one simple operation on one element each.

    A product of [M, K] by [K, N] costs 2MKN, any other operator its price times the larger of its input and output.
    """
    known = values(program)
    return sum(node_work(node, [known[source] for source in node.inputs]) for node in program.nodes)


def require_work_units(program: Program, declared: int) -> None:
    """Raise Malformed unless the program costs as many work units as a manifest pays it for. (SPEC.md 7.2)"""
    if (units := work_units(program)) != declared:
        raise Malformed(f"the {program.role} program costs {units} work units, the manifest says {declared}")


def node_work(node: Node, inputs: Sequence[Sized]) -> int:
    """Return the work units of one node; see `work_units`."""
    operator = operator_of(node.operator)
    if operator.is_view:
        return 1
    if operator.multiplies and inputs and inputs[0].shape:
        return 1 + 2 * elements(node) * inputs[0].shape[-1]
    size = max([elements(node), *(elements(value) for value in inputs)])
    return 1 + size * operator.price


def inputs_read(program: Program) -> set[int]:
    """Return which of a program's inputs a node reads or an output gives."""
    used = {source for node in program.nodes for source in node.inputs}
    return {int(n) for n in used.union(o.source for o in program.outputs) if n < len(program.inputs)}


BY_ROW = ("gather", "select")
"""Operators that read of their first input the rows that they make, and no others."""


def tables(program: Program) -> set[int]:
    """Return the inputs of a prologue that are read by row at most: records, which may be larger than any memory."""
    if program.role != "prologue":
        return set()
    whole = {int(output.source) for output in program.outputs}
    for node in program.nodes:
        whole.update(node.inputs[node.operator in BY_ROW :])
    return set(range(len(program.inputs))) - whole


def last_uses(program: Program) -> list[int]:
    """Return, per value, the number of the last node that needs its memory; outputs and unused values count as last.

    A view needs its input's memory as long as the view lives.
    """
    first, total = first_node(program), len(values(program))
    last = list(range(total))
    for output in program.outputs:
        last[output.source] = total
    for place in range(len(program.nodes) - 1, -1, -1):
        node, number = program.nodes[place], first + place
        needed = last[number] if operator_of(node.operator).is_view else number
        for source in node.inputs:
            last[source] = max(last[source], needed)
    return last


def peak_bytes(program: Program) -> int:
    """Return an upper estimate of the memory of one execution in bytes, by liveness.

    Inputs and constants live throughout, but for `tables`, which lie on a disk. A node's scratch is what its operator's
    kernel may hold for each number that it reads or makes, most often a float64 copy; for what it reads by row none.
    """
    first, known, last = first_node(program), values(program), last_uses(program)
    on_disk = tables(program)
    ending: list[list[int]] = [[] for _ in range(len(known) + 1)]
    for number in range(first, len(known)):
        ending[last[number]].append(size_bytes(known[number]))
    live = sum(size_bytes(known[number]) for number in range(first) if number not in on_disk)
    peak = live
    for place, node in enumerate(program.nodes):
        live += size_bytes(node)
        operator, read = operator_of(node.operator), node.inputs[node.operator in BY_ROW :]
        numbers = elements(node) + sum(elements(known[source]) for source in read)
        peak = max(peak, live + (0 if operator.is_view else operator.scratch * numbers))
        live -= sum(ending[first + place])
    return peak


def require_affordable(program: Program, memory_limit: int | None) -> None:
    """Raise Refused when the program needs more memory in bytes than a peer allows."""
    if memory_limit is not None and (peak := peak_bytes(program)) > memory_limit:
        number = _heaviest(program)
        raise Refused(f"program needs {peak} bytes, limit {memory_limit}; its largest value is node {number}")


def _heaviest(program: Program) -> int:
    known = values(program)
    return max(range(len(known)), key=lambda number: (size_bytes(known[number]), -number))


def _check_sized(where: str, value: Port | Node) -> None:
    if value.dtype not in ITEM_BYTES:
        raise Malformed(f"{where} has unknown dtype {value.dtype!r}")
    if len(value.shape) > MAX_DIMENSIONS:
        raise Malformed(f"{where} has more than {MAX_DIMENSIONS} dimensions")
    if elements(value) > MAX_ELEMENTS:
        raise Malformed(f"{where} has more than {MAX_ELEMENTS} elements")


def _check_unique(kind: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise Malformed(f"an {kind}'s name is used twice")
