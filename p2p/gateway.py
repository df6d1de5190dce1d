"""A port of the gateway's that is this peer's: asked for by UPnP, held while the peer runs, and given back.

miniupnpc does the talking; py-libp2p's own use of it neither chooses the interface nor lets a mapping end by itself.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

import miniupnpc
import trio

from p2p.addresses import Place, Scope, is_number, place_of, scope_of
from p2p.threads import leaving
from verification.errors import Unavailable

log = logging.getLogger(__name__)
LEASE_SECONDS = 1200
"""After which a gateway forgets what nobody renews; half of it passes between two renewals."""
AGAIN_SECONDS = 60.0
"""Before a gateway that gave nothing is asked again."""
DISCOVER_MILLIS = 2000
"""How long gateways may take to answer."""
ASKING_SECONDS = 10.0
ENDING_SECONDS = 2.0
MAX_TRIES = 8
"""Ports of the gateway's that are tried, from the peer's own number on."""
NO_DAEMON = "/nonexistent"
"""In the place of the socket of a daemon that would list gateways of all interfaces."""
NAME = "proofswarm"


@dataclass(frozen=True)
class Mapping:
    """A port of a gateway's, `outside`, that leads to `inside`."""

    gateway: miniupnpc.UPnP
    inside: Place
    outside: Place

    @property
    def multiaddr(self) -> str:
        """Where others reach the peer."""
        return f"/ip4/{self.outside[0]}/tcp/{self.outside[1]}"


class Gateway:
    """Keeps a mapping for the first address of a local network at which a peer listens."""

    def __init__(self, listening: Callable[[], Sequence[str]]) -> None:
        """`listening` gives the multiaddrs where the peer listens now, none of which stands for all."""
        self._listening = listening
        self._mapping: Mapping | None = None
        self._answered = trio.Event()
        self.word = ""
        """What came of it, in a line."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the peer is reached by way of its gateway."""
        return (self._mapping.multiaddr,) if self._mapping else ()

    async def answer(self) -> str:
        """Wait for the gateway, and return what came of it in a line."""
        with trio.move_on_after(ASKING_SECONDS):
            await self._answered.wait()
        return self.word or "the gateway has not answered yet"

    async def keep(self) -> None:
        """Have the mapping until cancelled, and give it back."""
        try:
            while True:
                pause = LEASE_SECONDS / 2
                try:
                    mapping = await leaving(mapped, self._listening(), self._mapping)
                    self._mapping, self.word = mapping, _told(mapping)
                except Unavailable as error:
                    self._mapping, pause = None, AGAIN_SECONDS
                    self.word = str(error)
                log.info("UPnP: %s", self.word)
                self._answered.set()
                await trio.sleep(pause)
        finally:
            if self._mapping is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + ENDING_SECONDS):
                    await leaving(_end, self._mapping)


def _told(mapping: Mapping) -> str:
    told = f"the gateway leads {mapping.multiaddr} here"
    if scope_of(mapping.outside[0]) is not Scope.WORLD:
        told += ", which is a private address itself: another router is in front of it"
    return told


def mapped(listening: Sequence[str], before: Mapping | None = None) -> Mapping:
    """Return a mapping to the first of some addresses that a gateway takes, or one renewed; blocks for seconds.

    Raises Unavailable, which says why there is none. Packets leave from those addresses alone.
    """
    places = [place for each in listening if (place := place_of(each)) and _is_private(place[0])]
    reason = "no private address of IPv4 is listened on: see --listen"
    if before is not None and before.inside in places:
        with suppress(Unavailable):
            return _mapped_at(before.gateway, before.inside, before.outside[1])
    for place in places:
        try:
            return _mapped_at(_gateway_of(place[0]), place, place[1])
        except Unavailable as error:
            reason = str(error)
    raise Unavailable(reason)


def _is_private(host: str) -> bool:
    return ip_address(host).version == 4 and scope_of(host) is Scope.SITE


def _gateway_of(host: str) -> miniupnpc.UPnP:
    """Return the gateway that answers on the network of one of this machine's numbers; raises Unavailable."""
    upnp = miniupnpc.UPnP(multicastif=host, minissdpdsocket=NO_DAEMON, discoverdelay=DISCOVER_MILLIS)
    with _told_by_gateway(
        f"no gateway answers on the network of {host}", "forward a port by hand, or take a relay"
    ):
        upnp.discover()
        upnp.selectigd()
    if upnp.lanaddr != host:
        raise Unavailable(f"the gateway that answers on the network of {host} is reached from {upnp.lanaddr}")
    return upnp


def _mapped_at(upnp: miniupnpc.UPnP, inside: Place, first: int) -> Mapping:
    """Return a mapping at the first free of the gateway's ports from `first` on; raises Unavailable."""
    number = ""
    with _told_by_gateway("the gateway does not say where it is"):
        number = upnp.externalipaddress()
    if not is_number(number) or ip_address(number).version != 4 or scope_of(number) is Scope.MACHINE:
        raise Unavailable(f"the gateway says that it is at {number!r}, where nobody is reached")
    refusal = Unavailable("the gateway gives no port")
    for port in range(first, min(first + MAX_TRIES, 65536)):
        for lease in (LEASE_SECONDS, 0):  # some give ports for good alone
            try:
                with _told_by_gateway("the gateway gives no port"):
                    upnp.addportmapping(port, "TCP", *inside, NAME, "", lease)
                return Mapping(upnp, inside, (number, port))
            except Unavailable as error:
                refusal = error
    raise refusal


def _end(mapping: Mapping) -> None:
    """Give a port back; a gateway that does not hear it forgets it after its lease."""
    with suppress(Unavailable), _told_by_gateway("the port was not given back"):
        mapping.gateway.deleteportmapping(mapping.outside[1], "TCP")


@contextmanager
def _told_by_gateway(what: str, mend: str = "") -> Iterator[None]:
    """Raise Unavailable, which says `what`, why and what to do, where miniupnpc raises the only kind that it has.

    Where nothing answers its reason is "Success" (findings/miniupnpc-fails-with-success.sh).
    """
    try:
        yield
    except Exception as error:  # task's edge: it has no other kind
        if type(error) is not Exception:  # a fault of ours
            raise
        reason = str(error)
        told = [what, *([] if reason == "Success" else [reason]), *([mend] if mend else [])]
        raise Unavailable(": ".join(told)) from error
