"""Chunks on demand: whoever serves is paid, whoever attested and does not is suspended, and no stake moves."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from tests.property.strategies import tensors
from verification.adversaries import Act, Behaviour, Mute, View
from verification.availability import check_chunk, show_chunk
from verification.causes import Cause
from verification.digest import integer, tagged
from verification.effects import Paid, Slashed, StandingChanged
from verification.errors import BadEvidence
from verification.honest.actions import Say
from verification.state import Stage, Standing, Watch
from verification.statements import Chunk, Demand
from verification.tensors import Bundle, digest_of
from verification.units import Address, Count, Round


class Doubt(Behaviour):
    """Demands a chunk of one contribution, once its round has closed."""

    def __init__(self, number: int, worker: Address) -> None:
        """`worker`'s contribution to round `number`."""
        super().__init__()
        self._body = Demand(Round(number), worker)

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Demand until it is said."""
        rounds, number = view.state.rounds, self._body.round
        said = any(d.payer == view.me.address for d in view.state.demands)
        if said or len(rounds) <= number or self._body.worker not in rounds[number].included:
            return wanted
        self.faults += 1
        return [*wanted, Say(self._body)]


def played(mute: int) -> tuple[World, list[Actor], Verifier]:
    """Return a run in which a verifier demands a chunk and so many of the six attesters never show one."""
    target = Worker("w0").address
    doubter = Verifier("doubter", Doubt(1, target), Mute(Chunk))
    others: list[Actor] = [
        *(Worker(f"w{i}", *[Mute(Chunk)][: i < mute]) for i in range(4)),
        Verifier("v0", *[Mute(Chunk)][: mute > 4]),
    ]
    honest = [actor for actor in others if not actor.behaviours]
    world = World(minimal(rounds=8), [*others, doubter], random.Random(5), check=Invariants(honest))
    world.run()
    assert doubter.faults > 0
    assert world.state.stage is Stage.ENDED
    return world, others, doubter


def paid(world: World) -> list[tuple[Address, int]]:
    """Return who got the price of a chunk."""
    return [(effect.address, effect.amount) for effect in world.seen(Paid) if effect.what == "chunk"]


@pytest.mark.parametrize("mute", [0, 3, 4])
def test_one_that_serves_is_enough_and_is_paid(mute: int) -> None:
    world, others, doubter = played(mute)
    ((supplier, price),) = paid(world)
    serving = {actor.address for actor in others if not actor.behaviours}
    assert supplier in serving
    assert price == 50
    assert world.state.burned >= 50
    assert world.gain(doubter) == world.member(doubter).rewards - 100
    assert not [c for c in world.seen(StandingChanged) if c.standing == "suspended"]
    assert not world.seen(Slashed)


def test_attesters_of_what_nobody_shows_are_suspended_and_lose_no_stake() -> None:
    world, _, doubter = played(5)
    assert paid(world) == [(doubter.address, 100)]
    (demand,) = world.state.demands
    suspended = {c.address for c in world.seen(StandingChanged) if c.standing == "suspended"}
    assert suspended == {who for who, held in world.state.rounds[1].attests.items() if demand.worker in held}
    away = [c for c in world.seen(StandingChanged) if c.reason.cause is Cause.NOT_SHOWN]
    assert {c.address for c in away} == suspended
    assert not world.seen(Slashed)
    assert all(member.standing is not Standing.EXCLUDED for member in world.state.members.values())
    assert not any(member.owes or member.stake for member in world.state.members.values())


class LateDoubt(Doubt):
    """Demands in the very last phase of the run."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Wait until only reveals are missing."""
        sessions = view.state.sessions
        late = len(view.state.rounds) == 8 and sessions and max(sessions) > 7
        return super().act(view, wanted) if late and sessions[max(sessions)].watch is Watch.REVEAL else wanted


def test_an_open_demand_does_not_hold_up_the_end_and_its_price_goes_back() -> None:
    doubter = Verifier("doubter", LateDoubt(7, Worker("w0").address), Mute(Chunk))
    others = [*(Worker(f"w{i}", Mute(Chunk)) for i in range(4)), Verifier("v0", Mute(Chunk))]
    world = World(minimal(rounds=8), [*others, doubter], random.Random(5), check=Invariants([]))
    world.run()
    (demand,) = world.state.demands
    assert world.state.stage is Stage.ENDED
    assert not (demand.is_met or demand.is_overdue or demand.price)
    assert paid(world) == [(doubter.address, 100)]
    assert not any(member.owes for member in world.state.members.values())


def test_an_owed_chunk_does_not_hold_up_the_end() -> None:
    """One demand after another once locked everyone's stake for `silence` each, and cost nothing."""
    doubter = Verifier("doubter", Doubt(6, Worker("w0").address), Mute(Chunk))
    others = [*(Worker(f"w{i}", Mute(Chunk)) for i in range(4)), Verifier("v0", Mute(Chunk))]
    world = World(minimal(rounds=8, opening=60), [*others, doubter], random.Random(6))
    world.run()
    (demand,) = world.state.demands
    assert demand.is_overdue
    assert not demand.is_met
    suspended = {c.address for c in world.seen(StandingChanged) if c.standing == "suspended"}
    assert suspended
    assert world.state.now < demand.deadline + world.state.manifest.windows.silence
    assert not any(member.owes or member.stake for member in world.state.members.values())
    assert not world.seen(Slashed)


bundles = st.lists(tensors(), min_size=1, max_size=4).map(lambda parts: Bundle(tuple(parts)))


@given(bundles, st.integers(0, 10**6))
def test_the_drawn_chunk_opens_the_contribution_and_nothing_else_does(bundle: Bundle, number: int) -> None:
    seed, digest = tagged("seed", integer(number)), digest_of(bundle)
    chunk = show_chunk(3, seed, bundle)
    check_chunk(seed, digest, chunk)
    with pytest.raises(BadEvidence):
        check_chunk(seed, tagged("other"), chunk)
    with pytest.raises(BadEvidence):
        check_chunk(seed, digest, dataclasses.replace(chunk, path=(*chunk.path, digest)))
    with pytest.raises(BadEvidence):
        check_chunk(seed, digest, dataclasses.replace(chunk, count=Count(chunk.count + 1)))
    for other in range(20):
        elsewhere = show_chunk(3, tagged("elsewhere", integer(other)), bundle)
        if (elsewhere.block, elsewhere.path) != (chunk.block, chunk.path):
            with pytest.raises(BadEvidence):
                check_chunk(seed, digest, elsewhere)
