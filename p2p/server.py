"""The answering side: reads requests from a peer's streams, checks them, and hands their bodies to handlers."""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import trio
from libp2p.abc import INetStream

from p2p.bounds import MIB, Bounds, Turns
from p2p.door import Door
from p2p.envelope import Limits
from p2p.errors import FAULT, Overloaded, Untaken
from p2p.framing import PREFIX_BYTES, drop, libp2p_faults, read_frame, write_frame
from p2p.identity import address_of_peer
from p2p.mail import OK, UNREAD, Kind, Mail, reply_to, request_digest
from p2p.messages import Reply
from p2p.muxer import BoundedYamux, is_relayed
from p2p.rates import Rates
from p2p.traffic import OTHERS
from verification.codec import encode
from verification.errors import Unavailable, Violation
from verification.signing import checksum
from verification.units import Address

log = logging.getLogger(__name__)
PLACES = 4
"""Network addresses from which strangers must come to use up all that they are granted together."""
Handler = Callable[[Address, bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class Grants:
    """What one post office grants others, and takes itself.

    A peer may hold `streams_per_peer` streams open, further ones are reset; of all peers' requests `at_once` are
    handled at a time, further ones wait unread in order of arrival. A member may ask `burst` times at once and `pace`
    times a second from then on, but for bulk; so may all others at one network address. Answers under way have
    `answers_of_one` bytes to each member, to all who are none together, of which a quarter to one network address, and
    `answers_in_all` to everyone; who asks for more waits. A request that began to arrive must be complete after
    `patience` seconds, and its answer be taken after `reading`. Towards each peer `asking` requests run at a time, and
    dialling takes `dial_seconds`. Connections keep to `bounds`. `up` and `down` bytes a second go to all peers and come
    from them; None sets no limit.
    """

    streams_per_peer: int = 32
    at_once: int = 64
    burst: int = 200
    pace: float = 30.0
    patience: float = 30.0
    reading: float = 60.0
    asking: int = 8
    dial_seconds: float = 10.0
    answers_of_one: int = 4 * MIB
    answers_in_all: int = 64 * MIB
    bounds: Bounds = field(default_factory=Bounds)
    up: int | None = None
    down: int | None = None


class Server:
    """Answers requests of the kinds that were registered."""

    def __init__(self, mail: Mail, grants: Grants, door: Door) -> None:
        self._mail, self._door = mail, door
        self._grants = grants
        self._asked = Rates(grants.burst, grants.pace)
        self._handlers: dict[str, tuple[Kind, Handler]] = {}
        self._limits = Limits({})
        self._open: Counter[Address] = Counter()
        self._capacity = trio.CapacityLimiter(grants.at_once)
        self._bulk: set[str] = set()
        self._answers = Turns(grants.answers_in_all)
        self._answers_of: dict[Hashable, Turns] = {}

    def register(self, kind: Kind, handler: Handler) -> None:
        """Let `handler` answer requests of `kind`; raises ValueError if somebody does already."""
        if kind.name in self._handlers:
            raise ValueError(f"kind {kind.name} has a handler already")
        self._handlers[kind.name] = (kind, handler)
        if kind.is_bulk:
            self._bulk.add(kind.reply)
        self._limits = Limits({name: known.request_limit for name, (known, _) in self._handlers.items()})

    async def serve(self, stream: INetStream) -> None:
        """Answer everything that arrives on one stream, until it ends or breaks a rule."""
        sender, connection = OTHERS, cast(BoundedYamux, stream.muxed_conn)
        try:
            sender = address_of_peer(connection.peer_id)
            if self._open[sender] >= self._grants.streams_per_peer:
                raise Overloaded(f"{self._grants.streams_per_peer} streams are open already")
            self._open[sender] += 1
            try:
                with libp2p_faults(checksum(sender)):
                    await self._converse(stream, connection)
            finally:
                self._open[sender] -= 1
                if not self._open[sender]:
                    del self._open[sender]
        except Violation as violation:
            self._refuse(connection, violation)
            await drop(stream)
        except Unavailable as error:
            log.info("stream lost: %s", error, extra={"sender": checksum(sender)})
            await drop(stream)
        except Exception:  # task's edge
            # What escaped here would end the peer's whole connection.
            log.exception("post office failed", extra={"sender": checksum(sender)})
            await drop(stream)

    def _refuse(self, connection: BoundedYamux, violation: Violation) -> None:
        self._mail.refuse(connection.account, violation)
        self._door.wrong(connection)

    async def _converse(self, stream: INetStream, connection: BoundedYamux) -> None:
        status = OK
        while status == OK:
            data = await read_frame(stream, self._limits.message, self._grants.patience)
            if data is None:
                break
            await self._mail.down.turn(len(data), False)
            async with AsyncExitStack() as held:
                kind, reply = await self._answer(connection, data, held)
                status = reply.status
                await self._send(stream, connection, kind, encode(reply))
        await stream.close()

    async def _send(self, stream: INetStream, connection: BoundedYamux, kind: str, body: bytes) -> None:
        """Write an answer; raises Untaken, and closes the connection, when nobody takes it."""
        await self._mail.up.turn(len(body), kind in self._bulk)
        sealed = self._mail.seal(kind, body)
        with trio.move_on_after(self._grants.reading):
            await write_frame(stream, sealed)
            self._mail.counters.moved(connection.account, "out", kind, len(sealed) + PREFIX_BYTES)
            return
        # What was cut in the middle of a frame cannot go on.
        await connection.hang_up()
        raise Untaken(f"{kind} of {len(sealed)} bytes was not taken for {self._grants.reading} s")

    @asynccontextmanager
    async def _turn(self, connection: BoundedYamux, size: int) -> AsyncIterator[None]:
        """Wait until an answer of `size` bytes may be under way to the other side.

        Who waits for what its network address has does not stand in line with other strangers.
        """
        one = self._grants.answers_of_one
        is_member = self._mail.is_member(connection.account)
        shares: dict[Hashable, int] = (
            {connection.account: one} if is_member else {connection.place: one // PLACES, OTHERS: one}
        )
        async with AsyncExitStack() as held:
            for name, share in shares.items():
                await held.enter_async_context(self._share(name, share, size))
            async with self._answers.hold(size):
                yield

    @asynccontextmanager
    async def _share(self, name: Hashable, share: int, size: int) -> AsyncIterator[None]:
        turns = self._answers_of.setdefault(name, Turns(share))
        try:
            async with turns.hold(size):
                yield
        finally:
            if turns.is_idle:
                self._answers_of.pop(name, None)

    async def _answer(self, connection: BoundedYamux, data: bytes, held: AsyncExitStack) -> tuple[str, Reply]:
        """Return the answer to a request; `held` keeps what it takes until it is sent."""
        request, sender = request_digest(data), connection.account
        name = UNREAD
        try:
            envelope = self._mail.open(data, self._limits, sender)
            name = envelope.kind
            kind, handler = self._handlers[name]
            if is_relayed(connection) and not kind.is_relayed:
                raise Unavailable(f"no relay carries {name}")
            if not (kind.is_bulk or self._asked.take(self._door.name(connection), trio.current_time())):
                raise Overloaded(f"more than {self._grants.pace:.0f} requests a second")
            await held.enter_async_context(self._turn(connection, kind.reply_limit))
            async with self._capacity:
                status, body = OK, await self._handle(kind, handler, sender, envelope.body)
        except Violation as violation:
            self._refuse(connection, violation)
            status, body = type(violation).__name__, b""
        except Unavailable as error:
            log.info("cannot serve %s: %s", name, error, extra={"sender": checksum(sender)})
            status, body = type(error).__name__, b""
        except Exception:  # task's edge
            # A handler's fault must not end the peer's connection.
            log.exception("handler of %s failed", name, extra={"sender": checksum(sender)})
            status, body = FAULT, b""
        self._mail.counters.moved(sender, "in", name, len(data) + PREFIX_BYTES)
        return reply_to(name), Reply(request, status, body)

    async def _handle(self, kind: Kind, handler: Handler, sender: Address, body: bytes) -> bytes:
        with trio.move_on_after(kind.patience):
            answer = await handler(sender, body)
            if len(answer) > kind.reply_limit:
                raise RuntimeError(
                    f"answer to {kind.name} of {len(answer)} bytes is over its limit of {kind.reply_limit}"
                )
            return answer
        raise Unavailable(f"handler of {kind.name} took longer than {kind.patience} s")
