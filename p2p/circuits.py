"""The using side of relays: circuits to peers that cannot be reached directly, and being reached by them oneself."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage
from libp2p.relay.circuit_v2.utils import write_delimited_msg
from multiaddr import Multiaddr

from p2p.addresses import CIRCUIT, is_number, relay_of
from p2p.errors import BrokenProtocol
from p2p.framing import FAULTS, drop, or_dropped, read_frame
from p2p.identity import address_of_peer
from p2p.relay import HOP, MAX_SEEN, PATIENCE, SEEN, STOP, heard
from p2p.transport import PeerAddress
from verification.errors import Unavailable, Violation
from verification.signing import checksum

log = logging.getLogger(__name__)
RENEW_SECONDS = 15.0
"""Between two reservations at a relay that stays; it closes strangers that are silent for 20 seconds."""
AGAIN_SECONDS = 2.0
"""Before a relay that is gone, or has no room, is asked again."""
SEEN_SECONDS = 2.0
MAX_KNOWN = 4
Connect = Callable[[PeerInfo, bool], Awaitable[None]]
"""Has a connection to a peer, for True a direct one."""


class Circuits:
    """Circuits of one peer, which keeps a reservation at each of its relays."""

    def __init__(self, host: BasicHost, relays: tuple[PeerAddress, ...]) -> None:
        """`relays` are those by way of which this peer is reached."""
        self._host, self._network = host, host.get_network()
        self._relays = relays
        self._reserved: dict[PeerAddress, None] = {}
        self.has_reserved, self.is_used = trio.Event(), trio.Event()
        """Set from the first reservation on, or where none is wanted, and from the first circuit on, or where one may
        come."""
        (self.is_used if relays else self.has_reserved).set()
        self._used: dict[ID, PeerAddress] = {}

    def open(self) -> None:
        """Take circuits from now on, if this peer has relays."""
        if self._relays:
            self._host.set_stream_handler(STOP, self._accept)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer is reached by way of its relays, but for its own name; a relay that is gone may come back."""
        return tuple(f"{relay.multiaddrs[0]}{CIRCUIT}" for relay in self._reserved)

    async def seen(self) -> list[str]:
        """Return the numbers at which relays see this peer: its own, and those of circuits that it has dialled."""
        found = dict[str, None]()
        for relay in (*self._relays, *self._used.values())[:MAX_KNOWN]:
            with suppress(Unavailable, Violation, trio.TooSlowError, *FAULTS), trio.fail_after(SEEN_SECONDS):
                stream = await self._host.new_stream(relay.info().peer_id, [SEEN])
                told = await read_frame(stream, MAX_SEEN, SEEN_SECONDS) or b""
                found[told.decode("ascii")] = None
                await stream.close()
        return [host for host in found if is_number(host)]

    async def keep(self, connect: Connect) -> None:
        """Keep reservations until cancelled."""
        async with trio.open_nursery() as nursery:
            for relay in self._relays:
                nursery.start_soon(self._keep, relay, connect)

    async def _keep(self, relay: PeerAddress, connect: Connect) -> None:
        info = relay.info()
        while True:
            pause = AGAIN_SECONDS
            try:
                with trio.fail_after(PATIENCE):
                    await connect(info, True)
                    await self._ask(info.peer_id, HopMessage(type=HopMessage.RESERVE))
                self._reserved[relay] = None
                self.has_reserved.set()
                pause = RENEW_SECONDS
            except (Unavailable, trio.TooSlowError, *FAULTS) as error:
                log.info("no place at the relay %s: %s", checksum(relay.address), error)
            with trio.move_on_after(pause):
                for connection in self._network.get_connections(info.peer_id):
                    await connection.event_closed.wait()
                await trio.sleep(AGAIN_SECONDS)

    async def dial(self, address: Multiaddr, peer: ID, connect: Connect) -> None:
        """Have a connection to a peer by way of the relay that its address names.

        Raises Unavailable where the relay refuses, and py-libp2p's exceptions.
        """
        relay = PeerAddress.parse(relay_of(str(address)) or "")
        info = relay.info()
        if info.peer_id == self._host.get_id():
            raise Unavailable("it is reached by way of this peer, which it has left")
        await connect(info, True)
        stream = await self._ask(
            info.peer_id, HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=peer.to_bytes()))
        )
        self.is_used.set()
        self._used = dict([*self._used.items(), (info.peer_id, relay)][-MAX_KNOWN:])
        async with or_dropped(stream):
            await self._network.upgrade_outbound_raw_conn(_raw(stream, address, True), peer)

    async def _ask(self, relay: ID, request: HopMessage) -> INetStream:
        """Return the stream of a request that a relay has granted; raises Unavailable, libp2p's exceptions."""
        stream = await self._host.new_stream(relay, [HOP])
        async with or_dropped(stream):
            try:
                with trio.fail_after(PATIENCE):
                    await write_delimited_msg(stream, request)
                    answer = await heard(stream, HopMessage)
            except (trio.TooSlowError, BrokenProtocol) as error:
                raise Unavailable("the relay does not answer, or nothing that can be read") from error
            if answer.status != Status.OK:
                who = checksum(address_of_peer(relay))
                raise Unavailable(f"the relay {who} refuses: {Status.Name(answer.status)}")
            if request.type == HopMessage.RESERVE:
                await stream.close()
        return stream

    async def _accept(self, stream: INetStream) -> None:
        """Take a circuit from a relay of this peer's; whose it is, its handshake shows."""
        relay = stream.muxed_conn.peer_id
        with trio.fail_after(PATIENCE):
            request = await heard(stream, StopMessage)
        if relay not in {each.info().peer_id for each in self._relays}:
            raise BrokenProtocol("a circuit from who is no relay of this peer's")
        via = Multiaddr(f"/p2p/{relay}{CIRCUIT}/p2p/{ID(request.peer.id)}")
        try:
            await write_delimited_msg(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
            muxed = await self._network.upgrade_inbound_raw_conn(_raw(stream, via, False), via)
        except FAULTS:  # of the peer at the other end: not the relay's
            return await drop(stream)
        await muxed.event_closed.wait()


class _Pipe:
    """A circuit's stream as a connection: its end is an end, and not the fault that py-libp2p makes of it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        """Read up to n bytes, none at the end; raises ConnectionClosedError."""
        try:
            return bytes(await self._stream.read(n))
        except StreamEOF:
            return b""
        except StreamError as error:
            raise ConnectionClosedError("the circuit was reset") from error

    async def write(self, data: bytes) -> None:
        """Write all; raises ConnectionClosedError."""
        try:
            await self._stream.write(data)
        except StreamError as error:
            raise ConnectionClosedError("the circuit was reset") from error

    async def close(self) -> None:
        """End it, both ways."""
        await drop(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return where the relay is."""
        remote: tuple[str, int] | None = self._stream.get_remote_address()
        return remote


def _raw(stream: INetStream, via: Multiaddr, is_initiator: bool) -> RawConnection:
    return RawConnection(_Pipe(stream), is_initiator, ConnectionType.RELAYED, [via])
