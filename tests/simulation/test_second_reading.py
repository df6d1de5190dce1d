"""Attacks that a second hostile reading of the rules found, played as they would have worked."""

import random

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import FalseAccuser, InventDuties, Mute, Since, WrongSeal
from verification.debts import OpeningDebt
from verification.effects import Slashed, StandingChanged
from verification.state import Stage, Standing
from verification.statements import ChallengeSeal
from verification.units import MILLION


@pytest.mark.parametrize("down", [100, 1_500, 9_000])
def test_who_is_asked_to_open_by_a_verdict_that_was_not_due_can_still_open_later(down: int) -> None:
    """The session ends and asks nothing more, but the debt to open stays: the round's inputs must stay with it."""
    rogue = Verifier("rogue", InventDuties())
    honest = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")]
    asked = honest[0].address
    rules = minimal(
        min_workers=3, min_verifiers=2, audit_rate=1, rounds=16, slots=6, silence=20_000, escrow_rounds=8
    )
    world = World(rules, [rogue, *honest], random.Random(4), check=Invariants(honest))

    def is_asked(world: World) -> bool:
        verdicts = (key for session in world.state.sessions.values() for key in session.verdicts)
        return any(work >= 2 and worker == asked for _, work, worker in verdicts)

    world.crash_when(honest[0], is_asked, down)
    world.run()
    assert world.state.stage is Stage.ENDED
    assert rogue.faults > 0
    changes = world.seen(StandingChanged)
    suspended = [change for change in changes if isinstance(change.reason.debt, OpeningDebt)]
    assert bool(suspended) == (down > 1_000)
    assert not world.seen(Slashed)


@pytest.mark.parametrize("bond", [1_000, 5_000])
def test_a_verifier_that_can_pay_no_bond_any_more_leaves_nothing_waiting(bond: int) -> None:
    """Its accusations waited for ever, and with them the rewards of those that it had accused."""
    rogue = Verifier("rogue", WrongSeal(1), Mute(ChallengeSeal), Since(4, FalseAccuser(1)))
    honest = [Worker("w0"), Worker("w1"), Worker("w2"), Verifier("v0")]
    rules = minimal(
        min_workers=3,
        min_verifiers=2,
        audit_rate=MILLION,
        rounds=8,
        slots=6,
        excluded_after=2,
        accuser_bond=bond,
    )
    world = World(rules, [rogue, *honest], random.Random(4), check=Invariants(honest))
    world.run()
    assert world.state.stage is Stage.ENDED
    assert not world.state.queued
    assert {slashed.address for slashed in world.seen(Slashed)} == {rogue.address}
    assert world.member(rogue).standing is Standing.EXCLUDED
