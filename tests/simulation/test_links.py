"""A verifier's links last as long as the run, whoever else comes and goes."""

import random

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import Late, Mute
from verification.state import Stage
from verification.statements import Reveal, Verdict
from verification.units import MILLION

ROUNDS = 6


@pytest.mark.parametrize("seed", range(3))
def test_whoever_makes_a_run_drain_for_long_asks_nobody_for_more_links(seed: int) -> None:
    """The ring's verifiers leave every audit to be drawn again, and reveal late what holds up the end.

    Each draw while the run drained took a link of everyone's, and chains had a few to spare: who came and went by a
    schedule used up an honest one's. The schedule itself cannot be played any more, since who comes back counts later.
    """
    honest = [*(Worker(f"w{i}") for i in range(6)), Verifier("v0")]
    ring = [
        Verifier(f"h{i}", Mute(Verdict, when=lambda body: body.round < ROUNDS), Late(Reveal, 700))
        for i in range(4)
    ]
    manifest = minimal(
        rounds=ROUNDS, slots=6, min_workers=6, min_verifiers=1, max_verifiers=5, miss_limit=3, audit_rate=MILLION,
        max_steps=4, verdict=200, opening=50, reveal=50,
    )  # fmt: skip
    world = World(manifest, [*honest, *ring], random.Random(seed), check=Invariants(honest))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert all(actor.faults for actor in ring)
    draining = [number for number in world.state.sessions if number >= ROUNDS]
    assert len(draining) >= 2
    assert not any(world.state.sessions[number].links for number in draining)
