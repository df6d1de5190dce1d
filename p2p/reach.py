"""How a peer is dialled: at one of its addresses after the other, at a later one while an earlier hangs."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetConn
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from p2p.addresses import Backoff, Place, nearness, place_of, relay_of
from p2p.circuits import Circuits
from p2p.framing import FAULTS
from p2p.muxer import best, is_relayed
from verification.errors import Unavailable, Violation

HEAD_START = 0.25
"""Seconds that an address has before the next one is tried beside it."""
LATE_SECONDS = 1.0
"""After which an address that is given up counts as one where nobody is, and the local network is asked for others."""
Find = Callable[[ID], Awaitable[list[Multiaddr]]]
"""Returns where the local network says that a peer is."""


@dataclass(frozen=True)
class Way:
    """By which address, its key with it, a peer was reached, and whether only the local network told it."""

    address: str
    is_nearby: bool


async def nowhere(peer: ID) -> list[Multiaddr]:
    """Find nobody."""
    return []


@dataclass
class _Race:
    """The tries of one peer's addresses; the first that reaches it ends the others."""

    scope: trio.CancelScope
    until: float
    errors: list[Exception] = field(default_factory=list)
    is_won: bool = False


class Dialler:
    """Has connections made. py-libp2p's own dialling tries one TCP address of several, and refuses a peer for a minute
    after it failed."""

    def __init__(self, host: BasicHost, circuits: Circuits, seconds: float, find: Find = nowhere) -> None:
        """Let a peer be dialled for `seconds`, at all of its addresses together; `find` knows of more."""
        self._network, self._circuits, self._seconds = host.get_network(), circuits, seconds
        self._find = find
        self._reached: dict[ID, Way] = {}
        self._backoff = Backoff()
        self._dialling: dict[ID, trio.Lock] = defaultdict(trio.Lock)

    async def connect(self, info: PeerInfo, is_direct: bool = False) -> None:
        """Have a connection to a peer, in whichever direction it was made; if `is_direct`, not by way of a relay.

        Raises Unavailable while all its addresses are left alone, and what `libp2p_faults` takes for a failed dial.
        """
        async with self._dialling[info.peer_id]:
            if self.way(info, not is_direct):
                return
            due = self._due(info, is_direct)
            with trio.move_on_after(self._seconds) as scope:
                errors = await self._race(info.peer_id, due, scope.deadline)
                if errors:
                    raise errors[-1]
                return
            raise OSError(f"no connection within {self._seconds} s")

    def is_out_of_reach(self, info: PeerInfo) -> bool:
        """Return whether nothing direct is open to a peer, and no address but circuits was reached when tried last."""
        if self.way(info, False):
            return False
        return all(self._backoff.is_failing(_place(address, info.peer_id)) for address in _direct(info))

    def way(self, info: PeerInfo, may_be_relayed: bool) -> INetConn | None:
        """Return the connection to a peer that is used, if there is one."""
        there = [each for each in self._network.get_connections(info.peer_id) if not each.is_closed]
        way = best(there) if there else None
        return way if way is not None and (may_be_relayed or not is_relayed(way.muxed_conn)) else None

    def reached(self, peer: ID) -> Way | None:
        """Return by which way a peer was reached when it was dialled last; None where only it has dialled."""
        return self._reached.get(peer)

    def _due(self, info: PeerInfo, is_direct: bool) -> list[Multiaddr]:
        """Return the addresses to try, the nearest first; raises Unavailable where there are none, or it is too early
        for each."""
        now = trio.current_time()
        addresses = _direct(info) if is_direct else info.addrs
        if not addresses:
            raise Unavailable("it is reached by way of relays only, which carry no bulk")
        due = [address for address in addresses if self._backoff.is_due(_place(address, info.peer_id), now)]
        if not due:
            self._backoff.check(_place(addresses[0], info.peer_id), now)
        return sorted(due, key=lambda address: nearness(str(address)))

    async def _race(self, peer: ID, addresses: list[Multiaddr], until: float) -> list[Exception]:
        """Try addresses until one reaches the peer, or it is `until`; return why they failed if none does."""
        async with trio.open_nursery() as nursery:
            race = _Race(nursery.cancel_scope, until)
            tries = [trio.Event() for _ in addresses]
            for address, ended in zip(addresses, tries, strict=True):
                nursery.start_soon(self._try, peer, address, race, ended)
                with trio.move_on_after(HEAD_START):
                    await ended.wait()
            with trio.move_on_after(LATE_SECONDS):
                for ended in tries:
                    await ended.wait()
            for address in await self._find(peer):
                if address not in addresses:
                    nursery.start_soon(self._try, peer, address, race, trio.Event(), True)
        return [] if race.is_won else race.errors

    async def _try(
        self, peer: ID, address: Multiaddr, race: _Race, ended: trio.Event, is_nearby: bool = False
    ) -> None:
        began, is_reached, has_failed = trio.current_time(), False, False
        try:
            await self._dial(peer, address)
            is_reached = race.is_won = True
            self._reached[peer] = Way(f"{address}/p2p/{peer}", is_nearby)
            race.scope.cancel()
        except (Unavailable, Violation, *FAULTS) as error:
            has_failed = True
            race.errors.append(error)
        finally:
            now = trio.current_time()
            # Who was overtaken, or not waited for, may be there all the same.
            has_failed |= not race.is_won and (now - began >= LATE_SECONDS or now >= race.until)
            if is_reached or has_failed:
                self._backoff.note(_place(address, peer), is_reached, now)
            ended.set()

    async def _dial(self, peer: ID, address: Multiaddr) -> None:
        if relay_of(str(address)):
            await self._circuits.dial(address, peer, self.connect)
        else:
            await self._network.dial_addr(address, peer)


def _direct(info: PeerInfo) -> list[Multiaddr]:
    return [address for address in info.addrs if not relay_of(str(address))]


def _place(address: Multiaddr, peer: ID) -> Place:
    return place_of(str(address)) or (f"{address}/p2p/{peer}", 0)
