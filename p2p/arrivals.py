"""Who may begin a handshake, judged before any cryptography by where it comes from: nothing else is known then."""

from collections import Counter, OrderedDict

from p2p.bounds import Bounds
from p2p.errors import Overloaded
from p2p.rates import MAX_NAMES, Asides, Rates
from verification.units import Address

AT_ONE_PER_SECOND, IN_ALL_PER_SECOND = 1.0, 8.0
MAX_MEMBERS = 64
"""Members that are remembered of one place."""


class Arrivals:
    """Counts handshakes by place, which is a network address. Those of members count only while they are made.

    Places whence members came are known, and held to nothing but their own pace: who shares an address with somebody
    hostile is let in all the same.
    """

    def __init__(self, bounds: Bounds, asides: Asides) -> None:
        self._bounds, self._asides = bounds, asides
        self._under_way: Counter[str] = Counter()
        self._at_one = Rates(bounds.greetings, AT_ONE_PER_SECOND)
        self._in_all = Rates(bounds.arrivals, IN_ALL_PER_SECOND)
        self._known: OrderedDict[str, set[Address]] = OrderedDict()

    def begin(self, place: str, now: float) -> None:
        """Count a handshake; raises Overloaded for one too many."""
        if self._under_way[place] >= self._bounds.greetings:
            raise Overloaded(f"more than {self._bounds.greetings} handshakes at a time from one address")
        if place not in self._known and self._asides.is_aside(place, now):
            raise Overloaded("an address from which too much was wrong")
        if not self._at_one.take(place, now):
            raise Overloaded("too many handshakes from one address")
        if place not in self._known and not self._in_all.take("", now):
            raise Overloaded("too many handshakes of strangers")
        self._under_way[place] += 1

    def end(self, place: str) -> None:
        """Count a handshake no more as being made."""
        self._under_way[place] -= 1
        if not self._under_way[place]:
            del self._under_way[place]

    def welcome(self, place: str, member: Address, now: float) -> None:
        """Note that a handshake was a member's."""
        self._at_one.add(place, now, -1)
        if place not in self._known:
            self._in_all.add("", now, -1)
        members = self._known.pop(place, set())
        self._known[place] = members if len(members) >= MAX_MEMBERS else members | {member}
        if len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)

    def forget(self, account: Address) -> None:
        """Know a place no more for one who came from there."""
        for place, members in list(self._known.items()):
            members.discard(account)
            if not members:
                del self._known[place]
