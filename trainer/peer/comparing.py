"""Members compare the heads that their ledger's host signed for them: a host that tells two logs is found out."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import trio

from p2p.host import PostOffice
from p2p.mail import Kind
from p2p.transport import PeerAddress
from trainer.peer.ledger import LedgerPort
from verification.codec import decode, encode
from verification.errors import Unavailable, Violation
from verification.ledger.heads import SignedHead
from verification.units import Address

KEPT = Kind("ledger/kept", 16, 512, patience=5.0)
COMPARE_SECONDS = 20.0
"""Between two members that are asked, one after the other: a fork among so many is found after about so many times."""
ANSWER_SECONDS = 5.0
MORE_SECONDS = 1.0
"""How much longer the others have once more than half of the members have answered."""


async def kept_heads(post: PostOffice, members: Sequence[PeerAddress]) -> list[SignedHead]:
    """Ask all members at once for the newest head that they keep, and return what came in a few seconds.

    One that is away does not hold a host up for so long that most have told theirs.
    """
    heads: list[SignedHead] = []

    async def ask(member: PeerAddress) -> None:
        with suppress(Unavailable, Violation):
            answer = await post.request(member, KEPT, b"", ANSWER_SECONDS)
            heads.append(decode(SignedHead, answer, KEPT.reply_limit))
            if 2 * len(heads) > len(members):
                scope.deadline = min(scope.deadline, trio.current_time() + MORE_SECONDS)

    with trio.move_on_after(ANSWER_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(ask, member)
    return heads


class Comparison:
    """Asks members for the newest head that they keep, and tells them this peer's."""

    def __init__(
        self, post: PostOffice, ledger: LedgerPort, members: Callable[[], tuple[PeerAddress, ...]]
    ) -> None:
        self._post, self._ledger, self._members = post, ledger, members
        self._turn = count()

    def serve(self) -> None:
        """Tell others from now on."""
        self._post.register(KEPT, self._tell)

    async def run(self) -> None:
        """Compare until cancelled; raises UserError when the host has told another member another log."""
        while True:
            await trio.sleep(COMPARE_SECONDS)
            await self.ask_next()

    async def ask_next(self) -> None:
        """Compare with the next member; one that does not answer is passed over, one that makes heads up is refused."""
        members = self._members()
        if not members:
            return
        member = members[next(self._turn) % len(members)]
        try:
            answer = await self._post.request(member, KEPT, b"", ANSWER_SECONDS)
        except (Unavailable, Violation):
            return
        try:
            await self._ledger.compare(decode(SignedHead, answer, KEPT.reply_limit))
        except Violation as lie:
            self._post.refuse(member.address, lie)

    async def _tell(self, sender: Address, body: bytes) -> bytes:
        if (kept := self._ledger.kept_head()) is None:
            raise Unavailable("no head of a host is kept here")
        return encode(kept)
