"""How an interval of states is narrowed to one execution, 64 digests at a time. (SPEC.md 6.3)

Works on any numbered sequence of values (inner steps here, nodes later): value `low` is agreed, value `high` disputed.
"""

from collections.abc import Sequence

from verification.errors import BadEvidence
from verification.statements import MAX_ENTRIES
from verification.units import Digest


def positions(low: int, high: int) -> tuple[int, ...]:
    """Return the numbers whose digests a list for (low, high] must hold; the last is always `high`."""
    length = high - low
    if length < 1:
        raise ValueError("an interval needs a step")
    count = min(length, MAX_ENTRIES)
    return tuple(low + (index + 1) * length // count for index in range(count))


def verify_list(low: int, high: int, claimed: Digest, entries: Sequence[Digest]) -> tuple[Digest, ...]:
    """Return the list when it has the interval's length and folds to the value it replaces; raises BadEvidence."""
    if len(entries) != len(positions(low, high)):
        raise BadEvidence("the list does not have the interval's length")
    if entries[-1] != claimed:
        raise BadEvidence("the list does not fold to the value it replaces")
    return tuple(entries)


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
    """Return how many lists narrow an interval of `length` steps to one: the bound of a dispute's moves."""
    count = 0
    while length > 1:
        length = -(-length // MAX_ENTRIES)
        count += 1
    return count
