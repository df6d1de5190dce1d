"""Narrowing, sampling and money as plain functions."""

import copy
import dataclasses
import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.toy import minimal
from verification import money, sampling
from verification.causes import Cause, Reason
from verification.digest import ZERO, integer, tagged
from verification.errors import BadEvidence
from verification.law import found
from verification.manifest import cost_of_round, least_stake
from verification.narrowing import answer_fault, first_change, first_failure, lists_needed, narrow, positions
from verification.sampling import (
    SPREAD,
    assign,
    chain_link,
    draw_committee,
    draw_verifier,
    duty_rates,
    earlier_link,
    is_private_duty,
    leaf_steps,
    next_beacon,
    record_index,
    weighted_median,
)
from verification.state import Assignment, Member, RoundState, State, total_money
from verification.statements import MAX_ENTRIES, Answer
from verification.units import MILLION, PPM, Address, Amount, Count, Digest, Millis, Round


def value(number: int, is_wrong: bool) -> Digest:
    """Return the digest after a step, of the true or of a false trajectory."""
    return tagged("value", integer(number), bytes([is_wrong]))


@given(st.integers(0, 50), st.integers(1, 20_000), st.data())
def test_narrowing_finds_the_first_wrong_step_within_its_bound(
    low: int, length: int, data: st.DataObject
) -> None:
    high = low + length
    wrong = data.draw(st.integers(low + 1, high))
    agreed, claimed, lists, state = value(low, False), value(high, True), 0, (low, high)
    while state[1] - state[0] > 1:
        places = positions(*state)
        entries = tuple(value(place, place >= wrong) for place in places)
        assert answer_fault(claimed, Answer(Round(0), Count(state[0]), Count(state[1]), entries), ()) is None
        index = next(i for i, place in enumerate(places) if entries[i] != value(place, False))
        *state, agreed, claimed = narrow(*state, agreed, entries, index)
        lists += 1
    assert state == [wrong - 1, wrong] or (length == 1 and wrong == high)
    assert (agreed, claimed) == (value(wrong - 1, False), value(wrong, True))
    assert lists <= lists_needed(length)


@given(st.integers(0, 9), st.integers(1, 5_000), st.integers(0, 70))
def test_any_point_inside_a_list_shrinks_the_interval_and_none_outside_is_taken(
    low: int, length: int, index: int
) -> None:
    entries = [value(place, True) for place in positions(low, low + length)]
    assert len(entries) == min(length, MAX_ENTRIES)
    if index >= len(entries):
        with pytest.raises(BadEvidence):
            narrow(low, low + length, ZERO, entries, index)
    else:
        start, end, *_ = narrow(low, low + length, ZERO, entries, index)
        assert low <= start < end <= low + length
        assert end - start <= -(-length // MAX_ENTRIES)


@given(st.lists(st.booleans(), max_size=9), st.lists(st.booleans(), max_size=9))
def test_the_first_change_is_the_end_of_what_two_lists_share(claimed: list[bool], own: list[bool]) -> None:
    one, other = ([value(0, each) for each in values] for values in (claimed, own))
    index = first_change(one, other)
    shared = min(len(one), len(other)) if index is None else index
    assert one[:shared] == other[:shared]
    assert index is None or one[index] != other[index]


@given(st.integers(2, 500), st.integers(0, 63))
def test_lists_that_do_not_fold_are_found_out(length: int, place: int) -> None:
    entries = tuple(value(place, True) for place in positions(0, length))
    answer = Answer(Round(0), Count(0), Count(length), entries)
    assert answer_fault(entries[-1], answer, ()) is None
    assert answer_fault(ZERO, answer, ()) is Cause.STATES_END
    short = dataclasses.replace(answer, entries=entries[1:])
    assert answer_fault(entries[-1], short, ()) is Cause.STATES_TOO_FEW
    empty = dataclasses.replace(answer, entries=())
    assert answer_fault(entries[-1], empty, ()) is Cause.STATES_TOO_FEW


@given(st.integers(2, 200), st.data())
def test_a_failure_is_followed_by_nothing_else(length: int, data: st.DataObject) -> None:
    failing, other = tagged("failure"), tagged("other failure")
    start = data.draw(st.integers(0, length - 1))
    states = [value(place, True) for place in range(start)] + [failing] * (length - start)
    assert first_failure(states, {failing, other}) == failing
    assert first_failure(states, {other}) is None
    if start < length - 1:
        states[data.draw(st.integers(start + 1, length - 1))] = data.draw(
            st.sampled_from([other, value(0, True)])
        )
        with pytest.raises(BadEvidence, match="follows a state that stands for a failure"):
            first_failure(states, {failing, other})


@given(st.integers(0, 2**32), st.sampled_from([0, 50_000, 300_000, MILLION]))
@settings(max_examples=20)
def test_private_duties_come_at_the_rate(seed: int, rate: int) -> None:
    link = tagged("link", integer(seed))
    drawn = sum(is_private_duty(ZERO, link, tagged("w", integer(i))[:20], PPM(rate)) for i in range(2_000))
    spread = 6 * (2_000 * rate * (MILLION - rate)) ** 0.5 / MILLION
    assert abs(drawn - 2_000 * rate / MILLION) <= spread


@st.composite
def crowds(draw: st.DrawFn) -> list[Member]:
    """Return workers of any speed, stake and record."""
    addresses = draw(st.lists(st.binary(min_size=20, max_size=20), unique=True, max_size=9))
    return [
        Member(
            address, "worker", Amount(draw(st.integers(0, 20_000))), draw(st.integers(1, 2**53)), ZERO, "",
            Round(0), capacity=draw(st.integers(0, 50)),
        )
        for address in addresses
    ]  # fmt: skip


@given(crowds(), st.binary(min_size=32, max_size=32), st.integers(1, 40), st.data())
def test_assignments_stay_within_the_work_rules(
    known: list[Member], beacon: Digest, most: int, data: st.DataObject
) -> None:
    every = data.draw(st.integers(1, most))
    slots = data.draw(st.integers(0, 6))
    manifest = minimal(max_steps=most, leaf_every=every)
    given_work = assign(manifest, beacon, known, slots)
    by_address = {member.address: member for member in known}
    able = [m for m in known if m.capacity >= every and m.stake >= least_stake(manifest)]
    assert len(given_work) == min(len(able), slots)
    assert sorted(work.slot for work in given_work.values()) == list(range(len(given_work)))
    for address, work in given_work.items():
        member = by_address[address]
        assert every <= work.steps <= min(most, member.capacity)
        assert work.steps * 10_000 <= most * member.stake
        assert work.steps % every == 0
    assert assign(manifest, beacon, known[::-1], slots) == given_work


@given(crowds(), st.binary(min_size=32, max_size=32), st.integers(0, 30))
def test_a_committee_has_all_its_seats_filled_by_stake(
    known: list[Member], beacon: Digest, seats: int
) -> None:
    drawn = draw_committee(beacon, known, seats)
    stakes = {member.address: member.stake for member in known}
    if not seats or len(known) <= seats or not sum(stakes.values()):
        assert drawn == {}
        return
    assert sum(drawn.values()) == seats
    assert list(drawn) == sorted(drawn)
    assert min(drawn.values()) > 0
    assert all(stakes[address] for address in drawn)


def test_seats_follow_stake() -> None:
    """Counted over many beacons: the richest fifth of the stake gets a fifth of the seats."""
    members = [
        Member(Address(bytes([place]) * 20), "worker", Amount(stake), 1, ZERO, "", Round(0))
        for place, stake in enumerate([100, 25, 25, 50, 150, 150])
    ]
    won = Counter[Address]()
    for number in range(2_000):
        won.update(draw_committee(tagged("b", integer(number)), members, 5))
    for member in members:
        expected = 10_000 * member.stake / 500
        assert abs(won[member.address] - expected) < 4.5 * math.sqrt(expected)


@given(crowds())
def test_the_fastest_does_all_it_may_and_no_claim_moves_others_far(known: list[Member]) -> None:
    rich = [dataclasses.replace(m, stake=Amount(10_000), capacity=96) for m in known]
    manifest = minimal(max_steps=96, leaf_every=1, slots=12)
    given_work = assign(manifest, ZERO, rich, 12)
    if rich:
        fastest = max(rich, key=lambda member: member.speed)
        assert given_work[fastest.address].steps == 96
    liar = dataclasses.replace(purse_member(), speed=2**53, capacity=96)
    with_liar = assign(manifest, ZERO, [*rich, liar], 12)
    half = sorted(rich, key=lambda member: member.speed)[len(rich) // 2 :]
    if len(rich) > 1:
        assert all(with_liar[member.address].steps >= 96 // SPREAD for member in half)


@given(crowds(), st.integers(0, MILLION))
def test_a_verifier_s_speed_raises_its_own_rate_and_lowers_nobody_s(known: list[Member], rate: int) -> None:
    manifest = minimal(audit_rate=rate)
    rates = duty_rates(manifest, known)
    assert all(min(MILLION, rate) <= one <= min(MILLION, 2 * rate) for one in rates.values())
    for place, member in enumerate(known):
        faster = [*known[:place], dataclasses.replace(member, speed=2**53), *known[place + 1 :]]
        assert duty_rates(manifest, faster)[member.address] >= rates[member.address]


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), max_size=9))
def test_the_median_lies_between_the_honest_when_they_hold_more_than_half(
    pairs: list[tuple[int, int]],
) -> None:
    honest = sum(stake for _, stake in pairs)
    for claim in (1, 2**53):
        median = weighted_median([*pairs, (claim, honest - 1)]) if honest > 1 else 0
        assert not median or min(value for value, _ in pairs) <= median <= max(value for value, _ in pairs)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12))
def test_records_are_in_range_and_rows_past_the_steps_are_zero(beacon: Digest, steps: int) -> None:
    manifest = minimal()
    index = record_index(manifest, beacon, Address(bytes(20)), steps)
    rows = [int.from_bytes(index.data[i : i + 8], "little") for i in range(0, len(index.data), 8)]
    assert index.shape == (12, 2)
    assert all(0 <= row < manifest.data.records for row in rows)
    assert not any(rows[2 * steps :])


@given(st.integers(1, 100), st.integers(1, 20))
def test_leaves_begin_with_the_start_and_end_with_the_end(steps: int, every: int) -> None:
    leaves = leaf_steps(steps, every)
    assert (leaves[0], leaves[-1]) == (0, steps)
    assert all(0 < b - a <= every for a, b in itertools.pairwise(leaves))


@given(st.binary(max_size=32), st.integers(1, 30), st.data())
def test_links_lead_back_to_the_tip_and_only_by_their_distance(
    seed: bytes, length: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, length))
    link, tip = chain_link(seed, length, number), chain_link(seed, length, 0)
    assert earlier_link(link, number) == tip
    assert earlier_link(link, number - 1) != tip
    assert earlier_link(link, 1) == chain_link(seed, length, number - 1)
    for wrong in (-1, length + 1):
        with pytest.raises(ValueError, match=f"has no link {wrong}"):
            chain_link(seed, length, wrong)


def test_a_link_of_a_long_chain_takes_few_hashes_once_the_chain_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    length, made, tagged = 100_000, 0, sampling.tagged

    def counted(*parts: Any) -> Digest:
        nonlocal made
        made += 1
        return tagged(*parts)

    monkeypatch.setattr(sampling, "tagged", counted)
    tip = chain_link(b"long", length, 0)
    assert length <= made <= length + 320
    for number in (1, 2, 777, length - 1, length):
        made, link = 0, chain_link(b"long", length, number)
        assert made <= 320
        if number < 1000:
            assert earlier_link(link, number) == tip


@given(
    st.lists(st.binary(min_size=20, max_size=20), unique=True, max_size=6), st.randoms(use_true_random=False)
)
def test_draws_do_not_depend_on_order(candidates: list[Address], rng: random.Random) -> None:
    mixed = list(candidates)
    rng.shuffle(mixed)
    drawn = draw_verifier(ZERO, Round(3), Address(bytes(20)), candidates)
    assert drawn == draw_verifier(ZERO, Round(3), Address(bytes(20)), mixed)
    assert (drawn is None) == (not candidates)
    digests = [tagged("d", c) for c in candidates]
    assert next_beacon(ZERO, digests, []) == next_beacon(ZERO, list(reversed(digests)), [])


def purse(stakes: list[int], escrow: list[int]) -> State:
    """Return a state that holds money and nothing else."""
    manifest = minimal()
    state = found(manifest, "toy", Address(b"s" * 20), {}, Amount(10**6), Millis(0))
    work = {Address(bytes([place]) * 20): Assignment(place, 12, Amount(0)) for place in range(len(stakes))}
    opened = RoundState(Round(0), manifest.start, ZERO, ZERO, Millis(0), Millis(1), {}, work)
    assert money.set_aside(state, opened)
    state.rounds.append(opened)
    for place, stake in enumerate(stakes):
        address = Address(bytes([place]) * 20)
        kept = {Round(number): Amount(amount) for number, amount in enumerate(escrow)}
        state.members[address] = Member(address, "worker", Amount(stake), 1, ZERO, "", Round(0), escrow=kept)
    return state


def purse_member() -> Member:
    """Return a worker with a full stake."""
    return Member(Address(b"liar" * 5), "worker", Amount(10_000), 1, ZERO, "", Round(0))


amounts = st.lists(st.integers(0, 10**12), min_size=1, max_size=5)


@given(amounts, st.lists(st.integers(0, 10**9), max_size=3), st.integers(0, 4), st.integers(0, 4))
def test_slashes_are_split_to_the_unit(
    stakes: list[int], escrow: list[int], found_by: int, before: int
) -> None:
    state = purse(stakes, escrow)
    total = total_money(state)
    member, *rest = state.members.values()
    member.convictions = before
    finders = [other.address for other in rest][:found_by]
    slashed = money.slash(state, member, finders, Reason(Cause.MISSED))
    assert total_money(state) == total
    assert slashed.stake == stakes[0] * (100_000, 500_000, MILLION)[min(before, 2)] // MILLION
    assert slashed.escrow == sum(escrow)
    assert slashed.burned + slashed.rewarded == slashed.stake + slashed.escrow
    assert slashed.burned >= (slashed.stake + slashed.escrow) // 2
    assert finders or not slashed.rewarded


@given(amounts)
def test_every_other_movement_conserves_money(stakes: list[int]) -> None:
    state = purse(stakes, [5, 7])
    total = total_money(state)
    for member in list(state.members.values()):
        money.charge_accuser(state, member, Address(b"accused".ljust(20)), Reason(Cause.MISSED))
        money.charge_silent(state, member, Reason(Cause.MISSED))
        money.escrow_reward(state, member, Round(0))
        money.pay_fee(state, member.address, Round(0), member.address)
        money.release_escrow(state, Round(1))
        money.withdraw_stake(state, member)
        assert total_money(state) == total
    before = copy.deepcopy(state)
    with pytest.raises(Exception, match="the account holds"):
        money.pay_stake(state, next(iter(state.members)), Amount(10**18))
    assert state == before
    money.refund_deposit(state)
    assert total_money(state) == total
    assert not state.rounds[0].reserve


@given(amounts, st.integers(0, 4))
def test_a_reserve_pays_its_worst_case_to_the_unit_and_no_more(stakes: list[int], verifiers: int) -> None:
    state = purse(stakes, [])
    (opened,) = state.rounds
    for address in opened.assignments:
        money.escrow_reward(state, state.members[address], Round(0))
        for _ in range(state.manifest.work.max_verifiers):
            money.pay_fee(state, address, Round(0), address)
    assert opened.reserve == 0
    poor = found(minimal(), "toy", Address(b"s" * 20), {}, Amount(cost_of_round(minimal())), Millis(0))
    poor.deposit = Amount(poor.deposit * verifiers // 5)
    assert not money.set_aside(
        poor, dataclasses.replace(opened, assignments=dict.fromkeys(range(4), Assignment(0, 12, Amount(0))))
    )
    assert poor.deposit == cost_of_round(minimal()) * verifiers // 5
