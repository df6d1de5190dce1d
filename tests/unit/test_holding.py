"""What stands on a lost blob is done again, and fetches that nobody waits for end."""

import random
from collections.abc import Callable

from simulator.cast import Verifier, Worker
from simulator.toy import minimal
from simulator.world import World
from verification.honest import holding
from verification.honest.actions import FetchContribution, FetchState, RunOuter, RunRound
from verification.honest.decide import decide
from verification.state import Phase
from verification.units import Round


def world_in(phase: Phase, ready: Callable[[World], bool] = lambda world: True) -> World:
    """A run of honest peers, stopped in its second round in this phase."""
    world = World(minimal(), [Worker("w0"), Worker("w1"), Verifier("v0")], random.Random(0))

    def reached(world: World) -> bool:
        rounds = world.state.rounds
        return len(rounds) == 2 and rounds[-1].phase is phase and ready(world)

    world.run(reached)
    return world


def held_by_first(world: World) -> bool:
    """Whether the first peer holds both contributions of the newest round and has not sealed it."""
    first, number = world.actors[0], world.state.current.number
    held = [FetchContribution(number, other.address) in first.results.done for other in world.actors[:2]]
    return all(held) and first.address not in world.state.current.seals


def test_a_contribution_that_is_lost_is_fetched_again() -> None:
    world = world_in(Phase.SEAL, held_by_first)
    first, other = world.actors[0], world.actors[1].address
    fetch = FetchContribution(world.state.current.number, other)
    blob = world.state.current.commits[other].contribution.blob
    assert holding.lost(world.state, first.results, lambda held: True) == []
    assert fetch not in decide(world.state, first.me, first.results, world.now)
    assert holding.lost(world.state, first.results, lambda held: held != blob) == [fetch]
    del first.results.done[fetch]
    assert fetch in decide(world.state, first.me, first.results, world.now)


def test_all_that_stands_on_blobs_falls_with_them_and_committed_work_does_not() -> None:
    world = world_in(Phase.SEAL, held_by_first)
    first, number = world.actors[0], world.state.current.number
    gone = holding.lost(world.state, first.results, lambda held: False)
    kinds = {type(action) for action in gone}
    assert kinds == {FetchState, FetchContribution, RunOuter}
    assert RunRound(number, first.address) in first.results.done


def test_work_that_is_not_committed_to_is_done_again() -> None:
    def worked(world: World) -> bool:
        action = RunRound(world.state.current.number, world.actors[0].address)
        return action in world.actors[0].results.done

    world = world_in(Phase.COMMIT, worked)
    first, number = world.actors[0], world.state.current.number
    world.state.current.commits.pop(first.address, None)
    assert RunRound(number, first.address) in holding.lost(world.state, first.results, lambda held: False)


def test_fetches_go_on_while_others_may_include_them_and_end_when_nobody_waits() -> None:
    number, attesting = Round(1), world_in(Phase.ATTEST)
    own, other = (actor.address for actor in attesting.actors[:2])
    running = [
        FetchContribution(number, other),
        FetchState(Round(2)),
        RunOuter(Round(0)),
    ]
    assert holding.unwanted(attesting.state, own, [], running) == []
    sealing = world_in(Phase.SEAL).state
    assert holding.unwanted(sealing, own, [], running) == running[:1]
    assert holding.unwanted(sealing, own, running[:1], running) == []


def test_work_that_came_too_late_is_given_up_and_an_audit_is_not() -> None:
    working, attesting = world_in(Phase.COMMIT), world_in(Phase.ATTEST)
    number, (own, other) = Round(1), (actor.address for actor in attesting.actors[:2])
    running = [RunRound(number, own), RunRound(number, other)]
    assert working.state.current.number == number
    assert holding.unwanted(working.state, own, [], running) == []
    assert holding.unwanted(attesting.state, own, [], running) == running[:1]
    assert holding.unwanted(attesting.state, own, running[:1], running) == [], "its leaves are asked for"
