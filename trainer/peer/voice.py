"""How a peer speaks: what it says on the ledger is in its journal first, and said once per place."""

from collections.abc import Callable

import trio

from trainer.peer.journal import Journal
from trainer.peer.ledger import LedgerPort
from trainer.peer.record import Record
from verification import law
from verification.errors import Refused, UserError, Violation
from verification.membership import require_place
from verification.signed import open_statement
from verification.statements import Body, Join
from verification.units import Digest, Round


class Voice:
    """Signs statements and puts them on the ledger."""

    def __init__(
        self, journal: Journal, ledger: LedgerPort, record: Record, on_said: Callable[[Digest], None]
    ) -> None:
        """`journal` is the account's; `on_said` hears the head that a statement is over, once the ledger has it."""
        self._journal, self._ledger, self._on_said = journal, ledger, on_said
        self.record = record
        self._refused: dict[tuple[Round, str], int] = {}

    async def head_for(self, body: Body) -> Digest:
        """Return the head that a statement is said over."""
        async with self._ledger.state() as state:
            return law.head_of(state, body.round)

    async def say(self, body: Body) -> None:
        """Sign, keep and submit a statement; one that was refused is not tried again before the ledger has moved.

        Raises UserError for a Join that the run does not take: before it is signed, or as it was signed once.
        """
        place, height = (body.round, body.slot), self._ledger.height
        if self._refused.get(place) == height:
            return
        head = await self.head_for(body)
        if isinstance(body, Join) and self._journal.signed(head, body) is None:
            await self._require_place(body)
        data = await trio.to_thread.run_sync(self._journal.sign, head, body)
        refusal = await self.send(data, type(body).__name__)
        if refusal is None:
            said = open_statement(data).digest.hex()
            self.record.write("said", statement=type(body).__name__, size=len(data), digest=said)
            self._on_said(head)
            return
        self._refused[place] = height
        if isinstance(body, Join):
            await self._turned_away(body, head, refusal)

    async def sign(self, body: Body) -> bytes:
        """Return a signed statement that is not for the ledger, in the journal first: the same again for one place."""
        head = await self.head_for(body)
        return await trio.to_thread.run_sync(self._journal.sign, head, body)

    async def send(self, data: bytes, kind: str) -> Violation | None:
        """Put bytes on the ledger as they are; return why it refuses them, which is on record then."""
        try:
            await self._ledger.submit(data)
        except Violation as refusal:
            self.record.write("declined", statement=kind, reason=f"{type(refusal).__name__}: {refusal}")
            return refusal
        return None

    async def _turned_away(self, join: Join, head: Digest, refusal: Violation) -> None:
        """Raise UserError for a Join that no later ledger will admit; one that only came late is said again."""
        if await self.head_for(join) != head:
            return
        signed = self._journal.signed(head, join)
        assert isinstance(signed, Join)
        bound = "this account has signed so and cannot say otherwise: take another --key"
        raise _not_taken(signed, refusal, bound) from refusal

    async def _require_place(self, join: Join) -> None:
        """Raise UserError for a Join that the law would refuse now, before it is signed and can never be changed."""
        async with self._ledger.state() as state:
            try:
                require_place(state, self._journal.account, join, self._ledger.now())
            except Refused as refusal:
                raise _not_taken(join, refusal, "see --stake, --role") from refusal


def _not_taken(join: Join, refusal: Violation, mend: str) -> UserError:
    return UserError(
        f"the run does not take this peer as a {join.role} that stakes {join.stake}: {refusal}; {mend} and the job's "
        "[accounts]"
    )
