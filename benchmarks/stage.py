"""Plays plans of faults on a real swarm, and notes when its rounds end."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.swarm import Swarm
from simulator.churn import are_back
from simulator.goodput import Ended
from simulator.plan import Fault
from trainer.commands.report import read_ledger
from trainer.folder import RunFolder
from verification.effects import RoundSealed, Slashed
from verification.errors import UserError
from verification.state import State
from verification.units import Address

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 180.0
"""Longest wait for the swarm to gather, for everyone to be back after faults, and for one state at the end."""


@dataclass(frozen=True)
class Sealed(Ended):
    """A round's end, with its number and who is in it, by account."""

    number: int
    included: tuple[Address, ...]


class Watch:
    """Folds the host's log as it grows, and notes when rounds end, in milliseconds since the watch began."""

    def __init__(self, run: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the log of a run from now on; raises UserError."""
        self._clock, self._began = clock, clock()
        self._ledger = read_ledger(run)
        self.ended: list[Sealed] = []
        self.slashed = 0

    @property
    def now(self) -> int:
        """Return the time."""
        return int(1000 * (self._clock() - self._began))

    @property
    def state(self) -> State:
        """Return the newest state that was seen."""
        return self._ledger.state

    @property
    def is_calm(self) -> bool:
        """Return whether everyone has joined, counts, and took part in the last round."""
        return bool(self.ended) and are_back(self.state)

    def look(self) -> None:
        """Fold what is new."""
        self._ledger.catch_up()
        for entry in self._ledger.entries():
            for effect in entry.effects:
                if isinstance(effect, RoundSealed):
                    included = self.state.rounds[effect.number].included
                    self.ended.append(Sealed(self.now, len(included), effect.number, included))
                self.slashed += isinstance(effect, Slashed)

    def close(self) -> None:
        """Let go of the log."""
        self._ledger.close()


class Stage:
    """Plays plans on a swarm. `tell` hears what goes on and how many seconds of the play are over."""

    def __init__(self, swarm: Swarm, watch: Watch, tell: Callable[[str, float], None]) -> None:
        self._swarm, self._watch, self._tell = swarm, watch, tell
        self._doing, self._seconds = "", 0.0
        self.quiet: list[tuple[int, int]] = []
        self.disturbed: list[tuple[int, int]] = []
        self.faults: list[Fault] = []
        self.were_all_back = True

    def wait(self, until: Callable[[], bool], patience: float = math.inf) -> bool:
        """Watch until something holds, at most `patience` seconds; return whether it does.

        Raises UserError when a program ends that nobody killed.
        """
        began = last = self._watch.now
        while True:
            self._watch.look()
            if until():
                return True
            self._swarm.check()
            if self._watch.now > began + 1000 * patience:
                return False
            self._seconds, last = self._seconds + (self._watch.now - last) / 1000, self._watch.now
            self._tell(self._doing, self._seconds)
            time.sleep(LOOK_SECONDS)

    def gather(self, rounds: int) -> None:
        """Watch until everyone is there and so many rounds have ended; raises UserError when that takes too long."""
        self._doing = "until everyone is there"
        if not self.wait(lambda: self._watch.is_calm and len(self._watch.ended) >= rounds, PATIENCE_SECONDS):
            raise UserError(
                f"the swarm did not run {rounds} rounds in {PATIENCE_SECONDS:g} s: is this machine busy otherwise?"
            )

    def _wait_to(self, moment: int) -> None:
        self.wait(lambda: self._watch.now >= moment)

    def rest(self, seconds: float) -> None:
        """Watch the swarm without faults."""
        self._doing = "no faults"
        begin = self._watch.now
        end = begin + int(1000 * seconds)
        self._wait_to(end)
        self.quiet.append((begin, end))

    def disturb(self, plan: Sequence[Fault], seconds: float) -> None:
        """Play a plan, and go on until everyone is back."""
        begin, started = self._watch.now, dict[Fault, int]()
        self._doing = "faults"
        for moment, fault in sorted((moment, each) for each in plan for moment in (each.start, each.end)):
            self._wait_to(begin + moment)
            if fault in started:
                self._swarm.relieve(fault)
                self.faults.append(replace(fault, start=started[fault], end=self._watch.now))
            else:
                started[fault] = self._watch.now
                self._swarm.strike(fault)
                self._doing = fault.told()
        self._doing = "until the plan is over"
        self._wait_to(begin + int(1000 * seconds))
        self._doing = "until everyone is back"
        self.were_all_back &= self.wait(lambda: self._watch.is_calm, PATIENCE_SECONDS)
        self.disturbed.append((begin, self._watch.now))
