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
from verification.manifest import Manifest, Post, fee_of, reward_of, stake_for
from verification.narrowing import lists_for
from verification.units import MILLION, Amount, Count

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

MOST_COUNTED = 64
"""Honest verifiers beyond so many add nothing to a chance: its digits grow with them, and less favours who cheats."""

MOST_STEERING = 4
"""More colluding verifiers than so many are taken to choose every beacon, for the same reason. (SPEC.md 5.1)"""


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
    """Return how many of the verifiers that a run promises are assumed to collude: any share is at least one."""
    return -(-manifest.work.min_verifiers * manifest.assumptions.colluding // MILLION)


def honest_verifiers(manifest: Manifest) -> int:
    """Return how many of the promised verifiers are left to be honest."""
    return manifest.work.min_verifiers - colluders(manifest)


def hostile_places(manifest: Manifest) -> int:
    """Return how many verifiers may collude: whoever takes a place beside the promised ones is counted with them."""
    return manifest.work.max_verifiers - honest_verifiers(manifest)


def audit_chance(manifest: Manifest) -> Fraction:
    """Return q, the chance that at least one honest verifier's secret draw falls on a worker's round."""
    honest = min(honest_verifiers(manifest), MOST_COUNTED)
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
    return burned + (1 - burned) / (hostile_places(manifest) + 1)


def rounds_in_flight(manifest: Manifest) -> int:
    """Return in how many rounds a worker may go on after one that is audited: so far the law lets rounds run ahead.

    Before the next one opens, that round's audits and disputes are done, or its worker is suspended. (SPEC.md 4.1)
    """
    return min(manifest.money.escrow_rounds, manifest.work.rounds - 1)


def last_chance(manifest: Manifest) -> Fraction:
    """Return the chance that an honest verifier audits a worker's last round, by its link or by the public draw.

    Colluding verifiers choose among beacons for the draw: each shows its links early, late, or not. (SPEC.md 5.1)
    """
    q, hostile = audit_chance(manifest), hostile_places(manifest)
    if hostile > MOST_STEERING or not manifest.work.max_verifiers:
        return q
    honest, beacons = Fraction(honest_verifiers(manifest), manifest.work.max_verifiers), int(3**hostile)
    return q + (1 - q) * honest**beacons


def adversaries(manifest: Manifest) -> tuple[Adversary, ...]:
    """Return every move that the parameters must deter. Escrow is what the wrong rounds themselves put there."""
    shards = (row for post in least_posts(manifest) for row in _cheats(manifest, post))
    return *_cheats(manifest), *shards, *_verifiers(manifest)


def least_posts(manifest: Manifest) -> list[Post]:
    """Return of each cut the shard that stakes the least: it can spoil a round like any other. (SPEC.md 4.17)"""
    posts = (
        [Post(Count(number), Count(shard)) for shard in range(len(cut.shards))]
        for number, cut in enumerate(manifest.cuts)
    )
    return [min(each, key=lambda post: _stake_of(manifest, post)) for each in posts]


def _stake_of(manifest: Manifest, post: Post) -> int:
    """Return what a shard's member stakes to work `max_steps`."""
    return stake_for(manifest, manifest.work.max_steps, post)


def _reward_of_crew(manifest: Manifest, cut: int) -> int:
    """Return what all members of a crew together are paid for a round of `max_steps`."""
    posts = (Post(Count(cut), Count(shard)) for shard in range(len(manifest.cuts[cut].shards)))
    return sum(reward_of(manifest, manifest.work.max_steps, post) for post in posts)


def _cheats(whole: Manifest, post: Post | None = None) -> Iterator[Adversary]:
    """A worker's wrong rounds, or those of a crew of which a shard's member pays, and how its ring may soften that.

    Of a crew one is convicted for a round and the others keep their rewards (4.17): that is saved by all, and lost by
    one. (SPEC.md 11.2, 11.3)
    """
    stakes = whole.money.worker_stake if post is None else _stake_of(whole, post)
    manifest = replace(whole, money=replace(whole.money, worker_stake=Amount(stakes)))
    who = "" if post is None else f", by a crew of cut {post.cut} of which shard {post.shard} pays"
    q, stake, flight = audit_chance(manifest), stake_at_risk(manifest), rounds_in_flight(manifest)
    reward = reward_of(whole, manifest.work.max_steps, post)
    paid = reward if post is None else _reward_of_crew(whole, int(post.cut))
    gain, once = paid + manifest.assumptions.sabotage, stake + reward
    judged = int(q * lost(manifest, (1 + flight) * reward))
    knobs = ("worker_stake", "audit_rate", "min_verifiers")
    yield Adversary(
        f"one wrong round, at the start{who}",
        "cost saved + sabotage <= q * share lost * (stake slashed + its reward)",
        gain, int(q * lost(manifest, reward)), knobs,
    )  # fmt: skip
    yield Adversary(
        f"wrong rounds until one is judged, {flight} more in flight{who}",
        "(1 + q * in flight) * (cost saved + sabotage) <= q * share lost * (stake slashed + (1 + in flight) rewards)",
        math.ceil((1 + q * flight) * gain), judged, knobs,
    )  # fmt: skip
    yield Adversary(
        f"an identity without compute{who}",
        "(1 + q * in flight) * reward <= q * share lost * (stake slashed + (1 + in flight) rewards)",
        math.ceil((1 + q * flight) * paid), judged, knobs,
    )  # fmt: skip
    yield Adversary(
        f"the last round wrong{who}",
        "cost saved + sabotage <= (q + (1 - q) * honest share ^ beacons) * share lost * (stake slashed + its reward)",
        gain, int(last_chance(manifest) * lost(manifest, reward)), knobs,
    )  # fmt: skip
    yield Adversary(
        f"wrong, then silent or gone{who}",
        "cost saved + sabotage <= q * (stake slashed + its reward)",
        gain, int(q * once), knobs,
    )  # fmt: skip
    yield Adversary(
        f"wrong, then convicted by a partner{who}",
        "cost saved + sabotage <= burned share * (stake slashed + its reward)",
        gain, once * manifest.money.burned_share // MILLION, ("worker_stake", "burned_share"),
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
    times = 2 + lists_for(manifest.work.leaf_every)
    yield Adversary(
        "false accusations", f"cost to answer ({times} times a round) <= half a bond",
        times * cost, bond // 2, ("accuser_bond",),
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


def promise(manifest: Manifest) -> str:
    """Return in one line for people what a run's audits stand on."""
    work, bad = manifest.work, colluders(manifest)
    trusted = f"{bad} may collude" if bad else "all trusted (colluding is 0)"
    chance = float(audit_chance(manifest))
    return f"verifiers promised: {work.min_verifiers}, {trusted}; an honest one audits a round with chance {chance:.1%}"


def _require_auditor(manifest: Manifest) -> None:
    promised, bad, share = manifest.work.min_verifiers, colluders(manifest), manifest.assumptions.colluding
    if not promised or bad < promised:
        return
    enough = -(-MILLION // (MILLION - share)) if share < MILLION else None
    more = f"set swarm.verifiers and swarm.min_verifiers to {enough}, or " if enough else ""
    raise UserError(
        f"cheating would pay: {bad} of {promised} promised verifiers may collude (a share above zero is one at least), "
        f"so nobody is left to audit: {more}set economics.colluding to 0 where every verifier is trusted"
    )


def require_sound(manifest: Manifest) -> None:
    """Raise UserError when a move pays: with its numbers, and with the smallest change of a parameter that mends it."""
    _require_committee(manifest)
    _require_auditor(manifest)
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
