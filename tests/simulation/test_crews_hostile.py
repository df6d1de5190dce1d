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
from simulator.toy import DATA, ToyLibrary
from simulator.toy_crew import with_crews
from simulator.world import World
from tests.simulation.test_crews import STEP, Clumsy, clumsy, post
from trainer.rounds.engine import Engine
from trainer.rounds.training import Disputed, Rounds
from trainer.shards import crew as shards
from trainer.shards.members import ByTurns, InnerStep, Made
from verification.adversaries import Behaviour, Mute, View
from verification.causes import Cause
from verification.disputes import claim_of_round
from verification.effects import DisputeEnded, Slashed
from verification.evidence.collect import convictions, require_borne_out
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.honest.actions import Computed, Traced, TraceProgram, Work
from verification.manifest import BundleRef, Place
from verification.placed import ExecutionRef
from verification.state import Ruling, State
from verification.statements import ChallengeSeal, Stuck
from verification.tensors import Tensor
from verification.units import Address, Round


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


class BadOuter(Verifier):
    """Its machine gets one operator of the outer step wrong, and it stands by that."""

    def __init__(self, name: str, operator: str) -> None:
        super().__init__(name, Mute(ChallengeSeal))
        self.engine: Clumsy = Clumsy(operator, ("outer",))

    def _run_outer(self, state: State, number: Round, blobs: Blobs) -> BundleRef:
        inputs = self._outer_inputs(state, number, blobs)
        return blobs.put(Rounds(self.engine, state.manifest, DATA).next_state(inputs))

    def _disputed(self, state: State, execution: ExecutionRef, blobs: Blobs) -> tuple[Engine, Disputed]:
        engine, disputed = super()._disputed(state, execution, blobs)
        is_own = execution.place is Place.OUTER and execution.worker == self.address
        return (self.engine if is_own else engine), disputed


@pytest.mark.parametrize("operator", ["multiply", "divide", "subtract"])
def test_a_wrong_outer_step_over_what_crews_gave_and_what_is_taken_back_is_proven_by_its_file(
    operator: str,
) -> None:
    cheat = Worker("cheat", post=post(0), conduct=clumsy(Clumsy("product", STEP)))
    sealer = BadOuter("sealer", operator)
    crews: list[Actor] = [cheat, *(Worker(f"w{n}", post=post(n % 2)) for n in range(1, 4)), Worker("whole")]
    actors = [*crews, sealer, Verifier("v0"), Verifier("v1")]
    manifest = with_crews(
        min_workers=2,
        min_verifiers=2,
        audit_rate=1_000_000,
        on_conviction="subtract",
        excluded_after=3,
        escrow_rounds=1,
        rounds=7,
    )
    check = Invariants(actor for actor in actors if actor.is_honest)
    world = World(manifest, actors, random.Random(2), check=check)
    world.run()
    statements = [line.data for line in world.ledger.log[1:] if line.data]
    programs, effects = ToyLibrary().program, world.ledger.effects
    outer = 0
    for conviction in convictions(world.state, statements, effects, programs).values():
        finding = verify(pack(conviction))
        outer += finding.accused == sealer.address and finding.place is Place.OUTER
        if not finding.is_proven:
            require_borne_out(conviction, world.state, statements, effects, programs)
    assert sealer.engine.faults > 0
    assert outer
    assert any(worked.subtracts for worked in world.state.rounds)
