"""One round of a member of a crew: the compute process, the neighbours, and who cannot go on for want of whom.

(SPEC.md 4.17)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import trio

from p2p.messages import CrossingBytes, CrossingQuery, ReceiptQuery
from p2p.questions import CROSSING, RECEIPT
from trainer.compute import orders
from trainer.compute.client import NORMAL, URGENT, ComputeClient
from trainer.peer.letters import Desk, Gone, Letters
from trainer.peer.outbox import BEHIND, Outbox, letters_of, pieces_of
from verification.codec import decode, encode
from verification.crews import Item, made_by, neighbours, roots_of_shared, taken_by
from verification.errors import Malformed, ProofswarmError, Violation
from verification.honest.actions import Work
from verification.manifest import Cut, Post
from verification.signed import open_statement
from verification.statements import Receipt, Stuck
from verification.units import Address, Count, Digest, Round

AHEAD = 4
"""Letters that ask one neighbour for crossings at a time, in their order, whether or not they are made yet."""
WATCH_SECONDS = 0.5
"""Between two looks at how the crew stands on the ledger."""
Pieces = tuple[tuple[Count, bytes], ...]
"""Pieces of crossings, each with its number."""
Sign = Callable[[Receipt], Awaitable[bytes]]
"""Signs a receipt as the journal does: the same bytes again for the same place, whatever it says now."""


@dataclass(frozen=True)
class Seat:
    """A member's place in a crew's round: the `crew` by shards, and the bytes of each crossing `taken` and `given`."""

    job: orders.RunJob
    post: Post
    cut: Cut
    crew: tuple[Address, ...]
    taken: Mapping[int, int]
    given: Mapping[int, int]

    @property
    def number(self) -> Round:
        """The round."""
        return self.job.number

    @property
    def shard(self) -> int:
        """The shard that it holds."""
        return int(self.post.shard)

    @cached_property
    def near(self) -> dict[Address, int]:
        """Its neighbours, with their shards."""
        return {self.crew[shard]: shard for shard in neighbours(self.cut, self.shard)}

    @property
    def steps(self) -> int:
        """The inner steps of the round."""
        return int(self.job.steps)


@dataclass(frozen=True)
class Outlook:
    """How a crew stands on the ledger: whom the round cannot go on with, whether it is about to be too late, and a
    neighbour that has committed already."""

    partner: Address | None
    is_late: bool
    hasty: Address | None = None


Look = Callable[[], Awaitable[Outlook]]


class ShareRound:
    """A member's round, from its order to its work, or to whom it is stuck with."""

    def __init__(self, seat: Seat, bench: ComputeClient, letters: Letters, sign: Sign, look: Look) -> None:
        """`look` says how the crew stands."""
        self._seat, self._bench, self._letters, self._sign, self._look = seat, bench, letters, sign, look
        self._desk = Desk(seat.near, Outbox(seat.cut, seat.given, seat.steps))
        self._started = trio.Event()
        self._lacking: Address | None = None
        """For whom alone the round waits now."""
        self._waits: tuple[int, int] | None = None
        self._scope = trio.CancelScope()
        self._partner: Address | None = None
        self._error: Exception | None = None
        self._work: Work | None = None
        self.done: orders.ShareDone | None = None
        self.received = 0

    @property
    def sent(self) -> int:
        """Bytes that neighbours were given."""
        return self._desk.outbox.sent

    async def run(self) -> Work | Stuck:
        """Return the work, or who is lacking; raises what the compute process does."""
        self._letters.begin(self._seat.number, self._desk)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    for mate, shard in self._seat.near.items():
                        nursery.start_soon(self._take_from, mate, shard)
                    await self._compute()
                    nursery.cancel_scope.cancel()
        finally:
            if self._work is None:
                self._desk.outbox.close()
        if self._partner is not None:
            return Stuck(self._seat.number, self._partner)
        if self._error is not None:
            raise self._error
        assert self._work is not None
        return self._work

    async def _compute(self) -> None:
        seat = self._seat
        try:
            done = await self._bench.ask(orders.RunShare(seat.job), NORMAL, self._hear)
            self.done = done
            if done.failed:
                self._desk.outbox.fail(done.contribution.digest)
                self._work = Work(done.digests, done.contribution, done.norm, True)
            else:
                self._work = await self._agreed(done)
        except (ProofswarmError, OSError) as error:
            self._error = error

    def _hear(self, news: orders.News) -> None:
        """Hold what is given for who takes it, and know who is waited for."""
        self._lacking = self._waits = None
        match news:
            case orders.StepDone():
                self._started.set()
            case orders.Given():
                self._desk.outbox.put(news)
            case orders.Waiting(step, crossing):
                self._waits = int(step), int(crossing)
                self._lacking = self._seat.crew[self._seat.cut.crossings[crossing].maker]

    async def _agreed(self, done: orders.ShareDone) -> Work | None:
        """Return the work once all neighbours have signed to the same; None where one does not, or this peer has signed
        something else before."""
        seat, cut, steps = self._seat, self._seat.cut, self._seat.steps
        known: dict[Item, Digest] = dict(zip(made_by(cut, seat.shard, steps), done.digests, strict=True))
        known |= dict(zip(taken_by(cut, seat.shard, steps), done.taken, strict=True))
        shared = roots_of_shared(cut, seat.shard, steps, known)
        roots = dict(zip(seat.near, shared, strict=True))
        for mate, root in roots.items():
            wanted = Receipt(seat.number, Count(seat.near[mate]), root)
            signed = await self._sign(wanted)
            if open_statement(signed).body != wanted:
                self._give_up(mate)  # before a restart this peer has told it something else
                return None
            self._desk.receipts[mate] = signed
        self._desk.is_signed.set()
        receipts = []
        for mate, root in roots.items():
            self._lacking = mate
            receipt = await self._receipt_of(mate, root)
            if receipt is None:
                return None
            receipts.append(receipt)
        return Work(
            done.digests, done.contribution, done.norm,
            taken=done.taken, shared=shared, receipts=tuple(receipts),
        )  # fmt: skip

    async def _receipt_of(self, mate: Address, root: Digest) -> bytes | None:
        """Return what a neighbour has signed, if it is to the same; else the round ends with it."""
        try:
            data = await self._letters.ask(mate, RECEIPT, encode(ReceiptQuery(self._seat.number)))
        except (Gone, Violation):
            self._give_up(mate)
            return None
        wanted = Receipt(self._seat.number, self._seat.post.shard, root)
        try:
            said, own = open_statement(data), open_statement(self._desk.receipts[mate])
            if said.sender != mate or said.run != own.run or said.statement.head != own.statement.head:
                raise Malformed("a receipt of somebody else, or of another round")
        except Violation as lie:
            self._letters.refuse(mate, lie)
            self._give_up(mate)
            return None
        if said.body != wanted:
            self._give_up(mate)
            return None
        return data

    async def _take_from(self, mate: Address, shard: int) -> None:
        """Have what a neighbour makes, in order: a few at a time, and none of a step two before which is open."""
        seat, slots, arrived = self._seat, trio.Semaphore(AHEAD), dict[int, trio.Event]()
        own = [each for each in seat.taken if seat.cut.crossings[each].maker == shard]
        letters = letters_of(seat.taken, own)
        await self._started.wait()
        async with trio.open_nursery() as nursery:
            for step in range(1, seat.steps + 1):
                if (before := arrived.get(step - BEHIND)) is not None:
                    await before.wait()
                arrived[step] = event = trio.Event()
                left = [len(letters)]
                for crossings in letters:
                    await slots.acquire()
                    nursery.start_soon(self._take, mate, step, crossings, slots, left, event)
                if not letters:
                    event.set()

    async def _take(
        self,
        mate: Address,
        step: int,
        crossings: tuple[int, ...],
        slots: trio.Semaphore,
        left: list[int],
        last: trio.Event,
    ) -> None:
        """Have what one letter asks for, and hand it to the compute process."""
        try:
            parts, failed = await self._answered(mate, step, crossings)
        except (Gone, Violation):
            self._give_up(mate)
            return
        slots.release()
        left[0] -= 1
        if not left[0]:
            last.set()
        if self._waits in [(step, crossing) for crossing in crossings]:
            self._lacking = self._waits = None
        try:
            for part in parts:
                await self._bench.ask(orders.Bring(Count(step), part, failed), URGENT)
        except ProofswarmError as error:
            self._error = error
            self._scope.cancel()

    async def _answered(
        self, mate: Address, step: int, crossings: tuple[int, ...]
    ) -> tuple[list[Pieces], Digest | None]:
        """Return the pieces of some crossings as they go on at a time, and the failure that stands for what is missing;
        raises Gone, Violation."""
        found, number = list[Pieces](), 0
        while crossings:
            answer = await self._asked(mate, step, crossings, number)
            found.append(tuple(zip(map(Count, crossings), answer.data, strict=False)))
            if answer.failed is not None:
                return found, answer.failed
            number += 1
            if number == pieces_of(self._seat.taken[crossings[0]]):
                crossings, number = crossings[len(answer.data) :], 0
        return found, None

    async def _asked(
        self, mate: Address, step: int, crossings: tuple[int, ...], number: int
    ) -> CrossingBytes:
        """Return pieces of the right length, one at least; raises Gone, Violation."""
        query = CrossingQuery(self._seat.number, Count(step), tuple(map(Count, crossings)), Count(number))
        body = await self._letters.ask(mate, CROSSING, encode(query))
        try:
            answer = decode(CrossingBytes, body)
            rests = [self._seat.taken[each] for each in crossings[: len(answer.data)]]
            rests[:1] = [each - number * orders.PIECE for each in rests[:1]]
            wanted, lengths = [min(orders.PIECE, rest) for rest in rests], list(map(len, answer.data))
            if lengths != wanted or bool(lengths) == (answer.failed is not None):
                raise Malformed(f"{lengths} bytes are not piece {number} of crossings {crossings}")
        except Violation as lie:
            self._letters.refuse(mate, lie)
            raise
        self.received += sum(lengths)
        return answer

    async def _watch(self) -> None:
        """Give the round up where the crew cannot go on, and shortly before it would be too late to say so."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            outlook = await self._look()
            if outlook.partner is not None:
                self._give_up(outlook.partner)
            elif outlook.is_late and (partner := self._lacking or self._liar(outlook)) is not None:
                self._give_up(partner)

    def _liar(self, outlook: Outlook) -> Address | None:
        """Return who has committed without this peer's receipt."""
        return None if self._desk.is_signed.is_set() else outlook.hasty

    def _give_up(self, partner: Address) -> None:
        self._partner = partner
        self._scope.cancel()
