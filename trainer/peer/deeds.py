"""What an honest peer's actions come to: blobs that it fetches, and orders to its compute process."""

import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio

from p2p.errors import Overlong
from p2p.lists import root_of
from trainer.compute import orders
from trainer.compute.client import LATER, NORMAL, SOON, URGENT, ComputeClient
from trainer.peer.contacts import Contacts
from trainer.peer.crew import CrewWork
from trainer.peer.depot import Depot
from trainer.peer.ledger import LedgerPort
from trainer.peer.record import Record
from verification.availability import show_chunk
from verification.errors import Unsound
from verification.honest import actions
from verification.honest.actions import Computed
from verification.honest.decide import needed_rounds
from verification.honest.selfcheck import checked_step
from verification.manifest import BundleRef, Place, Post
from verification.outer import Part, contributions_of, mixture
from verification.placed import ExecutionRef
from verification.signing import checksum
from verification.state import RoundState, Stage, State, state_before, work_begins
from verification.statements import Spoiled, Stuck
from verification.units import Address, Count, Digest, Round

R = TypeVar("R")


class Deeds:
    """Computes and fetches for one peer."""

    def __init__(
        self,
        own: Address,
        bench: ComputeClient,
        ledger: LedgerPort,
        depot: Depot,
        contacts: Contacts,
        record: Record,
        crew: CrewWork,
    ) -> None:
        """`own` is the peer's account."""
        self._own, self._bench, self._ledger = own, bench, ledger
        self._depot, self._contacts, self._record = depot, contacts, record
        self._crew = crew
        self._check_cost, self._is_suspect = 0, False
        self._made: BundleRef | None = None
        """The last state that was computed here: what it is need not be found out again."""

    async def prepare(self, order: orders.Prepare) -> orders.Prepared:
        """Have the compute process load the run, before all else; raises Refused for one that it does not take."""
        prepared: orders.Prepared = await self._bench.ask(order, URGENT)
        self._check_cost = int(prepared.check_cost)
        return prepared

    async def compute(self, action: Computed, as_auditor: bool = False) -> Any:
        """Return an action's result; `as_auditor` computes a round of one's own as if it were another's.

        Raises ProofswarmError, OSError for what cannot be had now.
        """
        match action:
            case actions.FetchState():
                return await self._fetch_state(action.number)
            case actions.FetchContribution():
                return await self._fetch_contribution(action)
            case actions.OpenChunk(number, contribution, seed):
                return show_chunk(number, seed, await self._depot.read(contribution))
            case actions.RunOuter():
                return await self._run_outer(action)
            case actions.RunRound():
                return await self._run_round(action, as_auditor)
            case actions.ReadStatement():
                return await self._ledger.read(action.author, action.number, action.slot)
            case actions.ListStates():
                job = await self._job(action.number, action.worker, as_auditor)
                order = orders.ListSteps(job, tuple(map(Count, action.steps)))
                return (await self._bench.ask(order, SOON)).digests
            case actions.TraceProgram() | actions.SplitClaim() | actions.OpenClaim() | actions.OpenValue():
                return await self._answer(action, await self._execution(action.execution, as_auditor))

    async def _answer(
        self,
        action: actions.TraceProgram | actions.SplitClaim | actions.OpenClaim | actions.OpenValue,
        execution: orders.DisputedExecution,
    ) -> Any:
        """Return what a dispute asks of an execution."""
        match action:
            case actions.TraceProgram():
                return await self._bench.ask(orders.TraceNodes(execution), SOON)
            case actions.SplitClaim(_, node, claim):
                return await self._bench.ask(orders.SplitClaim(execution, Count(node), claim), SOON)
            case actions.OpenClaim(_, node, judged, trail):
                opening = orders.OpenClaim(execution, Count(node), judged, _counted(trail))
                return (await self._bench.ask(opening, SOON)).inputs
            case actions.OpenValue(_, value, trail):
                proving = orders.ProveValue(execution, Count(value), _counted(trail))
                proved = await self._bench.ask(proving, SOON)
                return proved.digest, proved.path

    async def _run_round(self, action: actions.RunRound, as_auditor: bool) -> actions.Work | Stuck:
        job = await self._job(action.number, action.worker, as_auditor)
        if (post := job.post) is not None:
            return await self._checked(job, lambda checked: self._crew.run(checked, post))
        began = trio.current_time()
        done = await self._checked(
            job, lambda checked: self._bench.ask(checked, NORMAL if job.own else LATER)
        )
        took = round(1000 * (trio.current_time() - began))
        self._record.write(
            "computed", round=action.number, worker=checksum(action.worker), own=job.own, steps=job.steps,
            loss=done.loss / orders.MICRO, digest=done.contribution.digest.hex(), ms=took,
        )  # fmt: skip
        if done.group:
            self._record.write(
                "group", round=action.number, members=list(map(dataclasses.asdict, done.group))
            )
        return actions.Work(done.digests, done.contribution, done.norm, done.failed)

    async def _checked(self, job: orders.RunJob, compute: Callable[[orders.RunJob], Awaitable[R]]) -> R:
        """Have a round computed: a machine may be broken, and its owner loses by what it commits to, work or verdict.

        After a fault each round is checked until one has passed. (SPEC.md 9.6)
        """
        cost = 0 if self._is_suspect else self._check_cost
        rerun = checked_step(job.beacon, job.steps, cost, secrets.randbelow) if job.steps else 0
        try:
            done = await compute(dataclasses.replace(job, rerun=Count(rerun)))
        except Unsound:
            self._is_suspect = True
            raise
        if not isinstance(done, Stuck):
            self._is_suspect = self._is_suspect and not rerun
        return done

    async def _run_outer(self, action: actions.RunOuter) -> BundleRef:
        made: BundleRef = await self._bench.ask(await self._outer_step(action.number), URGENT)
        self._made = made
        self._record.write("outer", round=action.number, digest=made.digest.hex())
        return made

    async def _outer_step(self, number: Round) -> orders.RunOuterStep:
        async with self._ledger.state() as state:
            return outer_step(state, number)

    async def _execution(self, named: ExecutionRef, as_auditor: bool) -> orders.DisputedExecution:
        """Return the order that names a disputed execution."""
        if named.place is Place.OUTER:
            outer = await self._outer_step(named.round)
            return orders.DisputedExecution(outer, named.place, named.step)
        job = await self._job(named.round, named.worker, as_auditor)
        return orders.DisputedExecution(job, named.place, named.step)

    async def _job(self, number: Round, worker: Address, as_auditor: bool) -> orders.RunJob:
        """Return a worker's round as an order, and have its start state here. Raises Unavailable."""
        async with self._ledger.state() as state:
            job = job_of(state, number, worker, worker == self._own and not as_auditor)
            makers = _makers_of(state, work_begins(state, number))
        await self._depot.fetch_state(job.start.blob, self._contacts.first(makers))
        return job

    async def _fetch_state(self, number: Round) -> bool:
        async with self._ledger.state() as state:
            ref = state_before(state, number)
            ended = state.stage in (Stage.DRAINING, Stage.ENDED) and number == len(state.rounds)
            makers = _makers_of(state, number)
        await self._depot.fetch_state(ref.blob, self._contacts.first(makers))
        if ref != self._made:
            await self._depot.check(ref)
        self._record.write(
            "ended" if ended else "state", round=number, digest=ref.digest.hex(), blob=ref.blob.hex()
        )
        async with self._ledger.state() as state:
            keep, rounds = self._depot.needed(state), needed_rounds(state)
        await self._depot.prune(keep)
        self._crew.forget(rounds)
        return True

    async def _fetch_contribution(self, action: actions.FetchContribution) -> bool | Spoiled:
        async with self._ledger.state() as state:
            worked = state.rounds[action.number]
            commit, holders = worked.commits[action.worker], holders_of(worked, action.worker)
        blob, sources = commit.contribution.blob, self._contacts.named(holders)
        try:
            await self._depot.fetch_contribution(blob, action.worker, sources)
        except Overlong as lie:
            self._record.write("failed", action="fetch", reason=str(lie))
            return Spoiled(action.number, action.worker, lie.info.size, root_of(lie.info), b"")
        order = orders.CheckContribution(action.worker, commit)
        checked = await self._bench.ask(order, URGENT)
        if checked.spoiled is not None and not self._ledger.takes(checked.spoiled):
            # Signed it would lie in the journal for good, and be refused again and again.
            self._record.write(
                "failed", action="show", reason="the ledger's host takes no statement that long"
            )
            return False
        return checked.spoiled or checked.ok


def job_of(state: State, number: Round, worker: Address, own: bool) -> orders.RunJob:
    """Return a worker's round as an order; a crew's draws by its lead."""
    worked = state.rounds[number]
    steps = Count(worked.assignments[worker].steps)
    lead, post = worked.lead(worker), post_of(state, number, worker)
    return orders.RunJob(number, lead, worked.beacon, steps, worked.start, own, post=post)


def post_of(state: State, number: Round, worker: Address) -> Post | None:
    """Return the post in which a worker has its assignment of a round."""
    return state.rounds[number].assignments[worker].post


def outer_step(state: State, number: Round) -> orders.RunOuterStep:
    """Return a closed round's outer step as an order."""
    worked = state.rounds[number]
    mixed = mixture(state, worked)
    slots = tuple(_summand(state, part) for part in mixed.parts)
    return orders.RunOuterStep(state_before(state, number), slots, Count(mixed.ballast))


def _summand(state: State, part: Part) -> orders.Summand:
    first, *mates = contributions_of(state, part)
    post = post_of(state, part.number, part.worker)
    cut = orders.FIRST if post is None else post.cut
    return orders.Summand(Count(part.slot), part.weight, first, tuple(mates), cut)


def _makers_of(state: State, number: Round) -> set[Address]:
    """Return who sealed the state before round `number`: others may not have it yet."""
    return set(state.rounds[number - 1].seals) if number else set()


def holders_of(worked: RoundState, worker: Address) -> list[Address]:
    """Return who has a worker's contribution or is to have it: the worker, who attested it, who else decides."""
    attested = [member for member, held in worked.attests.items() if worker in held]
    return [worker, *attested, *worked.members]


def _counted(trail: Sequence[tuple[int, int, tuple[Digest, ...]]]) -> orders.Trail:
    return tuple((Count(low), Count(high), entries) for low, high, entries in trail)
