"""Who works with whom when a round opens. (SPEC.md 4.17)"""

import dataclasses
import hashlib
from typing import Any

import pytest

from tests.unit.test_crews import SPEED, chain_of, post
from verification.digest import ZERO
from verification.forming import Apart, Pair, pair
from verification.manifest import Manifest, least_stake
from verification.sampling import form_crews
from verification.state import Member
from verification.statements import WORKER
from verification.units import Address, Amount, Count, Digest, Round

BEACON = Digest(bytes(32))


def members(manifest: Manifest, each: int, **changes: Any) -> list[Member]:
    """So many members of each shard of the first cut, the later the faster, with all the work that they want."""
    most = manifest.work.max_steps
    return [
        Member(
            Address(hashlib.sha256(f"{shard}-{number}".encode()).digest()[:20]), WORKER, Amount(10_000),
            Count(SPEED + number), ZERO, "", Round(-1), capacity=most, post=post(shard), **changes,
        )
        for shard in range(len(manifest.cuts[0].shards)) for number in range(each)
    ]  # fmt: skip


def pair_of(one: Member, other: Member) -> Pair:
    return pair(one.address, other.address)


def test_the_least_stake_with_the_highest_claim_holds_down_nobody_who_may_do_more() -> None:
    manifest = chain_of(3)
    able = members(manifest, 2)
    able[2].speed = Count(9 * SPEED)
    able[2].stake = least_stake(manifest, post(1))
    first, second = form_crews(manifest, BEACON, able)
    assert able[3] in first
    assert able[2] in second


def test_crews_form_in_time_that_grows_with_their_number() -> None:
    manifest = chain_of(64)
    assert len(form_crews(manifest, BEACON, members(manifest, 30))) == 30


@pytest.mark.parametrize("shard", [1, 2])
@pytest.mark.parametrize("number", [0, 1])
def test_whoever_of_two_crews_was_parted_all_go_on(number: int, shard: int) -> None:
    """Of the slower crew too, whose members the faster one left nobody else."""
    manifest = chain_of(3)
    able = members(manifest, 2)
    parted = pair_of(able[2 * shard - 2 + number], able[2 * shard + number])
    crews = form_crews(manifest, BEACON, able, Apart({parted}, {parted}))
    assert {member.address for crew in crews for member in crew} == {member.address for member in able}
    assert not any(parted == pair_of(one, other) for crew in crews for one in crew for other in crew)


def test_of_three_crews_the_one_formed_last_exchanges() -> None:
    manifest = chain_of(2)
    able = members(manifest, 3)
    parted = {pair_of(able[0], able[3])}
    crews = form_crews(manifest, BEACON, able, Apart(parted, parted))
    assert crews == [(able[2], able[5]), (able[1], able[3]), (able[0], able[4])]


def test_nobody_does_less_for_who_was_parted() -> None:
    manifest = chain_of(2)
    slow, fast, small, mate = able = members(manifest, 2)
    small.stake = least_stake(manifest, post(1))
    parted = {pair_of(slow, small)}
    assert form_crews(manifest, BEACON, able, Apart(parted, parted)) == [(fast, mate)]


def test_who_would_not_work_else_tries_again_after_a_while() -> None:
    manifest = chain_of(2)
    slow, fast, late, mate = able = members(manifest, 2)
    ever = {pair_of(slow, late), pair_of(slow, mate)}
    assert form_crews(manifest, BEACON, able, Apart(ever, ever)) == [(fast, mate)]
    assert form_crews(manifest, BEACON, able, Apart(ever, {pair_of(slow, mate)})) == [
        (fast, mate),
        (slow, late),
    ]


def test_who_was_parted_works_together_at_once_where_nobody_could_work_without() -> None:
    manifest = chain_of(2)
    able = members(manifest, 1)
    parted = {pair_of(*able)}
    apart = Apart(parted, parted)
    assert form_crews(manifest, BEACON, able, apart) == [tuple(able)]
    whole = dataclasses.replace(able[0], address=Address(bytes(20)), post=None)
    assert form_crews(manifest, BEACON, [*able, whole], apart) == [(whole,)]
