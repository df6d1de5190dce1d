"""Crews: workers that each hold a shard of the model, and compute one worker's round together. (SPEC.md 4.17)

A crew's round comes to *items*, in one order: the states that shards begin in, and of each inner step what crosses
between them, then the states that it leaves. Whoever made the first item that differs is at fault, since all that it
read was agreed. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from verification import merkle
from verification.layout import Held
from verification.manifest import Cut, Manifest, Post
from verification.statements import Commit, Opening
from verification.units import Digest


@dataclass(frozen=True)
class Item:
    """What shard `shard` made in inner step `step`: its state, or crossing number `crossing`."""

    step: int
    shard: int
    crossing: int | None = None


@lru_cache(maxsize=64)
def items_of(cut: Cut, steps: int) -> tuple[Item, ...]:
    """Return the items of a crew's round of so many steps, in order."""
    states = range(len(cut.shards))
    items = [Item(0, shard) for shard in states]
    for step in range(1, steps + 1):
        items += [Item(step, int(each.maker), place) for place, each in enumerate(cut.crossings)]
        items += [Item(step, shard) for shard in states]
    return tuple(items)


def made_by(cut: Cut, shard: int, steps: int) -> list[Item]:
    """Return the items that a shard makes."""
    return [item for item in items_of(cut, steps) if item.shard == shard]


def taken_by(cut: Cut, shard: int, steps: int) -> list[Item]:
    """Return the items that a shard takes from others."""
    return [item for item in items_of(cut, steps) if item.crossing is not None and _takes(cut, shard, item)]


def shared_by(cut: Cut, one: int, other: int, steps: int) -> list[Item]:
    """Return the items that cross between two shards, both ways."""
    ways = (one, other), (other, one)
    return [
        item
        for item in items_of(cut, steps)
        if any(item.shard == maker and _takes(cut, taker, item) for maker, taker in ways)
    ]


def neighbours(cut: Cut, shard: int) -> tuple[int, ...]:
    """Return the shards with which one shares a crossing, ascending."""
    return _neighbours(cut)[shard]


@lru_cache(maxsize=64)
def _neighbours(cut: Cut) -> tuple[tuple[int, ...], ...]:
    near: list[set[int]] = [set() for _ in cut.shards]
    for crossing in cut.crossings:
        for taker in crossing.takers:
            near[crossing.maker].add(int(taker))
            near[taker].add(int(crossing.maker))
    return tuple(tuple(sorted(others)) for others in near)


def _takes(cut: Cut, shard: int, item: Item) -> bool:
    return item.crossing is not None and shard in cut.crossings[item.crossing].takers


def root_of_shared(digests: Sequence[Digest]) -> Digest:
    """Return the root over what crossed between two shards in a round: both sign it. (SPEC.md 4.17)"""
    return merkle.root("shared", digests)


def roots_of_shared(cut: Cut, shard: int, steps: int, known: Mapping[Item, Digest]) -> tuple[Digest, ...]:
    """Return the roots over what a shard shares with each of its neighbours; `known` are the items it made and took."""
    return tuple(
        root_of_shared([known[item] for item in shared_by(cut, shard, other, steps)])
        for other in neighbours(cut, shard)
    )


def known_items(cut: Cut, post: Post, steps: int, opening: Opening) -> dict[Item, Digest]:
    """Return the items that a member opens, made and taken; raises ValueError for another number of them."""
    made, taken = made_by(cut, post.shard, steps), taken_by(cut, post.shard, steps)
    return {
        **dict(zip(made, opening.digests, strict=True)),
        **dict(zip(taken, opening.taken, strict=True)),
    }


def disagreeing(cut: Cut, commits: Sequence[Commit]) -> list[tuple[int, int]]:
    """Return the pairs of shards whose members signed other roots over what crossed between them."""
    near = _neighbours(cut)
    return [
        (one, other)
        for one, others in enumerate(near)
        for place, other in enumerate(others)
        if one < other and commits[one].shared[place] != commits[other].shared[near[other].index(one)]
    ]


def root_with(cut: Cut, commit: Commit, other: int) -> Digest | None:
    """Return the root that a member committed to over what it shares with another shard; None where it shares none."""
    if commit.post is None or other not in (near := neighbours(cut, int(commit.post.shard))):
        return None
    return commit.shared[near.index(other)]


def held_at(manifest: Manifest, post: Post | None) -> Held | None:
    """Return which part of the model a worker's programs are about; None of a whole one's."""
    if post is None:
        return None
    cut = manifest.cuts[post.cut]
    return Held(
        tuple(map(int, cut.shards[post.shard].parameters)),
        sum(len(shard.parameters) for shard in cut.shards),
        sum(post.shard in crossing.takers for crossing in cut.crossings),
        sum(post.shard == crossing.maker for crossing in cut.crossings),
    )
