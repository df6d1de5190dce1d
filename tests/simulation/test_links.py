"""A verifier's links last as long as the run, whoever else comes and goes."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import pytest

from simulator.cast import Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import minimal
from simulator.world import World
from verification.adversaries import Act, Behaviour, View
from verification.honest.actions import Say
from verification.state import Stage, State, Watch
from verification.statements import Announce, Finished, Reveal, Verdict
from verification.units import MILLION, Address

ROUNDS = 6
SPARE = 6
"""Links that chains once had beyond the run's rounds: one for each verifier, and one."""


def schedule(state: State, ring: Collection[Address]) -> list[set[Address]]:
    """Return which of the ring may be drawn in each draining session, so that audits last long in their hands.

    Everyone, all but the first, two, and then one after the other; the first and the second are those by whom most
    audits went that the two have not had yet.
    """
    drawn = [{(duty.work, duty.worker): duty.verifier for duty in s.public} for s in state.sessions.values()]
    one, two = [*drawn[ROUNDS : ROUNDS + 2], {}, {}][:2]
    first = _most(one.values(), ring)
    second = _most([two[key] for key in two if one.get(key) == first], {*ring} - {first})
    last, *_ = others = sorted({*ring} - {first, second})
    return [{*ring}, {*ring} - {first}, {*others}, {last}, {*others} - {last}, {second}, {first}, set()]


def _most(found: Iterable[Address], among: Collection[Address]) -> Address:
    count = Counter(found)
    return max(sorted(among), key=lambda address: count[address])


class Roving(Behaviour):
    """Audits nothing, and is there in the sessions of the schedule only.

    Who leaves a duty undone is away at the session's end, until it announces itself. Who gives a verdict and reveals it
    late is suspended, holds up the run's end meanwhile, and is active again for nothing.
    """

    def __init__(self, ring: Sequence[Address]) -> None:
        """`ring` are all who do so."""
        super().__init__()
        self._ring = ring

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Leave out what it does not say now."""
        kept = [act for act in wanted if not (isinstance(act, Say) and self._keeps_back(view, act.body))]
        self.faults += len(wanted) - len(kept)
        return kept

    def _keeps_back(self, view: View, body: object) -> bool:
        last = max(view.state.sessions, default=-1)
        following = schedule(view.state, self._ring)[max(0, last - ROUNDS + 1)]
        match body:
            case Finished():
                return True
            case Announce():
                return last < ROUNDS - 2 or view.me.address not in following
            case Verdict(round=number):
                return number < ROUNDS or view.me.address not in following
            case Reveal(round=number):
                return view.state.sessions[number].watch is not Watch.DONE
        return False


@pytest.mark.parametrize("seed", range(2))
def test_a_ring_that_chooses_who_may_be_drawn_uses_up_no_links(seed: int) -> None:
    honest = [*(Worker(f"w{i}") for i in range(12)), Verifier("v0")]
    names = [f"h{i}" for i in range(4)]
    addresses = [Verifier(name).address for name in names]
    ring = [Verifier(name, Roving(addresses)) for name in names]
    manifest = minimal(
        rounds=ROUNDS, slots=12, min_workers=12, min_verifiers=5, max_verifiers=5, miss_limit=1, audit_rate=MILLION,
        max_steps=4, verdict=200, opening=50, reveal=50,
    )  # fmt: skip
    world = World(manifest, [*honest, *ring], random.Random(seed), check=Invariants(honest))
    world.run()
    draining = [number for number in world.state.sessions if number >= ROUNDS]
    assert len(draining) == SPARE + 1
    assert world.state.stage is Stage.ENDED
    assert all(actor.faults for actor in ring)
    assert not any(world.state.sessions[number].links for number in draining)
