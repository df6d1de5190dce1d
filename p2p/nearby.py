"""The local network's mDNS: peers of a run tell there where they are, and look there for who does not answer elsewhere.

What is found is a hint: who is dialled there must have the peer's key all the same. py-libp2p's own mDNS is not used:
it announces on all interfaces, writes whoever answers into its store of addresses, and has no way to ask for one peer.
zeroconf is, an instance for each interface, held to that interface by the kernel.
"""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

import ifaddr
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceInfo, Zeroconf

from p2p.addresses import Scope, place_of, scope_of
from p2p.threads import leaving
from p2p.transport import MAX_ADDRESSES
from verification.units import Digest

log = logging.getLogger(__name__)
logging.getLogger("zeroconf").propagate = False
SERVICE = "_proofswarm._tcp.local."
RUN_DIGITS = 8
"""Of a run's identity in a name, which with a peer's has at most 63 letters."""
LOOK_SECONDS = 1.0
"""How long an answer is waited for."""
MAX_LOOKS = 8
"""Peers that are looked for at a time."""
LIFE_SECONDS = 120
"""How long others may keep what was announced."""
CHECK_SECONDS = 5.0
"""Between two looks at whether this peer's addresses are others."""
AGAIN_SECONDS = 60.0
"""Before an interface that did not bear it is tried again."""
CLOSING_SECONDS = 1.0


@dataclass(frozen=True)
class Link:
    """An interface on which a peer listens: its name, and the peer's numbers there, each with its network."""

    device: str
    hosts: tuple[IPv4Interface | IPv6Interface, ...]

    def has(self, multiaddr: str) -> bool:
        """Return whether an address is of this link's networks."""
        place = place_of(multiaddr)
        return place is not None and any(ip_address(place[0]) in each.network for each in self.hosts)


def links(listening: Iterable[str], adapters: Iterable[ifaddr.Adapter] | None = None) -> tuple[Link, ...]:
    """Return the interfaces of local networks on which a peer listens: those where it has a private address.

    `listening` are multiaddrs; `adapters` stand for those of this machine.
    """
    hosts = {ip_address(place[0]) for each in listening if (place := place_of(each))}
    found = []
    for adapter in ifaddr.get_adapters() if adapters is None else adapters:
        numbers = (
            (each.ip if isinstance(each.ip, str) else each.ip[0], each.network_prefix) for each in adapter.ips
        )
        own = tuple(ip_interface(f"{ip}/{bits}") for ip, bits in numbers if ip_address(ip) in hosts)
        if any(scope_of(str(each.ip)) is Scope.SITE for each in own):
            found.append(Link(adapter.name.split(":")[0], own))
    return tuple(found)


def name_of(run: Digest, peer: ID) -> str:
    """Return under which name a peer of a run is found."""
    return f"{run.hex()[:RUN_DIGITS]}-{peer}.{SERVICE}"


class Nearby:
    """One peer's part in mDNS, on the local networks where it listens and on no others."""

    def __init__(self, run: Digest, own: ID, listening: Callable[[], Sequence[str]]) -> None:
        """`listening` gives the multiaddrs where the peer listens now, none of which stands for all."""
        self._run, self._own, self._listening = run, own, listening
        self._slots = trio.CapacityLimiter(MAX_LOOKS)

    def links(self) -> tuple[Link, ...]:
        """Return the interfaces that it is about now."""
        return links(self._listening())

    async def find(self, peer: ID) -> list[Multiaddr]:
        """Return where somebody on a local network says that a peer is: addresses of that network alone."""
        found = dict[str, None]()

        async def ask(link: Link) -> None:
            with _borne(link):
                told = await leaving(_asked, link, name_of(self._run, peer))
                found.update(dict.fromkeys(told))

        async with self._slots, trio.open_nursery() as nursery:
            for link in self.links():
                nursery.start_soon(ask, link)
        return [Multiaddr(each) for each in list(found)[:MAX_ADDRESSES]]

    async def announce(self) -> None:
        """Tell local networks where this peer is until cancelled, and anew when it is somewhere else."""
        told: tuple[Link, ...] = ()
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            while True:
                if (now := self.links()) != told:
                    scope.cancel()
                    scope, told = trio.CancelScope(), now
                    for link in now:
                        nursery.start_soon(self._tell, link, scope)
                await trio.sleep(CHECK_SECONDS)

    async def _tell(self, link: Link, scope: trio.CancelScope) -> None:
        """Be announced on one interface until `scope` ends."""
        places = [each for each in self._listening() if link.has(each)][:MAX_ADDRESSES]
        name = name_of(self._run, self._own)
        with scope:
            while True:
                with _borne(link):
                    zeroconf = await trio.to_thread.run_sync(_announced, link, name, places)
                    try:
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_SECONDS):
                            await leaving(zeroconf.close)
                await trio.sleep(AGAIN_SECONDS)


@contextmanager
def _borne(link: Link) -> Iterator[None]:
    """Go on without an interface that does not bear it."""
    try:
        yield
    except (OSError, RuntimeError, ZeroconfError) as error:
        log.info("no mDNS on %s: %s", link.device, error)


def _opened(link: Link) -> Zeroconf:
    """Return what speaks on one interface and hears no other; raises OSError and RuntimeError where it cannot.

    zeroconf listens at 0.0.0.0, whichever interfaces it is given.
    """
    zeroconf = Zeroconf(interfaces=[str(each.ip) for each in link.hosts])
    try:
        for reader in zeroconf.engine.readers:
            reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.device.encode())
    except OSError:
        zeroconf.close()
        raise
    return zeroconf


def _asked(link: Link, name: str) -> list[str]:
    """Return the addresses of a link's networks that are told of a name there."""
    zeroconf = _opened(link)
    try:
        info = zeroconf.get_service_info(SERVICE, name, round(1000 * LOOK_SECONDS))
    finally:
        zeroconf.close()
    told = () if info is None else info.decoded_properties.values()
    return [each for each in told if each and "/p2p/" not in each and link.has(each)]


def _announced(link: Link, name: str, places: Sequence[str]) -> Zeroconf:
    """Return what tells on one interface where a name is, until it is closed."""
    info = ServiceInfo(
        SERVICE,
        name,
        port=next((place[1] for each in places if (place := place_of(each))), 0),
        properties={str(number): each for number, each in enumerate(places)},
        server=f"{name.split('.')[0]}.local.",
        parsed_addresses=[str(each.ip) for each in link.hosts],
        host_ttl=LIFE_SECONDS,
        other_ttl=LIFE_SECONDS,
    )
    zeroconf = _opened(link)
    try:
        # Without the question whether the name is free: whoever answered it would keep this peer silent.
        zeroconf.register_service(info, cooperating_responders=True)
    except ZeroconfError:
        zeroconf.close()
        raise
    return zeroconf
