"""Honest runs: everyone ends on one state, nobody is disputed, everything is paid back."""

import random

import pytest

from tests.simulation.cast import Verifier, Worker
from tests.simulation.world import World
from tests.toy import minimal
from verification.effects import AuditEnded, DisputeOpened, Slashed
from verification.state import Audit, Stage


@pytest.mark.parametrize("seed", range(5))
def test_honest_run_ends_on_one_state_and_pays_everything_back(seed: int) -> None:
    workers = [Worker(f"w{i}", speed=100 - 20 * i) for i in range(4)]
    verifiers = [Verifier(f"v{i}") for i in range(3)]
    world = World(minimal(), [*workers, *verifiers], random.Random(seed))
    world.run()
    assert world.state.stage is Stage.ENDED and len(world.state.rounds) == 5
    finals = {ref for worked in world.state.rounds[-1:] for ref in worked.seals.values()}
    assert finals == {world.state.current.sealed}
    assert not world.seen(DisputeOpened) and not world.seen(Slashed)
    audits = world.seen(AuditEnded)
    assert audits and all(audit.outcome is Audit.PASSED for audit in audits)
