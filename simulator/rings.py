"""What rings earn over honest work, at parameters that the law accepts: workers and verifiers of one owner.

Each of a ring's workers cheats by itself; its verifiers pass them all. An honest worker with most of the stake and the
honest verifiers play beside them. Honest work earns nothing over its cost (SPEC.md 11.1), so the profit is what the
ring's accounts gained, less the cost of the rounds that it computed, and what its wrong rounds are worth to it where
they count. Fees are left out: who audits a partner is paid for what it knows, whether or not that partner cheats.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.cast import Actor, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from trainer.rounds.engine import Conduct, honest
from verification import economics
from verification.adversaries import (
    Behaviour,
    Collude,
    Dawdle,
    FalseAccuser,
    Hurry,
    InventDuties,
    Mute,
    Ring,
    Since,
    Steer,
    Whisper,
)
from verification.digest import integer, tagged
from verification.effects import Paid, Payment, Slashed
from verification.errors import UserError
from verification.manifest import Manifest, reward_of
from verification.state import Phase, Stage
from verification.statements import Answer, Commit, NodeList, Opening, Reveal, Trace
from verification.units import MILLION, PPM

ROUNDS, STEPS = 10, 12
FIRST = 4
"""Round in which rings begin to cheat: their workers have been given full work by then."""

WORKERS = 3
"""A ring's workers: each is a trial of its own."""

STAKE = 20_000
"""A verifier's: ten bonds."""

NETWORK = Network(notice=(5, 15), poll=150)
WINDOWS = (
    {"verdict": 300, "opening": 100, "reveal": 100, "clock": 400, "silence": 1500},
    {"verdict": 1000, "opening": 400, "reveal": 400, "clock": 600, "silence": 3000},
)
"""Short ones of a round or two, and such in which several rounds can open while one is judged."""


@dataclass(frozen=True)
class Point:
    """Parameters of a run. `promised` and `places` count verifiers, of which a share `colluding` is assumed to collude.

    `rate` is each verifier's audit rate, `escrow` the rounds that rewards wait, `sabotage` what a wrong round is worth,
    `grade` what a first conviction takes of a stake. `is_long` gives a ring time until it is judged.
    """

    rate: PPM
    promised: int
    places: int
    colluding: PPM
    escrow: int
    sabotage: int
    grade: PPM
    is_long: bool

    def manifest(self, stake: int, seed: int = 0) -> Manifest:
        """Return a run's manifest under a worker stake."""
        rules = minimal(
            rounds=ROUNDS, max_steps=STEPS, leaf_every=4, slots=WORKERS + 1, min_workers=WORKERS + 1,
            audit_rate=self.rate, min_verifiers=self.promised, max_verifiers=self.places, colluding=self.colluding,
            escrow_rounds=self.escrow, sabotage=self.sabotage, slash_grades=(self.grade, PPM(MILLION)),
            worker_stake=stake, verifier_stake=STAKE, accuser_bond=STAKE // 10, fee_per_step=10,
            **WINDOWS[self.is_long],
        )  # fmt: skip
        return dataclasses.replace(rules, seed=tagged("rings", integer(seed)))

    @property
    def partners(self) -> int:
        """Return how many verifiers are the ring's."""
        return economics.hostile_places(self.manifest(0))

    def edge(self) -> int | None:
        """Return the least worker stake that `require_sound` accepts; None where it accepts none."""
        stake = economics.needed(self.manifest(0), "worker_stake")
        return stake if stake is not None and self.is_accepted(stake) else None

    def is_accepted(self, stake: int) -> bool:
        """Return whether `run create` takes these parameters."""
        try:
            economics.require_sound(self.manifest(stake))
        except UserError:
            return False
        return True


def idle_in(rounds: range) -> Conduct:
    """Return how a worker trains that computes nothing in some rounds."""
    idle = conduct_named("zero-update", 0)
    return lambda engine, job: (idle if job.number in rounds else honest)(engine, job)


Behaviours = Callable[[], list[Behaviour]]
LATE = (Opening, Reveal, Answer, Trace, NodeList)


def _nothing() -> list[Behaviour]:
    return []


@dataclass(frozen=True)
class Strategy:
    """What a ring does: in which rounds its workers compute nothing, and what they and its verifiers do besides.

    `passes`: verifiers repeat what the workers whisper. `hurries`: one convicts a worker before an honest verdict is
    judged. `steers`: they choose who audits the last round.
    """

    name: str
    wrong: range
    worker: Behaviours = _nothing
    verifier: Behaviours = _nothing
    passes: bool = True
    hurries: bool = False
    steers: bool = False


STRATEGIES = (
    Strategy("cheat until judged", range(FIRST, ROUNDS)),
    Strategy(
        "cheat and linger", range(FIRST, ROUNDS),
        worker=lambda: [Dawdle(*LATE)], verifier=lambda: [Dawdle(*LATE)],
    ),
    Strategy("hurry a partner's conviction", range(FIRST, ROUNDS), hurries=True),
    Strategy("one wrong round", range(FIRST, FIRST + 1)),
    Strategy("the last round wrong", range(ROUNDS - 1, ROUNDS), steers=True),
    Strategy("cheat, then stay silent", range(FIRST, ROUNDS), worker=lambda: [Since(FIRST, Mute(Opening))]),
    Strategy("the last two rounds wrong", range(ROUNDS - 2, ROUNDS), steers=True),
    Strategy("identities without compute", range(ROUNDS)),
    Strategy("sham accusations", range(0), verifier=lambda: [FalseAccuser()], passes=False),
    Strategy("stall", range(0), worker=lambda: [Since(FIRST, Mute(Commit))]),
    Strategy("farm fees", range(0), verifier=lambda: [InventDuties()]),
)  # fmt: skip
"""The first five are what the inequalities of SPEC 11 are tightest for."""


@dataclass(frozen=True)
class Outcome:
    """One run: the ring's profit over honest work for each of its workers, its wrong rounds that counted, its fees."""

    profit: float
    wrong: int
    fees: int
    convicted: int


def strategy_named(name: str) -> Strategy:
    """Return a strategy."""
    return next(strategy for strategy in STRATEGIES if strategy.name == name)


def play(point: Point, stake: int, strategy: Strategy, seed: int) -> Outcome:
    """Play one run; the same arguments give the same log."""
    ring: Ring = {}
    conduct = idle_in(strategy.wrong)
    cheats = [
        Worker(f"cheat{n}", *strategy.worker(), Whisper(ring), stake=stake, conduct=conduct)
        for n in range(WORKERS)
    ]
    passing: list[Behaviour] = [Collude(ring)] if strategy.passes else []
    partners = [
        Verifier(f"partner{n}", *passing, *strategy.verifier(), stake=STAKE) for n in range(point.partners)
    ]
    accomplices = frozenset(partner.address for partner in partners)
    if partners and strategy.hurries:
        partners[0].behaviours += tuple(Hurry(cheat.me, accomplices, FIRST) for cheat in cheats)
    if partners and strategy.steers:
        partners[0].behaviours += (Steer(ROUNDS - 1, accomplices),)
    others: list[Actor] = [Worker("honest", stake=3 * (WORKERS * stake + STAKE * point.places))]
    others += [Verifier(f"v{n}", stake=STAKE) for n in range(point.places - len(partners))]
    world = World(point.manifest(stake, seed), [*others, *cheats, *partners], random.Random(seed), NETWORK)
    world.run(limit=2_000_000)
    assert world.state.stage is Stage.ENDED
    good = {actor.address for actor in others}
    assert not any(slashed.address in good for slashed in world.seen(Slashed))
    return _outcome(world, cheats, partners, strategy.wrong)


def _outcome(world: World, cheats: Sequence[Actor], partners: Sequence[Actor], wrong: range) -> Outcome:
    state, members = world.state, [*cheats, *partners]
    ours = {one.address for one in members}
    fees = sum(paid.amount for paid in world.seen(Paid) if paid.what is Payment.FEE and paid.address in ours)
    profit, counted = sum(world.gain(one) for one in members) - fees, 0
    for worked in state.rounds:
        for worker in {cheat.address for cheat in cheats} & worked.commits.keys():
            steps = worked.assignments[worker].steps
            if worked.number not in wrong:
                profit -= reward_of(state.manifest, steps)
            elif worked.was_included(worker) and worked.phase is Phase.SEALED:
                profit += state.manifest.assumptions.sabotage * steps // STEPS
                counted += 1
    convicted = {slashed.address for slashed in world.seen(Slashed)} & {cheat.address for cheat in cheats}
    return Outcome(profit / len(cheats), counted, fees, len(convicted))
