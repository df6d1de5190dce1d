"""Everything at once: crashes of anybody at any time, cheats, liars. No honest peer pays, and every run ends."""

import random

import pytest

from simulator.cast import (
    AccusingSealer,
    Actor,
    Copier,
    FalseAccuser,
    Lazy,
    NeverLinks,
    NeverOpens,
    NeverReveals,
    Verifier,
    Worker,
    WrongSealer,
)
from simulator.toy import minimal
from simulator.world import World
from trainer.cheats import CHEATS, conduct_named
from verification.effects import Slashed
from verification.state import Stage

LIARS = [AccusingSealer, Copier, FalseAccuser, Lazy, NeverLinks, NeverReveals, WrongSealer]


def chaos(seed: int) -> tuple[World, list[Actor]]:
    """Return a finished run with crashes shorter than `silence` and two who lie."""
    rng = random.Random(seed)
    honest: list[Actor] = [*(Worker(f"w{i}") for i in range(3)), *(Verifier(f"v{i}") for i in range(2))]
    cheat = Worker("cheat", conduct=conduct_named(rng.choice(sorted(CHEATS)), rng.randint(0, 3)))
    others = [rng.choice([cheat, NeverOpens("silent")]), rng.choice(LIARS)("liar")]
    rounds = rng.randint(3, 8)
    manifest = minimal(
        rounds=rounds,
        audit_rate=rng.choice([200_000, 700_000, 1_000_000]),
        max_steps=rng.choice([8, 12, 130]),
    )
    world = World(manifest, [*honest, *others], rng)
    for actor in rng.sample([*honest, *others], rng.randint(0, 4)):
        start = rng.randint(0, 4_000)
        world.crash(actor, start, start + rng.randint(1, 5_500))
    world.run()
    return world, honest


@pytest.mark.parametrize("seed", range(6))
def test_no_honest_peer_pays_whatever_happens(seed: int) -> None:
    world, honest = chaos(seed)
    state = world.state
    assert state.stage is Stage.ENDED
    assert state.deposit == 0
    assert not {slashed.address for slashed in world.seen(Slashed)} & {actor.address for actor in honest}
    assert all(
        world.gain(actor) >= world.member(actor).rewards for actor in honest if actor.address in state.members
    )
    assert not any(member.escrow or member.owes for member in state.members.values())
    assert world.ledger.replay() == state
