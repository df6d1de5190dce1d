"""The world itself: one seed is one history anywhere, its faults happen and are counted, its invariants can fail."""

import random
import subprocess
from typing import Any

import pytest

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.invariants import Invariants
from simulator.network import ROUGH, Network
from simulator.toy import minimal
from simulator.world import World
from tests.checkout import environment
from trainer.lifetimes import python
from trainer.rounds.cheats import conduct_named
from verification.adversaries import FalseAccuser
from verification.effects import Slashed
from verification.errors import BadEvidence
from verification.honest.actions import Computed, RunRound
from verification.state import Stage, State
from verification.units import MILLION

HISTORY = """
import random
from simulator.cast import Verifier, Worker
from simulator.network import ROUGH
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries.playbook import PLAYS
actors = [*(Worker(f"w{i}") for i in range(3)), Worker("cheat", conduct=conduct_named("noise", 1)), Verifier("v0")]
actors.append(Verifier("liar", *PLAYS["false-accuser"].make(0)))
world = World(minimal(audit_rate=700_000), actors, random.Random(11), ROUGH)
world.crash(actors[0], 200, 900)
world.cut_off(actors[4], 300, 700)
world.run()
print(len(world.ledger.log), world.state.head.hex(), sorted(world.traffic.items()))
"""


def cast() -> list[Actor]:
    """Return honest actors."""
    return [*(Worker(f"w{i}") for i in range(3)), Verifier("v0"), Verifier("v1")]


def test_one_seed_is_one_history_in_every_process() -> None:
    """Nothing may hang on the order of a set, which differs between processes."""
    heads = set()
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            python("-c", HISTORY),
            capture_output=True,
            text=True,
            env=environment(PYTHONHASHSEED=hash_seed),
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        heads.add(answer.stdout)
    assert len(heads) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_rough_network_loses_repeats_and_reorders_and_harms_nobody(seed: int) -> None:
    actors = cast()
    world = World(minimal(audit_rate=MILLION), actors, random.Random(seed), ROUGH, Invariants(actors))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == 5
    assert world.traffic["lost"] > 5
    assert world.traffic["doubled"] > 5
    assert world.traffic["repeated"] > 5  # acknowledged again, not admitted twice
    assert all(world.gain(actor) == world.member(actor).rewards for actor in actors)


def test_a_partition_of_the_smaller_part_stops_nobody_and_heals() -> None:
    actors = cast()
    checks = Invariants(actors)
    world = World(minimal(rounds=8, audit_rate=MILLION), actors, random.Random(1), check=checks)
    world.partition([actors[0], actors[4]], 200, 2_500)
    world.run()
    assert len(world.state.rounds) == 8
    assert not world.seen(Slashed)
    assert checks.checks > 100


def test_a_partition_of_the_larger_part_stops_the_round_until_it_heals() -> None:
    actors = cast()
    world = World(minimal(rounds=4, audit_rate=0), actors, random.Random(2), check=Invariants(actors))
    world.partition(actors[:3], 150, 3_000)
    world.run()
    assert len(world.state.rounds) == 4
    opened = [worked.opened_at for worked in world.state.rounds]
    assert max(opened) > 3_000
    assert not world.seen(Slashed)


def test_work_takes_a_slow_machine_longer() -> None:
    """Both are given work by speed, so they end together; a machine slower than it says is late."""
    network = Network(step=20)

    def commit_time(speed: int) -> int:
        slow = Worker("slow", speed=speed)
        world = World(minimal(max_steps=40), [slow, Worker("w0"), Verifier("v0")], random.Random(1), network)
        world.run(
            until=lambda world: len(world.state.rounds) == 5 and slow.address in world.state.current.commits
        )
        return world.now - world.state.current.opened_at

    assert abs(commit_time(100) - commit_time(50)) < 100
    assert commit_time(100) > 40 * 20


class Unable(Worker):
    """Takes what dishonest verifiers sealed for no state, the first time."""

    balked = 0

    def _compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        if isinstance(action, RunRound) and not self.balked:
            self.balked += 1
            raise BadEvidence("the inputs do not fit the program's ports")
        return super()._compute(action, state, blobs)


def test_what_cannot_be_computed_now_is_tried_again() -> None:
    unable = Unable("w0")
    actors = [unable, Worker("w1"), Verifier("v0")]
    world = World(minimal(), actors, random.Random(1), check=Invariants(actors))
    world.run()
    assert unable.balked == 1
    assert world.state.stage is Stage.ENDED
    assert unable.address in world.state.rounds[0].commits


def test_the_invariants_see_a_liar_that_is_passed_off_as_honest() -> None:
    liar = Verifier("liar", FalseAccuser())
    actors = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0"), liar]
    world = World(minimal(audit_rate=MILLION), actors, random.Random(1), check=Invariants(actors))
    with pytest.raises(AssertionError, match="honest"):
        world.run()


def test_a_cheat_passed_off_as_honest_is_seen_too() -> None:
    actors = [Worker("w0"), Worker("w1"), Worker("w2", conduct=conduct_named("noise", 0)), Verifier("v0")]
    world = World(minimal(audit_rate=MILLION), actors, random.Random(1), check=Invariants(actors))
    with pytest.raises(AssertionError, match="honest peer"):
        world.run()


def test_shares_and_pauses_must_make_sense() -> None:
    with pytest.raises(ValueError, match="shares"):
        Network(lost=MILLION)
    with pytest.raises(ValueError, match="millisecond"):
        Network(poll=0)
