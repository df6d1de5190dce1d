"""Draws from the public beacon and from a verifier's secret hash chain. Integers only; all of it pure. (SPEC.md 5)"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate
from math import isqrt

from verification.digest import integer, tagged
from verification.forming import NOBODY, Apart, Crew, crews_of
from verification.manifest import Manifest, counted, leaves_warranted
from verification.state import Assignment, Member
from verification.tensors import Tensor
from verification.units import MILLION, PPM, Address, Count, Digest, Round

SPREAD = 4
"""How far from the median a claimed speed counts (SPEC.md 4.10)."""

SLACK = 2
"""A deadline is at least so many times the time that the assigned work takes at the claimed speed (SPEC.md 4.10)."""


def next_beacon(previous: Digest, links: Sequence[Digest], commitments: Sequence[Digest]) -> Digest:
    """Return the beacon over the last one, the links revealed since and the round's commitments. (SPEC.md 5.1)"""
    return tagged("beacon", previous, b"".join(sorted(links)), b"".join(sorted(commitments)))


def chain_link(seed: bytes, length: int, number: int) -> Digest:
    """Return link `number` of a chain: link 0 is the tip, each later link hashes to the one before.

    Raises ValueError for a link that the chain has not: it would be one that has been shown.
    """
    if not 0 <= number <= length:
        raise ValueError(f"a chain of {length} links has no link {number}")
    marks, stride = _marks(seed, length)
    place, rest = divmod(length - number, stride)
    return earlier_link(marks[place], rest)


@lru_cache(maxsize=256)
def _marks(seed: bytes, length: int) -> tuple[tuple[Digest, ...], int]:
    """Return so many links, from the last on, that every other one is near: a chain is as long as a run."""
    stride = isqrt(length) + 1
    marks = [tagged("link-seed", seed)]
    for _ in range(length // stride):
        marks.append(earlier_link(marks[-1], stride))
    return tuple(marks), stride


def earlier_link(link: Digest, distance: int) -> Digest:
    """Return the link that stands `distance` places before `link` on its chain."""
    for _ in range(distance):
        link = tagged("link", link)
    return link


def is_private_duty(beacon: Digest, link: Digest, worker: Address, rate: PPM) -> bool:
    """Return whether the holder of `link` must audit `worker` in the beacon's round. (SPEC.md 5.3)"""
    return int.from_bytes(tagged("duty", beacon, link, worker)[:8], "big") * MILLION < rate << 64


def draw_verifier(
    beacon: Digest, work: Round, worker: Address, candidates: Sequence[Address]
) -> Address | None:
    """Return the verifier to whom the public beacon gives an audit; None when nobody can take it. (SPEC.md 5.4)"""
    if not candidates:
        return None
    ticket = int.from_bytes(tagged("public-duty", beacon, integer(work), worker), "big")
    return sorted(candidates)[ticket % len(candidates)]


def assign(
    manifest: Manifest,
    beacon: Digest,
    workers: Sequence[Member],
    slots: int,
    apart: Apart = NOBODY,
) -> dict[Address, Assignment]:
    """Return the round's assignments: inner steps follow speed, in whole leaves, the fastest does `max_steps`.

    Nobody gets more than its stake and its delivered rounds warrant; whose stake warrants no leaf gets nothing. A crew
    is as fast as the slowest of its members. (SPEC.md 4.1, 4.17)
    """
    work = manifest.work
    drawn = _draw_slots(manifest, beacon, form_crews(manifest, beacon, workers, apart), slots)
    speeds = limited_speeds(manifest, [member for crew in drawn for member in crew])
    paces = [min(speeds[member.address] for member in crew) for crew in drawn]
    fastest, whole = max(paces, default=1), work.max_steps // work.leaf_every
    assignments = {}
    for slot, (crew, pace) in enumerate(zip(drawn, paces, strict=True)):
        wanted = max(1, (2 * whole * pace + fastest) // (2 * fastest))
        steps = work.leaf_every * min(wanted, _most_leaves(manifest, crew))
        for member in crew:
            assignments[member.address] = Assignment(slot, steps, member.stake, member.post)
    return assignments


def form_crews(
    manifest: Manifest, beacon: Digest, workers: Sequence[Member], apart: Apart = NOBODY
) -> list[Crew]:
    """Return who may work together: each whole worker, and of each cut those members of its shards with each other
    whose stakes warrant the most, of these the fastest; equal ones in an order that the beacon draws, and nobody with
    whom it was parted from while it can work without that, or for a while, unless nobody could. (SPEC.md 4.17)

    By claims alone, which cost nothing, the least stake could hold down those who may do more.
    """
    able = [member for member in workers if _most_leaves(manifest, (member,))]

    def rank(member: Member) -> tuple[int, int, Digest]:
        return -_warranted(manifest, member), -member.speed, tagged("crew", beacon, member.address)

    free: dict[tuple[int, int], list[Member]] = {}
    for member in sorted((each for each in able if each.post is not None), key=rank):
        assert member.post is not None
        free.setdefault((int(member.post.cut), int(member.post.shard)), []).append(member)
    crews: list[Crew] = [(member,) for member in able if member.post is None]
    for number, cut in enumerate(manifest.cuts):
        waiting = [free.get((number, shard), []) for shard in range(len(cut.shards))]
        crews += crews_of(waiting[0], waiting[1:], apart, partial(_warranted, manifest))
    # Where nobody else could work, two whom a short outage has parted are better than nobody.
    return crews if crews or not apart.ever else form_crews(manifest, beacon, workers)


def _warranted(manifest: Manifest, member: Member) -> int:
    return leaves_warranted(manifest, member.stake, member.post)


def _draw_slots(manifest: Manifest, beacon: Digest, able: Sequence[Crew], slots: int) -> list[Crew]:
    """Return who works, drawn one after another, in the order of their leads' addresses; chances follow the work that
    each may be given, not the names."""
    rest = sorted(able, key=lambda crew: crew[0].address)
    weights = [_most_leaves(manifest, crew) for crew in rest]
    drawn: list[Crew] = []
    while len(rest) > slots - len(drawn) > 0:
        sums = list(accumulate(weights))
        ticket = int.from_bytes(tagged("slot", beacon, integer(len(drawn))), "big") % sums[-1]
        place = bisect_right(sums, ticket)
        weights.pop(place)
        drawn.append(rest.pop(place))
    return sorted(drawn + rest[: slots - len(drawn)], key=lambda crew: crew[0].address)


def _most_leaves(manifest: Manifest, crew: Crew) -> int:
    return min(
        min(_warranted(manifest, member), member.capacity // manifest.work.leaf_every) for member in crew
    )


def draw_committee(beacon: Digest, members: Sequence[Member], seats: int) -> dict[Address, int]:
    """Return how many of the seats each member holds, as its stake gives; nothing where everyone decides.

    Members stand in a row, each as long as its stake; a seat falls on a place of the row. (SPEC.md 4.14)
    """
    ends = list(accumulate(member.stake for member in members))
    if not seats or len(members) <= seats or not ends[-1]:
        return {}
    tickets = (int.from_bytes(tagged("seat", beacon, integer(seat)), "big") for seat in range(seats))
    drawn = Counter(members[bisect_right(ends, ticket % ends[-1])].address for ticket in tickets)
    return dict(sorted(drawn.items()))


def limited_speeds(manifest: Manifest, members: Sequence[Member]) -> dict[Address, int]:
    """Return the claimed speeds, none above `SPREAD` times the stake-weighted median or that much below it.

    A claim costs nothing, so less than half of the stake can move nobody's share by more than that. (SPEC.md 4.10)
    """
    median = _median_speed(manifest, members)
    low, high = max(1, median // SPREAD), median * SPREAD
    return {member.address: min(max(member.speed, low), high) for member in members}


def _median_speed(manifest: Manifest, members: Sequence[Member]) -> int:
    return weighted_median([(m.speed, counted(manifest, m.role, m.stake)) for m in members])


def weighted_median(pairs: Sequence[tuple[int, int]]) -> int:
    """Return the least value that, with those below it, has at least half of the weight; 0 for no pairs."""
    total, below = sum(weight for _, weight in pairs), 0
    for value, weight in sorted(pairs):
        below += weight
        if 2 * below >= total:
            return value
    return 0


def duty_rates(manifest: Manifest, verifiers: Sequence[Member]) -> dict[Address, PPM]:
    """Return each verifier's chance to audit a worker's round: `audit_rate`, up to twice that for a faster one.

    The median's is `audit_rate`, and a claim about oneself never lowers another's chance. (SPEC.md 5.3)
    """
    rate = manifest.work.audit_rate
    median = max(1, _median_speed(manifest, verifiers))
    return {
        member.address: PPM(min(MILLION, rate * min(max(member.speed, median), 2 * median) // median))
        for member in verifiers
    }


def time_for(steps: int, speed: int) -> int:
    """Return how many milliseconds so many inner steps take at a speed in steps per 1,000 seconds. (SPEC.md 4.10)"""
    return -(-steps * 1_000_000 // speed)


def record_index(manifest: Manifest, beacon: Digest, worker: Address, steps: int) -> Tensor:
    """Return the records of a worker's or a crew's round, int64 [max_steps, batch]; rows past `steps` are zero.

    A crew's are its lead's. (SPEC.md 4.2)
    """
    work = manifest.work
    stream = hashlib.shake_256(tagged("records", beacon, worker)).digest(16 * steps * work.batch)
    drawn = (
        int.from_bytes(stream[i : i + 16], "big") % manifest.data.records for i in range(0, len(stream), 16)
    )
    body = b"".join(index.to_bytes(8, "little") for index in drawn)
    whole = 8 * work.max_steps * work.batch
    return Tensor("int64", (Count(work.max_steps), Count(work.batch)), body + bytes(whole - len(body)))


def round_number(number: Round) -> Tensor:
    """Return a round's number as its prologue reads it, int64 0-d. (SPEC.md 4.2)"""
    return Tensor("int64", (), number.to_bytes(8, "little"))


def leaf_steps(steps: int, leaf_every: int) -> tuple[int, ...]:
    """Return after how many inner steps each leaf stands; leaf 0 is the prologue's output. (SPEC.md 4.3)"""
    return (*range(0, steps, leaf_every), steps)
