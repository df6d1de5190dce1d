"""What breaking the rules costs under a run's parameters, move by move, in integers that favour the adversary.

A worker's cost is unknown to the law. It is taken to be all of its reward: nobody honest works for less than its cost,
so this is the most that a round without work can save. What a verifier saves is the same work. (SPEC.md 11.1)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from verification.errors import UserError
from verification.manifest import Manifest, fee_of, reward_of
from verification.units import MILLION

FEE_MARGIN = Fraction(13, 10)
"""A fee over an audit's cost: who audits must earn by it, also when nobody ever cheats."""

KNOBS = {
    "worker_stake": "money", "fee_per_step": "money", "accuser_bond": "money", "burned_share": "money",
    "audit_rate": "work", "min_verifiers": "work",
}  # fmt: skip
"""The parameters that mend a failing row, with their part of the manifest."""

COMMITTEES = (256, 512, 1024, 2048)
"""Seats to choose from, up to MAX_COMMITTEE."""

COMMITTEE_RISK = Fraction(1, 1 << 40)
"""Most chance of a run to see a dishonest majority: in a million, for who can try a million beacons. (SPEC.md 11.4)"""

_ONE = 1 << 64
_SPAN = 256
_NEGLIGIBLE = 1 << 20
"""Powers of a chance are fixed-point numbers, since a fraction's digits grow with the exponent; below 2^-44 is none."""


@dataclass(frozen=True)
class Adversary:
    """One way to gain by breaking the rules; `gain` and `loss` are expected values in the ledger's unit.

    `how` states the inequality that must hold, `knobs` names the parameters that mend it.
    """

    name: str
    how: str
    gain: int
    loss: int
    knobs: tuple[str, ...]

    @property
    def pays(self) -> bool:
        """Return whether the move pays."""
        return self.gain > self.loss


def colluders(manifest: Manifest) -> int:
    """Return how many of the verifiers that a run starts with are assumed to collude, rounded down."""
    return manifest.work.min_verifiers * manifest.assumptions.colluding // MILLION


def audit_chance(manifest: Manifest) -> Fraction:
    """Return q, the chance that at least one honest verifier's secret draw falls on a worker's round."""
    honest = manifest.work.min_verifiers - colluders(manifest)
    return 1 - (1 - Fraction(manifest.work.audit_rate, MILLION)) ** honest


def detection(chance: Fraction, rounds: int) -> Fraction:
    """Return 1 - (1 - q) ** m, the chance that m wrong rounds do not all stay unseen."""
    return 1 - (1 - chance) ** rounds


def stake_at_risk(manifest: Manifest) -> int:
    """Return the least that a conviction before exclusion takes from the least stake. (SPEC.md 7.5)"""
    return min(first for first, _ in taken_in_a_row(manifest))


def taken_in_a_row(manifest: Manifest) -> list[tuple[int, int]]:
    """Return what each conviction before exclusion takes from the least stake, and what one right after it takes."""
    rules, left, found = manifest.money, int(manifest.money.worker_stake), []
    last = len(rules.slash_grades) - 1
    for number in range(min(rules.excluded_after, last + 1) + 1):
        found.append(left * rules.slash_grades[min(number, last)] // MILLION)
        left -= found[-1]
    return list(pairwise(found))


def lost(manifest: Manifest, escrow: int) -> int:
    """Return the least that a conviction costs a ring, which may hurry to be convicted by a partner before.

    A worker sees when an honest verdict about it is in. If it then lets a partner convict it of something else, escrow
    and the lower grade go to the partner in part, and the honest conviction takes the next grade only. (SPEC.md 11.2)
    """
    kept, burned = share_lost(manifest), Fraction(manifest.money.burned_share, MILLION)
    ways = [
        min(kept * (first + escrow), burned * (first + escrow) + kept * second)
        for first, second in taken_in_a_row(manifest)
    ]
    return math.floor(min(ways))


def share_lost(manifest: Manifest) -> Fraction:
    """Return the share of a slash that is gone for good when partners are finders beside one honest verifier."""
    burned = Fraction(manifest.money.burned_share, MILLION)
    return burned + (1 - burned) / (colluders(manifest) + 1)


def adversaries(manifest: Manifest) -> tuple[Adversary, ...]:
    """Return every move that the parameters must deter. Escrow is what the wrong rounds themselves put there."""
    return *_cheats(manifest), *_identities(manifest), *_verifiers(manifest)


def _cheats(manifest: Manifest) -> Iterator[Adversary]:
    """A worker's wrong rounds, and how its ring may soften the conviction. (SPEC.md 11.2)"""
    q, stake = audit_chance(manifest), stake_at_risk(manifest)
    reward = reward_of(manifest, manifest.work.max_steps)
    gain = reward + manifest.assumptions.sabotage
    knobs = ("worker_stake", "audit_rate", "min_verifiers")
    once = stake + reward
    yield Adversary(
        "one wrong round, at the start",
        "cost saved + sabotage <= q * share lost * (stake slashed + its reward)",
        gain, int(q * lost(manifest, reward)), knobs,
    )  # fmt: skip
    count, loss = _worst_length(manifest, gain)
    yield Adversary(
        f"wrong rounds in a row, {count} of them",
        "m * (cost saved + sabotage) <= (1 - (1 - q)^m) * share lost * (stake slashed + m rewards), m <= escrow_rounds",
        count * gain, loss, knobs,
    )  # fmt: skip
    honest = 1 - Fraction(colluders(manifest), max(1, manifest.work.min_verifiers))
    last = q + (1 - q) * honest if manifest.work.min_verifiers else q
    yield Adversary(
        "the last round wrong",
        "cost saved + sabotage <= (q + (1 - q) * honest verifiers) * share lost * (stake slashed + its reward)",
        gain, int(last * lost(manifest, reward)), knobs,
    )  # fmt: skip
    yield Adversary(
        "wrong, then silent or gone",
        "cost saved + sabotage <= q * (stake slashed + its reward)",
        gain, int(q * once), knobs,
    )  # fmt: skip
    yield Adversary(
        "wrong, then convicted by a partner",
        "cost saved + sabotage <= burned share * (stake slashed + its reward)",
        gain, once * manifest.money.burned_share // MILLION, ("worker_stake", "burned_share"),
    )  # fmt: skip


def _worst_length(manifest: Manifest, gain: int) -> tuple[int, int]:
    """Return (m, loss) for the number of wrong rounds in a row, all still in escrow, that pays best."""
    reward = reward_of(manifest, manifest.work.max_steps)
    missed, survived, worst, before = _missed(audit_chance(manifest)), _ONE, (1, 0), 0
    for low, high in _spans(min(max(1, manifest.money.escrow_rounds), manifest.work.rounds)):
        survived, before = _times(survived, _power(missed, low - before)), low
        loss = (_ONE - survived) * lost(manifest, low * reward) // _ONE
        if low == 1 or high * gain - loss > worst[0] * gain - worst[1]:
            worst = (high, loss)
    return worst


def _identities(manifest: Manifest) -> Iterator[Adversary]:
    """Who stakes, computes nothing and hopes that rewards mature: R (1 - q)^(W + 1) / q per stake. (SPEC.md 11.3)"""
    reward = reward_of(manifest, manifest.work.max_steps)
    escrow, rounds = manifest.money.escrow_rounds, manifest.work.rounds
    stake = lost(manifest, 0)
    missed, survived, matured, worst, before = _missed(audit_chance(manifest)), _ONE, 0, (1, 0, 0), 0
    for low, high in _spans(rounds):
        survived, before = _times(survived, _power(missed, low - before)), low
        matured += survived * max(0, high - max(low - 1, escrow))
        gain = -(-reward * (matured + min(high, escrow) * survived) // _ONE)
        loss = stake * (_ONE - survived) // _ONE
        if low == 1 or gain - loss > worst[1] - worst[2]:
            worst = (high, gain, loss)
        if survived < _NEGLIGIBLE or missed == _ONE:
            break
    if missed == _ONE:
        worst = (rounds, rounds * reward, 0)
    yield Adversary(
        f"an identity without compute, {worst[0]} rounds",
        "rewards that mature unseen <= chance to be seen * share lost * stake slashed",
        worst[1], worst[2], ("worker_stake", "audit_rate", "min_verifiers"),
    )  # fmt: skip


def _verifiers(manifest: Manifest) -> Iterator[Adversary]:
    """Audits that are not done, and accusations that are not true. (SPEC.md 11.5)"""
    steps, bond = manifest.work.max_steps, manifest.money.accuser_bond
    cost, fee = reward_of(manifest, steps), fee_of(manifest, steps)
    yield Adversary(
        "audits skipped, an inner step", "1.3 * cost of an audit <= fee",
        math.ceil(FEE_MARGIN * manifest.money.reward_per_step), manifest.money.fee_per_step, ("fee_per_step",),
    )  # fmt: skip
    yield Adversary(
        "audits made up", "cost of an audit <= fee + bond",
        cost, fee + bond, ("accuser_bond", "fee_per_step"),
    )  # fmt: skip
    yield Adversary(
        "false accusations", "cost to answer (leaf_every steps) <= half a bond",
        reward_of(manifest, manifest.work.leaf_every), bond // 2, ("accuser_bond",),
    )  # fmt: skip


def needed(manifest: Manifest, knob: str) -> int | None:
    """Return the least value of a parameter with which no row that it mends pays; None when no value does."""
    rules = getattr(manifest, KNOBS[knob])
    limits = {
        "audit_rate": MILLION, "burned_share": MILLION, "min_verifiers": manifest.work.max_verifiers,
        "accuser_bond": manifest.money.verifier_stake,
    }  # fmt: skip
    low, high = getattr(rules, knob), limits.get(knob, 1 << 60)

    def suffices(value: int) -> bool:
        turned = replace(manifest, **{KNOBS[knob]: replace(rules, **{knob: value})})
        return not any(row.pays for row in adversaries(turned) if knob in row.knobs)

    if high < low or not suffices(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return int(low)


def committee_risk(seats: int, colluding: int, rounds: int) -> Fraction:
    """Bound the chance that `colluding` millionths of the stake get more than half of the seats in any round.

    Seats fall independently (SPEC.md 4.14), so one round's chance is the tail of a binomial distribution.
    """
    share = Fraction(colluding, MILLION)
    bad, whole = share.numerator, share.denominator
    most = range(seats // 2 + 1, seats + 1)
    tail = sum(math.comb(seats, count) * bad**count * (whole - bad) ** (seats - count) for count in most)
    return Fraction(rounds * tail, whole**seats)


def safe_committee(colluding: int, rounds: int) -> int:
    """Return the smallest of `COMMITTEES` that is sound against so many colluders; 0, for everyone, where none is."""
    sizes = (n for n in COMMITTEES if committee_risk(n, colluding, rounds) <= COMMITTEE_RISK)
    return next(sizes, 0)


def _require_committee(manifest: Manifest) -> None:
    work, colluding = manifest.work, manifest.assumptions.colluding
    if work.committee and (risk := committee_risk(work.committee, colluding, work.rounds)) > COMMITTEE_RISK:
        safe = safe_committee(colluding, work.rounds)
        raise UserError(
            f"a committee of {work.committee} seats can fall to {colluding / MILLION:.0%} of the stake: that they hold "
            f"more than half of it in one of {work.rounds} rounds has chance {float(risk):.1e}, at most "
            f"{float(COMMITTEE_RISK):.1e} is allowed: set swarm.committee to {safe}{'' if safe else ' (everyone)'}"
        )


def require_sound(manifest: Manifest) -> None:
    """Raise UserError when a move pays: with its numbers, and with the smallest change of a parameter that mends it."""
    _require_committee(manifest)
    for row in adversaries(manifest):
        if not row.pays:
            continue
        found = {knob: needed(manifest, knob) for knob in row.knobs}
        mends = [_setting(knob, value) for knob, value in found.items() if value is not None]
        mend = " or ".join(mends) or f"change {' and '.join(row.knobs)} together"
        raise UserError(
            f"cheating would pay ({row.name}): it needs {row.how}, but {row.gain} > {row.loss} "
            f"(q = {float(audit_chance(manifest)):.4f}, stake slashed {stake_at_risk(manifest)}): {mend}"
        )


def _setting(knob: str, value: int) -> str:
    """Return how a job file says a parameter."""
    table = "money" if KNOBS[knob] == "money" else "swarm"
    shown = f"{value / MILLION:.6f}".rstrip("0") if knob in ("audit_rate", "burned_share") else str(value)
    return f"set {table}.{knob} to {shown}"


def _spans(most: int) -> Iterator[tuple[int, int]]:
    """Yield numbers of rounds from 1 to `most`, one by one at first and then in spans, so that their count is bounded.

    A span counts with the gain of its last number and the loss of its first: an error of 0.4% for the adversary.
    """
    low = 1
    while low <= most:
        high = min(most, low + low // _SPAN)
        yield low, high
        low = high + 1


def _missed(chance: Fraction) -> int:
    return math.ceil((1 - chance) * _ONE)


def _power(chance: int, exponent: int) -> int:
    """Return a power of a fixed-point chance, rounded up."""
    result = _ONE
    while exponent:
        if exponent & 1:
            result = _times(result, chance)
        chance, exponent = _times(chance, chance), exponent >> 1
    return result


def _times(left: int, right: int) -> int:
    """Return the product of two fixed-point chances, rounded up."""
    return -(-left * right // _ONE)
