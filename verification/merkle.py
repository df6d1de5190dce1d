"""Merkle trees in the shape of RFC 6962: leaf and node hashes differ by domain, odd nodes move up, none is doubled.

The number of leaves is hashed into the root, so a path proves an index in a tree of known size. (SPEC.md 1.4)
"""

from collections.abc import Sequence

from verification.digest import integer, prefixed, tagged, tagged_each
from verification.errors import BadEvidence
from verification.units import Digest


def root(purpose: str, leaves: Sequence[bytes]) -> Digest:
    """Return the root over `leaves` (any bytes); raises ValueError for no leaves."""
    return crown(purpose, len(leaves), subtree(purpose, leaves))


def leaf_of(purpose: str, leaf: bytes) -> Digest:
    """Return the lowest node over a leaf."""
    return tagged(purpose + "/leaf", leaf)


def subtree(purpose: str, leaves: Sequence[bytes]) -> Digest:
    """Return the top over `leaves` without their number: an inner node of a larger tree that they stand in."""
    return _levels(purpose, tagged_each(purpose + "/leaf", b"", leaves))[-1][0]


def fold(purpose: str, nodes: Sequence[Digest]) -> Digest:
    """Return the top over neighbouring inner nodes of one height; the last may stand for fewer leaves."""
    return _levels(purpose, nodes)[-1][0]


def crown(purpose: str, count: int, top: Digest) -> Digest:
    """Return the root of a tree from its top and its number of leaves."""
    return tagged(purpose + "/root", integer(count), top)


def path(purpose: str, leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the siblings from leaf `index` to the top, lowest first; raises IndexError."""
    return paths(purpose, leaves, [index])[0]


def paths(purpose: str, leaves: Sequence[bytes], indices: Sequence[int]) -> tuple[tuple[Digest, ...], ...]:
    """Return the path of each of some leaves; raises IndexError."""
    return paths_above(purpose, tagged_each(purpose + "/leaf", b"", leaves), indices)


def paths_above(
    purpose: str, nodes: Sequence[Digest], indices: Sequence[int]
) -> tuple[tuple[Digest, ...], ...]:
    """Return, for some of neighbouring inner nodes of one height, the siblings from there to the top over them."""
    levels = _levels(purpose, nodes)[:-1] if nodes else []
    found = []
    for index in indices:
        if not 0 <= index < len(nodes):
            raise IndexError(index)
        siblings = []
        for level in levels:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index //= 2
        found.append(tuple(siblings))
    return tuple(found)


def verify_path(
    purpose: str, expected: Digest, leaf: bytes, index: int, count: int, siblings: Sequence[Digest]
) -> bytes:
    """Return `leaf` when the path proves it at `index` of `count` leaves under `expected`; raises BadEvidence."""
    if root_of_path(purpose, leaf, index, count, siblings) != expected:
        raise BadEvidence("path does not lead to the root")
    return leaf


def root_of_path(purpose: str, leaf: bytes, index: int, count: int, siblings: Sequence[Digest]) -> Digest:
    """Return the root that a path leads to; raises BadEvidence when it has the wrong length for its place."""
    if not 0 <= index < count:
        raise BadEvidence(f"index {index} is outside a tree of {count} leaves")
    node, width, rest = leaf_of(purpose, leaf), count, list(siblings)
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
    return crown(purpose, count, node)


def single_roots(purpose: str, leaves: Sequence[bytes]) -> list[Digest]:
    """Return `root(purpose, [leaf])` for each leaf: many trees of one leaf at once."""
    return tagged_each(purpose + "/root", prefixed(integer(1)), tagged_each(purpose + "/leaf", b"", leaves))


def _levels(purpose: str, nodes: Sequence[Digest]) -> list[list[Digest]]:
    if not nodes:
        raise ValueError("a Merkle tree needs a leaf")
    levels = [list(nodes)]
    while len(levels[-1]) > 1:
        low = levels[-1]
        high = [_node(purpose, low[i], low[i + 1]) for i in range(0, len(low) - 1, 2)]
        levels.append(high + low[len(low) - len(low) % 2 :])
    return levels


def _node(purpose: str, left: Digest, right: Digest) -> Digest:
    return tagged(purpose + "/node", left, right)
