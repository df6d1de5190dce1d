"""What cheating costs: the formulas against plain fractions, every refusal with its numbers and its smallest mend."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.toy import minimal
from trainer.commands.demo import DemoSettings, demo_job
from trainer.runs.create import _rules
from trainer.runs.job import JobFile, read_job
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
    lost,
    needed,
    require_sound,
    safe_committee,
    share_lost,
    stake_at_risk,
)
from verification.errors import UserError
from verification.manifest import Assumptions, Manifest, reward_of
from verification.units import MILLION, PPM, Amount

SOUND = {"fee_per_step": 10, "min_verifiers": 2}


def row(manifest: Manifest, start: str) -> Adversary:
    """Return the one row whose name starts so."""
    (found,) = [one for one in adversaries(manifest) if one.name.startswith(start)]
    return found


def turned(manifest: Manifest, knob: str, value: int) -> Manifest:
    """Return the manifest with one parameter changed."""
    part = KNOBS[knob]
    rules: Any = dataclasses.replace(getattr(manifest, part), **{knob: value})
    return dataclasses.replace(manifest, **{part: rules})


@pytest.mark.parametrize("rate", [1, 400_000])
def test_the_longest_run_takes_a_bounded_number_of_steps(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, spans = 0, economics._spans

    def counted(most: int) -> Iterator[tuple[int, int]]:
        nonlocal steps
        for span in spans(most):
            steps += 1
            yield span

    monkeypatch.setattr(economics, "_spans", counted)
    adversaries(minimal(rounds=1_000_000, escrow_rounds=1_000_000, audit_rate=rate))
    assert 1000 < steps < 5000


@given(st.integers(1, 1_000_000))
def test_spans_hold_every_number_once_and_are_short(most: int) -> None:
    spans = list(economics._spans(most))
    assert spans[0][0] == 1
    assert spans[-1][1] == most
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(spans))
    assert all(high * 256 <= low * 257 for low, high in spans)
    assert all(low == high for low, high in spans if low < 256)


@given(st.integers(0, economics._ONE), st.integers(0, 300))
def test_a_power_is_never_too_small_and_hardly_too_large(chance: int, exponent: int) -> None:
    exact = Fraction(chance, economics._ONE) ** exponent * economics._ONE
    assert exact <= economics._power(chance, exponent) <= exact + 2 * exponent + 1


def test_chance_counts_honest_verifiers_only() -> None:
    manifest = minimal(min_verifiers=4, audit_rate=500_000, colluding=340_000)
    assert colluders(manifest) == 1
    assert audit_chance(manifest) == Fraction(7, 8)
    assert audit_chance(minimal(min_verifiers=0)) == 0
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
        audit_rate=50_000, worker_stake=1, slash_grades=(500_000, MILLION), escrow_rounds=1, fee_per_step=10
    )
    reward = reward_of(manifest, manifest.work.max_steps)
    alone = [one for one in range(40 * reward) if one + reward >= 20 * reward]
    assert alone[0] == 19 * reward
    assert not row(turned(manifest, "worker_stake", 2 * 19 * reward), "one wrong round").pays
    assert row(turned(manifest, "worker_stake", 2 * (19 * reward - 20)), "one wrong round").pays


def test_a_first_grade_that_takes_all_lets_a_partner_save_what_is_not_burned() -> None:
    """Convicted by a partner in the very moment in which an honest verdict is in: nothing is left for that one."""
    steep, graded = minimal(slash_grades=(MILLION,)), minimal(slash_grades=(500_000, MILLION))
    assert lost(steep, 500) == (10_000 + 500) // 2
    assert lost(graded, 500) == 5_500
    assert lost(minimal(), 100_000) == (1_000 + 100_000) // 2 + 4_500
    assert lost(minimal(), 500) == 1_500


def test_the_slash_counts_as_the_law_takes_it() -> None:
    assert stake_at_risk(minimal()) == 1_000
    assert stake_at_risk(minimal(excluded_after=3)) == 1_000
    assert stake_at_risk(minimal(excluded_after=3, slash_grades=(900_000, 500_000))) == 500
    assert share_lost(minimal()) == 1
    assert share_lost(minimal(min_verifiers=3, colluding=340_000)) == Fraction(3, 4)


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


@given(manifests)
def test_rows_in_a_row_are_the_exact_inequality_rounded_against_the_run(manifest: Manifest) -> None:
    q, reward = audit_chance(manifest), reward_of(manifest, manifest.work.max_steps)
    gain = reward + manifest.assumptions.sabotage
    exact = {
        count: count * gain - detection(q, count) * exactly_lost(manifest, count * reward)
        for count in range(1, max(1, min(manifest.money.escrow_rounds, manifest.work.rounds)) + 1)
    }
    found = row(manifest, "wrong rounds in a row")
    assert max(exact.values()) <= found.gain - found.loss <= max(exact.values()) + 3
    assert row(manifest, "one wrong round").gain - row(manifest, "one wrong round").loss >= exact[1]


@given(manifests)
def test_identities_gain_what_matures_before_they_are_seen(manifest: Manifest) -> None:
    q, rounds, escrow = audit_chance(manifest), manifest.work.rounds, manifest.money.escrow_rounds
    reward, at_stake = reward_of(manifest, manifest.work.max_steps), exactly_lost(manifest, 0)

    def margin(count: int) -> Fraction:
        paid = sum((1 - q) ** min(number + escrow, count) for number in range(1, count + 1))
        return reward * paid - at_stake * detection(q, count)

    exact = max(margin(count) for count in range(1, rounds + 1))
    found = row(manifest, "an identity")
    assert exact <= found.gain - found.loss <= exact + 3


def test_identities_approach_the_closed_form_in_a_long_run() -> None:
    manifest = minimal(rounds=100_000, audit_rate=50_000, escrow_rounds=16, worker_stake=0)
    q, reward = Fraction(1, 20), reward_of(manifest, 12)
    limit = reward * (1 - q) ** 17 / q
    found = row(manifest, "an identity")
    assert math.isclose(found.gain, limit, rel_tol=0.02)


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
    "all collude": ({"colluding": MILLION}, "one wrong round", "change worker_stake and audit_rate"),
    "sabotage worth more": ({"sabotage": 10**6}, "one wrong round", "set money.worker_stake to "),
    "nothing burned": ({"burned_share": 0}, "wrong, then convicted by a partner", "set money.burned_share to 0.0"),
    "audits unpaid": ({"fee_per_step": 8}, "audits skipped, an inner step", "10 > 8 (q = 0.6400, stake"),
    "bond below an answer": ({"accuser_bond": 20}, "false accusations", "35 > 10 (q"),
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
    work, windows, money, assumptions = _rules(job)
    return dataclasses.replace(minimal(), work=work, windows=windows, money=money, assumptions=assumptions)


def test_the_job_in_the_documentation_and_every_demo_are_sound() -> None:
    require_sound(manifest_of(read_job(Path(__file__).parents[2] / "docs" / "job.toml")))
    for rounds, workers, verifiers in [(12, 4, 2), (6, 2, 1), (100, 4, 2), (1000, 64, 16)]:
        _, job = demo_job(DemoSettings(Path("out"), "none", rounds, workers, verifiers, 0, None))
        require_sound(manifest_of(job))
