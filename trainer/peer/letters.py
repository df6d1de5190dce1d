"""Letters between the members of a crew: what crosses between their shards, and the receipts for it. (SPEC.md 4.17)

Only neighbours in the crew of a round are answered; everyone else is declined, and costs nothing.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

from p2p.errors import Declined
from p2p.host import PostOffice
from p2p.mail import Kind
from p2p.messages import CrossingQuery, ReceiptQuery
from p2p.questions import CROSSING, RECEIPT
from trainer.peer.contacts import Contacts
from trainer.peer.outbox import Outbox
from verification.codec import decode, encode
from verification.errors import Unavailable, Violation
from verification.signing import checksum
from verification.units import Address, Round

ANSWER_SECONDS = 40.0
"""Longer than an answer may take: a neighbour that has nothing yet says so before."""
GONE_SECONDS = 5.0
"""How long a neighbour may be out of reach before it counts as gone: longer than a lost connection, shorter than any
round that is worth it."""
REFUSED_SECONDS = 2.0
"""Whose connection fails sooner is not there; later, it may be slow, and is waited for as long as there is time."""
PAUSE_SECONDS = 0.2
"""Before a neighbour is asked again."""
BEGIN_SECONDS = 20.0
"""How long a neighbour waits for this peer to begin a round that it has begun already."""
WAITING = 8
"""Questions of one neighbour that wait for that."""
KEPT = 2
"""Of so many of the last rounds receipts are given again."""
Expects = Callable[[Address, Round], Awaitable[bool]]
"""Says whether this peer is, as far as it sees the ledger, to work with an account in a round."""


class Gone(Unavailable):
    """A neighbour cannot be reached any more."""


@dataclass
class Desk:
    """One round of this peer as a member of a crew: its `neighbours` by account, what it gives them, and its receipts
    for them once there are any."""

    neighbours: Mapping[Address, int]
    outbox: Outbox
    receipts: dict[Address, bytes] = field(default_factory=dict)
    is_signed: trio.Event = field(default_factory=trio.Event)


class Letters:
    """Asks neighbours, and answers them."""

    def __init__(self, post: PostOffice, contacts: Contacts, expects: Expects) -> None:
        """`expects` is asked about rounds that have not begun here."""
        self._post, self._contacts, self._expects = post, contacts, expects
        self._desks: dict[Round, Desk] = {}
        self._begun = trio.Event()
        self._waiting: Counter[Address] = Counter()

    def serve(self) -> None:
        """Answer neighbours from now on."""
        self._post.register(CROSSING, self._give)
        self._post.register(RECEIPT, self._sign)

    def begin(self, number: Round, desk: Desk) -> None:
        """Answer about a round from now on; what was given in older ones is let go."""
        for old in [each for each in self._desks if each < number]:
            self._desks[old].outbox.close()
            if old + KEPT <= number:
                del self._desks[old]
        self._desks[number] = desk
        self._begun.set()
        self._begun = trio.Event()

    def refuse(self, mate: Address, lie: Violation) -> None:
        """Count and report what a neighbour answered wrongly."""
        self._post.refuse(mate, lie)

    async def ask(self, mate: Address, kind: Kind, body: bytes) -> bytes:
        """Return a neighbour's answer, asked for again and again until it has one.

        Raises Gone for one that is out of reach for a while, and the Violation of an answer that breaks a rule.
        """
        since: float | None = None
        while True:
            try:
                return await self._asked(mate, kind, body)
            except Gone:
                since = trio.current_time() if since is None else since
                if trio.current_time() - since >= GONE_SECONDS:
                    raise
            except Unavailable:
                since = None
            await trio.sleep(PAUSE_SECONDS)

    async def _asked(self, mate: Address, kind: Kind, body: bytes) -> bytes:
        """Return an answer; raises Gone where nothing leads to the neighbour, Unavailable where it has none now."""
        for peer in self._contacts.named([mate]):
            began = trio.current_time()
            try:
                return await self._post.request(peer, kind, body, ANSWER_SECONDS)
            except Declined:
                raise
            except Unavailable as error:
                took = trio.current_time() - began
                if took < REFUSED_SECONDS and self._post.is_out_of_reach(peer):
                    raise Gone(str(error)) from error
                raise
        raise Gone(f"{checksum(mate)} has told no address")

    async def _give(self, sender: Address, body: bytes) -> bytes:
        query = decode(CrossingQuery, body)
        desk = await self._desk(sender, query.round)
        crossings = list(map(int, query.crossings))
        asked = desk.outbox.pieces(desk.neighbours[sender], int(query.step), crossings, int(query.piece))
        return encode(await asked)

    async def _sign(self, sender: Address, body: bytes) -> bytes:
        query = decode(ReceiptQuery, body)
        desk = await self._desk(sender, query.round)
        await desk.is_signed.wait()
        return desk.receipts[sender]

    async def _desk(self, sender: Address, number: Round) -> Desk:
        """Return a round in which the sender is a neighbour, once it has begun; raises Unavailable."""
        if number not in self._desks:
            await self._wait(sender, number)
        desk = self._desks.get(number)
        if desk is None or sender not in desk.neighbours:
            raise Unavailable(f"{checksum(sender)} is no neighbour in round {number}")
        return desk

    async def _wait(self, sender: Address, number: Round) -> None:
        """Wait for a round to begin here, if it is to."""
        if self._waiting[sender] >= WAITING or not await self._expects(sender, number):
            return
        self._waiting[sender] += 1
        try:
            with trio.move_on_after(BEGIN_SECONDS):
                while number not in self._desks:
                    await self._begun.wait()
        finally:
            self._waiting[sender] -= 1
