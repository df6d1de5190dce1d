"""How soon the law catches each cheat, against 1-(1-q)^rounds: real openings, disputes and convictions, toy training.

One experiment is a run of one heavy honest worker, some cheats of one kind, and three verifiers of which a share
colludes with all the cheats. A round is caught when the law has convicted it; `q` is the chance that at least one
honest verifier draws a worker in a round (SPEC.md 5.3). Nobody is set away for missed rounds: peers take no
contribution whose norm is not its own, and a cheat that sends such would soon get no more rounds to be caught in.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.cast import Actor, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import CHEATS, conduct_named
from verification.adversaries import AnswerHonestly, Behaviour, Collude, CopyWork, Ring, Whisper, Withhold
from verification.digest import integer, tagged
from verification.effects import AuditEnded, DisputeEnded, Slashed
from verification.state import Audit, Ruling, Stage, State
from verification.units import MILLION, PPM, Address, Digest

FIRST = 1
"""Round in which cheating begins: a stale worker needs one before."""

VERIFIERS = 3
NETWORK = Network(notice=(5, 15), poll=100)


@dataclass(frozen=True)
class Adversary:
    """A cheat: how it trains, what it does besides, and in how many rounds (None: in all)."""

    name: str
    conduct: str = "none"
    behaviours: Callable[[frozenset[Address]], list[Behaviour]] = lambda accomplices: []
    rounds: int | None = None


ADVERSARIES = (
    *(
        Adversary(name, name, rounds=getattr(CHEATS[name], "rounds", None))
        for name in CHEATS
        if name != "none"
    ),
    Adversary("answers-honestly", "skip-steps", lambda accomplices: [AnswerHonestly()]),
    Adversary("copy-work", behaviours=lambda accomplices: [CopyWork(FIRST)]),
    Adversary("withhold-opening", "noise", lambda accomplices: [Withhold(FIRST, accomplices)]),
)


@dataclass(frozen=True)
class Setting:
    """One cell of the table: `rate` is each verifier's audit rate, `colluding` of the verifiers are accomplices."""

    adversary: Adversary
    rate: PPM
    colluding: int
    rounds: int
    cheats: int

    @property
    def chance(self) -> float:
        """Return q: the chance that an honest verifier audits a worker-round."""
        return 1 - (1 - self.rate / MILLION) ** (VERIFIERS - self.colluding)

    def expected(self, rounds: int) -> float:
        """Return the chance that a cheat is caught within its first `rounds` rounds."""
        return 1.0 - (1.0 - self.chance) ** min(rounds, self.adversary.rounds or rounds)


@dataclass(frozen=True)
class Played:
    """What one run showed: for each cheat the first of its rounds that was convicted (None: none was)."""

    caught: tuple[int | None, ...]
    false_accusations: int
    audited_steps: int
    trained_steps: int
    entries: int
    head: Digest


def play(setting: Setting, seed: int) -> Played:
    """Play one run; the same setting and seed give the same log."""
    ring: Ring = {}
    bribed = [Verifier(f"bribed{i}", Collude(ring)) for i in range(setting.colluding)]
    accomplices = frozenset(verifier.address for verifier in bribed)
    cheats = [_cheat(setting, number, ring, accomplices) for number in range(setting.cheats)]
    honest: list[Actor] = [Worker("honest", stake=20_000 * (setting.cheats + VERIFIERS))]
    honest += [Verifier(f"v{i}") for i in range(VERIFIERS - setting.colluding)]
    rules = minimal(
        rounds=FIRST + setting.rounds + 1, audit_rate=setting.rate, slots=setting.cheats + 1, max_steps=6, leaf_every=2,
        min_workers=setting.cheats + 1, min_verifiers=VERIFIERS, max_verifiers=VERIFIERS,
        miss_limit=FIRST + setting.rounds + 2,
    )  # fmt: skip
    manifest = dataclasses.replace(rules, seed=tagged("detection", integer(seed)))
    world = World(manifest, [*honest, *cheats, *bribed], random.Random(seed), NETWORK)
    world.run()
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == manifest.work.rounds
    return _played(setting, world, honest, cheats)


def _cheat(setting: Setting, number: int, ring: Ring, accomplices: frozenset[Address]) -> Worker:
    adversary = setting.adversary
    behaviours, conduct = adversary.behaviours(accomplices), conduct_named(adversary.conduct, FIRST)
    return Worker(f"cheat{number}", *behaviours, Whisper(ring), conduct=conduct)


def _played(setting: Setting, world: World, honest: Sequence[Actor], cheats: Sequence[Actor]) -> Played:
    state, good = world.state, {actor.address for actor in honest}
    false = sum(slashed.address in good for slashed in world.seen(Slashed))
    false += sum(
        ended.accused in good and ended.ruling is Ruling.GUILTY for ended in world.seen(DisputeEnded)
    )
    audited = [
        (audit.work, audit.worker)
        for audit in world.seen(AuditEnded)
        if audit.outcome in (Audit.PASSED, Audit.MISMATCH) and audit.work < FIRST + setting.rounds
    ]
    trained = [
        (worked.number, worker)
        for worked in state.rounds[: FIRST + setting.rounds]
        for worker in worked.commits
    ]
    return Played(
        tuple(_first_caught(state, setting, cheat.address) for cheat in cheats),
        false,
        sum(state.rounds[number].assignments[worker].steps for number, worker in audited),
        sum(state.rounds[number].assignments[worker].steps for number, worker in trained),
        len(world.ledger.log),
        state.head,
    )


def _first_caught(state: State, setting: Setting, cheat: Address) -> int | None:
    """Return which of its cheating rounds (from 1) was the first to be convicted; the last round is not counted,
    because everyone is audited in it."""
    caught = [number - FIRST + 1 for number, worker in state.convicted if worker == cheat]
    return min((number for number in caught if 1 <= number <= setting.rounds), default=None)


def interval(successes: int, trials: int, error: float) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) interval of a share; it misses the true one with chance `error` at most."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError("successes must lie between 0 and trials")
    low = 0.0 if successes == 0 else _solve(lambda p: at_least(successes, trials, p) >= error / 2)
    high = (
        1.0 if successes == trials else _solve(lambda p: 1 - at_least(successes + 1, trials, p) < error / 2)
    )
    return low, high


def at_least(successes: int, trials: int, chance: float) -> float:
    """Return the chance of at least so many successes."""
    if successes <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    logs = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(chance) + (trials - k) * math.log1p(-chance)
        for k in range(successes, trials + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def _solve(is_reached: Callable[[float], bool]) -> float:
    """Return the least chance for which a growing condition holds, to 12 digits."""
    low, high = 0.0, 1.0
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (low, middle) if is_reached(middle) else (middle, high)
    return (low + high) / 2


@dataclass(frozen=True)
class Cell:
    """All runs of one setting."""

    setting: Setting
    played: tuple[Played, ...]

    @property
    def trials(self) -> int:
        """Return how many cheats there were."""
        return sum(len(one.caught) for one in self.played)

    def caught_within(self, rounds: int) -> int:
        """Return how many cheats were caught in one of their first `rounds` rounds."""
        return sum(first is not None and first <= rounds for one in self.played for first in one.caught)

    def row(self, error: float) -> dict[str, object]:
        """Return the cell as a flat record; `error` is the interval's chance of missing the truth."""
        setting, rounds = self.setting, self.setting.rounds
        caught = self.caught_within(rounds)
        low, high = interval(caught, self.trials, error)
        firsts = [first for one in self.played for first in one.caught if first is not None]
        return {
            "adversary": setting.adversary.name,
            "rate": setting.rate / MILLION,
            "verifiers": VERIFIERS,
            "colluding": setting.colluding,
            "chance": setting.chance,
            "rounds": min(rounds, setting.adversary.rounds or rounds),
            "cheats": self.trials,
            "caught": caught,
            "detection": caught / self.trials,
            "expected": setting.expected(rounds),
            "low": low,
            "high": high,
            "inside": low <= setting.expected(rounds) <= high,
            "rounds_until_caught": sum(firsts) / len(firsts) if firsts else None,
            "curve": [self.caught_within(number) / self.trials for number in range(1, rounds + 1)],
            "expected_curve": [setting.expected(number) for number in range(1, rounds + 1)],
            "false_accusations": sum(one.false_accusations for one in self.played),
            "audited_steps": sum(one.audited_steps for one in self.played),
            "trained_steps": sum(one.trained_steps for one in self.played),
            "heads": [one.head.hex() for one in self.played],
        }
