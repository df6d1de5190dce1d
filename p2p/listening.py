"""Where a peer listens, and at which addresses others are told that it is."""

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.utils import get_network_addrs

from p2p.addresses import Place, nearness, place_of, scope_of
from p2p.relay import CARRIED, Carried
from p2p.transport import MAX_ADDRESSES, PeerAddress
from verification.errors import Malformed, UserError
from verification.statements import MAX_ENDPOINT

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True)
class Outside:
    """How a peer is reached from outside its network.

    `announce` are the addresses that others are told, joined by spaces, in place of those where the peer listens;
    `via` are relays by way of which it is reached too, each with its key; `relays` has it be one, within `carried`.
    `mdns` lets it be announced on local networks where it listens, and ask there; `upnp` asks the gateway for a port.
    """

    announce: str = ""
    via: tuple[PeerAddress, ...] = ()
    relays: bool = False
    carried: Carried = CARRIED
    mdns: bool = False
    upnp: bool = False


AS_LISTENED = Outside()


def multiaddrs_of(listen: str) -> tuple[Multiaddr, ...]:
    """Return the addresses to listen on of a text that joins them by spaces; raises UserError for other text."""
    for each in listen.split(" "):
        if place_of(each) is None or "/p2p/" in each:
            raise UserError(
                f"{each}: not an address to listen on; write /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT"
            )
    return tuple(Multiaddr(each) for each in listen.split(" "))


def refuse_taken(listen: Multiaddr) -> None:
    """Raise UserError, one line, if a port is taken or an address not ours.

    py-libp2p listens with SO_REUSEPORT: without this a second process of the same user would silently share the port.
    """
    host, port = _place(listen)
    family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        raise UserError(f"{listen}: {_why(error, port)}") from error


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; choose another, or 0 for any free one"
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; choose an address of IPv4"
    return f"cannot listen there: {error.strerror}; choose another address"


def announced(text: str) -> tuple[str, ...]:
    """Return the addresses that a person wants told, joined by spaces; raises UserError for what nobody would dial."""
    for each in text.split():
        place = place_of(each)
        if place is None or "/p2p/" in each or place[1] == 0 or scope_of(place[0]) is None:
            raise UserError(
                f"--announce {each}: write /ip4/NUMBER/tcp/PORT or /ip6/NUMBER/tcp/PORT; names are not dialled"
            )
    return tuple(text.split())


def relays_named(texts: Sequence[str]) -> tuple[PeerAddress, ...]:
    """Return relays of which a person gave address and key; raises UserError for other text."""
    try:
        relays = tuple(PeerAddress.parse(text) for text in texts)
    except Malformed as error:
        raise UserError(
            f"--via: {error}; write the relay's address with its key, /ip4/NUMBER/tcp/PORT/p2p/KEY"
        ) from error
    for relay in relays:
        if not all(map(place_of, relay.multiaddrs)):
            raise UserError(f"--via {relay.multiaddr}: a relay is named by number, and reached directly")
    return relays


def real(listening: Iterable[Multiaddr]) -> tuple[str, ...]:
    """Return the same addresses, with this machine's own in place of those that stand for all of them.

    Of these loopback is one only where there is nothing else.
    """
    return tuple(dict.fromkeys(each for address in listening for each in _expanded(address)))


def _expanded(listening: Multiaddr) -> list[str]:
    host, port = _place(listening)
    if not ip_address(host).is_unspecified:
        return [str(listening)]
    version = ip_address(host).version
    hosts = [each for each in get_network_addrs(version) if scope_of(each) is not None]
    return [f"/ip{version}/{each}/tcp/{port}" for each in hosts or [_LOOPBACK[version]]]


def _place(listening: Multiaddr) -> Place:
    place = place_of(str(listening))
    assert place is not None
    return place


def endpoint(addresses: Sequence[str], peer_id: ID) -> str:
    """Return the full addresses of a peer, joined by spaces: the farthest first, and as many as the ledger takes."""
    text = ""
    for each in sorted(addresses, key=nearness, reverse=True)[:MAX_ADDRESSES]:
        longer = f"{text} {each}/p2p/{peer_id}".strip()
        text = longer if len(longer) <= MAX_ENDPOINT else text
    return text
