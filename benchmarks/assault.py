"""One hostile stranger or member as a process of its own: its connections, and how each of its attacks ended.

It dials from other addresses than honest peers, since what one address may do is counted, and gives way to every other
process: its share of the processor must not be what slows a run down.
"""

import logging
import os
import random
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle
from multiprocessing.connection import Connection

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from multiaddr import Multiaddr

from benchmarks.attacks import (
    ANSWERED,
    CUT,
    FAST,
    LAST,
    PATIENCE,
    SLOW,
    STANDING,
    TO_PEERS,
    TO_THE_HOST,
    UNANSWERED,
    Attack,
    Orders,
    Session,
)
from p2p.envelope import first_sequence
from p2p.framing import libp2p_faults
from p2p.identity import Identity
from p2p.transport import PROTOCOL, PeerAddress, hang_up, make_host
from verification.errors import Malformed, Unavailable
from verification.ledger.local import system_clock

SOURCES = tuple(f"127.0.0.{number}" for number in range(2, 10))
"""Where attackers dial from: not where honest peers are, since what one address may do is counted."""
SESSIONS = 2
"""Connections to each peer on which one attack follows the other."""
HELD = 12
"""Slow attacks that one connection has under way."""
SILENT_A_SECOND = 3.0
"""Connections that say nothing, or one byte a second, to each peer."""


class Sources(trio.abc.SocketFactory):
    """Opens sockets that dial from one of `SOURCES` after the other."""

    def __init__(self) -> None:
        self._turn = cycle(SOURCES)

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> trio.socket.SocketType:
        """Open a socket."""
        made = socket.socket(family, type, proto)
        made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port follows at connect
        made.bind((next(self._turn), 0))
        return trio.socket.from_stdlib_socket(made)


class Assault:
    """All sessions of one attacker, and their counts."""

    def __init__(self, orders: Orders) -> None:
        self.orders, self.counts = orders, defaultdict[str, Counter[str]](Counter)
        self._rng, self._sequence = random.Random(0), count(first_sequence(system_clock()))
        self._next = trio.current_time()

    async def run(self) -> None:
        """Attack until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.orders.secret is not None and self.orders.listen is not None:
                listens = trio.Event()  # before sockets have an address of their own to dial from
                nursery.start_soon(self._stand_still, self.orders.secret, self.orders.listen, listens)
                await listens.wait()
            trio.socket.set_custom_socket_factory(Sources())
            for target in self.orders.targets:
                nursery.start_soon(self._say_nothing, PeerAddress.parse(target))
                for _ in range(SESSIONS):
                    nursery.start_soon(self._besiege, PeerAddress.parse(target))

    async def _turn(self) -> None:
        """Wait until the next attack may be made."""
        self._next = max(self._next, trio.current_time() - 1.0) + 1 / self.orders.rate
        await trio.sleep_until(self._next)

    async def _besiege(self, target: PeerAddress) -> None:
        """Dial until there is a connection, attack until it is cut, and dial again: a stranger by another key."""
        while True:
            identity = Identity(self.orders.secret or self._rng.randbytes(32))
            try:
                async with calling(identity) as host:
                    is_connected = False
                    while not is_connected:
                        await self._turn()
                        is_connected = await reach(host, target)
                        self.counts["dial"][ANSWERED if is_connected else CUT] += 1
                    one = Session(self.orders, identity, target, host, self._rng, self._sequence)
                    await self._attack(one)
            except* (BaseLibp2pError, OSError, trio.BrokenResourceError):
                self.counts["closing"][CUT] += 1

    async def _attack(self, session: Session) -> None:
        own = FAST | (TO_THE_HOST if session.is_to_host else TO_PEERS)
        rounds = [*own.items()]
        async with trio.open_nursery() as nursery:
            for number in range(1 << 30):
                self._rng.shuffle(rounds)
                for name, attack in rounds:
                    await self._turn()
                    if number % 2 == 0 and session.held < HELD:
                        slow = self._rng.choice(list(SLOW))
                        nursery.start_soon(self._hold, slow, session)
                    if not await self.make(name, attack, session, 2 * PATIENCE):
                        nursery.cancel_scope.cancel()
                        return
                for name, attack in LAST.items():
                    if not await self.make(name, attack, session, 2 * PATIENCE):
                        nursery.cancel_scope.cancel()
                        return

    async def _hold(self, name: str, session: Session) -> None:
        session.held += 1
        try:
            await self.make(name, SLOW[name], session, STANDING + PATIENCE)
        finally:
            session.held -= 1

    async def make(self, name: str, attack: Attack, session: Session, patience: float) -> bool:
        """Make an attack and count how it ended; returns whether the connection is still there."""
        outcome = UNANSWERED
        with trio.move_on_after(patience):
            try:
                with libp2p_faults(name, RuntimeError, ValueError, KeyError):
                    outcome = await attack(session)
            except (Unavailable, Malformed):
                outcome = CUT
        self.counts[name][outcome] += 1
        connections = session.host.get_network().get_connections(session.target.info().peer_id)
        return any(not each.is_closed for each in connections)

    async def _say_nothing(self, target: PeerAddress) -> None:
        """Open connections that stand still before their handshake, or go on with it byte after byte."""
        _, _, host, _, port, *_ = target.multiaddr.split("/")
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(1 / SILENT_A_SECOND)
                nursery.start_soon(self._linger, host, int(port), self._rng.random() < 0.5)

    async def _linger(self, host: str, port: int, is_silent: bool) -> None:
        name, outcome = ("silent connection" if is_silent else "slow handshake"), UNANSWERED
        with trio.move_on_after(STANDING):
            try:
                async with await trio.open_tcp_stream(host, port) as stream:
                    for byte in b"" if is_silent else b"\x13/multistream/1.0.0\n":
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(1.0)
                    async for _ in stream:
                        pass
                outcome = CUT
            except (OSError, trio.BrokenResourceError):
                outcome = CUT
        self.counts[name][outcome] += 1

    async def _stand_still(self, secret: bytes, listen: str, listens: trio.Event) -> None:
        """Accept what a member is asked, and never answer."""
        host = make_host(Identity(secret))

        async def ignore(stream: INetStream) -> None:
            self.counts["asked and silent"][UNANSWERED] += 1
            await trio.sleep(STANDING)

        host.set_stream_handler(PROTOCOL, ignore)
        async with host.run([Multiaddr(listen)]):
            listens.set()
            await trio.sleep_forever()


@asynccontextmanager
async def calling(identity: Identity) -> AsyncIterator[BasicHost]:
    """Yield a host that listens nowhere."""
    host = make_host(identity)
    async with host.run([]):
        yield host
        with suppress(BaseLibp2pError):
            await hang_up(host)


async def reach(host: BasicHost, target: PeerAddress) -> bool:
    """Dial a peer; return whether there is a connection."""
    info = target.info()
    with suppress(Unavailable), libp2p_faults(target.multiaddr, RuntimeError, ValueError, KeyError):
        with trio.move_on_after(PATIENCE):
            await host.get_network().dial_addr(info.addrs[0], info.peer_id)
            return True
    return False


def give_way() -> None:
    """Have this process run when no other wants to: an attacker has a machine of its own."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def attack(orders: Orders, line: Connection) -> None:
    """Attack in this process from the first word on `line` to the second, and send what came of it."""
    give_way()
    logging.disable()  # libraries tell of every connection that is cut
    line.send("ready")
    line.recv()
    line.send(trio.run(_until_told, orders, line))


async def _until_told(orders: Orders, line: Connection) -> dict[str, dict[str, int]]:
    assault = Assault(orders)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(assault.run)
        await trio.to_thread.run_sync(line.recv)
        nursery.cancel_scope.cancel()
    return {name: dict(outcomes) for name, outcomes in sorted(assault.counts.items())}
