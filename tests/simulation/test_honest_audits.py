"""Honest audits by the thousand, arriving in every order: not one accusation; each passes or is drawn again."""

import dataclasses
import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal
from simulator.world import World
from verification.digest import integer, tagged
from verification.effects import AuditEnded, DisputeOpened, Slashed
from verification.state import Audit
from verification.units import MILLION

SHUFFLED = Network(latency=(1, 150), notice=(5, 40), lost=20_000, doubled=50_000, poll=100)
"""Statements overtake each other by more than a phase takes."""


def audited(seed: int, rounds: int) -> int:
    """Play a run in which six verifiers audit twelve workers of many speeds; return the audits that passed."""
    actors: list[Actor] = [Worker(f"w{i}", speed=40 + 5 * i) for i in range(12)]
    actors += [Verifier(f"v{i}") for i in range(6)]
    rules = minimal(
        rounds=rounds, audit_rate=MILLION, slots=12, min_workers=12, min_verifiers=6, max_verifiers=6,
        max_steps=6, leaf_every=3,
    )  # fmt: skip
    manifest = dataclasses.replace(rules, seed=tagged("audits", integer(seed)))
    world = World(manifest, actors, random.Random(seed), SHUFFLED)
    world.run(limit=1_000_000)
    assert len(world.state.rounds) == rounds
    assert not world.seen(DisputeOpened)
    assert not world.seen(Slashed)
    outcomes = [audit.outcome for audit in world.seen(AuditEnded)]
    assert set(outcomes) <= {Audit.PASSED, Audit.LOST, Audit.WAITING}
    return outcomes.count(Audit.PASSED)


def test_hundreds_of_honest_audits_accuse_nobody() -> None:
    assert audited(seed=0, rounds=6) > 300


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_honest_audits_accuse_nobody() -> None:
    passed = 0
    seed = 1
    while passed < 10_000:
        passed += audited(seed, rounds=30)
        seed += 1
    assert seed <= 8
