"""Weights in integers: clipping bounds everyone's share, and what a convict added is taken back to the unit."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from simulator.toy import START, minimal
from verification.digest import ZERO
from verification.law import found
from verification.manifest import BundleRef
from verification.outer import CLIP_UNIT, SHARE, clipped_weights, mixture, outer_inputs, pending, whole_weight
from verification.state import Assignment, Phase, RoundState, State
from verification.statements import Commit
from verification.units import Address, Amount, Count, Digest, Millis, Round

Entry = tuple[int, int, int]
"""(inner steps, squared norm, stake)"""

entries = st.lists(
    st.tuples(st.integers(1, 100), st.integers(0, 2**53), st.integers(1, 10**9)), min_size=1, max_size=9
)


def address(place: int) -> Address:
    """Return a worker's account."""
    return Address(bytes([place + 1]) * 20)


def closed(given: list[Entry], number: int = 0) -> RoundState:
    """Return a sealed round in which these contributions are included."""
    people = [address(place) for place in range(len(given))]
    ref = BundleRef(Digest(bytes(32)), Digest(bytes(32)))
    worked = RoundState(
        Round(number), ref, ZERO, ZERO, Millis(0), Millis(1),
        {},
        {
            who: Assignment(slot, steps, Amount(stake))
            for slot, (who, (steps, _, stake)) in enumerate(zip(people, given, strict=True))
        },
        phase=Phase.SEALED, included=tuple(people),
    )  # fmt: skip
    for who, (_, norm, _) in zip(people, given, strict=True):
        worked.commits[who] = Commit(Round(number), ZERO, ZERO, ref, Count(norm), ZERO)
    return worked


def history(*rounds: RoundState, slots: int = 9) -> State:
    """Return a state with these rounds that takes convicts' work out again."""
    manifest = minimal(on_conviction="subtract", slots=slots)
    state = found(manifest, "toy", Address(b"s" * 20), {}, Amount(10**9), Millis(0))
    state.rounds += rounds
    return state


@given(entries, st.integers(1, 10_000))
def test_no_contribution_pulls_harder_than_the_clip(given: list[Entry], clip: int) -> None:
    worked = closed(given)
    weights = clipped_weights(minimal(clip=clip), worked)
    norms = sorted((norm, min(stake, 10_000)) for _, norm, stake in given)
    whole = sum(stake for _, stake in norms)
    median = next(n for n, _ in norms if 2 * sum(stake for norm, stake in norms if norm <= n) >= whole)
    for who, (steps, norm, _) in zip(worked.included, given, strict=True):
        share = weights[who] // steps
        assert weights[who] == share * steps
        assert 0 <= share <= SHARE
        within = norm * CLIP_UNIT**2 <= median * clip**2
        assert (share == SHARE) >= within
        if not within:
            assert share**2 * norm * CLIP_UNIT**2 <= SHARE**2 * median * clip**2
            assert (share + 1) ** 2 * norm * CLIP_UNIT**2 > SHARE**2 * median * clip**2


@given(entries)
def test_without_a_clip_weights_are_steps(given: list[Entry]) -> None:
    worked = closed(given)
    weights = clipped_weights(minimal(clip=0), worked)
    assert list(weights.values()) == [SHARE * steps for steps, _, _ in given]


@given(entries, st.integers(1, 5_000), st.integers(0, 2**53))
def test_less_than_half_of_the_stake_cannot_lift_the_clip_above_every_honest_norm(
    given: list[Entry], clip: int, norm: int
) -> None:
    honest = sum(stake for _, _, stake in given)
    attacked = closed([*given, (100, norm, max(1, honest - 1))]) if honest > 1 else closed(given)
    weights = clipped_weights(minimal(clip=clip), attacked)
    largest = max(norm for _, norm, _ in given)
    for who, commit in attacked.commits.items():
        share = weights[who] // attacked.assignments[who].steps
        assert share**2 * commit.norm * CLIP_UNIT**2 <= SHARE**2 * max(
            largest * clip**2, commit.norm * CLIP_UNIT**2 if commit.norm <= largest else 0
        )


@given(entries, entries, st.data())
def test_a_convict_s_share_is_taken_back_once(
    then: list[Entry], now: list[Entry], data: st.DataObject
) -> None:
    first, second = closed(then), closed(now, 1)
    state = history(first, second, slots=20)
    convict = data.draw(st.sampled_from(first.included))
    state.convicted.add((Round(0), convict))
    assert pending(state) == [(0, convict)]
    second.subtracts = tuple(pending(state))
    assert pending(state) == []
    mixed = mixture(state, second)
    (taken,) = [part for part in mixed.parts if part.weight < 0]
    (added,) = [part for part in mixture(state, first).parts if part.worker == convict]
    assert (taken.number, taken.worker) == (0, convict)
    assert -taken.weight == added.weight * whole_weight(second) // whole_weight(first)
    assert mixed.ballast >= 0
    assert mixed.ballast + sum(part.weight for part in mixed.parts) == whole_weight(second)
    slots = [part.slot for part in mixed.parts]
    assert len(set(slots)) == len(slots)


def test_nothing_is_taken_from_a_round_that_includes_nothing() -> None:
    first, empty = closed([(4, 9, 1)]), dataclasses.replace(closed([(4, 9, 1)], 1), included=())
    state = history(first, empty)
    state.convicted.add((Round(0), first.included[0]))
    empty.subtracts = tuple(pending(state))
    assert mixture(state, empty).parts == ()
    assert mixture(state, empty).ballast == 0
    assert pending(state) == [(0, first.included[0])]


@given(
    st.integers(1, 5), st.dictionaries(st.integers(0, 4), st.integers(-(2**62), 2**62)), st.integers(0, 2**62)
)
def test_the_last_slot_is_always_empty(slots: int, weights: dict[int, int], ballast: int) -> None:
    given = {slot: (weight, START.tensors) for slot, weight in weights.items() if slot < slots}
    *_, numbers = outer_inputs(slots, START.tensors, given, ballast)
    assert numbers is not None
    read = [
        int.from_bytes(numbers.data[i : i + 8], "little", signed=True) for i in range(0, len(numbers.data), 8)
    ]
    assert read == [given[slot][0] if slot in given else 0 for slot in range(slots)] + [ballast]
    assert math.prod(numbers.shape) == slots + 1
