"""A run's figures round by round, from its ledger's effects as they come: what logs of a run that goes on are made of.

Pure, and the same however often it is done: the rows of a round follow from what came before its state was fixed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from verification import effects as done
from verification.manifest import BundleRef, Manifest, Place, reward_of
from verification.state import BEGINNING, Assignment, Audit, Ruling, Stage, Standing
from verification.statements import VERIFIER, WORKER
from verification.units import Address, Millis, Round

UNITS = MappingProxyType(
    {
        "train/loss": "nats",
        "train/losses_known": "contributions",
        "train/contributions": "contributions",
        "train/inner_steps": "steps",
        "train/tokens_per_second": "tokens/s",
        "train/round_seconds": "s",
        "audits/duties": "audits",
        "audits/passed": "audits",
        "audits/mismatches": "audits",
        "audits/undecided": "audits",
        "audits/disputes": "disputes",
        "audits/convictions": "disputes",
        "audits/penalties": "penalties",
        "money/paid": "money",
        "money/slashed": "money",
        "money/burned": "money",
        "money/deposit_left": "money",
        "members/workers": "members",
        "members/verifiers": "members",
        "members/away": "members",
        "members/suspended": "members",
        "members/excluded": "members",
        "evaluation/loss": "nats",
    }
)
"""The names of all figures with their units, in the order in which a round's rows come.

Those under `train` and `evaluation` are of one round, the others of the run so far. `paid` are rewards and fees that
reached an account, `burned` is what was burned of the slashed, `deposit_left` has the rounds' reserves in it.
"""

ORDER = {name: number for number, name in enumerate(UNITS)}
Position = tuple[int, int]
"""Where a row comes in a log: its round, and the number of its name in `UNITS`."""
BEFORE: Position = (-1, -1)
"""The position before the first row."""
FIRST = Round(0)


@dataclass(frozen=True)
class Row:
    """One figure of a round, known at ledger time `at`; `name` is one of `UNITS`."""

    round: Round
    name: str
    value: float
    at: Millis

    @property
    def unit(self) -> str:
        """Return what the value counts."""
        return UNITS[self.name]

    @property
    def position(self) -> Position:
        """Return where the row comes in a log."""
        return self.round, ORDER[self.name]


@dataclass(frozen=True)
class Milestone:
    """A round whose `state` is fixed; or, without one, the run's end, which counts as a round after the last."""

    number: Round
    at: Millis
    state: BundleRef | None
    rows: tuple[Row, ...]


Losses = Callable[[Round, Sequence[Address]], Sequence[float]]
"""Given a round and the workers whose contributions count, returns those losses of theirs that are known."""


@dataclass
class _Open:
    """A round that has not sealed: with overlap there may be two. (SPEC.md 4.16)"""

    assigned: dict[Address, Assignment]
    opened_at: Millis
    included: tuple[Address, ...] = ()
    convicts: set[Address] = field(default_factory=set)


@dataclass
class Course:
    """The fold. `deposit` is the run's at first, and then what is left of it, the rounds' reserves included."""

    manifest: Manifest
    deposit: int
    losses: Losses
    _roles: dict[Address, str] = field(default_factory=dict)
    _standings: dict[Address, Standing] = field(default_factory=dict)
    _open: dict[Round, _Open] = field(default_factory=dict)
    _sealed_at: Millis = BEGINNING
    _number: Round = FIRST
    _audits: dict[tuple[Round, Round, Address, Address], Audit] = field(default_factory=dict)
    _totals: Counter[str] = field(default_factory=Counter)

    def take(self, at: Millis, effects: Sequence[done.Effect]) -> list[Milestone]:
        """Fold an entry's effects in, and return the rounds whose state they fix, and the run's end if that came."""
        found, has_ended = [], False
        for effect in effects:
            self._note(at, effect)
            if isinstance(effect, done.RoundSealed):
                found.append(self._milestone(at, effect.state, self._of_round(at, effect.number)))
                self._number, self._sealed_at = Round(effect.number + 1), at
                del self._open[effect.number]
            has_ended |= isinstance(effect, done.StageChanged) and effect.stage is Stage.ENDED
        if has_ended:
            found.append(self._milestone(at, None, {}))
        return found

    def _note(self, at: Millis, effect: done.Effect) -> None:
        match effect:
            case done.MemberJoined():
                self._roles[effect.address], self._standings[effect.address] = effect.role, Standing.ACTIVE
            case done.StandingChanged():
                self._standings[effect.address] = effect.standing
            case done.RoundOpened():
                self._open[effect.number] = _Open(dict(effect.assignments), at)
            case done.RoundClosed():
                self._open[effect.number].included = effect.included
            case done.RoundSealed():
                ended = self._open[effect.number]
                earned = [ended.assigned[who] for who in self._earners(ended)]
                self.deposit -= sum(reward_of(self.manifest, each.steps, each.post) for each in earned)
            case done.AuditEnded():
                self._note_audit(effect)
            case done.DisputeOpened():
                self._totals["audits/disputes"] += 1
            case done.DisputeEnded() if effect.ruling is Ruling.GUILTY:
                self._totals["audits/convictions"] += 1
            case _:
                self._note_money(effect)

    def _note_audit(self, effect: done.AuditEnded) -> None:
        """An audit that waits for its worker, or for a bond, is judged again: its newest outcome counts."""
        key = (effect.session, effect.work, effect.worker, effect.verifier)
        if key in self._audits:
            self._totals[_OUTCOMES[self._audits[key]]] -= 1
        self._audits[key] = effect.outcome
        self._totals[_OUTCOMES[effect.outcome]] += 1

    def _note_money(self, effect: done.Effect) -> None:
        match effect:
            case done.Slashed():
                self._totals["audits/penalties"] += 1
                self._totals["money/slashed"] += effect.stake + effect.escrow
                self._totals["money/burned"] += effect.burned
                if effect.reason.round in self._open and effect.reason.place is not Place.OUTER:
                    self._open[effect.reason.round].convicts.add(effect.address)
            case done.Paid(what=done.Payment.REWARD):
                self._totals["money/paid"] += effect.amount
            case done.Paid(what=done.Payment.FEE):
                self._totals["money/paid"] += effect.amount
                self.deposit -= effect.amount
            case done.Paid(what=done.Payment.REFUND):
                self.deposit -= effect.amount
            case done.NotPaid():
                self.deposit += effect.amount

    def _earners(self, ended: _Open) -> list[Address]:
        """Return whose reward goes into escrow: not that of who was convicted of the work before. (SPEC.md 7.2)"""
        lost = ended.convicts | {
            who for who, standing in self._standings.items() if standing is Standing.EXCLUDED
        }
        return [who for who in _members(ended) if who not in lost]

    def _of_round(self, at: Millis, number: Round) -> dict[str, float]:
        """Return the figures of the round whose state is fixed now; its time counts from when the last one's was."""
        ended = self._open[number]
        known = self.losses(number, _members(ended))
        steps = sum(ended.assigned[who].steps for who in ended.included)
        seconds = (at - max(ended.opened_at, self._sealed_at)) / 1000
        found: dict[str, float] = {"train/loss": sum(known) / len(known)} if known else {}
        found["train/losses_known"] = len(known)
        found["train/contributions"] = len(ended.included)
        found["train/inner_steps"] = steps
        if seconds:
            tokens = steps * self.manifest.work.batch * self.manifest.data.width
            found["train/tokens_per_second"] = tokens / seconds
        return found | {"train/round_seconds": seconds}

    def _milestone(self, at: Millis, state: BundleRef | None, of_round: dict[str, float]) -> Milestone:
        so_far = {name: self._totals[name] for name in UNITS if name.startswith(("audits/", "money/"))}
        so_far["audits/duties"] = len(self._audits)
        so_far["money/deposit_left"] = self.deposit
        active = [
            self._roles[who] for who, standing in self._standings.items() if standing is Standing.ACTIVE
        ]
        standings = Counter(self._standings.values())
        members = {
            "members/workers": active.count(WORKER),
            "members/verifiers": active.count(VERIFIER),
            "members/away": standings[Standing.AWAY],
            "members/suspended": standings[Standing.SUSPENDED],
            "members/excluded": standings[Standing.EXCLUDED],
        }
        values = of_round | so_far | members
        rows = tuple(Row(self._number, name, values[name], at) for name in UNITS if name in values)
        return Milestone(self._number, at, state, rows)


_OUTCOMES = {
    Audit.WAITING: "waiting",
    Audit.PASSED: "audits/passed",
    Audit.MISMATCH: "audits/mismatches",
    Audit.LOST: "audits/undecided",
    Audit.VOID: "audits/undecided",
}


def _members(ended: _Open) -> list[Address]:
    """Return all whose work a round counts: whole workers, and all of a crew. (SPEC.md 4.17)"""
    slots = {ended.assigned[lead].slot for lead in ended.included}
    return [who for who, assigned in ended.assigned.items() if assigned.slot in slots]
