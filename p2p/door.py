"""Who may be connected to a peer: members as they are, all others together within a small budget.

Keys cost nothing, so strangers that take every slot and every byte must not shut out members.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
from libp2p.abc import ISecureConn
from libp2p.peer.id import ID

from p2p.arrivals import Arrivals
from p2p.bounds import Bounds
from p2p.errors import Overloaded
from p2p.muxer import BoundedYamux, Overrun, is_relayed
from p2p.rates import Asides, Rates
from p2p.refusals import everyone
from verification.errors import Violation
from verification.units import Address

SWEEP_SECONDS = 1.0
WRONGS_PER_SECOND = 0.25
ASIDE_SECONDS = 5.0, 60.0
"""Shortest and longest time for which somebody is left alone."""
BREACH = 4.0
"""What a frame beyond its connection's bounds, and a handshake of who is left alone, weigh among the wrongs: they are
no accident, and cost as much. So does anything while strangers do more wrong than `CROWD`."""
CROWD = 32, 1.0
"""What all strangers together may do wrong at once, and a second: a hostile one may come from many addresses."""
STREAMS = 256, 16.0
"""Streams that somebody may open at once, and a second: an honest peer keeps those that it has."""
Refuse = Callable[[Address, Violation], None]


class Door:
    """Counts connections and what waits on them, and closes those that are too many.

    Who is a member is asked each time: a stranger may have joined since.
    """

    def __init__(
        self,
        bounds: Bounds | None = None,
        is_member: Callable[[Address], bool] = everyone,
        refuse: Refuse = lambda sender, violation: None,
    ) -> None:
        """`refuse` hears of who goes beyond the bounds."""
        self.bounds, self.refuse = bounds or Bounds(), refuse
        self._is_member = is_member
        self._asides = Asides(Rates(self.bounds.wrongs, WRONGS_PER_SECOND), *ASIDE_SECONDS)
        self._arrivals, self._opened = Arrivals(self.bounds, self._asides), Rates(*STREAMS)
        self._crowd = Rates(*CROWD)
        self._inside: dict[BoundedYamux, int] = {}
        self._waiting = 0
        self._leaving, self._left = trio.open_memory_channel[BoundedYamux](math.inf)

    @contextmanager
    def greeting(self, place: str) -> Iterator[None]:
        """Count a handshake with a network address; raises Overloaded, before it costs anything, for one too many."""
        self._arrivals.begin(place, trio.current_time())
        is_made = False
        try:
            yield
            is_made = True
        finally:
            self._arrivals.end(place)
            if not is_made:
                self._count_wrong(place)

    def connection(self, secured: ISecureConn, peer: ID) -> BoundedYamux:
        """Return the multiplexer of a new connection, and close the strangers that are too many with it.

        It is closed at once where its other side is left alone.
        """
        made, now = BoundedYamux(secured, peer, self._admit, self.bounds.streams), trio.current_time()
        self._inside[made] = 0
        if not made.is_initiator and self._asides.is_aside(self.name(made), now):
            if not is_relayed(made):
                self._count_wrong(made.place, BREACH)
            self._send_away(made, None)
        elif not self._is_member(made.account):
            self._make_room(made)
        elif not is_relayed(made):
            self._arrivals.welcome(made.place, made.account, now)
        return made

    def wrong(self, connection: BoundedYamux, weight: float = 1.0) -> None:
        """Note that the other side of a connection broke a rule; who does so too often is cut off and left alone.

        A member answers for itself, a stranger for where it is: keys cost nothing.
        """
        name = self.name(connection)
        if self._count_wrong(name, weight):
            self._arrivals.forget(connection.account)
            for each in [each for each in self._inside if self.name(each) == name]:
                self._send_away(each, None)

    def _count_wrong(self, name: Address | str, weight: float = 1.0) -> bool:
        now = trio.current_time()
        if isinstance(name, str) and not self._crowd.take("", now):
            weight = BREACH
        return self._asides.note(name, now, weight)

    def name(self, connection: BoundedYamux) -> Address | str:
        """Return by what the wrongs of the other side are counted: relays bring strangers of all places."""
        is_its_own = self._is_member(connection.account) or connection.is_initiator or is_relayed(connection)
        return connection.account if is_its_own else connection.place

    def place_of(self, account: Address) -> str:
        """Return where a connected account is, "" where that is not known."""
        return next((each.place for each in reversed(self._inside) if each.account == account), "")

    async def run(self) -> None:
        """Close who has to leave and who stands idle, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            async for connection in self._left:
                nursery.start_soon(connection.hang_up)

    def _admit(self, connection: BoundedYamux, wrong: str | None, size: int, is_new: bool) -> None:
        if is_new and not self._opened.take(self.name(connection), trio.current_time()):
            wrong = wrong or "streams are opened too fast"
        if wrong:
            self.wrong(connection, BREACH)
        waiting = connection.unread() + size
        if waiting > self.bounds.unread:
            wrong = wrong or f"more than {self.bounds.unread} bytes unread on one connection"
        if wrong:
            self._send_away(connection, wrong)
        if connection not in self._inside:
            raise Overrun(wrong or "sent away")
        self._note(connection, waiting)
        if self._waiting > self.bounds.unread_of_strangers and self._is_stranger(connection):
            self._relieve(connection, self._strangers(), self.bounds.unread_of_strangers)
        if self._waiting > self.bounds.unread_in_all:
            self._relieve(connection, list(self._inside), self.bounds.unread_in_all)

    def _note(self, connection: BoundedYamux, waiting: int) -> None:
        self._waiting += waiting - self._inside.get(connection, 0)
        self._inside[connection] = waiting

    def _relieve(self, sender: BoundedYamux, connections: list[BoundedYamux], limit: int) -> None:
        """Close those that make this peer hold most, while all together are over a limit; others may have been read."""
        for each in connections:
            if each is not sender:
                self._note(each, each.unread())
        connections.sort(key=self._inside.__getitem__)
        over = sum(self._inside[each] for each in connections) - limit
        while over > 0 and connections:
            most = connections.pop()
            over -= self._inside[most]
            self._send_away(most, f"most of over {limit} bytes that wait unread")

    def _make_room(self, new: BoundedYamux) -> None:
        """Close the oldest stranger where there are too many, in all or at the network address of the new one."""
        if not self._is_stranger(new):
            return
        strangers = self._strangers()
        here = [each for each in strangers if each.place == new.place]
        for those, most in ((here, self.bounds.strangers_at_one), (strangers, self.bounds.strangers)):
            if len(those) > most:
                self._send_away(those[0], f"more than {most} connections of strangers")
                return

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            for each in [each for each in self._inside if each.is_closed]:
                self._waiting -= self._inside.pop(each)
            for each in self._strangers():
                if trio.current_time() - each.heard_at > self.bounds.idle:
                    self._send_away(each, None)

    def _send_away(self, connection: BoundedYamux, wrong: str | None) -> None:
        """Close a connection soon; its bytes count no more. To be idle is no wrong."""
        if connection not in self._inside:
            return
        self._waiting -= self._inside.pop(connection)
        if wrong:
            self.refuse(connection.account, Overloaded(wrong))
        self._leaving.send_nowait(connection)

    def _strangers(self) -> list[BoundedYamux]:
        """Return the open connections of strangers that dialled, the oldest first."""
        return [each for each in self._inside if self._is_stranger(each)]

    def _is_stranger(self, connection: BoundedYamux) -> bool:
        dialled = not connection.is_initiator
        return dialled and not connection.is_closed and not self._is_member(connection.account)
