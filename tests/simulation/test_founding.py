"""A run's identity is its own: what is said or made secret in one run is nothing in another of the same job."""

import dataclasses
import functools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification import law
from verification.effects import Slashed
from verification.errors import Refused
from verification.manifest import Manifest
from verification.signed import Said, make_statement, open_statement, sign_statement
from verification.statements import Body, Contradiction, Join, Link, Opening, Reveal
from verification.units import MILLION, Digest

SEEDS = st.integers(0, 40)


def job() -> Manifest:
    """Return what both runs are made of: everyone is audited."""
    return minimal(rounds=3, audit_rate=MILLION)


def cast(port: int = 0) -> list[Actor]:
    """Return peers whose keys are the same in every run; each listens on another port in each."""
    actors = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0"), Verifier("v1")]
    for actor in actors:
        actor.me = dataclasses.replace(actor.me, endpoint=f"{actor.me.endpoint}/{port}")
    return actors


@functools.cache
def played(seed: int) -> World:
    """Return a run of the job that has ended; the seed founds it."""
    actors = cast(seed)
    world = World(job(), actors, random.Random(seed), check=Invariants(actors))
    world.run()
    return world


def said_by(world: World, actor: Actor) -> list[Said[Body]]:
    """Return all that a peer said."""
    said = [open_statement(line.data) for line in world.ledger.log if line.kind == "statement"]
    return [each for each in said if each.sender == actor.address]


def secrets_in(said: Sequence[Said[Body]]) -> set[Digest]:
    """Return the salts and links that statements show."""
    shown = set[Digest]()
    for body in (each.body for each in said):
        match body:
            case Opening():
                shown |= {*body.salts}
            case Reveal():
                shown |= {body.salt}
            case Link():
                shown |= {body.link}
            case Join(role="verifier"):
                shown |= {body.tip}
    return shown


def test_two_runs_of_one_job_are_two() -> None:
    first, second = played(1).state, played(2).state
    assert first.manifest == second.manifest
    assert first.run != second.run
    assert first.chain != second.chain
    assert first.rounds[0].beacon != second.rounds[0].beacon
    (me,) = (actor.me for actor in cast() if actor.name == "v0")
    assert me.link(first, 0) != me.link(second, 0)
    assert not set(me.salts(first.run, 0, 4)) & set(me.salts(second.run, 0, 4))
    assert me.blind_salt(first.run, 0, 0, me.address) != me.blind_salt(second.run, 0, 0, me.address)
    assert me.secret.hex() not in repr(me)
    assert repr(me.secret) not in repr(me)


def test_statements_of_two_runs_are_no_contradiction() -> None:
    """The thief of the trial: both Joins of each honest peer, one from each run."""
    first, second, thief = played(1), live(), Worker("thief")
    stolen = 0
    for actor in cast():
        assert actor.is_honest
        (old,), (new,) = (
            [each for each in said_by(world, actor) if isinstance(each.body, Join)]
            for world in (first, second)
        )
        for chosen in ((old.data, new.data), (new.data, old.data)):
            stolen += 1
            body, state = Contradiction(*chosen), live().state
            head = law.head_of(state, body.round)
            data = sign_statement(thief.secret, make_statement(state.chain, state.run, head, body))
            with pytest.raises(Refused, match="belong to another chain or run"):
                live().ledger.submit(data)
    assert stolen == 10
    assert not live().seen(Slashed)


@functools.cache
def live() -> World:
    """Return the second run while it still goes on, with a thief among the members."""
    world = World(job(), [*cast(2), Worker("thief")], random.Random(2))
    world.run(until=lambda world: len(world.state.rounds) == 2)
    return world


@settings(max_examples=8, deadline=None)
@given(seeds=st.lists(SEEDS, min_size=2, max_size=2, unique=True))
def test_no_word_and_no_secret_of_an_honest_peer_stands_in_two_runs(seeds: list[int]) -> None:
    first, second = map(played, seeds)
    compared = 0
    for actor in cast():
        one, two = said_by(first, actor), said_by(second, actor)
        compared += len(one)
        assert one
        assert two
        assert not {(each.run, each.place) for each in one} & {(each.run, each.place) for each in two}
        assert not {each.run for each in one} & {each.run for each in two}
        shown = [secrets_in(said) for said in (one, two)]
        assert all(shown)
        assert not shown[0] & shown[1]
    assert compared > 40
