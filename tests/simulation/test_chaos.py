"""Everything at once: crashes of anybody at any time, cheats, liars. No honest peer pays, and every run ends."""

import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.network import CALM, ROUGH
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import CHEATS, conduct_named
from verification.adversaries import AnswerHonestly, Mute
from verification.adversaries.playbook import PLAYS
from verification.state import Stage
from verification.statements import Opening


def chaos(seed: int) -> tuple[World, list[Actor]]:
    """Return a finished run with crashes, cuts and delays shorter than `silence`, and two who lie."""
    rng = random.Random(seed)
    honest: list[Actor] = [*(Worker(f"w{i}") for i in range(3)), *(Verifier(f"v{i}") for i in range(2))]
    conduct = conduct_named(rng.choice(sorted(CHEATS)), rng.randint(0, 3))
    cheat = Worker("cheat", *rng.choice([[], [AnswerHonestly()], [Mute(Opening)]]), conduct=conduct)
    others = [cheat, Verifier("liar", *PLAYS[rng.choice(sorted(PLAYS))].make(1))]
    rounds = rng.randint(3, 8)
    manifest = minimal(
        rounds=rounds,
        audit_rate=rng.choice([200_000, 700_000, 1_000_000]),
        max_steps=rng.choice([8, 12, 130]),
    )
    for actor in honest:
        actor.skew = rng.randint(-100, 100)
    network = rng.choice([CALM, ROUGH])
    world = World(manifest, [*honest, *others], rng, network, Invariants(honest))
    for actor in rng.sample([*honest, *others], rng.randint(0, 4)):
        start = rng.randint(0, 4_000)
        harm = rng.choice([world.crash, world.cut_off])
        harm(actor, start, start + rng.randint(1, 5_000))
    world.run()
    return world, honest


@pytest.mark.parametrize("seed", range(8))
def test_no_honest_peer_pays_whatever_happens(seed: int) -> None:
    world, honest = chaos(seed)
    state = world.state
    assert state.stage is Stage.ENDED
    assert state.deposit == 0
    assert all(
        world.gain(actor) >= world.member(actor).rewards for actor in honest if actor.address in state.members
    )
    assert not any(member.escrow or member.owes for member in state.members.values())
    assert world.ledger.replay() == state
