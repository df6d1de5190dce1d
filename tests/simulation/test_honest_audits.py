"""Honest audits that arrive in every order: not one accusation; each passes or is drawn again.

tests/matrix/test_honest_audits.py has ten thousand, each executed on a real machine.
"""

import dataclasses
import random

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


def test_hundreds_of_honest_audits_accuse_nobody() -> None:
    """Six verifiers audit twelve workers of many speeds."""
    actors: list[Actor] = [Worker(f"w{i}", speed=40 + 5 * i) for i in range(12)]
    actors += [Verifier(f"v{i}") for i in range(6)]
    rules = minimal(
        rounds=6, audit_rate=MILLION, slots=12, min_workers=12, min_verifiers=6, max_verifiers=6,
        max_steps=6, leaf_every=3,
    )  # fmt: skip
    manifest = dataclasses.replace(rules, seed=tagged("audits", integer(0)))
    world = World(manifest, actors, random.Random(0), SHUFFLED)
    world.run(limit=1_000_000)
    assert len(world.state.rounds) == 6
    assert not world.seen(DisputeOpened)
    assert not world.seen(Slashed)
    outcomes = [audit.outcome for audit in world.seen(AuditEnded)]
    assert set(outcomes) <= {Audit.PASSED, Audit.LOST, Audit.WAITING}
    assert outcomes.count(Audit.PASSED) > 300
