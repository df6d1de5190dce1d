"""The live view of a swarm: what peers' events and the ledger make of its one line."""

import random

from simulator.cast import Actor, Verifier, Worker
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.commands.swarm_view import SwarmView
from verification.manifest import Post
from verification.signing import checksum
from verification.units import Count


def test_a_crews_loss_is_told_once() -> None:
    """Of its members only one makes the loss; the others tell none."""
    members = [Worker(f"member{shard}", post=Post(Count(0), Count(shard))) for shard in range(2)]
    cast: list[Actor] = [*members, Worker("whole"), Verifier("verifier")]
    world = World(with_crews(rounds=3, min_workers=2, min_verifiers=1), cast, random.Random(0))
    world.run()
    view = SwarmView(0.0, lambda: 1.0)
    for actor, loss in zip(cast, (None, 3.0, 2.0, 9.0), strict=True):
        view.add_peer(checksum(actor.address), actor.name)
        is_own = actor.name != "verifier"
        view.take_event(
            {"peer": checksum(actor.address), "kind": "computed", "round": 1, "own": is_own, "loss": loss}
        )
    assert view.line(world.state) == "round 3 of 3, ended, loss 2.500, 0 disputes"
    assert view.draw(world.state)
