"""A deterministic world: one heap of (time, sequence, action), one ledger, actors that run `decide`."""

import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from simulator.cast import Actor, Blobs
from simulator.memory import MemoryLedger
from simulator.toy import START
from verification import law
from verification.actors import Computed, Results, Say, decide
from verification.effects import Effect
from verification.errors import Violation
from verification.ledger.local import Genesis
from verification.manifest import Manifest, cost_of_round
from verification.state import Member, Stage
from verification.statements import make_statement, round_of, sign_statement
from verification.units import Address, Amount, Millis

E = TypeVar("E", bound=Effect)
SUBMITTER = Address(b"submitter".ljust(20, b"\0"))
FUNDS = Amount(50_000)
POLL = 50
"""Milliseconds after which an actor looks at the ledger again even if nothing was admitted."""

COMPUTE, SEND = (5, 60), (1, 20)
"""Delays of a computation and of a statement, drawn from these ranges."""


class World:
    """Actors around one ledger. Every delay comes from `rng`, so a seed is a whole history."""

    def __init__(self, manifest: Manifest, actors: Sequence[Actor], rng: random.Random) -> None:
        """Found the run and wake everyone."""
        deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
        balances = tuple((actor.address, FUNDS) for actor in actors)
        self.deposit = deposit
        self.ledger = MemoryLedger(Genesis(manifest, "toy", SUBMITTER, balances, deposit), Millis(0))
        self.actors = list(actors)
        self.blobs = Blobs()
        self.blobs.put(START)
        self.now = 0
        self.refused: Counter[str] = Counter()
        self._rng = rng
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._busy: set[tuple[int, object]] = set()
        self._awake: set[int] = set()
        self._in_vain: dict[tuple[int, Say], int] = {}
        for actor in actors:
            self._wake(actor)

    @property
    def state(self) -> law.State:
        """Return the ledger's state."""
        return self.ledger.state

    def member(self, actor: Actor) -> Member:
        """Return an actor's membership."""
        return self.state.members[actor.address]

    def gain(self, actor: Actor) -> int:
        """Return what an actor has more than at the start, its stake included."""
        return self.state.balances[actor.address] + self.member(actor).stake - FUNDS

    def seen(self, kind: type[E]) -> list[E]:
        """Return the effects of one kind, oldest first."""
        return [effect for effect in self.ledger.effects if isinstance(effect, kind)]

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action))

    def run(self, until: Callable[["World"], bool] | None = None, limit: int = 200_000) -> None:
        """Go on until `until` holds (by default: the run has ended and every stake is withdrawn)."""
        done = until or (lambda world: world.is_settled())
        while not done(self):
            self.now, _, action = heapq.heappop(self._heap)
            assert self.now <= limit, f"the world does not come to an end: {self.state.stage} at {self.now}"
            action()
            self._tick_later()

    def is_settled(self) -> bool:
        """Return whether the run has ended and every living member has its stake back."""
        alive = {actor.address for actor in self.actors if actor.is_up}
        return self.state.stage is Stage.ENDED and not any(
            member.stake for address, member in self.state.members.items() if address in alive
        )

    def crash(self, actor: Actor, start: int, end: int | None) -> None:
        """Stop an actor at `start`; from `end` on it is back with its journal and nothing else."""

        def down() -> None:
            actor.is_up = False
            actor.faults += 1
            self._busy = {entry for entry in self._busy if entry[0] != id(actor)}

        def up() -> None:
            actor.is_up, actor.results = True, Results()
            actor.me = dataclasses.replace(actor.me, started=Millis(self.now))
            self._wake(actor)

        self.at(start, down)
        if end is not None:
            self.at(end, up)

    def crash_when(self, actor: Actor, condition: Callable[["World"], bool], end: int | None) -> None:
        """Stop an actor as soon as a condition holds, for `end` milliseconds or for good."""

        def look() -> None:
            if condition(self):
                self.crash(actor, self.now, None if end is None else self.now + end)
            else:
                self.at(self.now + 1, look)

        self.at(self.now, look)

    def _delay(self, bounds: tuple[int, int]) -> int:
        return self.now + self._rng.randint(*bounds)

    def _wake(self, actor: Actor) -> None:
        if id(actor) not in self._awake:
            self._awake.add(id(actor))
            self.at(self._delay((1, 5)), lambda: self._look(actor))

    def _look(self, actor: Actor) -> None:
        """Let an actor decide and start what it wants; look again later."""
        self._awake.discard(id(actor))
        if not actor.is_up:
            return
        for action in decide(self.state, actor.me, actor.results, Millis(self.now)):
            if isinstance(action, Say):
                is_vain = self._in_vain.get((id(actor), action)) == len(self.ledger.log)
                if not is_vain and actor.wants_to_say(action.body):
                    self._start(actor, action, SEND, lambda action=action: self._send(actor, action))
            else:
                self._start(actor, action, COMPUTE, lambda action=action: self._compute(actor, action))
        if self.state.stage is not Stage.ENDED or not self.is_settled():
            self.at(self.now + POLL, lambda: self._wake(actor))

    def _start(
        self, actor: Actor, action: object, delay: tuple[int, int], perform: Callable[[], None]
    ) -> None:
        entry = (id(actor), action)
        if entry in self._busy:
            return
        self._busy.add(entry)
        results = actor.results

        def land() -> None:
            if entry in self._busy and actor.results is results:
                self._busy.discard(entry)
                perform()

        self.at(self._delay(delay), land)

    def _compute(self, actor: Actor, action: Computed) -> None:
        result = actor.compute(action, self.state, self.blobs)
        if result is not None:
            actor.results.done[action] = result
            self._wake(actor)

    def _send(self, actor: Actor, action: Say) -> None:
        """Sign once per place, write down, then submit: what a restarted peer says is what it said before."""
        state, body = self.state, action.body
        head = law.head_of(state, round_of(body))
        statement = make_statement(state.chain, state.run, head, body)
        data = actor.journal.setdefault(
            (statement.round, statement.slot, head), sign_statement(actor.secret, statement)
        )
        try:
            self.ledger.submit(data, Millis(self.now))
        except Violation as violation:
            self.refused[f"{actor.name}: {violation}"] += 1
            self._in_vain[id(actor), action] = len(self.ledger.log)
            return
        for other in self.actors:
            self._wake(other)

    def _tick_later(self) -> None:
        """Let the deadlines that have come pass; the poll brings time forward."""
        if self.ledger.tick(Millis(self.now)):
            for actor in self.actors:
                self._wake(actor)
