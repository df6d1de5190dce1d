"""Honest peers at one table with a worker and a verifier that may say anything; nothing waits, nothing is delayed."""

import copy
from collections import Counter
from collections.abc import Mapping

from simulator.cast import Actor, Blobs, Verifier, Worker
from simulator.invariants import Invariants
from simulator.memory import Clock, MemoryLedger
from simulator.toy import START, minimal
from simulator.toy_crew import START as TWO
from simulator.toy_crew import with_crews
from trainer.rounds.cheats import conduct_named
from verification import bounds, law
from verification.adversaries import Forge, Throw
from verification.digest import ZERO
from verification.errors import Violation
from verification.honest.actions import (
    Results,
    Say,
)
from verification.honest.decide import needed_rounds
from verification.ledger.log import Genesis
from verification.manifest import Post, cost_of_round
from verification.signed import Said, open_statement
from verification.state import Member, Phase, Stage, Standing, State, open_questions, total_money
from verification.statements import Body
from verification.units import Address, Amount, Count, Millis, Round

STEP = 40
"""Milliseconds after which honest peers act again: less than a quarter of the shortest window."""


class Arena:
    """A run of three rounds; `submit` checks that a refused statement changes nothing."""

    def __init__(
        self, cheat: str, accuser: Actor, funded: int = 3, in_crews: bool = False, **rules: int
    ) -> None:
        """Found the run with two honest workers, two honest verifiers and two others that hold less than half.

        The deposit is good for `funded` rounds at their worst; `rules` are of work. A small committee may fall to the
        others. `in_crews` one of the honest workers has one shard, the other and the cheat have the second.
        """
        first, second = (Post(Count(0), Count(shard)) if in_crews else None for shard in range(2))
        workers = [Worker("w0", post=first), Worker("w1", speed=70, post=second)]
        self.honest: list[Actor] = [*workers, Verifier("v0"), Verifier("v1")]
        self.others: list[Actor] = [Worker("bad-w", conduct=conduct_named(cheat, 0), post=second), accuser]
        self.awake: list[Actor] = []
        self.stranger = Worker("stranger")
        rules = {"rounds": 3, "audit_rate": 700_000, **rules}
        manifest = with_crews(min_workers=1, **rules) if in_crews else minimal(**rules)
        deposit = Amount(cost_of_round(manifest) * funded)
        balances = tuple((a.address, Amount(50_000)) for a in [*self.honest, *self.others])
        genesis = Genesis(manifest, "toy", ZERO, Address(b"submitter".ljust(20, b"\0")), balances, deposit)
        self.ledger = MemoryLedger.found(genesis, Clock(Millis(0)))
        self.blobs = Blobs()
        self.blobs.put(START)
        self.blobs.put(TWO)
        self.blobs.actors |= {actor.address: actor for actor in [*self.honest, *self.others]}
        self.refused = 0
        self.said: list[bytes] = []
        self.accounts = len(balances) + 1
        self.spoken: Counter[tuple[Address, type[Body], Round | None]] = Counter()
        self.asleep: set[Address] = set()
        self.invariants = Invariants(self.honest)

    @property
    def state(self) -> State:
        """Return the law's state."""
        return self.ledger.state

    @property
    def now(self) -> Millis:
        """Return the time."""
        return self.ledger.now()

    def submit(self, data: bytes) -> bool:
        """Submit; returns whether it was admitted. A refusal leaves the state as it was, but for what was due."""
        self.ledger.tick()
        before, length = copy.deepcopy(self.state), len(self.ledger.log)
        try:
            self.ledger.submit(data)
        except Violation:
            self.refused += 1
            assert self.state == before
            return False
        self.said.append(data)
        if len(self.ledger.log) == length:
            return False
        said = open_statement(data)
        self.blobs.log[said.sender, said.body.round, said.body.slot] = data
        self.count(before.members, said)
        return True

    def count(self, before: Mapping[Address, Member], said: Said[Body]) -> None:
        """Check that what was admitted is within its bound, and that no excluded member begins anything."""
        kind, about = type(said.body), bounds.subject(self.state, said.body)
        self.spoken[said.sender, kind, about] += 1
        assert about is None or about <= self.state.newest
        most = bounds.most(kind, self.state.manifest, self.accounts)
        assert self.spoken[said.sender, kind, about] <= most, f"{kind.__name__} without bound"
        member = before.get(said.sender)
        assert not (kind.begins and member is not None and member.standing is Standing.EXCLUDED)

    def act(self, actor: Actor) -> bool:
        """Let an actor do once what it wants; returns whether anything came of it."""
        for action in actor.decide(self.state, self.now):
            if isinstance(action, Say):
                if self.submit(actor.sign(self.state, action.body)):
                    return True
            elif not isinstance(action, Forge | Throw):
                result = actor.compute(action, self.state, self.blobs, self.now)
                if result is not None:
                    actor.results.done[action] = result
                    return True
        return False

    def settle(self) -> None:
        """Let the honest, and those of the others that are awake, act until none has anything left to do."""
        there = [actor for actor in [*self.honest, *self.awake] if actor.address not in self.asleep]
        while any(self.act(actor) for actor in there):
            pass

    def kill(self, actor: Actor) -> None:
        """Let an actor start again with its key and its journal, and nothing else."""
        actor.results = Results()
        actor.crashes += 1

    def pass_time(self, duration: int) -> None:
        """Let time pass so that every honest peer acts before each deadline."""
        end = self.now + duration
        while self.now < end:
            self.settle()
            deadline = law.next_deadline(self.state)
            is_waiting = self.state.stage is Stage.RUNNING and self.state.deciding.phase is Phase.ATTEST
            step = STEP if is_waiting or deadline is None else max(1, min(deadline - self.now, 300))
            self.ledger.clock.now = Millis(min(end, self.now + step))
            self.ledger.tick()
        self.settle()

    def check(self) -> None:
        """Check what holds at any moment: money, that no honest peer has paid, that nothing disputed is final."""
        assert total_money(self.state) == self.ledger.money
        self.invariants(self)
        stakes = [member.stake for member in self.state.members.values()]
        reserves = [worked.reserve for worked in self.state.rounds]
        assert min(self.state.deposit, *self.state.balances.values(), *stakes, *reserves) >= 0
        # Whatever an honest peer may still be asked about, it keeps.
        assert {number for number, _ in open_questions(self.state)} <= needed_rounds(self.state)

    def check_end(self) -> None:
        """Check that the run is over and holds nothing back."""
        state = self.state
        assert state.stage is Stage.ENDED
        assert state.deposit == 0
        assert not any(worked.reserve for worked in state.rounds)
        assert not any(demand.price for demand in state.demands)
        assert not any(member.escrow or member.owes for member in state.members.values())
