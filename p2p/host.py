"""The post office: signed requests and replies between peers over py-libp2p.

Every message is an envelope (p2p.envelope) whose signer must be the peer that the Noise handshake authenticated.
Streams stay open between requests, since opening one costs two round trips and starts with a small Yamux window.
"""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio
from multiaddr import Multiaddr

from p2p.client import Client
from p2p.door import Door
from p2p.identity import Identity, account_of
from p2p.mail import Kind, Mail
from p2p.refusals import everyone
from p2p.server import Grants, Handler, Server
from p2p.traffic import Flow, Refusal
from p2p.transport import (
    ANY_LOCAL_PORT,
    PROTOCOL,
    PeerAddress,
    dialled,
    hang_up,
    make_host,
    refuse_taken_port,
)
from verification.errors import UserError, Violation
from verification.units import Address, Digest, Millis

log = logging.getLogger(__name__)
CLOSING_SECONDS = 3.0
"""Longest that closing waits for py-libp2p before it is cancelled."""


class PostOffice:
    """One peer's post office; `async with` starts and closes it.

    `clock` gives the milliseconds by which envelopes are dated, `is_member` says whether an account is a member's.
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
    ) -> None:
        grants = grants or Grants()
        self.identity = identity
        self._listen = listen
        self._mail = Mail(identity, run, clock, on_refusal, is_member, grants.up, grants.down)
        self._door = Door(grants.bounds, is_member, self._mail.refuse)
        self._host = make_host(identity, self._door)
        self._server = Server(self._mail, grants)
        self._client = Client(self._mail, self._host, grants.asking, grants.dial_seconds)
        self._scope = trio.CancelScope()
        self._started, self._closing, self._closed = trio.Event(), trio.Event(), trio.Event()

    async def __aenter__(self) -> Self:
        """Start listening; raises UserError, one line, if the port is taken or the address not this machine's."""
        refuse_taken_port(self._listen)
        self._host.set_stream_handler(PROTOCOL, self._server.serve)
        # A system task, so that a cancelled caller still closes sockets in order and sees its own exceptions bare.
        trio.lowlevel.spawn_system_task(self._run)
        await self._started.wait()
        if not self._host.get_network().listeners:
            await self._close()
            raise UserError(f"{self._listen}: cannot listen there; choose another address or port")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def address(self) -> PeerAddress:
        """Where other peers reach this one; only while it runs."""
        return PeerAddress(
            self.identity.address, dialled(self._host.get_id(), self._host.get_transport_addrs())
        )

    def register(self, kind: Kind, handler: Handler) -> None:
        """Let `handler` answer requests of `kind`; raises ValueError if somebody does already.

        A handler that raises a Violation has the sender counted and refused, Unavailable declines; any other
        exception is logged and answered as a fault.
        """
        self._server.register(kind, handler)

    async def request(self, peer: PeerAddress, kind: Kind, body: bytes, timeout: float) -> bytes:
        """Return the peer's answer within `timeout` seconds; see `Client.request` for what is raised."""
        return await self._client.request(peer, kind, body, timeout)

    def refuse(self, sender: Address, violation: Violation) -> None:
        """Count, log and report what a peer did wrong outside an envelope, such as bytes that miss their digest."""
        self._mail.refuse(sender, violation)

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
                async with trio.open_nursery() as nursery, self._host.run([Multiaddr(self._listen)]):
                    nursery.start_soon(self._mail.refusals.run)
                    nursery.start_soon(self._door.run)
                    self._started.set()
                    await self._closing.wait()
                    await hang_up(self._host)
                    nursery.cancel_scope.cancel()
        finally:
            self._started.set()
            self._closed.set()

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
