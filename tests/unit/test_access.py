"""Bytes of a contribution are for members, and not before everyone is bound to its own."""

import random
from collections.abc import Callable

import trio

from simulator.cast import Verifier, Worker
from simulator.toy import minimal
from simulator.world import World
from trainer.peer.access import LOOK_SECONDS, WAITING, Access
from verification.digest import tagged
from verification.state import Phase, Standing, State, state_before
from verification.units import Address, Digest, Round

STRANGER = Address(b"\x99" * 20)


def world_in(phase: Phase, commits: int = 0) -> World:
    """A run of honest peers, stopped in its second round in this phase, with so many commitments."""
    world = World(minimal(), [Worker("w0"), Worker("w1"), Verifier("v0")], random.Random(0))

    def reached(world: World) -> bool:
        rounds = world.state.rounds
        return len(rounds) == 2 and rounds[-1].phase is phase and len(rounds[-1].commits) >= commits

    world.run(reached)
    return world


def access_of(world: World, look: Callable[[], None] = lambda: None) -> Access:
    """What a peer grants that has seen this world's ledger."""
    access = Access(world.state.manifest, look)
    access.note(world.state)
    return access


def contribution(state: State) -> Digest:
    """A contribution of the newest round."""
    return next(iter(state.current.commits.values())).contribution.blob


async def test_a_contribution_leaves_when_commitments_have_closed_and_to_members_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    committing, attesting = world_in(Phase.COMMIT, commits=1), world_in(Phase.ATTEST)
    member = committing.actors[1].address
    before, after = access_of(committing), access_of(attesting)
    assert not await before.admits(member, contribution(committing.state))
    assert await after.admits(member, contribution(attesting.state))
    for access, world in ((before, committing), (after, attesting)):
        assert not await access.admits(STRANGER, contribution(world.state))
    earlier = next(iter(attesting.state.rounds[0].commits.values())).contribution.blob
    assert await before.admits(member, earlier)


async def test_a_stranger_gets_what_a_joiner_needs(autojump_clock: trio.testing.MockClock) -> None:
    world = world_in(Phase.ATTEST)
    access, state, manifest = access_of(world), world.state, world.state.manifest
    for blob in (manifest.data.blob, manifest.programs.inner.blob, manifest.start.blob):
        assert await access.admits(STRANGER, blob)
    assert await access.admits(STRANGER, state_before(state, Round(len(state.rounds))).blob)
    assert not await access.admits(STRANGER, tagged("some other blob"))
    assert not await access.admits(world.actors[0].address, tagged("some other blob"))


async def test_who_is_excluded_is_a_stranger(autojump_clock: trio.testing.MockClock) -> None:
    world = world_in(Phase.ATTEST)
    access, actor = access_of(world), world.actors[1]
    assert access.is_member(actor.address)
    world.member(actor).standing = Standing.EXCLUDED
    access.note(world.state)
    assert not access.is_member(actor.address)
    assert not await access.admits(actor.address, contribution(world.state))


async def test_a_member_that_knows_earlier_waits_for_the_next_look_and_not_for_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    looks = []
    committing, attesting = world_in(Phase.COMMIT, commits=1), world_in(Phase.ATTEST)
    access = access_of(committing, lambda: looks.append(trio.current_time()))
    member, blob = committing.actors[1].address, contribution(committing.state)
    began, answers = trio.current_time(), list[bool]()

    async def ask() -> None:
        answers.append(await access.admits(member, blob))

    async with trio.open_nursery() as nursery:
        for _ in range(WAITING + 1):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [False]
        access.note(attesting.state)
    assert answers == [False] + [True] * WAITING
    assert len(looks) == WAITING
    assert trio.current_time() == began
    access.note(committing.state)
    assert not await access.admits(member, blob)
    assert trio.current_time() == began + LOOK_SECONDS
