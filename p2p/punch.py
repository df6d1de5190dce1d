"""From a circuit to a direct connection through two NATs: libp2p's DCUtR, within bounds of our own."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.dcutr import DCUtRProtocol
from multiaddr import Multiaddr

from p2p.addresses import Place, Scope, is_dialled, place_of
from p2p.framing import drop
from p2p.identity import account_of
from verification.units import Address

MAX_TARGETS, MAX_AT_ONCE = 3, 16
"""Addresses that are dialled of those that the other side names, and peers with whom it is tried at a time."""
LOOK_SECONDS, LOOKS_OF_A_TRIAL = 10.0, 60
"""Between two looks at what is there no more, and looks after which a peer that could not be reached is tried again."""
Seen = Callable[[], Awaitable[Sequence[str]]]
"""Returns the numbers at which relays see this peer."""


class Punch(DCUtRProtocol):  # type: ignore[misc]
    """Tries with who is welcome, and at addresses that are dialled at all: the other side chooses them."""

    def __init__(
        self, host: BasicHost, reach: Scope, is_welcome: Callable[[Address], bool], seen: Seen
    ) -> None:
        """`reach` says from where this peer is reached directly."""
        super().__init__(host)
        self._reach, self._is_welcome, self._seen = reach, is_welcome, seen

    async def _handle_dcutr_stream(self, stream: INetStream) -> None:
        if not self._may_try(stream.muxed_conn.peer_id):
            return await drop(stream)
        await super()._handle_dcutr_stream(stream)

    async def initiate_hole_punch(self, peer_id: ID) -> bool:
        """Try with a peer; returns whether there is a direct connection."""
        return self._may_try(peer_id) and bool(await super().initiate_hole_punch(peer_id))

    def _may_try(self, peer: ID) -> bool:
        return self._is_welcome(account_of(peer)) and len(self._in_progress) < MAX_AT_ONCE

    async def forget(self) -> None:
        """Let who has gone be tried anew, until cancelled; py-libp2p hears of that by what is not offered here."""
        for looks in count(1):
            await trio.sleep(LOOK_SECONDS)
            for peer in tuple(self._direct_connections):
                if not await self._verify_direct_connection(peer):
                    self._direct_connections.discard(peer)
            if looks % LOOKS_OF_A_TRIAL == 0:
                self._hole_punch_attempts.clear()

    async def _dial_peer(
        self, peer_id: ID, addr: Multiaddr, source: tuple[str, int] | None = None, as_responder: bool = False
    ) -> None:
        """Dial from where this peer listens in the address's own family; py-libp2p takes the first of both."""
        target = place_of(str(addr))
        own = [place for place in self._listening() if target and (":" in place[0]) == (":" in target[0])]
        await super()._dial_peer(peer_id, addr, own[0] if own else None, as_responder)

    def _listening(self) -> list[Place]:
        return [place for each in self.host.get_transport_addrs() if (place := place_of(str(each)))]

    async def _get_observed_addrs(self) -> list[bytes]:
        """Return where the other side should dial: what relays see, at the ports that a NAT which keeps them gives.

        py-libp2p learns that by identify, which is not offered here.
        """
        found = [
            Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}")
            for host in await self._seen()
            for own, port in self._listening()
            if (":" in own) == (":" in host)
        ]
        return [address.to_bytes() for address in found[:MAX_TARGETS]]

    def _decode_observed_addrs(self, addr_bytes: list[bytes]) -> list[Multiaddr]:
        addresses = super()._decode_observed_addrs(addr_bytes[:MAX_TARGETS])
        return [address for address in addresses if is_dialled(str(address), self._reach)]
