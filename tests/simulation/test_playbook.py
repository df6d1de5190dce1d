"""Every behaviour that has a name ends as the playbook says, and no honest peer pays for it."""

import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.rounds.cheats import conduct_named, names_in, roles_of
from verification.adversaries.playbook import PLAYS, Ending, behaviours, ending_of
from verification.effects import Slashed
from verification.errors import UserError
from verification.manifest import Post
from verification.state import Stage, Standing
from verification.statements import WORKER
from verification.units import Count

FIRST = 2


def played(cheat: str) -> tuple[World, Actor]:
    """Return a finished run in which one of two workers, of a crew or of three verifiers plays a cheat from round 2
    on."""
    names = names_in(cheat)
    kind = Worker if WORKER in roles_of(names) else Verifier
    in_crews = any(PLAYS[name].in_crews for name in names if name in PLAYS)
    first, second = (Post(Count(0), Count(shard)) if in_crews else None for shard in range(2))
    rogue = kind("rogue", *behaviours(names, FIRST), conduct=conduct_named(cheat, FIRST), post=first)
    honest = [Worker("w0"), Worker("w1", post=second), Verifier("v0"), Verifier("v1")]
    everyone = {"min_workers": 2 + (kind is Worker and not in_crews), "min_verifiers": 2}
    world = World(
        (with_crews if in_crews else minimal)(audit_rate=600_000, rounds=6, **everyone),
        [*honest, rogue],
        random.Random(3),
        check=Invariants(honest),
    )
    world.run()
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == 6
    return world, rogue


@pytest.mark.slow
@pytest.mark.parametrize("cheat", [*PLAYS, "skip-steps,answers-honestly", "noise,withhold-opening"])
def test_each_ends_as_the_playbook_says(cheat: str) -> None:
    world, rogue = played(cheat)
    ending, how = ending_of(cheat.split(","))
    assert how
    assert rogue.faults > 0 or cheat == "answers-honestly"  # which only lies about a lie
    lost = sum(
        slashed.stake + slashed.escrow for slashed in world.seen(Slashed) if slashed.address == rogue.address
    )
    is_excluded = world.member(rogue).standing is Standing.EXCLUDED
    assert (lost > 0) >= (ending >= Ending.FINED)
    assert is_excluded >= (ending is Ending.CONVICTED)
    if ending is Ending.UNPAID:
        assert not any(rogue.address in worked.included for worked in world.state.rounds[FIRST:])
    assert {slashed.address for slashed in world.seen(Slashed)} <= {rogue.address}


def test_it_is_honest_before_its_round() -> None:
    world, rogue = played("never-commit")
    assert all(rogue.address in worked.included for worked in world.state.rounds[:FIRST])


def test_names_are_checked_and_joined() -> None:
    assert names_in("none") == []
    assert names_in("noise, withhold-opening") == ["noise", "withhold-opening"]
    assert ending_of(["noise", "dawdle"])[0] is ending_of(["noise"])[0] is Ending.CONVICTED
    for wrong, expected in {
        "noise,fly": "unknown cheat 'fly': choose one of none, skip-steps",
        "noise,stale": "noise and stale are both ways to train",
        "noise,skip-duties": "one of them is for workers and another for verifiers",
    }.items():
        with pytest.raises(UserError, match=expected):
            names_in(wrong)
