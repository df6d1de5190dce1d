"""Integers as averages of float32: exact in any order, whatever the members' number; and what a checksum finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.groups import limbs
from trainer.groups.limbs import Array

EXTREMES = [0, 1, -1, 2**63 - 1, -(2**63), 2**53, -(2**62)]

numbers = st.one_of(st.sampled_from(EXTREMES), st.integers(-(2**63), 2**63 - 1))


@st.composite
def groups(draw: st.DrawFn) -> Array:
    """int64 [members, n]."""
    members, length = draw(st.sampled_from([1, 2, 3, 5, 8, limbs.MAX_MEMBERS])), draw(st.integers(1, 4))
    rows = st.lists(numbers, min_size=length, max_size=length)
    return np.array(draw(st.lists(rows, min_size=members, max_size=members)), dtype=np.int64)


def averaged(given: Array, order: list[int]) -> list[Array]:
    """What an averager gives each member, in float32 throughout: its own part and the difference from the average."""
    members = len(given)
    weights = [np.float32(limbs.weight_of(place, members)) for place in range(members)]
    parts = [limbs.to_limbs(row) / weight for row, weight in zip(given, weights, strict=True)]
    total = np.zeros_like(parts[0])
    for place in order:
        total = total + parts[place] * weights[place]
    average = total / np.float32(sum(weights))
    return [(part + (average - part)) * np.float32(limbs.total_weight(members)) for part in parts]


@given(groups(), st.randoms(use_true_random=False))
def test_sums_come_out_of_averages(given: Array, random: object) -> None:
    order = list(range(len(given)))
    random.shuffle(order)  # type: ignore[attr-defined]
    with np.errstate(over="ignore"):
        wanted = given.sum(0)
    for sums in averaged(given, order):
        assert np.array_equal(limbs.of_limbs(sums), wanted)
        assert (
            limbs.checksum(sums) == sum(limbs.checksum(limbs.to_limbs(row)) for row in given) % limbs.MODULUS
        )


@pytest.mark.parametrize("members", [2, 3, 5])
def test_a_patchwork_has_another_checksum(members: int) -> None:
    """Some places are the sum, some a member's own values: what survivors get when one of them dies."""
    given = np.random.default_rng(members).integers(-(2**62), 2**62, (members, 300))
    (sums, *_) = averaged(given, list(range(members)))
    right = sum(limbs.checksum(limbs.to_limbs(row)) for row in given) % limbs.MODULUS
    for start in range(0, len(sums), 100):
        torn = sums.copy()
        torn[start : start + 100] = limbs.to_limbs(given[0])[start : start + 100] * limbs.total_weight(
            members
        )
        assert limbs.checksum(torn) != right


@given(st.integers(1, limbs.MAX_MEMBERS))
def test_weights_add_up_to_a_power_of_two(members: int) -> None:
    weights = [limbs.weight_of(place, members) for place in range(members)]
    assert sum(weights) == limbs.total_weight(members) and limbs.total_weight(members).bit_count() == 1
    assert set(weights) <= {1, 2}
