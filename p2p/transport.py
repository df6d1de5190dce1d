"""The py-libp2p host under the post office: TCP, Noise and Yamux, nothing else offered or accepted.

`new_host()` would also offer secio, plaintext and Mplex, retry dials for seconds and connect to peers by itself.
"""

import functools
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import trio
from libp2p import new_swarm
from libp2p.abc import INetStream, IRawConnection
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2p.addresses import Scope, is_dialled, plain, relay_of, site_of
from p2p.door import Door
from p2p.errors import BrokenProtocol, Overloaded
from p2p.framing import drop
from p2p.identity import Identity, address_of_peer
from p2p.muxer import BoundedMuxers, BoundedYamux, best
from p2p.traffic import OTHERS
from verification.errors import Malformed
from verification.signing import checksum
from verification.units import Address

# What py-libp2p says at length is told here in a line, or not at all. Its import takes earlier handlers away.
logging.getLogger("libp2p").addHandler(logging.NullHandler())
PROTOCOL = TProtocol("/proofswarm/1")
MAX_CONNECTIONS = 1000
NEGOTIATION_SECONDS = 10
"""Longest time in which a stream says which protocol it is for."""
TCP_OPTIONS = {socket.TCP_USER_TIMEOUT: 20_000, socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5}
"""Milliseconds in which something that was sent must be acknowledged, seconds of silence before the other side is asked
whether it is there, and between two such questions: a NAT may have forgotten a connection, and forgets silent ones."""
ANY_LOCAL_PORT = "/ip4/127.0.0.1/tcp/0"


MAX_ADDRESSES = 8
"""Addresses of one peer."""


@dataclass(frozen=True)
class PeerAddress:
    """Where a peer is reached: its account, and `multiaddr`, one or several addresses joined by single spaces.

    All of them end in /p2p/ and the peer id of the account's key.
    """

    address: Address
    multiaddr: str

    @classmethod
    def parse(cls, text: str) -> "PeerAddress":
        """Return the peer of such text; raises Malformed where an address names no host, port and secp256k1 peer, or
        they are not all of one peer."""
        if text.count(" ") >= MAX_ADDRESSES:
            raise Malformed(f"{text[:200]!r} has more than {MAX_ADDRESSES} addresses")
        return cls(address_of_peer(_info(text).peer_id), text)

    @property
    def multiaddrs(self) -> tuple[str, ...]:
        """The single addresses."""
        return tuple(self.multiaddr.split(" "))

    def info(self) -> PeerInfo:
        """Return libp2p's form; raises Malformed if an address is wrong or belongs to another account."""
        return _checked_info(self)

    def seen_from(self, reach: Scope) -> "PeerAddress | None":
        """Return the same peer with those addresses that are dialled from `reach`; None where there are none."""
        kept = [each for each in self.multiaddrs if is_dialled(each, reach)]
        return PeerAddress(self.address, " ".join(kept)) if kept else None

    def relays(self) -> "tuple[PeerAddress, ...]":
        """Return the relays by way of which the peer is reached."""
        named = dict.fromkeys(relay for each in self.multiaddrs if (relay := relay_of(each)))
        return tuple(PeerAddress.parse(relay) for relay in named)

    def also_at(self, other: "PeerAddress") -> "PeerAddress":
        """Return the peer with another's addresses first, and as many of its own as there may be."""
        both = dict.fromkeys(other.multiaddrs + self.multiaddrs)
        return PeerAddress(self.address, " ".join(list(both)[:MAX_ADDRESSES]))


class _Host(BasicHost):  # type: ignore[misc]
    """A host without identify, push and ping: by these strangers write into its store of peers, and the ledger has all
    that they would tell."""

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Ask nobody."""


def make_host(identity: Identity, door: Door | None = None) -> BasicHost:
    """Return a host that is not running yet; its connections are kept within the bounds of `door`."""
    door = door or Door()
    noise = NoiseTransport(identity.libp2p_keys, noise_privkey=create_new_key_pair().private_key)
    swarm = new_swarm(
        key_pair=identity.libp2p_keys,
        sec_opt={TProtocol(NOISE_ID): noise},
        muxer_opt={TProtocol(YAMUX_ID): Yamux},
        retry_config=RetryConfig(max_retries=0),
        connection_config=_connections(),
        transports=[_Tcp()],
    )
    host = _Host(
        network=swarm, disable_identify_address_discovery=True, negotiate_timeout=NEGOTIATION_SECONDS
    )
    for protocol in tuple(host.multiselect.handlers):
        host.remove_stream_handler(protocol)
    swarm.notifees.clear()
    swarm.set_stream_handler(_guarded(swarm.common_stream_handler, door))
    swarm.upgrader.muxer_multistream = BoundedMuxers({TProtocol(YAMUX_ID): Yamux}, door.connection)
    swarm._best_connection = best
    swarm._handle_inbound_connection = _watched(swarm, door)
    return host


def _watched(swarm: Swarm, door: Door) -> Callable[[ReadWriteCloser, Multiaddr], Awaitable[None]]:
    """Return what takes a connection through its handshake, and gives its slot back when it ends."""

    async def let_in(stream: ReadWriteCloser, listener: Multiaddr) -> None:
        _settle(stream)
        remote = stream.get_remote_address()
        try:
            with door.greeting(site_of(remote[0]) if remote else ""):
                muxed = await swarm.upgrade_inbound_raw_conn(RawConnection(stream, False), listener)
        except Overloaded as violation:
            door.refuse(OTHERS, violation)
            return
        await cast(BoundedYamux, muxed).event_closed.wait()

    return let_in


class _Tcp(TCP):  # type: ignore[misc]
    """TCP whose dialled connections are settled as the others are."""

    async def _dial_resolved(self, maddr: Multiaddr, source: tuple[str, int] | None = None) -> IRawConnection:
        connection = await super()._dial_resolved(maddr, source)
        _settle(connection.stream)
        return connection


def _settle(stream: ReadWriteCloser) -> None:
    """Have a connection end when its other side is gone without a word, and know where that is.

    py-libp2p 0.8.1 knows nothing of where IPv6 comes from, so that all of it would be one place.
    """
    with suppress(OSError):
        host, port = stream.stream.socket.getpeername()[:2]
        stream._cached_remote_address = plain(host), port
        stream.stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in TCP_OPTIONS.items():
            stream.stream.setsockopt(socket.IPPROTO_TCP, option, value)


def _guarded(
    handler: Callable[[INetStream], Awaitable[None]], door: Door
) -> Callable[[INetStream], Awaitable[None]]:
    """Return `handler` with faults kept to its own stream.

    In py-libp2p 0.8.1 an exception on any inbound stream ends the whole program, and a peer can cause one.
    """

    async def handle(stream: INetStream) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001 # task's edge
            # Beyond it is py-libp2p's nursery.
            door.refuse(stream.muxed_conn.account, BrokenProtocol(repr(error)))
            door.wrong(stream.muxed_conn)
            await drop(stream)

    return handle


def _connections() -> ConnectionConfig:
    """Return limits under which py-libp2p closes and dials nothing by itself.

    It dials peers it knows up to the middle of its two watermarks, and closes connections above the upper one.
    """
    most = MAX_CONNECTIONS
    config = ConnectionConfig(max_connections=most, min_connections=0, low_watermark=0, high_watermark=most)
    config.low_watermark = -most  # its constructor would refuse what makes the middle zero
    return config


async def hang_up(host: BasicHost) -> None:
    """Close a running host's sockets.

    py-libp2p's own stop cancels itself before its listeners are closed, which leaves the port taken for the rest of
    the process, and its explicit close waits 0.2 s for each connection in turn.
    """
    network = host.get_network()
    for listener in list(network.listeners.values()):
        await listener.close()
    async with trio.open_nursery() as nursery:
        for connections in list(network.connections.values()):
            for connection in list(connections):
                nursery.start_soon(connection.close)


@functools.lru_cache(maxsize=1024)  # asked for every request, and a millisecond of parsing
def _checked_info(peer: PeerAddress) -> PeerInfo:
    info = _info(peer.multiaddr)
    if address_of_peer(info.peer_id) != peer.address:
        raise Malformed(f"{peer.multiaddr} is not the peer {checksum(peer.address)}")
    return info


def _info(text: str) -> PeerInfo:
    parsed = [_parsed(each) for each in text.split(" ")]
    if any(each.peer_id != parsed[0].peer_id for each in parsed):
        raise Malformed(f"{text[:200]!r} is not where one peer is: its addresses end in several keys")
    return PeerInfo(parsed[0].peer_id, [address for each in parsed for address in each.addrs])


def _parsed(text: str) -> PeerInfo:
    try:
        address = Multiaddr(text)
        if "tcp" not in {protocol.name for protocol in address.protocols()}:
            raise ValueError("no tcp port")
        if relay := relay_of(text):
            address_of_peer(_parsed(relay).peer_id)
        return info_from_p2p_addr(address)
    except (MultiaddrError, ValueError, TypeError) as error:
        raise Malformed(f"{text[:200]!r} is no TCP multiaddr of a peer") from error
