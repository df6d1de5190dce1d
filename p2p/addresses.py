"""Which addresses that others write down are dialled, and how often."""

from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network, ip_address

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from verification.errors import Unavailable

SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 16.0
"""Between two tries of an address that was not reached twice in a row, and at most."""
MAX_PLACES = 4096
CIRCUIT = "/p2p-circuit"
Place = tuple[str, int]
"""A network address and a TCP port; of circuits their whole address and 0."""


class Scope(IntEnum):
    """From where a network address can be reached."""

    MACHINE = 1
    SITE = 2
    WORLD = 3


def place_of(multiaddr: str) -> Place | None:
    """Return host and port of /ip4 or /ip6, /tcp and perhaps a peer's key after them; None for all else.

    Names are left out: whoever wrote them down would choose whom others ask, and when.
    """
    try:
        address = Multiaddr(multiaddr)
        names = [protocol.name for protocol in address.protocols()]
        if names[:1] not in (["ip4"], ["ip6"]) or names[1:] not in (["tcp"], ["tcp", "p2p"]):
            return None
        return address.value_for_protocol(names[0]), int(address.value_for_protocol("tcp"))
    except (MultiaddrError, ValueError, TypeError):
        return None


def relay_of(multiaddr: str) -> str | None:
    """Return the address and key of the relay by way of which a circuit goes; None for what is no circuit.

    A peer's key may follow. A relay has a place: nobody goes by way of two, or of a name.
    """
    relay, circuit, rest = multiaddr.partition(CIRCUIT)
    is_plain = rest == "" or (rest.startswith("/p2p/") and rest.count("/") == 2)
    return relay if circuit and is_plain and "/p2p/" in relay and place_of(relay) else None


def is_number(host: str) -> bool:
    """Return whether text is a host's number."""
    try:
        return scope_of(host) is not None
    except ValueError:
        return False


def scope_of(host: str) -> Scope | None:
    """Return from where a host's number can be reached; None for numbers that are no host's, or of a single link."""
    number = ip_address(host)
    if isinstance(number, IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    if number.is_loopback:
        return Scope.MACHINE
    if number.is_unspecified or number.is_link_local or number.is_multicast or number.is_reserved:
        return None
    return Scope.WORLD if number.is_global else Scope.SITE


def plain(host: str) -> str:
    """Return a host's number as it is written elsewhere: what listens on :: sees IPv4 inside of IPv6."""
    number = ip_address(host)
    return str(getattr(number, "ipv4_mapped", None) or number)


def site_of(host: str) -> str:
    """Return what counts as one network address: of IPv6 the first 64 bits, since the rest is its user's choice."""
    number = ip_address(plain(host))
    return str(number) if number.version == 4 else str(IPv6Network((number, 64), strict=False))


def is_dialled(multiaddr: str, reach: Scope) -> bool:
    """Return whether who is itself reached from `reach` dials an address that another member wrote down.

    Nobody makes a peer on the internet dial its own machine or site.
    """
    scope = _scope(multiaddr)
    return scope is not None and scope >= reach


def reach_of(addresses: Sequence[str]) -> Scope:
    """Return from where a peer at these addresses is reached: the world, where one does not say."""
    return max((_scope(each) or Scope.WORLD for each in addresses), default=Scope.WORLD)


def nearness(multiaddr: str) -> int:
    """Return where an address stands among those of one peer that are tried: the nearest first, circuits last."""
    return len(Scope) + 1 if relay_of(multiaddr) else _scope(multiaddr) or len(Scope)


def _scope(multiaddr: str) -> Scope | None:
    place = place_of(relay_of(multiaddr) or multiaddr)
    return scope_of(place[0]) if place else None


class Backoff:
    """How long places that cannot be reached are left alone: twice as long after each try. `now` is in seconds.

    The second try is free: a peer that was started again is there at once.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[Place, tuple[float, int]] = OrderedDict()

    def check(self, place: Place, now: float) -> None:
        """Raise Unavailable for a place whose time has not come."""
        until, _ = self._until.get(place, (now, 0))
        if not self.is_due(place, now):
            where = f"{place[0]} port {place[1]}" if place[1] else place[0]
            raise Unavailable(f"{where} could not be reached, and is tried again in {until - now:.1f} s")

    def is_due(self, place: Place, now: float) -> bool:
        """Return whether a place's time has come."""
        return now >= self._until.get(place, (now, 0))[0]

    def is_failing(self, place: Place) -> bool:
        """Return whether a place was not reached when it was tried last."""
        return place in self._until

    def note(self, place: Place, is_reached: bool, now: float) -> None:
        """Note how a try ended."""
        _, failures = self._until.pop(place, (now, 0))
        if is_reached:
            return
        pause = min(LONGEST_SECONDS, SHORTEST_SECONDS * 2.0 ** min(failures - 1, 32)) if failures else 0.0
        self._until[place] = now + pause, failures + 1
        if len(self._until) > MAX_PLACES:
            self._until.popitem(last=False)
