"""Each cheat is convicted at the execution where it happened, pays exactly its escrow and 10%, and the run goes on."""

import random
from typing import Any

import pytest

from tests.simulation.cast import Verifier, Worker
from tests.simulation.world import World
from tests.toy import minimal
from trainer.cheats import conduct_named
from verification.effects import DisputeEnded, Slashed
from verification.state import Place, Ruling, Stage, Standing
from verification.units import MILLION

CASES = [
    ("skip-steps", Place.STEP),
    ("noise", Place.EPILOGUE),
    ("stale", Place.PROLOGUE),
    ("wrong-data", Place.PROLOGUE),
]


def played(name: str, seed: int, first: int = 2, **changes: Any) -> tuple[World, Worker, list[Verifier]]:
    """Return a finished run in which one worker cheats from round `first` on and every round is audited twice."""
    cheat = Worker("cheat", conduct=conduct_named(name, first))
    verifiers = [Verifier(f"v{i}") for i in range(2)]
    manifest = minimal(**{"audit_rate": MILLION, **changes})
    world = World(manifest, [cheat, Worker("w0"), Worker("w1", speed=70), *verifiers], random.Random(seed))
    world.run()
    return world, cheat, verifiers


@pytest.mark.parametrize(("name", "place"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_cheat_is_convicted_where_it_cheated(name: str, place: Place, seed: int) -> None:
    world, cheat, verifiers = played(name, seed)
    state, member = world.state, world.member(cheat)
    assert state.stage is Stage.ENDED and len(state.rounds) == 5
    ended = world.seen(DisputeEnded)
    assert ended and {e.ruling for e in ended if e.round == 2} == {Ruling.GUILTY}
    first = ended[0]
    assert (first.accused, first.round, first.place) == (cheat.address, 2, place)
    assert first.step == (7 if place is Place.STEP else None)
    slashed = world.seen(Slashed)[0]
    assert slashed.address == cheat.address and slashed.stake == 1_000
    assert member.standing is Standing.EXCLUDED
    assert slashed.burned + slashed.rewarded == slashed.stake + slashed.escrow
    assert slashed.rewarded == (slashed.stake + slashed.escrow) // 2
