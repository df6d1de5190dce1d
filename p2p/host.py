"""The post office: signed requests and replies between peers over py-libp2p.

Every message is an envelope (p2p.envelope) whose signer must be the peer that the Noise handshake authenticated.
Streams stay open between requests, since opening one costs two round trips and starts with a small Yamux window.
"""

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import trio
from libp2p.tools.anyio_service import background_trio_service

from p2p.addresses import Scope, reach_of
from p2p.circuits import Circuits
from p2p.client import Client
from p2p.door import Door
from p2p.gateway import Gateway
from p2p.identity import Identity, account_of
from p2p.listening import AS_LISTENED, Outside, announced, endpoint, multiaddrs_of, real, refuse_taken
from p2p.mail import Kind, Mail
from p2p.nearby import Nearby
from p2p.punch import Punch
from p2p.reach import Dialler, Way, nowhere
from p2p.refusals import everyone
from p2p.relay import Relay
from p2p.server import Grants, Handler, Server
from p2p.traffic import Flow, Refusal
from p2p.transport import ANY_LOCAL_PORT, PROTOCOL, PeerAddress, hang_up, make_host
from verification.errors import UserError, Violation
from verification.units import Address, Digest, Millis

log = logging.getLogger(__name__)
RESERVING_SECONDS = 10.0
KEEP_SECONDS = 5.0
"""Between two looks at which connections are gone."""
CLOSING_SECONDS = 3.0
"""Longest that closing waits for py-libp2p before it is cancelled."""


class PostOffice:
    """One peer's post office; `async with` starts and closes it.

    `listen` is one or several multiaddrs, joined by spaces, `outside` how the peer is reached from elsewhere. `clock`
    gives the milliseconds by which envelopes are dated, `is_member` says whether an account is a member's.
    `on_refusal` is called for messages that are not accepted: for the first of a sender and reason, then once a minute
    for all others.
    """

    def __init__(
        self,
        identity: Identity,
        run: Digest,
        clock: Callable[[], Millis],
        *,
        listen: str = ANY_LOCAL_PORT,
        grants: Grants | None = None,
        on_refusal: Callable[[Refusal], None] | None = None,
        is_member: Callable[[Address], bool] = everyone,
        outside: Outside = AS_LISTENED,
    ) -> None:
        """Raises UserError, one line, for an address that nobody can listen on or be told of."""
        grants = grants or Grants()
        self.identity, self.is_member = identity, is_member
        self._listening, self._announced = multiaddrs_of(listen), announced(outside.announce)
        self._mail = Mail(identity, run, clock, on_refusal, is_member, grants.up, grants.down)
        self._door = Door(grants.bounds, is_member, self._mail.refuse)
        self._host = make_host(identity, self._door)
        self._server = Server(self._mail, grants, self._door)
        self._circuits = Circuits(self._host, outside.via)
        self.gateway = Gateway(self._bound) if outside.upnp else None
        self.nearby = Nearby(run, self._host.get_id(), self._bound) if outside.mdns else None
        find = self.nearby.find if self.nearby else nowhere
        self._dialler = Dialler(self._host, self._circuits, grants.dial_seconds, find)
        self._client = Client(self._mail, self._host, grants.asking, self._dialler)
        self._relay = Relay(self._host, self._mail, outside.carried) if outside.relays else None
        # Newcomers have no other way to who is behind a NAT.
        self._punch = Punch(
            self._host,
            self.reach,
            lambda account: bool(outside.via) or is_member(account),
            self._circuits.seen,
        )
        self._scope = trio.CancelScope()
        self._started, self._closing, self._closed = trio.Event(), trio.Event(), trio.Event()

    async def __aenter__(self) -> Self:
        """Start listening; raises UserError, one line, if a port is taken or an address not this machine's."""
        for each in self._listening:
            refuse_taken(each)
        self._host.set_stream_handler(PROTOCOL, self._server.serve)
        self._circuits.open()
        if self._relay:
            self._relay.open()
        # A system task, so that a cancelled caller still closes sockets in order and sees its own exceptions bare.
        trio.lowlevel.spawn_system_task(self._run)
        await self._started.wait()
        for each in self._listening:
            if str(each) not in self._host.get_network().listeners:
                await self._close()
                raise UserError(f"{each}: cannot listen there; choose another address or port")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def address(self) -> PeerAddress:
        """Where other peers reach this one; only while it runs."""
        mapped = self.gateway.addresses if self.gateway else ()
        addresses = (*(self._announced or self._bound()), *mapped, *self._circuits.addresses)
        return PeerAddress(self.identity.address, endpoint(addresses, self._host.get_id()))

    def _bound(self) -> tuple[str, ...]:
        """Return where this peer listens; only while it runs."""
        listeners = self._host.get_network().listeners
        return real(address for each in self._listening for address in listeners[str(each)].get_addrs())

    @property
    def reach(self) -> Scope:
        """From where this peer is reached directly."""
        return reach_of(self._announced or real(self._listening))

    def register(self, kind: Kind, handler: Handler) -> None:
        """Let `handler` answer requests of `kind`; raises ValueError if somebody does already.

        A handler that raises a Violation has the sender counted and refused, Unavailable declines; any other
        exception is logged and answered as a fault.
        """
        self._server.register(kind, handler)

    async def request(self, peer: PeerAddress, kind: Kind, body: bytes, timeout: float) -> bytes:
        """Return the peer's answer within `timeout` seconds; see `Client.request` for what is raised."""
        return await self._client.request(peer, kind, body, timeout)

    async def keep_open(self, peers: Callable[[], Sequence[PeerAddress]]) -> None:
        """Keep direct connections to peers until cancelled: who is behind a NAT is asked by way of its own."""
        while True:
            async with trio.open_nursery() as nursery:
                for peer in peers():
                    nursery.start_soon(self._client.connect, peer)
            await trio.sleep(KEEP_SECONDS)

    async def is_reserved(self) -> bool:
        """Wait a little for a relay to have a place for this peer, which then belongs to its address; return whether
        one has, or none is asked."""
        with trio.move_on_after(RESERVING_SECONDS):
            await self._circuits.has_reserved.wait()
        return self._circuits.has_reserved.is_set()

    async def announce(self) -> None:
        """Tell local networks where this peer is until it closes, if they are to know."""
        if self.nearby:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.nearby.announce)
                await self._closing.wait()  # closed sockets have no address
                nursery.cancel_scope.cancel()

    def way_to(self, peer: PeerAddress) -> Way | None:
        """Return by which way a peer was reached; None for one that only has reached this one."""
        return self._dialler.reached(peer.info().peer_id)

    def refuse(self, sender: Address, violation: Violation) -> None:
        """Count, log and report what a peer did wrong outside an envelope, such as bytes that miss their digest."""
        self._mail.refuse(sender, violation)

    def is_out_of_reach(self, peer: PeerAddress) -> bool:
        """Return whether nothing is open to a peer that could not be reached when it was tried last."""
        return self._client.is_out_of_reach(peer)

    def place_of(self, account: Address) -> str:
        """Return the network address from which an account is connected, "" where that is not known."""
        return self._door.place_of(account)

    @property
    def is_full(self) -> bool:
        """Whether bulk that is asked for now would wait for its turn."""
        return self._mail.down.is_full

    def connected(self) -> tuple[Address, ...]:
        """Return the peers with an open connection, sorted."""
        peers = [peer for peer, connections in self._host.get_network().connections.items() if connections]
        return tuple(sorted(account_of(peer) for peer in peers))

    def traffic(self) -> tuple[Flow, ...]:
        """Return messages and bytes so far, by peer, direction and kind."""
        return self._mail.counters.flows()

    def refusals(self) -> dict[tuple[Address, str], int]:
        """Return how often each sender was refused for each reason."""
        return self._mail.counters.refusals()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery, self._host.run(self._listening):
                    nursery.start_soon(self._mail.refusals.run)
                    nursery.start_soon(self._door.run)
                    nursery.start_soon(self._circuits.keep, self._dialler.connect)
                    nursery.start_soon(self._punch_through)
                    if self.gateway:
                        nursery.start_soon(self.gateway.keep)
                    self._started.set()
                    await self._closing.wait()
                    await hang_up(self._host)
                    nursery.cancel_scope.cancel()
        finally:
            self._started.set()
            self._closed.set()

    async def _punch_through(self) -> None:
        """Try for direct connections, from the first circuit on; who has none offers nothing of it."""
        await self._circuits.is_used.wait()
        async with background_trio_service(self._punch):
            await self._punch.forget()

    async def _close(self) -> None:
        self._closing.set()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(CLOSING_SECONDS) as patience:
                await self._closed.wait()
            if patience.cancelled_caught:
                log.warning("py-libp2p did not close within %s s and is cancelled", CLOSING_SECONDS)
                self._scope.cancel()
                with trio.move_on_after(CLOSING_SECONDS):
                    await self._closed.wait()
