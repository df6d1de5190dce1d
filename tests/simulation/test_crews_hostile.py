"""Crews under attack: members that lie together, or use the rules against their mates."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest

from simulator import crews as played
from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import ToyLibrary
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.shards import crew as shards
from trainer.shards.members import ByTurns, InnerStep, Made
from verification.adversaries import Behaviour, View
from verification.causes import Cause
from verification.disputes import claim_of_round
from verification.effects import DisputeEnded, Slashed
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.honest.actions import Computed, Traced, TraceProgram, Work
from verification.manifest import Place, Post
from verification.state import Ruling, State
from verification.statements import Stuck
from verification.tensors import Tensor
from verification.units import Address, Count, Round


def post(shard: int) -> Post:
    return Post(Count(0), Count(shard))


class OnTheWay(ByTurns):
    """Shards between which crossing 0 becomes another number: its maker says that it gave that, its taker took it."""

    def _deliver(self, steps: Sequence[InnerStep], made: Made) -> None:
        super()._deliver(steps, [(place, tensor if place else self._other(tensor)) for place, tensor in made])

    def _other(self, tensor: Any) -> Any:
        engine = self.members[0].engine
        (right,) = engine.dump([tensor]).tensors
        return engine.hold(Tensor(right.dtype, right.shape, bytes([right.data[0] ^ 1]) + right.data[1:]))


class Together(shards.Crews):
    """What two liars compute, and compute again when one of them is accused."""

    def audit(self, *args: Any, **kwargs: Any) -> shards.CrewOutcome:
        with mock.patch.object(shards, "ByTurns", OnTheWay):
            return super().audit(*args, **kwargs)

    def _found(self, *args: Any) -> list[Any]:
        with mock.patch.object(shards, "ByTurns", OnTheWay):
            return super()._found(*args)


class GivesElse(Behaviour):
    """Its trace gives what it has opened as given, and its nodes are right by all that it took."""

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Replace the outputs that cross."""
        made = compute()
        if not isinstance(action, TraceProgram) or not isinstance(made, Traced):
            return made
        about = action.execution
        if about.worker != view.me.address or about.place is not Place.STEP:
            return made
        self.faults += 1
        worked, worker = view.state.rounds[about.round], about.worker
        game = claim_of_round(
            view.state.manifest, worked.commits[worker], worked.openings[worker],
            worked.assignments[worker].steps, int(about.step),
        )  # fmt: skip
        return dataclasses.replace(made, outputs=(*made.outputs[: -len(game.given)], *game.given))


class Accomplice(Worker):
    """A member that lies with its mate from round 1 on."""

    def _run_crew(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work | Stuck:
        with mock.patch.object(played, "Crews", Together if number >= 1 else shards.Crews):
            return super()._run_crew(state, number, worker, blobs)


@pytest.mark.parametrize("seed", range(2))
def test_two_members_cannot_shield_each_other_by_what_crossed(seed: int) -> None:
    giver, taker = (
        Accomplice("giver", GivesElse(), post=post(0)),
        Accomplice("taker", GivesElse(), post=post(1)),
    )
    auditors = [Verifier("v0"), Verifier("v1")]
    actors: list[Actor] = [giver, taker, Worker("whole"), *auditors]
    check = Invariants(actor for actor in actors if actor.is_honest)
    world = World(with_crews(min_workers=2, audit_rate=1_000_000), actors, random.Random(seed), check=check)
    world.run()
    ended = world.seen(DisputeEnded)
    assert giver.faults
    assert {(each.accused, each.ruling, each.cause) for each in ended} == {
        (giver.address, Ruling.GUILTY, Cause.WRONG_OUTPUT)
    }
    assert {each.address for each in world.seen(Slashed)} == {giver.address}
    assert all(world.gain(auditor) > 0 for auditor in auditors)
    statements = [line.data for line in world.ledger.log[1:] if line.data]
    found = convictions(world.state, statements, world.ledger.effects, ToyLibrary().program)
    assert {verify(pack(each)).accused for each in found.values()} == {giver.address}
