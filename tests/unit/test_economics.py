"""What cheating costs: the formulas against plain fractions, every refusal with its numbers and its smallest mend."""

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.toy import minimal
from trainer.commands.demo import DemoSettings, demo_job
from trainer.commands.open_demo import GUESTS
from trainer.runs.job import JobFile, read_job
from trainer.runs.rules import rules_of
from verification import economics
from verification.economics import (
    COMMITTEE_RISK,
    COMMITTEES,
    KNOBS,
    Adversary,
    adversaries,
    audit_chance,
    colluders,
    committee_risk,
    detection,
    honest_verifiers,
    hostile_places,
    last_chance,
    lost,
    needed,
    promise,
    require_sound,
    rounds_in_flight,
    safe_committee,
    share_lost,
    stake_at_risk,
)
from verification.errors import UserError
from verification.manifest import MAX_ROUNDS, MAX_VERIFIERS, Assumptions, Manifest, reward_of
from verification.units import MILLION, PPM, Amount

FEES = {"fee_per_step": 10}
SOUND = {"fee_per_step": 10, "min_verifiers": 2}
ALONE = {"max_verifiers": 1}
"""One verifier, trusted, and no place beside it."""


def row(manifest: Manifest, start: str) -> Adversary:
    """Return the one row whose name starts so."""
    (found,) = [one for one in adversaries(manifest) if one.name.startswith(start)]
    return found


def turned(manifest: Manifest, knob: str, value: int) -> Manifest:
    """Return the manifest with one parameter changed."""
    part = KNOBS[knob]
    rules: Any = dataclasses.replace(getattr(manifest, part), **{knob: value})
    return dataclasses.replace(manifest, **{part: rules})


def test_chance_counts_honest_verifiers_only() -> None:
    manifest = minimal(min_verifiers=4, audit_rate=500_000, colluding=340_000)
    assert (colluders(manifest), honest_verifiers(manifest)) == (2, 2)
    assert audit_chance(manifest) == Fraction(3, 4)
    assert audit_chance(minimal(min_verifiers=0)) == 0
    assert honest_verifiers(minimal(min_verifiers=1)) == 1
    assert audit_chance(minimal(min_verifiers=1, colluding=1)) == 0
    assert detection(Fraction(1, 20), 100) == 1 - Fraction(19, 20) ** 100


def test_the_risk_of_a_committee_is_the_tail_of_its_seats() -> None:
    every = itertools.product((True, False), repeat=5)
    fallen = sum(
        Fraction(1, 4) ** sum(seats) * Fraction(3, 4) ** (5 - sum(seats))
        for seats in every
        if 2 * sum(seats) > 5
    )
    assert committee_risk(5, MILLION // 4, 1) == fallen
    assert committee_risk(5, MILLION // 4, 7) == 7 * fallen
    assert committee_risk(300, 0, 10**6) == 0


def test_a_committee_is_as_small_as_is_safe() -> None:
    assert safe_committee(340_000, 1_000) == 1024
    assert safe_committee(250_000, 1_000) == 256
    assert safe_committee(500_000, 1) == 0
    for colluding in range(0, 450_001, 50_000):
        seats = safe_committee(colluding, 100)
        smaller = [size for size in COMMITTEES if not seats or size < seats]
        assert all(committee_risk(size, colluding, 100) > COMMITTEE_RISK for size in smaller)


def test_a_committee_that_can_fall_is_refused_with_one_that_cannot() -> None:
    sound = minimal(**SOUND, committee=1024, colluding=340_000, worker_stake=10**6)
    economics._require_committee(sound)
    small = dataclasses.replace(sound, work=dataclasses.replace(sound.work, committee=101))
    with pytest.raises(UserError, match=r"101 seats .* 34% .* set swarm\.committee to 512"):
        require_sound(small)
    hostile = dataclasses.replace(small, assumptions=Assumptions(PPM(500_000), Amount(0)))
    with pytest.raises(UserError, match=r"set swarm\.committee to 0 \(everyone\)"):
        require_sound(hostile)
    everyone = dataclasses.replace(hostile, work=dataclasses.replace(hostile.work, committee=0))
    economics._require_committee(everyone)


def test_a_full_time_cheat_at_five_percent_survives_a_hundred_rounds_in_one_of_169() -> None:
    assert round(1 / (1 - float(detection(Fraction(5, 100), 100)))) == 169


def test_at_five_percent_a_first_wrong_round_needs_a_stake_of_19_rounds() -> None:
    manifest = minimal(
        audit_rate=50_000,
        worker_stake=1,
        slash_grades=(500_000, MILLION),
        escrow_rounds=1,
        fee_per_step=10,
        **ALONE,
    )
    reward = reward_of(manifest, manifest.work.max_steps)
    alone = [one for one in range(40 * reward) if one + reward >= 20 * reward]
    assert alone[0] == 19 * reward
    assert not row(turned(manifest, "worker_stake", 2 * 19 * reward), "one wrong round").pays
    assert row(turned(manifest, "worker_stake", 2 * (19 * reward - 20)), "one wrong round").pays


def test_a_first_grade_that_takes_all_lets_a_partner_save_what_is_not_burned() -> None:
    """Convicted by a partner in the very moment in which an honest verdict is in: nothing is left for that one."""
    steep = minimal(slash_grades=(MILLION,), **ALONE)
    graded = minimal(slash_grades=(500_000, MILLION), **ALONE)
    assert lost(steep, 500) == (10_000 + 500) // 2
    assert lost(graded, 500) == 5_500
    assert lost(minimal(**ALONE), 100_000) == (1_000 + 100_000) // 2 + 4_500
    assert lost(minimal(**ALONE), 500) == 1_500


def test_the_slash_counts_as_the_law_takes_it() -> None:
    assert stake_at_risk(minimal()) == 1_000
    assert stake_at_risk(minimal(excluded_after=3)) == 1_000
    assert stake_at_risk(minimal(excluded_after=3, slash_grades=(900_000, 500_000))) == 500
    assert share_lost(minimal(**ALONE)) == 1


def test_any_share_of_colluders_is_at_least_one_and_places_beside_the_promised_ones_are_hostile() -> None:
    for promised, bad in {1: 1, 2: 1, 3: 2, 100: 34}.items():
        manifest = minimal(min_verifiers=promised, max_verifiers=promised + 1, colluding=340_000)
        assert (colluders(manifest), hostile_places(manifest)) == (bad, bad + 1)
        assert share_lost(manifest) == Fraction(1, 2) + Fraction(1, 2) / (bad + 2)
    two = {"min_verifiers": 2, "colluding": 340_000, "audit_rate": 350_000}
    tight, open_ = minimal(**two, max_verifiers=2), minimal(**two, max_verifiers=4)
    assert audit_chance(tight) == audit_chance(open_) == Fraction(35, 100)
    assert lost(tight, 0) == 750
    assert lost(open_, 0) == 625
    assert row(open_, "one wrong round").loss < row(tight, "one wrong round").loss


def test_who_is_left_to_audit_is_said_plainly() -> None:
    with pytest.raises(
        UserError, match=r"1 of 1 promised .* and swarm\.min_verifiers to 2, or .*colluding to 0"
    ):
        require_sound(minimal(colluding=340_000, max_verifiers=1))
    with pytest.raises(UserError, match=r"3 of 3 promised .* left to audit: set economics\.colluding to 0"):
        require_sound(minimal(colluding=MILLION, min_verifiers=3))
    assert "all trusted" in promise(minimal())
    assert "promised: 2, 1 may collude; an honest one audits a round with chance 40.0%" in promise(
        minimal(min_verifiers=2, colluding=340_000)
    )


def test_who_colludes_chooses_among_beacons_for_the_last_round() -> None:
    two = {"min_verifiers": 2, "max_verifiers": 2, "audit_rate": 350_000}
    assert last_chance(minimal(**two)) == 1
    q = Fraction(35, 100)
    assert last_chance(minimal(**two, colluding=340_000)) == q + (1 - q) * Fraction(1, 2) ** 3
    many = minimal(min_verifiers=12, max_verifiers=12, colluding=500_000)
    assert last_chance(many) == audit_chance(many)


def test_an_answer_costs_the_round_for_each_list_of_states_for_the_trace_and_for_a_node() -> None:
    reward = reward_of(minimal(), 12)
    assert row(minimal(), "false accusations").gain == 3 * reward
    assert row(minimal(leaf_every=1), "false accusations").gain == 2 * reward
    long = minimal(max_steps=65, leaf_every=65)
    assert row(long, "false accusations").gain == 4 * reward_of(long, 65)


manifests = st.builds(
    lambda rate, verifiers, colluding, stake, escrow, rounds, sabotage, burned: minimal(
        audit_rate=rate, min_verifiers=verifiers, colluding=colluding, worker_stake=stake, escrow_rounds=escrow,
        rounds=rounds, sabotage=sabotage, burned_share=burned,
    ),
    st.integers(0, MILLION), st.integers(0, 4), st.integers(0, MILLION), st.integers(0, 10**6),
    st.integers(0, 8), st.integers(1, 30), st.integers(0, 500), st.integers(0, MILLION),
)  # fmt: skip


def exactly_lost(manifest: Manifest, escrow: int) -> Fraction:
    """Return what a first conviction costs a ring, by an honest verifier or by a partner before that."""
    stake, kept = manifest.money.worker_stake, share_lost(manifest)
    first, burned = stake // 10, Fraction(manifest.money.burned_share, MILLION)
    honest = kept * (first + escrow)
    return min(honest, burned * (first + escrow) + kept * ((stake - first) // 2))


def best_of_all(manifest: Manifest) -> Fraction:
    """Return what the best ring expects: it plans m wrong rounds and is judged f rounds after the audited one.

    In escrow then is what the last `escrow_rounds` rounds before it and its own put there.
    """
    q, reward, escrow = audit_chance(manifest), reward_of(manifest, 12), manifest.money.escrow_rounds
    gain = reward + manifest.assumptions.sabotage

    def expected(planned: int, delay: int) -> Fraction:
        total = (1 - q) ** planned * planned * gain
        for audited in range(1, planned + 1):
            judged = audited + delay
            wrong = min(planned, judged)
            held = wrong - max(0, judged - escrow - 1)
            total += (1 - q) ** (audited - 1) * q * (wrong * gain - exactly_lost(manifest, held * reward))
        return total

    rounds = range(1, manifest.work.rounds + 1)
    return max(
        expected(planned, delay) for planned in rounds for delay in range(rounds_in_flight(manifest) + 1)
    )


@given(manifests)
@settings(max_examples=60, deadline=None)
def test_where_no_row_pays_no_number_of_wrong_rounds_does_however_late_it_is_judged(
    manifest: Manifest,
) -> None:
    rows = [row(manifest, name) for name in ("one wrong round", "wrong rounds until", "an identity")]
    if not any(one.pays for one in rows):
        assert best_of_all(manifest) <= 0


@given(manifests)
def test_rows_are_the_exact_inequalities_rounded_against_the_run(manifest: Manifest) -> None:
    q, flight, reward = audit_chance(manifest), rounds_in_flight(manifest), reward_of(manifest, 12)
    for name, sabotage in {"wrong rounds until": manifest.assumptions.sabotage, "an identity": 0}.items():
        exact = (1 + q * flight) * (reward + sabotage) - q * exactly_lost(manifest, (1 + flight) * reward)
        found = row(manifest, name)
        assert exact <= found.gain - found.loss <= exact + 3


def test_the_table_takes_no_longer_for_the_largest_numbers() -> None:
    manifest = minimal(
        rounds=MAX_ROUNDS,
        escrow_rounds=MAX_ROUNDS,
        min_verifiers=MAX_VERIFIERS,
        max_verifiers=MAX_VERIFIERS,
        colluding=340_000,
        **FEES,
    )
    assert row(manifest, "wrong rounds until").pays
    assert needed(manifest, "worker_stake") is not None


@given(manifests)
@settings(max_examples=30)
def test_needed_is_the_least_value_that_mends(manifest: Manifest) -> None:
    for knob, part in KNOBS.items():
        value, now = needed(manifest, knob), getattr(getattr(manifest, part), knob)
        if value is None:
            continue
        assert not any(one.pays for one in adversaries(turned(manifest, knob, value)) if knob in one.knobs)
        if value > now:
            less = adversaries(turned(manifest, knob, value - 1))
            assert any(one.pays for one in less if knob in one.knobs)


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "stake too small": ({"worker_stake": 100}, "one wrong round, at the start", "set money.worker_stake to "),
    "rate too small": ({"audit_rate": 1_000}, "one wrong round, at the start", "or set swarm.audit_rate to 0.0"),
    "no verifier": ({"min_verifiers": 0}, "one wrong round, at the start", "set swarm.min_verifiers to 1"),
    "sabotage worth more": ({"sabotage": 10**6}, "one wrong round", "set money.worker_stake to "),
    "nothing burned": ({"burned_share": 0, "max_verifiers": 2}, "wrong, then conv", "set money.burned_share to 0.0"),
    "many rounds in flight": ({"escrow_rounds": 90, "rounds": 99}, "wrong rounds until", "set money.worker_stake to "),
    "audits unpaid": ({"fee_per_step": 8}, "audits skipped, an inner step", "10 > 8 (q = 0.6400, stake"),
    "bond below an answer": ({"accuser_bond": 20}, "false accusations", "273 > 10 (q"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_run_in_which_cheating_pays_is_refused_with_numbers_and_a_mend(case: str) -> None:
    changes, name, words = REFUSALS[case]
    with pytest.raises(UserError) as caught:
        require_sound(minimal(**{**SOUND, **changes}))
    line = str(caught.value)
    assert line.startswith(f"cheating would pay ({name}")
    assert words in line
    assert "\n" not in line


def test_sound_parameters_pass() -> None:
    require_sound(minimal(**SOUND))
    assert not any(one.pays for one in adversaries(minimal(**SOUND)))


def manifest_of(job: JobFile) -> Manifest:
    """Return a manifest with a job's rules."""
    work, windows, money, assumptions = rules_of(job)
    return dataclasses.replace(minimal(), work=work, windows=windows, money=money, assumptions=assumptions)


def test_the_job_in_the_documentation_and_every_demo_are_sound() -> None:
    require_sound(manifest_of(read_job(Path(__file__).parents[2] / "docs" / "job.toml")))
    for rounds, workers, verifiers in [(12, 4, 2), (6, 2, 1), (100, 4, 2), (1000, 64, 16)]:
        for guests in (0, GUESTS):
            settings = DemoSettings(Path("out"), "none", rounds, workers, verifiers, 0, None, guests=guests)
            require_sound(manifest_of(demo_job(settings)[1]))
