"""The peer runtime: performs what `verification.honest.decide` names, over the ledger, the post office and compute.

It holds no rule of the protocol. One loop looks at the ledger, says what is due and starts what must be computed; every
background task lives in its nursery; results wake the loop.
"""

import dataclasses
import resource
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2p.blobs import MAX_BLOB_BYTES, BlobStore
from p2p.errors import Overlong
from p2p.exchange import Dropped, Exchange
from p2p.hints import Rumours
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.messages import Hint
from p2p.traffic import Refusal
from p2p.transport import ANY_LOCAL_PORT, PeerAddress
from trainer.compute import orders
from trainer.compute.client import LATER, NORMAL, SOON, URGENT, ComputeClient
from trainer.compute.memory import usable_memory
from trainer.compute.referee import Referee
from trainer.events import EventLog
from trainer.folder import RunFolder, alone
from trainer.peer.journal import Journal, journal_of
from trainer.peer.ledger import LedgerPort, RemoteExecutor
from trainer.rounds.machine import Kernels
from trainer.runs.ledgers import genesis_of
from verification import codec, law
from verification.adversaries import Act, Forge
from verification.availability import show
from verification.errors import Malformed, ProofswarmError, Refused, Unavailable, UserError, Violation
from verification.honest import actions
from verification.honest import decide as actors
from verification.honest.actions import (
    Computed,
    Say,
)
from verification.honest.decide import Me
from verification.ledger.log import Genesis
from verification.manifest import BundleRef, Place
from verification.membership import require_place
from verification.merkle import root
from verification.outer import mixture
from verification.signing import checksum
from verification.sizes import contribution_size, state_size
from verification.staking import check_manifest
from verification.state import Stage, Standing, State
from verification.statements import VERIFIER, ExecutionRef, Join, Spoiled
from verification.tensors import decode_bundle, digest_of
from verification.units import Address, Amount, Count, Digest, Round

POLL_SECONDS = 0.2
"""Between two looks at the ledger when nobody hints that it is worth one."""
RETRY_SECONDS = 1.0
LINGER_SECONDS = 20.0
"""How long a peer goes on serving others after the run has ended."""
TRAFFIC_SECONDS = 2.0
DESCRIPTORS = 1 << 16
"""Files and connections that a peer asks the system for; it may give less."""
KEEP_SECONDS = 60.0
"""A blob younger than this is never pruned: it may not be on the ledger yet."""


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: strangers' connections must not take those of its own files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass(frozen=True)
class PeerConfig:
    """A peer's own settings; none of them is part of the run. `stake` None stakes what the role needs.

    `key` is the file that holds the identity: its stem is the peer's name, and what the account signs lies beside it.
    `memory` is the most bytes that executing one program may need; `tell` hears one line for people about what happens.
    """

    folder: RunFolder
    key: Path
    identity: Identity
    role: str
    listen: str = ANY_LOCAL_PORT
    threads: int = 1
    stake: int | None = None
    cheat: str = "none"
    cheat_from: int = 0
    memory: int = field(default_factory=usable_memory)
    tell: Callable[[str], None] = lambda line: None
    accept_unsound: bool = False

    @property
    def name(self) -> str:
        """What the peer is called in the run's folder."""
        return self.key.stem

    @property
    def journal(self) -> Path:
        """Where all that the account ever signed is kept."""
        return journal_of(self.key, self.identity.address)


class Peer:
    """One running peer."""

    def __init__(self, config: PeerConfig, genesis: Genesis, nursery: trio.Nursery, events: EventLog) -> None:
        """`nursery` holds every background task."""
        own = config.folder.peer(config.name)
        self._config, self._manifest, self._nursery, self._events = config, genesis.manifest, nursery, events
        self._store = BlobStore(own / "blobs")
        self._bench = ComputeClient(nursery)
        self._referee = Referee(config.threads)
        self._executor = RemoteExecutor(self._bench, self._referee, self._store, genesis.manifest)
        self._ledger = LedgerPort(config.folder, self._executor)
        run = genesis.run
        self._journal = Journal(config.journal, config.identity.secret, genesis.chain, run)
        self._post = PostOffice(
            config.identity, run, self._ledger.now, listen=config.listen, on_refusal=self._on_refusal
        )
        self._exchange = Exchange(self._store, self._post, on_drop=self._on_drop)
        self._rumours = Rumours(self._post, self._known_peers, self._ledger.now)
        self._results = actions.Results()
        self._running: set[Computed] = set()
        self._refused: dict[tuple[Round, str], int] = {}
        self._peers: dict[Address, PeerAddress] = {}
        self._height = self._state_limit = self._contribution_limit = 0
        self._wake = trio.Event()
        self._fetching = trio.CapacityLimiter(8)

    async def run(self) -> None:
        """Take part until the run has ended; raises UserError for a machine or folder that cannot."""
        self._adopt_blobs()
        await trio.to_thread.run_sync(self._check_run)
        async with self._post, self._bench:
            self._nursery.start_soon(self._bench.watch)
            self._nursery.start_soon(self._referee.run)
            prepared = await self._prepare()
            await self._ledger.open()
            self._exchange.serve()
            self._nursery.start_soon(self._rumours.run)
            self._nursery.start_soon(self._hear_hints)
            self._nursery.start_soon(self._log_traffic)
            await self._take_part(self._self(prepared))
            self._log("stopped")
            self._nursery.cancel_scope.cancel()

    def _adopt_blobs(self) -> None:
        """Copy what the submitter published beside the ledger; raises UserError for what is not there whole."""
        source = BlobStore(self._config.folder.blobs)
        programs = self._manifest.programs
        for blob in (
            *(ref.blob for ref in programs.all()),
            self._manifest.data.blob,
            self._manifest.start.blob,
        ):
            if self._store.has(blob):
                continue
            if not source.has(blob) or self._store.put_file(source.path(blob)) != blob:
                raise UserError(
                    f"{source.folder} lacks blob {blob.hex()} or holds it damaged: copy the run's folder again"
                )

    def _check_run(self) -> None:
        """Learn how long the run's blobs are; raises UserError for a run that nobody should stake on. (SPEC.md 11.7)"""
        refs = zip(Place, self._manifest.programs.all(), strict=True)
        try:
            programs = {place: self._executor.program(ref.digest) for place, ref in refs}
            check_manifest(self._manifest, programs, MAX_BLOB_BYTES, self._config.accept_unsound)
        except (UserError, Malformed) as error:
            raise UserError(f"this peer does not take the run: {error}") from error
        self._state_limit, self._contribution_limit = state_size(programs), contribution_size(programs)

    async def _prepare(self) -> orders.Prepared:
        config = self._config
        order = orders.Prepare(
            codec.encode(self._manifest), str(self._store.folder), Count(config.threads), config.cheat,
            Count(config.cheat_from), Count(config.memory),
        )  # fmt: skip
        self._log(
            "started",
            role=config.role,
            cheat=config.cheat,
            cheat_from=config.cheat_from,
            listen=self._post.address.multiaddr,
            compute=self._bench.pid,
        )
        try:
            prepared: orders.Prepared = await self._bench.ask(order, URGENT)
        except Refused as refusal:
            raise UserError(
                f"this peer does not take the run: {refusal}; --memory raises the limit"
            ) from refusal
        self._log("measured", golden=prepared.golden, agrees=prepared.agrees, speed=prepared.speed)
        self._tell_kernels(prepared.kernels)
        if not (prepared.golden and prepared.agrees):
            wrong = (
                "make the same of the run's step in two ways"
                if prepared.golden
                else "reproduce the run's golden step"
            )
            raise UserError(
                f"this machine does not {wrong}, so it must not stake: see 'proofswarm doctor {config.folder.path}'"
            )
        return prepared

    def _tell_kernels(self, kernels: Kernels) -> None:
        """Log what steps run on here; refused kernels cost time and money, so a person hears of them."""
        self._log(
            "kernels", products=kernels.products, compiled=kernels.compiled, refused=kernels.refused,
            over_float32=kernels.over_float32 / 1000 if kernels.over_float32 else None,
        )  # fmt: skip
        if kernels.complaint:
            self._config.tell(kernels.complaint)

    def _self(self, prepared: orders.Prepared) -> Me:
        config, money = self._config, self._manifest.money
        least = money.verifier_stake if config.role == VERIFIER else money.worker_stake
        return Me(
            address=config.identity.address,
            secret=config.identity.salt_secret,
            role=config.role,
            stake=Amount(least if config.stake is None else config.stake),
            speed=prepared.speed,
            endpoint=self._post.address.multiaddr,
            started=self._ledger.now(),
        )

    async def _take_part(self, me: Me) -> None:
        """Look, decide, act; return some time after the run has ended."""
        last: float | None = None
        while last is None or trio.current_time() < last:
            self._wake = trio.Event()
            try:
                ended = await self._look_and_act(me)
                if await self._is_over():
                    return
            except Unavailable as error:  # another process holds the ledger; the next look may find it free
                self._log("failed", action="look", reason=str(error))
                ended = False
            if ended and last is None:
                last = trio.current_time() + LINGER_SECONDS
            with trio.move_on_after(POLL_SECONDS):
                await self._wake.wait()

    async def _look_and_act(self, me: Me) -> bool:
        """Do one turn; return whether the run has ended for this peer."""
        entries = await self._ledger.refresh()
        if entries:
            self._height = entries[-1].seq
        async with self._ledger.state() as state:
            self._note_peers(state)
            wanted = self._decide(state, me)
            heads = {
                id(act): law.head_of(state, act.body.round) for act in wanted if isinstance(act, Say | Forge)
            }
            ended = state.stage is Stage.ENDED
        for act in wanted:
            await self._do(act, heads.get(id(act)))
        return ended

    def _decide(self, state: State, me: Me) -> list[Act]:
        """Return what this peer does now. The lock on the ledger is held."""
        reports = actors.report(state, me, self._ledger.contradictions)
        return [*actors.decide(state, me, self._results, self._ledger.now()), *reports]

    async def _do(self, act: Act, head: Digest | None) -> None:
        """Say a statement over `head`, or begin to compute."""
        if isinstance(act, Say) and head is not None:
            await self._say(act, head)
        elif isinstance(act, Computed) and act not in self._running and act not in self._results.done:
            self._running.add(act)
            self._nursery.start_soon(self._perform, act)

    async def _is_over(self) -> bool:
        """Return whether everyone who still can has taken its stake, so that nobody needs this peer any more."""
        async with self._ledger.state() as state:
            if state.stage is not Stage.ENDED:
                return False
            return all(m.stake == 0 for m in state.members.values() if m.standing is Standing.ACTIVE)

    async def _say(self, action: Say, head: Digest) -> None:
        """Sign, keep and submit a statement; one that was refused is not tried again before the ledger has moved."""
        kind = type(action.body).__name__
        place = (action.body.round, action.body.slot)
        if self._refused.get(place) == self._height:
            return
        if isinstance(action.body, Join) and self._journal.signed(head, action.body) is None:
            await self._require_place(action.body)
        data = await trio.to_thread.run_sync(self._journal.sign, head, action.body)
        try:
            await self._ledger.submit(data)
        except Violation as refusal:
            self._refused[place] = self._height
            self._log("declined", statement=kind, reason=f"{type(refusal).__name__}: {refusal}")
            if isinstance(action.body, Join):
                await self._turned_away(action.body, head, refusal)
            return
        self._log("said", statement=kind, size=len(data))
        self._rumours.announce(Hint("ledger", head, Count(self._height)))
        self._wake.set()

    async def _turned_away(self, join: Join, head: Digest, refusal: Violation) -> None:
        """Raise UserError for a Join that no later ledger will admit; one that only came late is said again."""
        async with self._ledger.state() as state:
            if law.head_of(state, Round(0)) != head:
                return
        signed = self._journal.signed(head, join)
        assert isinstance(signed, Join)
        raise self._not_taken(
            signed, refusal, "this account has signed so and cannot say otherwise: "
        ) from refusal

    async def _require_place(self, join: Join) -> None:
        """Raise UserError for a Join that the law would refuse now, before it is signed and can never be changed."""
        async with self._ledger.state() as state:
            try:
                require_place(state, self._config.identity.address, join)
            except Refused as refusal:
                raise self._not_taken(join, refusal) from refusal

    def _not_taken(self, join: Join, refusal: Violation, bound: str = "") -> UserError:
        return UserError(
            f"the run does not take this peer as a {join.role} that stakes {join.stake}: {refusal}; {bound}"
            f"{'take another --key' if bound else 'see --stake, --role'} and the job's [accounts]"
        )

    async def _perform(self, action: Computed) -> None:
        """Compute or fetch, file the result, wake the loop; what cannot be had now is tried again later.

        Nothing that others served or claimed ends the peer, nor a moment without disk space or descriptors.
        """
        try:
            self._results.done[action] = await self._compute(action)
        except UserError:
            raise
        except (ProofswarmError, OSError) as error:
            self._log("failed", action=type(action).__name__, reason=str(error))
            await trio.sleep(RETRY_SECONDS)
        finally:
            self._running.discard(action)
        self._wake.set()

    async def _compute(self, action: Computed) -> Any:
        match action:
            case actions.FetchState():
                return await self._fetch_state(action.number)
            case actions.FetchContribution():
                return await self._fetch_contribution(action)
            case actions.RunRound():
                return await self._run_round(action)
            case actions.OpenChunk(number, contribution, seed):
                bundle = await trio.to_thread.run_sync(self._read_bundle, contribution)
                return show(number, seed, bundle)
            case actions.RunOuter():
                return await self._run_outer(action)
            case actions.ListStates():
                job = await self._job(action.number, action.worker)
                order = orders.ListSteps(job, tuple(map(Count, action.steps)))
                return (await self._bench.ask(order, SOON)).digests
            case actions.TraceProgram(execution):
                traced = await self._bench.ask(orders.TraceNodes(await self._execution(execution)), SOON)
                return actions.Traced(traced.failed, traced.outputs, traced.results)
            case actions.OpenNode(execution, node, trail):
                opening = orders.OpenInputs(await self._execution(execution), Count(node), _counted(trail))
                return (await self._bench.ask(opening, SOON)).inputs
            case actions.OpenValue(execution, value, trail):
                proving = orders.ProveValue(await self._execution(execution), Count(value), _counted(trail))
                proved = await self._bench.ask(proving, SOON)
                return proved.digest, proved.path

    async def _run_round(self, action: actions.RunRound) -> actions.Work:
        job = await self._job(action.number, action.worker, is_disputed=False)
        if job.steps:
            # An honest machine may be broken, and loses by what it commits to, work or verdict. (SPEC.md 9.6)
            job = dataclasses.replace(job, rerun=Count(1 + secrets.randbelow(job.steps)))
        began = trio.current_time()
        done: orders.JobDone = await self._bench.ask(job, NORMAL if job.own else LATER)
        took = round(1000 * (trio.current_time() - began))
        self._log(
            "computed", round=action.number, worker=checksum(action.worker), own=job.own, steps=job.steps,
            loss=done.loss / orders.MICRO, digest=done.contribution.digest.hex(), ms=took,
        )  # fmt: skip
        return actions.Work(done.digests, done.contribution, done.norm, done.failed)

    async def _run_outer(self, action: actions.RunOuter) -> BundleRef:
        made: orders.Made = await self._bench.ask(await self._outer_step(action.number), URGENT)
        self._log("outer", round=action.number, digest=made.ref.digest.hex())
        return made.ref

    async def _outer_step(self, number: Round) -> orders.RunOuterStep:
        async with self._ledger.state() as state:
            worked = state.rounds[number]
            mixed = mixture(state, worked)
            slots = tuple(
                orders.Slot(
                    Count(part.slot), part.weight, state.rounds[part.number].commits[part.worker].contribution
                )
                for part in mixed.parts
            )
            return orders.RunOuterStep(worked.start, slots, Count(mixed.ballast))

    async def _execution(self, named: ExecutionRef) -> orders.DisputedExecution:
        """Return the order that names a disputed execution."""
        if named.place is Place.OUTER:
            outer = await self._outer_step(named.round)
            return orders.DisputedExecution(None, outer, named.place, named.step)
        job = await self._job(named.round, named.worker)
        return orders.DisputedExecution(job, None, named.place, named.step)

    async def _job(self, number: Round, worker: Address, is_disputed: bool = True) -> orders.RunJob:
        """Return a worker's round as an order, and have its start state here. Raises Unavailable."""
        async with self._ledger.state() as state:
            worked = state.rounds[number]
            steps = Count(worked.assignments[worker].steps)
            own = self._plays(worker, is_disputed)
            job = orders.RunJob(number, worker, worked.beacon, steps, worked.start, own)
            sources = self._makers_first(state, number)
        await self._fetch(job.start.blob, "state", sources, self._state_limit)
        return job

    def _plays(self, worker: Address, is_disputed: bool) -> bool:
        """Return whether a round is computed by this peer's own conduct, which may be a cheat's."""
        return worker == self._config.identity.address

    async def _fetch_state(self, number: Round) -> bool:
        async with self._ledger.state() as state:
            ref = actors.state_before(state, number)
            ended = state.stage in (Stage.DRAINING, Stage.ENDED) and number == len(state.rounds)
            sources = self._makers_first(state, number)
        await self._fetch(ref.blob, "state", sources, self._state_limit)
        bundle = await trio.to_thread.run_sync(self._read_bundle, ref)
        self._log(
            "ended" if ended else "state", round=number, digest=digest_of(bundle).hex(), blob=ref.blob.hex()
        )
        await self._prune()
        return True

    def _makers_first(self, state: State, number: Round) -> tuple[PeerAddress, ...]:
        """Return the peers, those who sealed round `number`'s start state before others, who may not have it yet."""
        seals = state.rounds[number - 1].seals if number else {}
        return tuple(sorted(self._peers.values(), key=lambda peer: peer.address not in seals))

    async def _prune(self) -> None:
        """Delete blobs of rounds that no audit or dispute can ask for any more."""
        async with self._ledger.state() as state:
            needed = actors.needed_rounds(state)
            keep = {ref.blob for number in needed for ref in actors.blobs_of_round(state, number)}
        programs = self._manifest.programs
        keep |= {self._manifest.data.blob, *(ref.blob for ref in programs.all())}
        await trio.to_thread.run_sync(self._store.prune, keep, KEEP_SECONDS)

    async def _fetch_contribution(self, action: actions.FetchContribution) -> bool | Spoiled:
        async with self._ledger.state() as state:
            commit = state.rounds[action.number].commits[action.worker]
            ref = commit.contribution
        author = [peer for peer in self._peers.values() if peer.address == action.worker]
        others = [peer for peer in self._peers.values() if peer.address != action.worker]
        try:
            await self._fetch(ref.blob, "contribution", (*author, *others), self._contribution_limit)
        except Overlong as lie:
            self._log("failed", action="fetch", reason=str(lie))
            chunks = root("blob", lie.info.chunks)
            return Spoiled(action.number, action.worker, lie.info.size, chunks, b"")
        order = orders.CheckContribution(action.worker, commit)
        checked: orders.Checked = await self._bench.ask(order, URGENT)
        return checked.spoiled or checked.ok

    async def _fetch(self, blob: Digest, what: str, sources: tuple[PeerAddress, ...], limit: int) -> None:
        if self._store.has(blob):
            return
        async with self._fetching:
            path = await self._exchange.fetch(blob, sources, limit)
        self._log("fetched", what=what, blob=blob.hex(), size=path.stat().st_size)

    def _read_bundle(self, ref: BundleRef) -> Any:
        limit = max(self._state_limit, self._contribution_limit)
        bundle = decode_bundle(self._store.get(ref.blob), limit)
        if digest_of(bundle) != ref.digest:
            raise Malformed(f"blob {ref.blob.hex()} does not hold bundle {ref.digest.hex()}")
        return bundle

    def _note_peers(self, state: State) -> None:
        """Keep the members' endpoints; text that is no libp2p address is the member's own loss."""
        for member in state.members.values():
            known = self._peers.get(member.address)
            if member.address != self._config.identity.address and (
                known is None or known.multiaddr != member.endpoint
            ):
                try:
                    peer = PeerAddress.parse(member.endpoint)
                except Malformed:
                    continue
                if peer.address == member.address:
                    self._peers[member.address] = peer

    def _known_peers(self) -> tuple[PeerAddress, ...]:
        return tuple(self._peers.values())

    async def _hear_hints(self) -> None:
        while True:
            await self._rumours.receive()
            self._wake.set()

    async def _log_traffic(self) -> None:
        while True:
            await trio.sleep(TRAFFIC_SECONDS)
            self._write_traffic()

    def _write_traffic(self) -> None:
        totals: dict[str, list[int]] = {}
        for flow in self._post.traffic():
            total = totals.setdefault(flow.kind, [0, 0])
            total[flow.direction == "in"] += flow.size
        self._log("traffic", bytes=totals)

    def _on_refusal(self, refusal: Refusal) -> None:
        self._log("refused", sender=checksum(refusal.sender), reason=refusal.reason, detail=refusal.detail)

    def _on_drop(self, dropped: Dropped) -> None:
        if dropped.reason != Unavailable.__name__:  # not to have a blob yet is no news
            self._log(
                "dropped", source=checksum(dropped.source), blob=dropped.blob.hex(), reason=dropped.reason
            )

    def _log(self, kind: str, **fields: Any) -> None:
        self._events.write(self._ledger.now(), kind, **fields)


def _counted(trail: tuple[tuple[int, int, tuple[Digest, ...]], ...]) -> orders.Trail:
    return tuple((Count(low), Count(high), entries) for low, high, entries in trail)


async def run_peer(config: PeerConfig, kind: type[Peer] = Peer) -> None:
    """Run one peer to the end of its run; raises UserError."""
    folder = config.folder.checked()
    raise_descriptor_limit()
    genesis = genesis_of(folder)
    _make_folder(
        folder.peer(config.name), is_private=True
    )  # a contribution is not for all before it is committed to
    _make_folder(folder.events)
    with alone(folder.lock(checksum(config.identity.address))):
        events = EventLog(folder.log(config.name), checksum(config.identity.address), config.tell)
        try:
            async with trio.open_nursery() as nursery:
                await kind(config, genesis, nursery, events).run()
        finally:
            events.close()


def _make_folder(path: Path, is_private: bool = False) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if is_private:
            path.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there: {error.strerror}; check the run folder's owner"
        ) from error
