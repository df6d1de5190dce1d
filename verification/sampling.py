"""Draws from the public beacon and from a verifier's secret hash chain. Integers only; all of it pure. (SPEC.md 5)"""

import hashlib
from collections.abc import Mapping, Sequence

from verification.digest import integer, tagged
from verification.manifest import Manifest
from verification.state import Assignment
from verification.tensors import Tensor
from verification.units import MILLION, PPM, Address, Count, Digest, Round


def next_beacon(previous: Digest, links: Sequence[Digest], commitments: Sequence[Digest]) -> Digest:
    """Return the beacon over the last one, the links revealed since and the round's commitments. (SPEC.md 5.1)"""
    return tagged("beacon", previous, b"".join(sorted(links)), b"".join(sorted(commitments)))


def chain_tip(seed: bytes, length: int) -> Digest:
    """Return the end of a hash chain of `length` links that starts at `seed`."""
    return chain_link(seed, length, 0)


def chain_link(seed: bytes, length: int, number: int) -> Digest:
    """Return link `number` of a chain: link 0 is the tip, each later link hashes to the one before."""
    return earlier_link(tagged("link-seed", seed), length - number)


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


def assign(manifest: Manifest, beacon: Digest, speeds: Mapping[Address, int]) -> dict[Address, Assignment]:
    """Return the round's assignments: inner steps follow speed, in whole leaves, the fastest does `max_steps`.

    When there are more workers than slots the beacon picks. (SPEC.md 4.1)
    """
    work = manifest.work
    drawn = sorted(speeds, key=lambda worker: tagged("slot", beacon, worker))[: work.slots]
    fastest = max((speeds[worker] for worker in drawn), default=1)
    whole = work.max_steps // work.leaf_every
    return {
        worker: Assignment(
            slot, work.leaf_every * max(1, (2 * whole * speeds[worker] + fastest) // (2 * fastest))
        )
        for slot, worker in enumerate(sorted(drawn))
    }


def record_index(manifest: Manifest, beacon: Digest, worker: Address, steps: int) -> Tensor:
    """Return the records of a worker's round, int64 [max_steps, batch]; rows past `steps` are zero. (SPEC.md 4.2)"""
    work = manifest.work
    stream = hashlib.shake_256(tagged("records", beacon, worker)).digest(16 * steps * work.batch)
    drawn = (
        int.from_bytes(stream[i : i + 16], "big") % manifest.data.records for i in range(0, len(stream), 16)
    )
    body = b"".join(index.to_bytes(8, "little") for index in drawn)
    whole = 8 * work.max_steps * work.batch
    return Tensor("int64", (Count(work.max_steps), Count(work.batch)), body + bytes(whole - len(body)))


def leaf_steps(steps: int, leaf_every: int) -> tuple[int, ...]:
    """Return after how many inner steps each leaf stands; leaf 0 is the prologue's output. (SPEC.md 4.3)"""
    return (*range(0, steps, leaf_every), steps)
