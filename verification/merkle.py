"""Merkle trees in the shape of RFC 6962: leaf and node hashes differ by domain, odd nodes move up, none is doubled.

The number of leaves is hashed into the root, so a path proves an index in a tree of known size. (SPEC.md 1.4)
"""

from collections.abc import Sequence

from verification.digest import integer, prefixed, tagged, tagged_each
from verification.errors import BadEvidence
from verification.units import Digest


def root(purpose: str, leaves: Sequence[bytes]) -> Digest:
    """Return the root over `leaves` (any bytes); raises ValueError for no leaves."""
    return _crown(purpose, len(leaves), _levels(purpose, leaves)[-1][0])


def path(purpose: str, leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the siblings from leaf `index` to the top, lowest first; raises IndexError."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    siblings = []
    for level in _levels(purpose, leaves)[:-1]:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        index //= 2
    return tuple(siblings)


def verify_path(
    purpose: str, expected: Digest, leaf: bytes, index: int, count: int, siblings: Sequence[Digest]
) -> bytes:
    """Return `leaf` when the path proves it at `index` of `count` leaves under `expected`; raises BadEvidence."""
    if not 0 <= index < count:
        raise BadEvidence(f"index {index} is outside a tree of {count} leaves")
    node, width, rest = _leaf(purpose, leaf), count, list(siblings)
    while width > 1:
        if index ^ 1 < width:
            if not rest:
                raise BadEvidence("path is too short")
            pair = (rest[0], node) if index & 1 else (node, rest[0])
            node = _node(purpose, *pair)
            del rest[0]
        index, width = index // 2, (width + 1) // 2
    if rest:
        raise BadEvidence("path is too long")
    if _crown(purpose, count, node) != expected:
        raise BadEvidence("path does not lead to the root")
    return leaf


def single_roots(purpose: str, leaves: Sequence[bytes]) -> list[Digest]:
    """Return `root(purpose, [leaf])` for each leaf: many trees of one leaf at once."""
    return tagged_each(purpose + "/root", prefixed(integer(1)), tagged_each(purpose + "/leaf", b"", leaves))


def _levels(purpose: str, leaves: Sequence[bytes]) -> list[list[Digest]]:
    if not leaves:
        raise ValueError("a Merkle tree needs a leaf")
    levels = [tagged_each(purpose + "/leaf", b"", leaves)]
    while len(levels[-1]) > 1:
        low = levels[-1]
        high = [_node(purpose, low[i], low[i + 1]) for i in range(0, len(low) - 1, 2)]
        levels.append(high + low[len(low) - len(low) % 2 :])
    return levels


def _leaf(purpose: str, leaf: bytes) -> Digest:
    return tagged(purpose + "/leaf", leaf)


def _node(purpose: str, left: Digest, right: Digest) -> Digest:
    return tagged(purpose + "/node", left, right)


def _crown(purpose: str, count: int, top: Digest) -> Digest:
    return tagged(purpose + "/root", integer(count), top)
