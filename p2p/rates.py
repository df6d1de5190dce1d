"""How often others may do something, and for how long who does wrong is left alone. Pure: time is in any unit."""

from collections import OrderedDict
from collections.abc import Hashable

MAX_NAMES = 4096


class Rates:
    """What each has taken lately of `burst` at once and `pace` a unit of time; the longest unused are forgotten."""

    def __init__(self, burst: float, pace: float) -> None:
        self._burst, self._pace = burst, pace
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def level(self, who: Hashable, now: float) -> float:
        """Return how much of `burst` is taken."""
        level, then = self._levels.get(who, (0.0, now))
        return max(0.0, level - (now - then) * self._pace)

    def fits(self, who: Hashable, now: float, amount: float = 1.0) -> bool:
        """Return whether so much more may be taken."""
        return self.level(who, now) + amount <= self._burst

    def add(self, who: Hashable, now: float, amount: float = 1.0) -> None:
        """Take some, or give it back where it is negative."""
        level = self.level(who, now) + amount
        self._levels.pop(who, None)
        self._levels[who] = level, now
        if len(self._levels) > MAX_NAMES:
            self._levels.popitem(last=False)

    def take(self, who: Hashable, now: float) -> bool:
        """Take one where it fits; return whether it did."""
        if not self.fits(who, now):
            return False
        self.add(who, now)
        return True


class Asides:
    """Who did wrong so often that it is left alone: each time twice as long, from `shortest` to `longest`.

    What was wrong is forgiven with time, as `Rates` forget it, so little of it within the next pause prolongs that.
    """

    def __init__(self, wrongs: Rates, shortest: float, longest: float) -> None:
        self._wrongs, self._shortest, self._longest = wrongs, shortest, longest
        self._until: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def note(self, who: Hashable, now: float, weight: float = 1.0) -> bool:
        """Note something wrong; return whether its author is left alone from now on."""
        if self.is_aside(who, now):
            return True
        if self._wrongs.fits(who, now, weight):
            self._wrongs.add(who, now, weight)
            return False
        until, pause = self._until.pop(who, (now, 0.0))
        is_soon = now < until + self._longest
        pause = min(self._longest, 2 * pause) if pause and is_soon else self._shortest
        self._until[who] = now + pause, pause
        if len(self._until) > MAX_NAMES:
            self._until.popitem(last=False)
        return True

    def is_aside(self, who: Hashable, now: float) -> bool:
        """Return whether somebody is left alone now."""
        return now < self._until.get(who, (now, 0.0))[0]
