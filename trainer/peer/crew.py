"""A peer's part in crews: its rounds as a member, one at a time, and crews' rounds for who audits them.

(SPEC.md 4.17)
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trainer.compute import orders
from trainer.compute.client import LATER, NORMAL, ComputeClient
from trainer.compute.taken import forget_taken
from trainer.peer.ledger import LedgerPort
from trainer.peer.letters import Letters
from trainer.peer.record import Record
from trainer.peer.share import Outlook, Seat, ShareRound, Sign
from verification.honest.actions import Work
from verification.library import Library
from verification.manifest import Manifest, Post
from verification.program import outputs_of, size_bytes
from verification.signing import checksum
from verification.state import Phase, RoundState, State
from verification.statements import Stuck
from verification.units import Address, Count, Millis, Round
from verification.waiting import commits_end

LATE = 20
"""A member that waits for a neighbour says so in the last twentieth of the time that there is, at most half of what is
left since the last commitment."""


class CrewWork:
    """Computes the rounds of crews for one peer."""

    def __init__(
        self,
        own: Address,
        bench: ComputeClient,
        ledger: LedgerPort,
        letters: Letters,
        sign: Sign,
        library: Library,
        taken: Path,
        record: Record,
    ) -> None:
        """`own` is the peer's account, `library` has its shard's program; what it takes lies in the folder `taken`."""
        self._own, self._bench, self._ledger, self._letters = own, bench, ledger, letters
        self._sign, self._library, self._taken, self._record = sign, library, taken, record

    async def run(self, job: orders.RunJob, post: Post) -> Work | Stuck:
        """Compute one's own part of a crew's round with the others, or audit all of it; raises ProofswarmError for what
        fails here."""
        began = trio.current_time()
        if not job.own:
            return await self._audit(job, post.cut, began)
        async with self._ledger.state() as state:
            worked = state.rounds[job.number]
            seat = seat_of(worked, self._own, job, state.manifest, self._library)
            is_over = worked.phase is not Phase.COMMIT or self._own in worked.commits
        if is_over:
            return await self._again(seat)
        look = partial(self._outlook, seat.number, seat.near)
        share = ShareRound(seat, self._bench, self._letters, self._sign, look)
        result = await share.run()
        if isinstance(result, Stuck):
            self._record.write("stuck", round=job.number, partner=checksum(result.partner))
        elif (done := share.done) is not None:
            self._tell(
                job, result, began, loss=None if done.loss is None else done.loss / orders.MICRO,
                cut=int(post.cut), shard=seat.shard,
                waited=int(done.waited), sent=share.sent, received=share.received,
            )  # fmt: skip
        return result

    async def _again(self, seat: Seat) -> Work:
        """Compute a round once more that was committed to, on what was taken in it."""
        done = await self._bench.ask(orders.RunShare(seat.job, True), NORMAL)
        return Work(done.digests, done.contribution, done.norm, done.failed, taken=done.taken)

    async def _audit(self, job: orders.RunJob, cut: Count, began: float) -> Work:
        done = await self._bench.ask(orders.RunCrew(job, cut), LATER)
        first, *others = done.contributions
        work = Work(done.digests, first, Count(0), done.failed, tuple(ref.digest for ref in others))
        self._tell(job, work, began, loss=done.loss / orders.MICRO)
        return work

    def _tell(self, job: orders.RunJob, work: Work, began: float, **more: Any) -> None:
        """Write down that a round was computed, its own or another's."""
        self._record.write(
            "computed", round=job.number, worker=checksum(self._own if job.own else job.worker), own=job.own,
            steps=int(job.steps), digest=work.contribution.digest.hex(),
            ms=round(1000 * (trio.current_time() - began)), **more,
        )  # fmt: skip

    def forget(self, needed: Collection[Round]) -> None:
        """Delete what was taken in rounds that nobody can ask about any more."""
        forget_taken(self._taken, needed)

    async def _outlook(self, number: Round, near: Collection[Address]) -> Outlook:
        async with self._ledger.state() as state:
            return outlook(state, number, self._own, near, self._ledger.now())


def outlook(state: State, number: Round, own: Address, near: Collection[Address], now: Millis) -> Outlook:
    """Return how a member's crew stands on the ledger, where its neighbours are those `near`.

    Who hears that two of its crew are parted can do nothing either, and names the one that the first has named, or
    that first one where it is named itself.
    """
    worked = state.rounds[number]
    for mate in worked.crews[own]:
        if mate != own and (partner := worked.stuck.get(mate)) is not None:
            return Outlook(mate if partner == own else partner, False)
    end = commits_end(state, worked)
    late = (end - worked.opened_at) // LATE
    if end < worked.deadline:  # then it moves with each commitment
        late = min(late, (end - worked.heard_at) // 2)
    return Outlook(None, now >= end - late, next((mate for mate in near if mate in worked.commits), None))


def expects(state: State, own: Address, account: Address, number: Round) -> bool:
    """Return whether a peer has yet to begin a round with an account in its crew, as far as it sees the ledger."""
    if number == len(state.rounds):
        mine, other = state.members.get(own), state.members.get(account)
        if mine is None or other is None or mine.post is None or other.post is None:
            return False
        return mine.post.cut == other.post.cut
    if number > len(state.rounds):
        return False
    worked = state.rounds[number]
    return worked.phase is Phase.COMMIT and own not in worked.commits and account in worked.crews.get(own, ())


def seat_of(
    worked: RoundState, own: Address, job: orders.RunJob, manifest: Manifest, library: Library
) -> Seat:
    """Return a member's place in a crew's round; raises Unavailable for a program that is not here."""
    post = worked.assignments[own].post
    assert post is not None
    taken, given = crossings_of(manifest, post, library)
    return Seat(job, post, manifest.cuts[post.cut], worked.crews[own], taken, given)


def crossings_of(manifest: Manifest, post: Post, library: Library) -> tuple[dict[int, int], dict[int, int]]:
    """Return the bytes of each crossing that a shard takes, and of each that it makes."""
    shard, crossings = manifest.shard(post), manifest.cuts[post.cut].crossings
    inner = library.program(shard.inner.digest)
    taken = [n for n, each in enumerate(crossings) if post.shard in each.takers]
    given = [n for n, each in enumerate(crossings) if each.maker == post.shard]
    ports, outputs = inner.inputs[-len(taken) :], outputs_of(inner)[-len(given) :]
    return (
        {n: size_bytes(port) for n, port in zip(taken, ports if taken else (), strict=True)},
        {n: size_bytes(made) for n, made in zip(given, outputs if given else (), strict=True)},
    )
