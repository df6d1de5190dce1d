"""The largest statement of each kind that an honest peer may have to make, and the largest blobs that it must read.

What does not fit is never admitted, and silence convicts: so a run in which anything might not fit is refused before
anyone stakes. Sizes are upper bounds of encodings, counted from the manifest's numbers and the programs' shapes.
(SPEC.md 11.6)
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from verification import codec
from verification.arithmetic.places import BLOCK, MAX_DIMENSIONS
from verification.arithmetic.shapes import INTEGERS
from verification.crews import held_at
from verification.errors import UserError
from verification.grid import Grid
from verification.layout import MADE, PROLOGUE, STATE, Held, Home, origin_of
from verification.manifest import Manifest, Place, Post
from verification.operators import OPERATORS
from verification.program import (
    Node,
    Port,
    Program,
    ProgramHead,
    Sized,
    encoded_size,
    first_node,
    outputs_of,
    program_head,
    size_bytes,
    values,
)
from verification.statements import (
    MAX_ENTRIES,
    Answer,
    Attest,
    Block,
    Body,
    Chunk,
    Evidence,
    Mismatch,
    NodeList,
    OpenedBlock,
    OpenedInput,
    Opening,
    RangeList,
    ResultList,
    Reveal,
    TotalList,
    Trace,
)
from verification.tensors import ITEM_BYTES, MAX_BYTES
from verification.units import Address, Count, Digest, Signature

PlacedPrograms = Mapping[Place, Program]
ShardPrograms = Mapping[Post, PlacedPrograms]
"""The programs of a worker's round, by post."""

AROUND = 2048
"""Bytes and items of a signed statement that are not its body: chain, slot, head, signature."""

_HEAD = 5
"""Bytes of the longest head of an array, a text or a byte string."""

_FIXED = {Digest: 34, Address: 22, Signature: 67, bool: 1, NoneType: 1}
"""Bytes of what is always as long."""

_INTEGER = 9
_COUNTS = {"dtype": 8, "shape": MAX_DIMENSIONS, "entries": MAX_ENTRIES}
"""How long fields are in every kind."""


_NO_BLOCKS = {"blocks": 0, "data": 0, "in_row": 0, "in_tensor": 0}


@dataclass(frozen=True)
class Extent:
    """At most so many bytes, and items in arrays."""

    size: int
    items: int = 0

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(self.size + other.size, self.items + other.items)

    def __mul__(self, count: int) -> "Extent":
        return Extent(self.size * count, self.items * count)


@dataclass(frozen=True)
class Largest:
    """The largest body of a kind: its extent, what makes it so large, and what a job changes to make it smaller."""

    kind: type[Body]
    extent: Extent
    cause: str
    mend: str

    @property
    def fits(self) -> bool:
        """Return whether the ledger reads it."""
        room = codec.MAX_ITEMS - AROUND
        return self.extent.size <= self.kind.limit - AROUND and self.extent.items <= room


def extent_of(schema: Any, counts: Mapping[str, int], name: str = "") -> Extent:
    """Return the extent of a message; `counts` gives the longest of its texts, byte strings and arrays by field.

    An array in an array is counted under the field's name and a star.
    """
    if schema in _FIXED:
        return Extent(_FIXED[schema])
    if get_origin(schema) in (UnionType, Union):
        return functools.reduce(_larger, (extent_of(part, counts, name) for part in get_args(schema)))
    if get_origin(schema) is tuple:
        item = extent_of(get_args(schema)[0], counts, name + "*")
        return Extent(_HEAD, 1) + (item + Extent(0, 1)) * counts[name]
    if dataclasses.is_dataclass(schema):
        hints = get_type_hints(schema)
        fields = [field.name for field in dataclasses.fields(schema)]
        parts = (extent_of(hints[field], counts, field) for field in fields)
        return sum(parts, Extent(_HEAD, len(fields) + 1))
    if isinstance(schema, type) and issubclass(schema, StrEnum):
        return Extent(_HEAD + max(len(value) for value in schema))
    return Extent(_HEAD + counts[name]) if schema in (str, bytes) else Extent(_INTEGER)


def largest(
    manifest: Manifest, programs: PlacedPrograms, shards: ShardPrograms | None = None
) -> Iterator[Largest]:
    """Yield the largest statement of every kind whose size a run decides; `shards` are the programs of its posts."""
    work = manifest.work
    leaves = -(-work.max_steps // work.leaf_every) + 1
    by_leaves = f"of {leaves} leaves", "raise training.leaf_every or lower max_steps"
    yield _largest(Opening, *by_leaves, digests=leaves, salts=leaves, taken=0)
    yield _largest(Reveal, *by_leaves, digests=leaves, contributions=1)
    yield from _of_crews(manifest)
    shares = max([1, *(len(cut.shards) for cut in manifest.cuts)])
    yield _largest(Attest, f"of {work.slots} workers", "lower swarm.workers", held=work.slots * shares)
    for kind in (Answer, NodeList, ResultList, TotalList, RangeList):
        yield _largest(kind, "of a dispute", "")
    yield _largest(Block, "of a dispute", "", data=BLOCK * max(ITEM_BYTES.values()))
    yield from _of_programs(programs)
    for post, placed in (shards or {}).items():
        yield from _of_programs(placed, held_at(manifest, post))


def _of_crews(manifest: Manifest) -> Iterator[Largest]:
    """Yield what members of crews open, and who audits them reveals: all that crosses, of every inner step."""
    mend, steps = "lower training.max_steps, or take fewer shards", int(manifest.work.max_steps)
    for number, cut in enumerate(manifest.cuts):
        whole = f"of a round of {steps} inner steps by crews of cut {number}"
        items = len(cut.shards) + steps * (len(cut.shards) + len(cut.crossings))
        yield _largest(Reveal, whole, mend, digests=items, contributions=len(cut.shards))
        for shard in range(len(cut.shards)):
            held = held_at(manifest, Post(Count(number), Count(shard)))
            assert held is not None
            made = 1 + steps * (1 + held.gives)
            yield _largest(Opening, whole, mend, digests=made, salts=made, taken=steps * held.takes)


def _of_programs(programs: PlacedPrograms, held: Held | None = None) -> Iterator[Largest]:
    for place, program in programs.items():
        outputs, mend = len(program.outputs), "take a model of fewer tensors"
        yield _largest(Trace, f"of the {place} program's {outputs} outputs", mend, outputs=outputs)
        yield _largest(Mismatch, f"of the {place} program", mend, path=_path_in(program, held))
        yield _evidence(place, program, held)
    yield _chunk(outputs_of(programs[Place.EPILOGUE]))


def require_sayable(
    manifest: Manifest, programs: PlacedPrograms, shards: ShardPrograms | None = None
) -> None:
    """Raise UserError where an honest peer might owe a statement that no ledger takes. (SPEC.md 11.6)"""
    for each in largest(manifest, programs, shards):
        if not each.fits:
            name, extent, limit = each.kind.__name__, each.extent, each.kind.limit - AROUND
            raise UserError(
                f"an honest peer may owe a statement that is too large, {name} {each.cause}: up to {extent.size} bytes "
                f"of at most {limit} in {extent.items} items of at most {codec.MAX_ITEMS - AROUND}: {each.mend}"
            )


def data_port(programs: PlacedPrograms) -> Port:
    """Return the prologue's input that is the training records."""
    return programs[Place.PROLOGUE].inputs[PROLOGUE.index(Home.DATA) - len(PROLOGUE)]


def data_size(programs: PlacedPrograms) -> int:
    """Return the bytes of the blob that holds the training records: their elements alone."""
    return size_bytes(data_port(programs))


def most_records(width: int, dtype: str, limit: int) -> int:
    """Return how many records of so many tokens a run's data can have where blobs have at most `limit` bytes."""
    return limit // (width * ITEM_BYTES[dtype])


def state_size(programs: PlacedPrograms) -> int:
    """Return the bytes of the blob that holds a state."""
    return encoded_size(outputs_of(programs[Place.OUTER]))


def contribution_size(programs: PlacedPrograms) -> int:
    """Return the bytes of the blob that holds a contribution."""
    return encoded_size(outputs_of(programs[Place.EPILOGUE]))


def require_readable(programs: PlacedPrograms, limit: int) -> None:
    """Raise UserError where data, a state or a contribution has more than `limit` bytes, or a tensor of the latter two
    more than `MAX_BYTES`."""
    if (size := data_size(programs)) > limit:
        raise UserError(f"the data would have {size} bytes: nobody reads more than {limit}: take less data")
    outer, epilogue = programs[Place.OUTER], programs[Place.EPILOGUE]
    blobs: dict[str, list[Sized]] = {"a state": outputs_of(outer), "a contribution": outputs_of(epilogue)}
    for name, tensors in blobs.items():
        size, longest = encoded_size(tensors), max(map(size_bytes, tensors))
        if size > limit or longest > MAX_BYTES:
            raise UserError(
                f"{name} would have {size} bytes, its longest tensor {longest}: nobody reads more than {limit}, and "
                f"{MAX_BYTES} of a tensor: take a smaller model"
            )


def require_data(manifest: Manifest, programs: PlacedPrograms) -> None:
    """Raise UserError unless the prologue gathers from records as the manifest counts them. (SPEC.md 11.6)"""
    port, data = data_port(programs), manifest.data
    if port.dtype not in INTEGERS or port.shape != (data.records, data.width):
        raise UserError(
            f"the prologue reads {port.dtype} {list(port.shape)}, the manifest has {data.records} records of "
            f"{data.width} tokens: whoever made the run must make it again"
        )


def _largest(kind: type[Body], cause: str, mend: str, **counts: int) -> Largest:
    return Largest(kind, extent_of(kind, _COUNTS | counts), cause, mend)


def _larger(one: Extent, other: Extent) -> Extent:
    return Extent(max(one.size, other.size), max(one.items, other.items))


def _depth(leaves: int) -> int:
    """Return how many digests the longest path of a tree has."""
    return max(0, leaves - 1).bit_length()


def _path_in(program: Program, held: Held | None = None) -> int:
    """Return the longest path to a value: in the trace, or in the bundle of a port."""
    whole = 0 if held is None else len(STATE) * held.total
    return max(_depth(len(program.nodes)), _depth(max(len(program.inputs), whole)))


def _evidence(place: Place, program: Program, held: Held | None = None) -> Largest:
    """Return the evidence about the node whose numbers read most of its inputs. (SPEC.md 6.5)"""
    worst, found, known, head = Extent(0), 0, values(program), program_head(program)
    for number, node in enumerate(program.nodes, first_node(program)):
        brought = [known[source] for source in _brought(place, head, node, held)]
        extent = footprint_of(node.operator, brought, _path_in(program, held))
        if (extent.size, extent.items) > (worst.size, worst.items):
            worst, found = extent, number
    name = program.nodes[found - first_node(program)].operator if found else "none"
    cause = f"about the {place} program's node {found} ({name})"
    return Largest(Evidence, worst, cause, "take another operator: its numbers read too much")


def _brought(place: Place, head: ProgramHead, node: Node, held: Held | None) -> Iterator[int]:
    """Yield the inputs of a node that a challenger may have to bring: the law has the rest."""
    for source in dict.fromkeys(map(int, node.inputs)):
        if source >= head.first or (
            source < len(head.inputs) and origin_of(place, head, source, held).home not in MADE
        ):
            yield source


def footprint_of(operator: str, brought: Sequence[Sized], path: int) -> Extent:
    """Return what evidence takes about one number, or 64 terms, whose inputs are `brought` with paths so long."""
    known = OPERATORS.get(operator)
    reads = None if known is None else known.definition.reads
    terms = MAX_ENTRIES if known is not None and known.definition.totals else 1
    alone = extent_of(OpenedInput, _COUNTS | _NO_BLOCKS | {"path": path})
    opened = [alone + _blocks(Grid(value.dtype, tuple(map(int, value.shape))), terms) for value in brought]
    largest = sorted(opened, key=lambda extent: extent.size, reverse=True)[:reads]
    return sum(largest, Extent(2 * _HEAD + _INTEGER, 4))


def _blocks(grid: Grid, most: int) -> Extent:
    """Return what so many blocks of an input take, with their paths."""
    if not grid.numbers:
        return Extent(0)
    block = extent_of(OpenedBlock, _COUNTS | _block_of(grid)) + Extent(0, 1)
    return block * min(most, grid.rows * grid.blocks)


def _chunk(contribution: Sequence[Sized]) -> Largest:
    """Return the largest chunk of a contribution: a block of a tensor. (SPEC.md 4.13)"""
    path, worst = _depth(len(contribution)), Extent(0)
    for tensor in contribution:
        counts = _block_of(Grid(tensor.dtype, tuple(map(int, tensor.shape))))
        worst = _larger(worst, extent_of(Chunk, _COUNTS | counts | {"path": path}))
    return Largest(Chunk, worst, "of a contribution", "take a model of fewer tensors")


def _block_of(grid: Grid) -> dict[str, int]:
    """Return how long the fields of an opened block of a tensor are."""
    if not grid.numbers:
        return _NO_BLOCKS
    data = min(grid.width, BLOCK) * ITEM_BYTES[grid.dtype]
    return {"in_row": _depth(grid.blocks), "in_tensor": _depth(grid.rows), "data": data}
