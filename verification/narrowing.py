"""How a dispute is narrowed, 64 digests at a time: from inner steps to one execution, then to one node. (SPEC.md 6.3)

States are listed at steps of an interval whose start is agreed and whose end is disputed. The results of an execution's
nodes are the leaves of a tree (`verification.merkle`), and a list holds the inner nodes that cut a segment of it into
64: equal entries mean that every leaf below is equal, so everything before the first difference is agreed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from verification import merkle
from verification.causes import Cause
from verification.digest import ZERO
from verification.errors import BadEvidence
from verification.library import failed
from verification.program import ProgramHead
from verification.statements import MAX_ENTRIES, Answer, NodeList, Trace
from verification.tensors import bundle_digest
from verification.units import Digest

Interval = tuple[int, int]


@dataclass(frozen=True)
class Tracing:
    """An accused's trace of one execution, as far as it has been narrowed.

    `length` node results, from value number `first` on, are the leaves under `root`; the disputed segment is
    low <= leaf < high, whose top is `top`. `outputs` are the digests of the values with the numbers `sources`. A trace
    that ends in a failure names its node as `failed`, and the digest that stands for it is its only output.
    """

    program: Digest
    first: int
    length: int
    root: Digest
    top: Digest
    low: int
    high: int
    outputs: tuple[Digest, ...]
    sources: tuple[int, ...]
    failed: int | None


def positions(low: int, high: int) -> tuple[int, ...]:
    """Return the steps whose digests a list for (low, high] must hold; the last is always `high`."""
    length = high - low
    if length < 1:
        raise ValueError("an interval needs a step")
    count = min(length, MAX_ENTRIES)
    return tuple(low + (index + 1) * length // count for index in range(count))


def lists_for(length: int) -> int:
    """Return how many lists of states narrow so many steps to one; who answers computes its round for each."""
    count = 0
    while length > 1:
        length, count = -(-length // MAX_ENTRIES), count + 1
    return count


def first_failure(values: Sequence[Digest], failures: Collection[Digest]) -> Digest | None:
    """Return the failure in which states end, None without one; raises BadEvidence when they go on. (SPEC.md 2.5)"""
    start = next((place for place, value in enumerate(values) if value in failures), None)
    if start is None:
        return None
    if set(values[start:]) != {values[start]}:
        raise BadEvidence("something else follows a state that stands for a failure")
    return values[start]


def first_change(claimed: Sequence[object], own: Sequence[object]) -> int | None:
    """Return the index of the first value that two lists do not share; None where one begins the other."""
    pairs = enumerate(zip(claimed, own, strict=False))
    return next((index for index, (one, other) in pairs if one != other), None)


def answer_fault(claimed: Digest, answer: Answer, failures: Collection[Digest]) -> Cause | None:
    """Return what is wrong with a list of states, None when it folds to the value it replaces. (SPEC.md 6.3)

    `failures` are those of the program that leads from state to state.
    """
    if len(answer.entries) != len(positions(answer.low, answer.high)):
        return Cause.STATES_TOO_FEW
    if answer.entries[-1] != claimed:
        return Cause.STATES_END
    try:
        first_failure(answer.entries, failures)
    except BadEvidence:
        return Cause.STATES_GO_ON
    return None


def narrow(
    low: int, high: int, agreed: Digest, entries: Sequence[Digest], index: int
) -> tuple[int, int, Digest, Digest]:
    """Return (low, high, agreed, claimed) of the part that ends in entry `index`; raises BadEvidence."""
    places = positions(low, high)
    if not 0 <= index < len(places):
        raise BadEvidence("the index lies outside the list")
    if index == 0:
        return low, places[0], agreed, entries[0]
    return places[index - 1], places[index], entries[index - 1], entries[index]


def lists_needed(length: int) -> int:
    """Return how many lists narrow `length` steps, or nodes, to one: the bound of a dispute's moves. (SPEC.md 6.10)"""
    count = 0
    while length > 1:
        length = -(-length // MAX_ENTRIES)
        count += 1
    return count


def segments(low: int, high: int) -> list[Interval]:
    """Return the segments into which a list cuts the leaves low..high-1: of a power of 64 leaves but for the last."""
    width = 1
    while width * MAX_ENTRIES < high - low:
        width *= MAX_ENTRIES
    return [(start, min(start + width, high)) for start in range(low, high, width)]


def entries_of(leaves: Sequence[Digest], low: int, high: int) -> tuple[Digest, ...]:
    """Return the list for a segment of all node results: results themselves, or tops of smaller segments."""
    if high - low <= MAX_ENTRIES:
        return tuple(leaves[low:high])
    return tuple(merkle.subtree("trace", leaves[start:end]) for start, end in segments(low, high))


def fold(low: int, high: int, entries: Sequence[Digest]) -> Digest:
    """Return the top of the segment that a list of the right length cuts."""
    is_leaves = high - low <= MAX_ENTRIES
    return (merkle.subtree if is_leaves else merkle.fold)("trace", entries)


def enter(tracing: Tracing, entries: Sequence[Digest], leaf: int) -> Tracing:
    """Return the trace narrowed to the segment of a list that holds a leaf; raises BadEvidence when none does."""
    for (low, high), entry in zip(segments(tracing.low, tracing.high), entries, strict=False):
        if low <= leaf < high:
            return replace(tracing, low=low, high=high, top=entry)
    raise BadEvidence("the lists do not reach the node")


def open_trace(
    digest: Digest, head: ProgramHead, claimed: Digest, trace: Trace, given: Sequence[Digest] = ()
) -> Tracing | Cause:
    """Return the trace of a claimed value, or what is wrong with it. (SPEC.md 6.4)

    The last outputs of a shard's inner step are what it has `given` to others. (SPEC.md 4.17)
    """
    first, length = head.first, int(head.nodes)
    sources = tuple(int(output.source) for output in head.outputs)
    outputs, own = trace.outputs, len(sources) - len(given)
    if trace.failed is not None:
        if outputs or not first <= trace.failed < first + length or failed(digest, trace.failed) != claimed:
            return Cause.TRACE_FAILS_ELSE
        length, sources, outputs = trace.failed - first + 1, (trace.failed,), (claimed,)
    elif (
        len(outputs) != len(sources)
        or outputs[own:] != tuple(given)
        or bundle_digest(outputs[:own]) != claimed
    ):
        return Cause.TRACE_OUTPUTS
    if len(trace.entries) != len(segments(0, length)):
        return Cause.TRACE_TOO_SHORT
    top = fold(0, length, trace.entries) if length else ZERO
    root = merkle.crown("trace", length, top)
    return Tracing(digest, first, length, root, top, 0, length, outputs, sources, trace.failed)


def nodes_fault(tracing: Tracing, nodes: NodeList) -> Cause | None:
    """Return what is wrong with a list of nodes, None when it folds to the entry it replaces. (SPEC.md 6.4)"""
    if len(nodes.entries) != len(segments(tracing.low, tracing.high)):
        return Cause.NODES_TOO_FEW
    if fold(tracing.low, tracing.high, nodes.entries) != tracing.top:
        return Cause.NODES_FOLD
    return None


def first_difference(tracing: Tracing, listed: Sequence[Digest], leaves: Sequence[Digest]) -> int | None:
    """Return the index of the first listed entry that one's own node results do not give; None without one.

    Own results may end early, in a failure: what reaches past them differs.
    """
    is_leaves = tracing.high - tracing.low <= MAX_ENTRIES
    for index, (start, end) in enumerate(segments(tracing.low, tracing.high)):
        if end > len(leaves):
            return index
        if listed[index] != (leaves[start] if is_leaves else merkle.subtree("trace", leaves[start:end])):
            return index
    return None
