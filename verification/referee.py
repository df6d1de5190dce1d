"""The referee: opens one node's inputs against what is agreed and executes the node. Nobody votes. (SPEC.md 6.5)

An input is an earlier node's result (a path in the accused's trace), a constant, or a port of the program. A port
belongs to a bundle whose digest is agreed, or the law makes it itself: the index from the seed rule, the weights, the
zeros of an empty slot.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verification import merkle
from verification.errors import BadEvidence
from verification.executor import Executor, failed, result_of
from verification.layout import Home, Origin, origin_of
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.operators import operator_of
from verification.outer import weights_of
from verification.program import Node, ProgramHead, size_bytes
from verification.statements import Mismatch, NodeInput
from verification.tensors import Tensor, bundle_of_root, digest_of_rows, tensor_digest
from verification.units import Digest


@dataclass(frozen=True)
class Execution:
    """One execution as far as public inputs and earlier claims fix it.

    `working` is the digest of the working state before it, `index` the records that the seed rule gives (int64
    [max_steps, batch]), `slots` maps a slot that is not empty to its weight and its contribution's digest, `ballast` is
    the weight of the last slot.
    """

    place: Place
    program: Digest
    start: Digest
    working: Digest | None = None
    data: Digest | None = None
    index: Tensor | None = None
    slots: Mapping[int, tuple[int, Digest]] | None = None
    ballast: int = 0


Constants = Callable[[int], Tensor]
"""Gives a program's constant by its value number."""


def is_public(place: Place, head: ProgramHead, source: int) -> bool:
    """Return whether a value comes from the ledger's record and from nothing that the accused itself has signed.

    The start state of a worker's round is named in its commitment; what an outer step reads is not. (SPEC.md 6.11)
    """
    if source >= len(head.inputs):
        return False
    home = origin_of(place, head, source).home
    return home in (Home.INDEX, Home.WEIGHTS, Home.CONTRIBUTION) or (
        home is Home.START and place is Place.OUTER
    )


def is_brought(execution: Execution, head: ProgramHead, source: int) -> bool:
    """Return whether a value must be opened: a node's result, or a port that the law does not make itself."""
    return source >= head.first or (source < len(head.inputs) and _made(execution, head, source) is None)


def sources_to_open(execution: Execution, head: ProgramHead, node: Node) -> list[int]:
    """Return the value numbers of a node's inputs that evidence must bring, each once, in the node's order."""
    return [source for source in dict.fromkeys(map(int, node.inputs)) if is_brought(execution, head, source)]


def check_inputs(
    execution: Execution,
    head: ProgramHead,
    tracing: Tracing,
    node: Node,
    constants: Constants,
    opened: Sequence[NodeInput],
) -> list[Tensor] | None:
    """Return the node's inputs, each checked; None when a gather's index leaves its table, so that the node fails.

    Raises BadEvidence for an input that does not open what is agreed, ones missing, and ones too many.
    """  # fmt: skip
    wanted = sources_to_open(execution, head, node)
    if len(wanted) != len(opened):
        raise BadEvidence(f"the node has {len(wanted)} inputs to open, the evidence brings {len(opened)}")
    brought = dict(zip(wanted, opened, strict=True))
    known: dict[int, Tensor] = {}
    for source in dict.fromkeys(map(int, node.inputs)):
        if source in brought and brought[source].total:
            continue
        if source in brought:
            known[source] = brought[source].tensor
            _check(execution, head, tracing, source, tensor_digest(known[source]), brought[source].path)
        else:
            known[source] = _law_has(execution, head, constants, source)
    if len(known) == len(dict.fromkeys(node.inputs)):
        return [known[source] for source in node.inputs]
    return _open_rows(execution, head, tracing, node, brought, known)


def _open_rows(
    execution: Execution,
    head: ProgramHead,
    tracing: Tracing,
    node: Node,
    brought: Mapping[int, NodeInput],
    known: Mapping[int, Tensor],
) -> list[Tensor] | None:
    """Return (reduced table, remapped index) of a gather whose table is opened by rows."""  # fmt: skip
    if not operator_of(node.operator).takes_rows or len(node.inputs) != 2 or node.inputs[1] not in known:
        raise BadEvidence("only the table of a gather opens by rows")
    table = brought[node.inputs[0]]
    index = known[node.inputs[1]]
    places, remapped, is_inside = selection(index, table.total)
    digest = digest_of_rows(table.tensor, places, table.total, table.rows)
    _check(execution, head, tracing, node.inputs[0], digest, table.path)
    return [table.tensor, remapped] if is_inside else None


def selection(index: Tensor, total: int) -> tuple[list[int], Tensor, bool]:
    """Return the rows that an int64 index selects, ascending, the index into these, and whether all are in range.

    Where none is in range row 0 stands for the table. (SPEC.md 6.5)
    """
    if index.dtype != "int64" or total < 1:
        raise BadEvidence("a gather needs an int64 index and a table with rows")
    chosen = np.frombuffer(index.data, dtype="<i8")
    inside = (chosen >= 0) & (chosen < total)
    places = np.unique(chosen[inside]) if inside.any() else np.zeros(1, dtype=np.int64)
    remapped = np.searchsorted(places, chosen).astype("<i8")
    return places.tolist(), Tensor("int64", index.shape, remapped.tobytes()), bool(inside.all())


def judge_node(
    executor: Executor,
    execution: Execution,
    head: ProgramHead,
    tracing: Tracing,
    number: int,
    node: Node,
    constants: Constants,
    opened: Sequence[NodeInput],
) -> Digest:
    """Return the digest of the node's true result or of its failure. (SPEC.md 6.5)"""  # fmt: skip
    inputs = check_inputs(execution, head, tracing, node, constants, opened)
    is_output = any(output.source == number for output in head.outputs)
    result = None if inputs is None else result_of(executor, head.arithmetic, number, node, inputs, is_output)
    return failed(execution.program, number) if result is None else result


def judge_output(
    execution: Execution, head: ProgramHead, tracing: Tracing, constants: Constants, shown: Mismatch
) -> Digest:
    """Return the digest that an output of a trace should have; raises BadEvidence when it has it. (SPEC.md 6.5)"""
    if not shown.output < len(tracing.outputs):
        raise BadEvidence("the trace has no such output")
    source = tracing.sources[shown.output]
    if is_brought(execution, head, source):
        _check(execution, head, tracing, source, shown.digest, shown.path)
    elif shown.path or shown.digest != tensor_digest(_law_has(execution, head, constants, source)):
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
    """Raise BadEvidence unless the path proves a value's digest in the trace or in the port's bundle."""  # fmt: skip
    if source >= head.first:
        merkle.verify_path("trace", tracing.root, digest, source - head.first, tracing.length, path)
        return
    port = origin_of(execution.place, head, source)
    if port.home is Home.DATA:
        if path or digest != execution.data:
            raise BadEvidence("the data do not open the data root")
        return
    agreed = _bundle(execution, port)
    root = merkle.root_of_path("bundle", digest, port.index, port.count, path)
    if agreed is None or bundle_of_root(port.count, root) != agreed:
        raise BadEvidence("an input does not open the agreed digest")


def _bundle(execution: Execution, port: Origin) -> Digest | None:
    if port.home is Home.CONTRIBUTION:
        assert execution.slots is not None
        return execution.slots[port.slot][1]
    return execution.start if port.home is Home.START else execution.working


def _law_has(execution: Execution, head: ProgramHead, constants: Constants, source: int) -> Tensor:
    made = constants(source) if source >= len(head.inputs) else _made(execution, head, source)
    assert made is not None
    return made


def _made(execution: Execution, head: ProgramHead, source: int) -> Tensor | None:
    """Return a port that the law makes itself; None for one that opens."""
    port = origin_of(execution.place, head, source)
    if port.home is Home.INDEX:
        return execution.index
    slots, declared = execution.slots or {}, head.inputs[source]
    if port.home is Home.WEIGHTS:
        weights = {slot: weight for slot, (weight, _) in slots.items()}
        return weights_of(math.prod(declared.shape), weights, execution.ballast)
    if port.home is Home.CONTRIBUTION and port.slot not in slots:
        return Tensor(declared.dtype, declared.shape, bytes(size_bytes(declared)))
    return None
