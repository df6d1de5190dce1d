"""Honest peers at one table with a worker and a verifier that may say anything; nothing waits, nothing is delayed."""

import copy

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.memory import MemoryLedger
from simulator.toy import START, minimal
from trainer.cheats import conduct_named
from verification import law
from verification.actors import Say
from verification.adversaries import Forge, Throw
from verification.effects import Slashed
from verification.errors import Violation
from verification.ledger.local import Genesis
from verification.manifest import cost_of_round
from verification.state import Phase, Stage, State, total_money
from verification.units import Address, Amount, Millis

STEP = 40
"""Milliseconds after which honest peers act again: less than a quarter of the shortest window."""


class Arena:
    """A run of three rounds; `submit` checks that a refused statement changes nothing."""

    def __init__(self, cheat: str, accuser: Actor, funded: int = 3, committee: int = 0) -> None:
        """Found the run with two honest workers, two honest verifiers and two others that hold less than half.

        The deposit is good for `funded` rounds at their worst. A small committee may fall to the others.
        """
        self.honest: list[Actor] = [Worker("w0"), Worker("w1", speed=70), Verifier("v0"), Verifier("v1")]
        self.others: list[Actor] = [Worker("bad-w", conduct=conduct_named(cheat, 0)), accuser]
        self.awake: list[Actor] = []
        self.stranger = Worker("stranger")
        manifest = minimal(rounds=3, audit_rate=700_000, committee=committee)
        deposit = Amount(cost_of_round(manifest) * funded)
        balances = tuple((a.address, Amount(50_000)) for a in [*self.honest, *self.others])
        genesis = Genesis(manifest, "toy", Address(b"submitter".ljust(20, b"\0")), balances, deposit)
        self.ledger = MemoryLedger(genesis, Millis(0))
        self.blobs = Blobs()
        self.blobs.put(START)
        self.now = 0
        self.refused = 0
        self.said: list[bytes] = []

    @property
    def state(self) -> State:
        """Return the law's state."""
        return self.ledger.state

    def submit(self, data: bytes) -> bool:
        """Submit; returns whether it was admitted. A refusal leaves the state as it was, but for what was due."""
        self.ledger.tick(Millis(self.now))
        before, length = copy.deepcopy(self.state), len(self.ledger.log)
        try:
            self.ledger.submit(data, Millis(self.now))
        except Violation:
            self.refused += 1
            assert self.state == before
            return False
        self.said.append(data)
        return len(self.ledger.log) > length

    def act(self, actor: Actor) -> bool:
        """Let an actor do once what it wants; returns whether anything came of it."""
        for action in actor.decide(self.state, Millis(self.now)):
            if isinstance(action, Say):
                if self.submit(actor.sign(self.state, action.body)):
                    return True
            elif not isinstance(action, Forge | Throw):
                result = actor.compute(action, self.state, self.blobs, Millis(self.now))
                if result is not None:
                    actor.results.done[action] = result
                    return True
        return False

    def settle(self) -> None:
        """Let the honest, and those of the others that are awake, act until none has anything left to do."""
        while any(self.act(actor) for actor in [*self.honest, *self.awake]):
            pass

    def pass_time(self, duration: int) -> None:
        """Let time pass so that every honest peer acts before each deadline."""
        end = self.now + duration
        while self.now < end:
            self.settle()
            deadline = law.next_deadline(self.state)
            is_waiting = self.state.stage is Stage.RUNNING and self.state.current.phase is Phase.ATTEST
            step = STEP if is_waiting or deadline is None else max(1, min(deadline - self.now, 300))
            self.now = min(end, self.now + step)
            self.ledger.tick(Millis(self.now))
        self.settle()

    def check(self) -> None:
        """Check what holds at any moment: money, and that no honest peer has paid."""
        assert total_money(self.state) == self.ledger.money
        honest = {actor.address for actor in self.honest}
        assert not [e for e in self.ledger.effects if isinstance(e, Slashed) and e.address in honest]
        stakes = [member.stake for member in self.state.members.values()]
        reserves = [worked.reserve for worked in self.state.rounds]
        assert min(self.state.deposit, *self.state.balances.values(), *stakes, *reserves) >= 0
        deadline = law.next_deadline(self.state)
        assert deadline is None or deadline > self.state.now
