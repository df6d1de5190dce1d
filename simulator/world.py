"""A deterministic world: one queue of events, one ledger, actors with disks and machines, and the network between.

Every delay, loss and repetition is drawn from one seeded generator, so a seed is a whole history.
"""

import copy
import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from simulator.cast import SPEED, Actor, Blobs, steps_of
from simulator.memory import Clock, MemoryLedger
from simulator.network import CALM, Network, Trouble
from simulator.toy import START
from simulator.toy_crew import START as TWO
from verification import law
from verification.adversaries import Act, Forge, Throw
from verification.effects import Effect
from verification.errors import Violation
from verification.honest.actions import (
    Computed,
    FetchContribution,
    FetchState,
    Results,
    RunOuter,
    Say,
)
from verification.ledger.log import Genesis
from verification.manifest import Manifest, cost_of_round
from verification.signed import open_statement
from verification.state import Member, Stage, State
from verification.units import MILLION, Address, Amount, Digest, Millis

E = TypeVar("E", bound=Effect)
SUBMITTER = Address(b"submitter".ljust(20, b"\0"))
FUNDS = Amount(50_000)


@dataclass
class Station:
    """How an actor stands in the world: what it has under way, and what reaches it and leaves it.

    `awake`: it will look soon. `busy`: what it is saying or computing. `in_vain`: how long the log was when it last
    refused what the actor says. `free_at`: when its machine is. `deaf`: all it sees of the ledger while it is cut off.
    `dumb`: nothing that it says arrives. `stopped`: until when its processes stand still.
    """

    awake: bool = False
    busy: set[object] = field(default_factory=set)
    in_vain: dict[Say, int] = field(default_factory=dict)
    free_at: int = 0
    deaf: State | None = None
    dumb: bool = False
    stopped: int = 0


class World:
    """Actors around one ledger. `check`, if given, looks at the world after every admitted entry."""

    def __init__(
        self,
        manifest: Manifest,
        actors: Sequence[Actor],
        rng: random.Random,
        network: Network = CALM,
        check: Callable[["World"], None] | None = None,
        funded: int | None = None,
    ) -> None:
        """Found the run with as much money for each actor as it stakes and 40,000 more, and wake everyone.

        The deposit is good for all rounds at their worst, or for `funded`.
        """
        rounds = manifest.work.rounds if funded is None else funded
        self.deposit = Amount(cost_of_round(manifest) * rounds)
        balances = tuple((actor.address, funds_of(actor)) for actor in actors)
        genesis = Genesis(manifest, "toy", Digest(rng.randbytes(32)), SUBMITTER, balances, self.deposit)
        self.clock = Clock(Millis(0))
        """The ledger's time, which stands still while nobody serves it."""
        self.ledger = MemoryLedger.found(genesis, self.clock, is_checked=check is not None)
        self.actors = list(actors)
        self.blobs = Blobs()
        self.blobs.put(START)
        self.blobs.put(TWO)
        self.blobs.actors |= {actor.address: actor for actor in actors}
        self.acknowledged: list[bytes] = []
        self.trouble = Trouble()
        self.events = self._time = self._unserved = 0
        self._is_served = True
        self.refused: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        self._rng, self._network, self._check = rng, network, check
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._stations: defaultdict[Actor, Station] = defaultdict(Station)
        self._alarm: int | None = None
        self._pulse: object = None
        self._opened = 0
        self._set_alarm()
        for actor in actors:
            self._wake(actor)

    @property
    def state(self) -> State:
        """Return the ledger's state."""
        return self.ledger.state

    @property
    def now(self) -> Millis:
        """Return the time that has passed."""
        return Millis(self._time)

    def member(self, actor: Actor) -> Member:
        """Return an actor's membership."""
        return self.state.members[actor.address]

    def gain(self, actor: Actor) -> int:
        """Return what an actor has more than at the start, its stake included."""
        return self.state.balances[actor.address] + self.member(actor).stake - funds_of(actor)

    def seen(self, kind: type[E]) -> list[E]:
        """Return the effects of one kind, oldest first."""
        return [effect for effect in self.ledger.effects if isinstance(effect, kind)]

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action))

    def run(self, until: Callable[["World"], bool] | None = None, limit: int = 200_000) -> None:
        """Go on until `until` holds (by default: the run has ended and every stake is withdrawn)."""
        done = until or World.is_settled
        while not done(self):
            when, _, action = heapq.heappop(self._heap)
            self._unserved += 0 if self._is_served else when - self._time
            self._time = when
            self.clock.now = Millis(when - self._unserved)
            assert self.now <= limit, f"the world does not come to an end: {self.state.stage} at {self.now}"
            self.events += 1
            action()

    def is_settled(self) -> bool:
        """Return whether the run has ended and every living member has its stake back."""
        if self.state.stage is not Stage.ENDED:
            return False
        members = self.state.members
        return not any(
            members[actor.address].stake
            for actor in self.actors
            if actor.is_up and not self._stations[actor].dumb and actor.address in members
        )

    def crash(self, actor: Actor, start: int, end: int | None) -> None:
        """Kill an actor at `start`; from `end` on it is back with its journal and nothing else."""

        def down() -> None:
            actor.is_up = False
            actor.crashes += 1
            self._stations[actor].busy.clear()

        def up() -> None:
            actor.is_up, actor.results = True, Results()
            self._stations[actor].free_at = self.now
            self._wake(actor)

        self.at(start, down)
        if end is not None:
            self.at(end, up)

    def stop(self, actor: Actor, start: int, end: int) -> None:
        """Let an actor's processes stand still from `start` to `end`: they lose nothing, and go on."""

        def down() -> None:
            actor.is_up, self._stations[actor].stopped = False, end

        def up() -> None:
            actor.is_up = True
            self._wake(actor)

        self.at(start, down)
        self.at(end, up)

    def kill_host(self, start: int, end: int) -> None:
        """Let nobody serve the ledger from `start` to `end`: nothing is admitted, and its time stands still."""

        def down() -> None:
            self._is_served = False

        def up() -> None:
            self._is_served = True
            self._ring()

        self.at(start, down)
        self.at(end, up)

    def crash_when(self, actor: Actor, condition: Callable[["World"], bool], duration: int | None) -> None:
        """Kill an actor as soon as a condition holds, for `duration` milliseconds or for good."""

        def look() -> None:
            if condition(self):
                self.crash(actor, self.now, None if duration is None else self.now + duration)
            else:
                self.at(self.now + 1, look)

        self.at(self.now, look)

    def cut_off(self, actor: Actor, start: int, end: int, speaks: bool = False) -> None:
        """Let an actor see nothing new of the ledger from `start` to `end`; what it says arrives only if `speaks`."""
        station = self._stations[actor]

        def down() -> None:
            station.deaf = copy.deepcopy(self.state)
            station.dumb = station.dumb or not speaks

        def up() -> None:
            station.deaf, station.dumb = None, False
            self._wake(actor)

        self.at(start, down)
        self.at(end, up)

    def partition(self, side: Sequence[Actor], start: int, end: int) -> None:
        """Cut everyone on `side` off from the ledger for a while."""
        for actor in side:
            self.cut_off(actor, start, end)

    def _after(self, bounds: tuple[int, int]) -> int:
        return self.now + self._rng.randint(*bounds)

    def _happens(self, share: int) -> bool:
        return share > 0 and self._rng.randrange(MILLION) < share

    def _wake(self, actor: Actor) -> None:
        station = self._stations[actor]
        if not station.awake:
            station.awake = True
            self.at(self._after(self._network.notice), partial(self._look, actor))

    def _look(self, actor: Actor) -> None:
        """Let an actor decide and start what it wants; look again later."""
        station = self._stations[actor]
        station.awake = False
        if not actor.is_up:
            return
        view, twice = station.deaf or self.state, [] if station.deaf else self.ledger.contradictions()
        for act in actor.decide(view, Millis(max(0, self.clock.now + actor.skew)), twice):
            self._perform(actor, act, view)
        if self.state.stage is not Stage.ENDED or not self.is_settled():
            self.at(self.now + self._network.poll, partial(self._wake, actor))

    def _perform(self, actor: Actor, act: Act, view: State) -> None:
        match act:
            case Say(body):
                if self._stations[actor].in_vain.get(act) != len(self.ledger.log):
                    self._start_saying(actor, act, actor.sign(view, body))
            case Forge(body):
                self._transmit(actor, actor.forge(view, body), None)
            case Throw(data):
                self._transmit(actor, data, None)
            case _:
                self._start_computing(actor, act, view)

    def _start_saying(self, actor: Actor, act: Say, data: bytes) -> None:
        busy = self._stations[actor].busy
        if act not in busy:
            busy.add(act)
            self._transmit(actor, data, act)

    def _transmit(self, actor: Actor, data: bytes, act: Say | None) -> None:
        """Put bytes on their way: they may get lost, arrive twice, and overtake each other."""
        self.traffic["sent"] += 1
        lost = max(self._network.lost, self.trouble.lossy.get(actor.address, 0))
        if self._stations[actor].dumb or self._happens(lost):
            self.traffic["lost"] += 1
            self.at(self.now + self._network.resend, partial(self._acknowledge, actor, act))
            return
        if self._happens(self._network.doubled):
            self.traffic["doubled"] += 1
            self.at(self._after(self._network.latency), partial(self._arrive, actor, data, None))
        self.at(self._after(self._network.latency), partial(self._arrive, actor, data, act))

    def _acknowledge(self, actor: Actor, act: Say | None) -> None:
        """End the wait for an answer: the actor may go on, or say the same again."""
        if act is not None:
            self._stations[actor].busy.discard(act)
            self._wake(actor)

    def _arrive(self, actor: Actor, data: bytes, act: Say | None) -> None:
        """Let the ledger admit or refuse what arrives, at its own time; one that nobody serves answers nothing."""
        if not self._is_served:
            self.at(self.now + self._network.resend, partial(self._acknowledge, actor, act))
            return
        try:
            is_new = self.ledger.submit(data)
        except Violation as violation:
            self.refused[f"{actor.name}: {violation}"] += 1
            if act is not None:
                self._stations[actor].in_vain[act] = len(self.ledger.log)
        else:
            self.acknowledged.append(data)
            self.traffic["repeated"] += not is_new
            if is_new:
                said = open_statement(data)
                self.blobs.log[said.sender, said.body.round, said.body.slot] = data
                self._moved()
        self._acknowledge(actor, act)

    def _moved(self) -> None:
        """After an entry: check, set the alarm, and wake everyone if there may be something to do."""
        if self._check is not None:
            self._check(self)
        self._set_alarm()
        pulse = pulse_of(self.state)
        if pulse != self._pulse:
            self._pulse = pulse
            if len(self.state.rounds) != self._opened:
                self._opened = len(self.state.rounds)
                self.blobs.forget(self.state)
            for actor in self.actors:
                if self._stations[actor].deaf is None:
                    self._wake(actor)

    def _set_alarm(self) -> None:
        deadline = law.next_deadline(self.state)
        if deadline is not None and deadline != self._alarm:
            self._alarm = deadline
            self.at(max(self.now, deadline + self._unserved), self._ring)

    def _ring(self) -> None:
        """Let the deadlines that have come pass."""
        self._alarm = None
        if not self._is_served:
            return
        if self.ledger.tick():
            self._moved()
        else:
            self._set_alarm()

    def _start_computing(self, actor: Actor, action: Computed, view: State) -> None:
        """One machine computes one thing after another, as fast as it is; fetches take no machine."""
        station = self._stations[actor]
        if action in station.busy:
            return
        station.busy.add(action)
        if isinstance(action, FetchState | FetchContribution | RunOuter):
            author = action.worker if isinstance(action, FetchContribution) else None
            ready = self._after(self._network.fetch) + self.trouble.delay(actor.address, author)
        else:
            begins = max(self.now, station.free_at)
            ready = begins + 1 + steps_of(view, action) * self._network.step * 100 * SPEED // actor.me.speed
            station.free_at = ready
        self.at(ready, partial(self._finish, actor, action, actor.results))

    def _finish(self, actor: Actor, action: Computed, results: Results) -> None:
        station = self._stations[actor]
        if actor.results is results and station.stopped > self.now:
            self.at(station.stopped, partial(self._finish, actor, action, results))
            return
        if actor.results is not results or not actor.is_up:
            return
        station.busy.discard(action)
        if isinstance(action, FetchState | FetchContribution) and actor.address in self.trouble.alone:
            return
        view = station.deaf or self.state
        result = actor.compute(action, view, self.blobs, Millis(max(0, self.clock.now + actor.skew)))
        if result is not None:
            actor.results.done[action] = result
            self._wake(actor)


def funds_of(actor: Actor) -> Amount:
    """Return an actor's first balance: 50,000, or what it stakes and 40,000."""
    return Amount(max(FUNDS, actor.me.stake + 40_000))


def pulse_of(state: State) -> object:
    """Return what, when it changes, gives honest peers something to do; what it misses, their polls find."""
    current = state.rounds[-1] if state.rounds else None
    sessions = tuple((number, session.watch) for number, session in sorted(state.sessions.items())[-4:])
    disputes = tuple((dispute.number, dispute.level, dispute.turn) for dispute in state.open_disputes())
    return state.stage, len(state.rounds), current and current.phase, sessions, disputes
