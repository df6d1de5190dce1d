"""Each cheat is convicted at the execution where it happened, pays exactly its escrow and 10%, and the run goes on."""

import random
from typing import Any

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import CHEATS, conduct_named
from verification.effects import DisputeEnded, DisputeMoved, DisputeOpened, Effect, Move, RoundSealed, Slashed
from verification.manifest import Place, reward_of
from verification.state import Ruling, Stage, Standing
from verification.units import MILLION

CASES = [
    ("skip-steps", Place.STEP, 7),
    ("noise", Place.EPILOGUE, None),
    ("stale", Place.PROLOGUE, None),
    ("wrong-data", Place.PROLOGUE, None),
    ("wrong-order", Place.PROLOGUE, None),
    ("half-batch", Place.PROLOGUE, None),
    ("flip-labels", Place.PROLOGUE, None),
    ("tail-step", Place.STEP, 12),
    ("zero-update", Place.STEP, 1),
    ("learning-rate", Place.STEP, 1),
    ("low-precision", Place.STEP, 1),
    ("one-bit", Place.STEP, 1),
    ("backdoor", Place.STEP, 6),
    ("other-end", Place.EPILOGUE, None),
]


FIRST = 3
"""By then every worker's share has grown to whole rounds."""


def played(name: str, seed: int, **changes: Any) -> tuple[World, Worker, list[Verifier]]:
    """Return a finished run in which one worker cheats from round 3 on and everyone audits everything."""
    cheat = Worker("cheat", conduct=conduct_named(name, FIRST))
    verifiers = [Verifier(f"v{i}") for i in range(2)]
    manifest = minimal(**{"audit_rate": MILLION, "rounds": 9, **changes})
    honest = [Worker("w0"), Worker("w1", speed=70), *verifiers]
    world = World(manifest, [cheat, *honest], random.Random(seed), check=Invariants(honest))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == world.state.manifest.work.rounds
    return world, cheat, verifiers


LISTS = (Move.LISTS_STATES, Move.LISTS_NODES)


def escrow_before(world: World, cheat: Worker, slashed: Slashed) -> int:
    """Return what the cheat had in escrow when it was slashed, from the record of the rounds alone."""
    effects: list[Effect] = world.ledger.effects
    sealed = [e.number for e in effects[: effects.index(slashed)] if isinstance(e, RoundSealed)]
    included = [number for number in sealed if cheat.address in world.state.rounds[number].included]
    steps = [world.state.rounds[number].assignments[cheat.address].steps for number in included]
    return sum(reward_of(world.state.manifest, count) for count in steps)


def test_every_cheat_has_its_case() -> None:
    assert {name for name, *_ in CASES} == CHEATS.keys() - {"none"}


SEEDS = (1, 2)
"""Under others, as 0, doubled steps of the toy end on a norm that no commitment can name."""


@pytest.mark.parametrize(("name", "place", "step"), CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_cheat_is_convicted_where_it_cheated(name: str, place: Place, step: int | None, seed: int) -> None:
    world, cheat, verifiers = played(name, seed)
    ended = [e for e in world.seen(DisputeEnded) if e.round == FIRST]
    assert {e.challenger for e in ended} == {v.address for v in verifiers}
    assert {(e.ruling, e.accused, e.place) for e in ended} == {(Ruling.GUILTY, cheat.address, place)}
    assert {e.step for e in ended} == {step}
    slashed = world.seen(Slashed)[0]
    taken = 1_000 + escrow_before(world, cheat, slashed)
    share = (taken - taken // 2) // 2
    assert (slashed.address, slashed.stake + slashed.escrow) == (cheat.address, taken)
    assert (slashed.rewarded, slashed.burned) == (2 * share, taken - 2 * share)
    assert world.member(cheat).standing is Standing.EXCLUDED
    assert cheat.address not in world.state.current.assignments


@pytest.mark.parametrize("seed", range(3))
def test_nobody_but_the_cheat_pays(seed: int) -> None:
    world, cheat, _ = played("skip-steps", seed)
    assert {slashed.address for slashed in world.seen(Slashed)} == {cheat.address}
    for actor in world.actors:
        if actor is not cheat:
            assert world.gain(actor) == world.member(actor).rewards


def test_two_challengers_share_and_one_list_serves_both() -> None:
    world, _, verifiers = played("skip-steps", 1)
    slashed = world.seen(Slashed)[0]
    first = [e for e in world.seen(DisputeOpened) if e.round == FIRST]
    assert [e.challenger for e in first] == sorted(v.address for v in verifiers)
    listed = [(e.move, e.first) for e in world.seen(DisputeMoved) if e.move in LISTS and e.number in (0, 1)]
    assert listed == [(Move.LISTS_STATES, 4), (Move.LISTS_NODES, 16)]
    rewards = [world.member(v).rewards for v in verifiers]
    assert min(rewards) >= slashed.rewarded // 2


def test_second_conviction_takes_half_of_the_stake_and_excludes() -> None:
    world, cheat, _ = played("noise", 2, excluded_after=2)
    first, second = world.seen(Slashed)[:2]
    assert (first.stake, second.stake) == (1_000, 4_500)
    assert world.member(cheat).standing is Standing.EXCLUDED


def test_a_worker_pays_once_for_a_round_and_earns_nothing_for_it() -> None:
    world, cheat, _ = played("wrong-data", 0, excluded_after=10, rounds=6)
    reasons = [slashed.reason for slashed in world.seen(Slashed)]
    assert len(reasons) == 3
    assert [reason.round for reason in reasons] == [3, 4, 5]
    assert not world.member(cheat).escrow


def test_a_long_interval_is_narrowed_list_by_list_to_the_first_wrong_step() -> None:
    world, cheat, _ = played("skip-steps", 3, max_steps=200, leaf_every=200, rounds=4)
    (ended, *_) = world.seen(DisputeEnded)
    assert (ended.accused, ended.step, ended.ruling) == (cheat.address, 101, Ruling.GUILTY)
    moves = [e.move for e in world.seen(DisputeMoved) if e.number == ended.number or e.actor == cheat.address]
    assert [move for move in moves if move in LISTS] == [
        Move.LISTS_STATES,
        Move.LISTS_STATES,
        Move.LISTS_NODES,
    ]
    assert world.state.disputes[ended.number].computed != world.state.disputes[ended.number].game.claimed
