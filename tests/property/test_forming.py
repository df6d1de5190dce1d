"""Whatever pairs were parted: who works with whom. (SPEC.md 4.17)"""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_crews import chain_of
from tests.unit.test_forming import BEACON, members, pair_of
from verification.forming import Apart, crews_of
from verification.manifest import leaves_warranted
from verification.sampling import form_crews
from verification.state import Member
from verification.units import Address, Amount

SHARDS = 3
MANIFEST = chain_of(SHARDS)


@st.composite
def towns(draw: st.DrawFn) -> tuple[list[Member], Apart]:
    """Members of each shard with stakes of their own, who was ever parted, and who still is."""
    able = members(MANIFEST, draw(st.integers(1, 4)))
    for member in able:
        member.stake = Amount(draw(st.sampled_from([5_000, 10_000])))
    pairs = [pair_of(one, other) for one, other in itertools.combinations(able, 2) if one.post != other.post]
    ever = draw(st.sets(st.sampled_from(pairs), max_size=len(pairs) // 2))
    return able, Apart(ever, {each for each in sorted(ever) if draw(st.booleans())})


def warranted(member: Member) -> int:
    return leaves_warranted(MANIFEST, member.stake, member.post)


@given(towns())
def test_crews_are_whole_and_nobody_who_is_parted_works_together(town: tuple[list[Member], Apart]) -> None:
    able, apart = town
    crews = form_crews(MANIFEST, BEACON, able, apart)
    working = [member.address for crew in crews for member in crew]
    assert len(set(working)) == len(working)
    assert all([int(member.post.shard) for member in crew if member.post] == [0, 1, 2] for crew in crews)
    together = {pair_of(one, other) for crew in crews for one, other in itertools.combinations(crew, 2)}
    careful = form_crews(MANIFEST, BEACON, able, Apart(apart.ever, apart.ever))
    assert not together & set(apart.now) or crews == form_crews(MANIFEST, BEACON, able)
    assert crews
    if not any(pair_of(*two) in apart.ever for crew in careful for two in itertools.combinations(crew, 2)):
        assert crews[: len(careful)] == careful, "who works without it is not put to who was parted from it"


@given(towns())
def test_whoever_comes_takes_no_crew_and_no_leaf_from_who_was_there(town: tuple[list[Member], Apart]) -> None:
    able, apart = town
    leads, *others = (sorted(each, key=warranted, reverse=True) for each in by_shards(able))
    before: dict[Address, int] = {}
    for count in range(1, len(leads) + 1):
        crews = crews_of(leads[:count], others, Apart(apart.ever, apart.ever), warranted)
        after = {crew[0].address: min(map(warranted, crew)) for crew in crews}
        assert all(after.get(lead, 0) >= leaves for lead, leaves in before.items())
        before = after


def by_shards(able: list[Member]) -> list[list[Member]]:
    """Members by their shards."""
    each = len(able) // SHARDS
    return [able[place : place + each] for place in range(0, len(able), each)]
