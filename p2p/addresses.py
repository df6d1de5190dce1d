"""Which addresses that others write down are dialled, and how often."""

from collections import OrderedDict
from enum import IntEnum
from ipaddress import IPv6Address, ip_address

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from verification.errors import Unavailable

SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 16.0
"""Between two tries of an address that was not reached twice in a row, and at most."""
MAX_PLACES = 4096
Place = tuple[str, int]
"""A network address and a TCP port."""


class Scope(IntEnum):
    """From where a network address can be reached."""

    MACHINE = 1
    SITE = 2
    WORLD = 3


def place_of(multiaddr: str) -> Place | None:
    """Return host and port of /ip4 or /ip6, /tcp and perhaps a peer's name after them; None for all else.

    Names and circuits are left out: whoever wrote them down would choose whom others ask, and when.
    """
    try:
        address = Multiaddr(multiaddr)
        names = [protocol.name for protocol in address.protocols()]
        if names[:1] not in (["ip4"], ["ip6"]) or names[1:] not in (["tcp"], ["tcp", "p2p"]):
            return None
        return address.value_for_protocol(names[0]), int(address.value_for_protocol("tcp"))
    except (MultiaddrError, ValueError, TypeError):
        return None


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


def is_dialled(multiaddr: str, reach: Scope) -> bool:
    """Return whether who is itself reached from `reach` dials an address that another member wrote down.

    Nobody makes a peer on the internet dial its own machine or site.
    """
    place = place_of(multiaddr)
    scope = scope_of(place[0]) if place else None
    return scope is not None and scope >= reach


def reach_of(listen: str) -> Scope:
    """Return from where a peer that listens there is reached: the world, where it does not say."""
    place = place_of(listen)
    return (scope_of(place[0]) if place else None) or Scope.WORLD


class Backoff:
    """How long places that cannot be reached are left alone: twice as long after each try. `now` is in seconds.

    The second try is free: a peer that was started again is there at once.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[Place, tuple[float, int]] = OrderedDict()

    def check(self, place: Place, now: float) -> None:
        """Raise Unavailable for a place whose time has not come."""
        until, _ = self._until.get(place, (now, 0))
        if now < until:
            raise Unavailable(
                f"{place[0]} port {place[1]} could not be reached, and is tried again in {until - now:.1f} s"
            )

    def note(self, place: Place, is_reached: bool, now: float) -> None:
        """Note how a try ended."""
        _, failures = self._until.pop(place, (now, 0))
        if is_reached:
            return
        pause = min(LONGEST_SECONDS, SHORTEST_SECONDS * 2.0 ** min(failures - 1, 32)) if failures else 0.0
        self._until[place] = now + pause, failures + 1
        if len(self._until) > MAX_PLACES:
            self._until.popitem(last=False)
