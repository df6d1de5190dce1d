"""Several participants in one run, in any order, with reopenings: one log, one state, nothing acknowledged lost."""

import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.memory import Clock
from simulator.toy import START, minimal
from tests.contract.ledgers import KINDS, Run, log_of
from verification.digest import ZERO
from verification.errors import Violation
from verification.honest.actions import Say
from verification.honest.decide import decide
from verification.ledger.log import Genesis, verify_chain
from verification.manifest import cost_of_round
from verification.units import Address, Amount, Millis

HANDLES = 3


class LedgerMachine(RuleBasedStateMachine):
    """Three peers of one run, each with a handle of its own."""

    def __init__(self, kind: type[Run]) -> None:
        """Found the run and open it three times."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock(Millis(1_000))
        self.actors: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
        manifest = minimal(rounds=2, audit_rate=0)
        deposit = Amount(cost_of_round(manifest) * 2)
        balances = tuple((actor.address, Amount(20_000)) for actor in self.actors)
        genesis = Genesis(manifest, "toy", ZERO, Address(bytes(20)), balances, deposit)
        self.run = kind(Path(self.folder.name), genesis, self.clock)
        self.handles = [self.run.opened() for _ in range(HANDLES)]
        self.blobs = Blobs()
        self.blobs.put(START)
        self.acknowledged: list[bytes] = []
        self.seen = 0

    @rule(who=st.integers(0, HANDLES - 1), handle=st.integers(0, HANDLES - 1), times=st.integers(1, 6))
    def peer_acts(self, who: int, handle: int, times: int) -> None:
        """Do what `decide` says on one handle's view, which may be old."""
        actor, ledger = self.actors[who], self.handles[handle]
        for _ in range(times):
            for action in decide(ledger.state, actor.me, actor.results, ledger.now()):
                if not isinstance(action, Say):
                    result = actor.compute(action, ledger.state, self.blobs, ledger.now())
                    actor.results.done.update({action: result} if result is not None else {})
                    continue
                data = actor.sign(ledger.state, action.body)
                try:
                    ledger.submit(data)
                except Violation:
                    continue
                self.acknowledged.append(data)

    @rule(handle=st.integers(0, HANDLES - 1), elapsed=st.sampled_from([0, 10, 400, 3000, 21_000]))
    def time_passes(self, handle: int, elapsed: int) -> None:
        """Tick through one handle."""
        self.clock.now = Millis(self.clock.now + elapsed)
        self.handles[handle].tick()

    @rule(handle=st.integers(0, HANDLES - 1), place=st.integers(0, 1000))
    def statement_is_repeated(self, handle: int, place: int) -> None:
        """Whoever repeats itself, even on another handle, is acknowledged again and nothing is appended."""
        if self.acknowledged:
            before = log_of(self.handles[0])
            assert not self.handles[handle].submit(self.acknowledged[place % len(self.acknowledged)])
            assert log_of(self.handles[0]) == before

    @rule(handle=st.integers(0, HANDLES - 1))
    def handle_is_reopened(self, handle: int) -> None:
        """Fold the whole log again."""
        self.handles[handle].close()
        self.handles[handle] = self.run.opened()

    @invariant()
    def all_see_one_log(self) -> None:
        """The chain verifies; every acknowledged statement is in it; the states are equal."""
        first, *others = self.handles
        length = verify_chain(log_of(first))
        assert length >= self.seen
        self.seen = length
        first.catch_up()
        for other in others:
            other.catch_up()
            assert other.state == first.state

    def teardown(self) -> None:
        """A fresh handle folds the log to what the others hold."""
        fresh = self.run.opened()
        assert fresh.state == self.handles[0].state
        logged = [entry.data for entry in fresh.entries() if entry.kind == "statement"]
        assert len(logged) == len(set(logged))
        assert set(self.acknowledged) <= set(logged)
        for ledger in [fresh, *self.handles]:
            ledger.close()
        self.folder.cleanup()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=name, marks=[pytest.mark.slow] if name == "served" else [])
        for name, kind in KINDS.items()
    ],
)
def test_all_who_take_part_see_one_run(kind: type[Run]) -> None:
    machine = settings(max_examples=20, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(partial(LedgerMachine, kind), settings=machine)
