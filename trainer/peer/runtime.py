"""The peer runtime: performs what its policy names, over the ledger, the post office and compute.

It holds no rule of the protocol. One loop looks at the ledger, says what is due and starts what must be computed; every
background task lives in one nursery; results wake the loop.
"""

import math
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.hints import Heights, Rumours
from p2p.host import PostOffice
from p2p.messages import Hint
from p2p.served import HostLine
from trainer.compute import orders
from trainer.compute.client import ComputeClient
from trainer.events import EventLog
from trainer.folder import alone
from trainer.peer.access import Access
from trainer.peer.arrival import NOTHING_BEFORE, Arrival, Started
from trainer.peer.checking import require_post, sound_programs, stake_of
from trainer.peer.comparing import Comparison
from trainer.peer.config import PeerConfig
from trainer.peer.contacts import Contacts
from trainer.peer.crew import CrewWork, expects
from trainer.peer.deeds import Deeds
from trainer.peer.depot import Depot
from trainer.peer.following import (
    begin_following,
    fetch_run,
    last_seen,
    received_by,
    remember,
    require_place,
)
from trainer.peer.hosting import NO_RELAY, refuse_older, serve_beside, writable
from trainer.peer.journal import Journal
from trainer.peer.ledger import LedgerPort
from trainer.peer.letters import Letters
from trainer.peer.record import Record
from trainer.peer.voice import Voice
from trainer.rounds.machine import Kernels
from trainer.runs.ledgers import check_host, clock_of, genesis_of
from trainer.runs.library import StoredPrograms
from trainer.runs.serving import serving
from verification import codec
from verification.errors import Malformed, NoRoom, ProofswarmError, Refused, Unavailable, Unsound, UserError
from verification.honest import actions, holding
from verification.honest.actions import Computed
from verification.honest.decide import Me, looks_at
from verification.honest.view import View
from verification.ledger.log import Genesis
from verification.signing import checksum
from verification.state import Stage, Standing
from verification.units import Address, Amount, Count, Digest, Millis, Round

POLL_SECONDS = 0.2
"""Between two looks at the ledger when nobody hints that it is worth one."""
FOLLOW_SECONDS = 1.0
"""The same for a ledger that somebody else serves: each look is a question to its host."""
REST = 10
"""How many times as long as its last look took a follower rests before a hint makes it look again: the more followers a
host has, the longer it takes, and the less often each asks."""
RETRY_SECONDS = 1.0
"""Before what cannot be had now is tried again."""
LONGEST_PAUSE = 600.0
"""Seconds between two tries, at most, of a machine that makes two different things of one step."""
LINGER_SECONDS = 20.0
"""How long a peer goes on serving others after the run has ended."""
TRAFFIC_SECONDS = 2.0
DESCRIPTORS = 1 << 16
"""Files and connections that a peer asks the system for; it may give less."""


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: strangers' connections must not take those of its own files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def pause_after(faults: int) -> float:
    """Return the seconds before the next try after so many faults of one's own machine in a row: twice as many each
    time, since each costs a whole round and the machine seldom mends itself."""
    return min(LONGEST_PAUSE, RETRY_SECONDS * 2.0 ** min(faults - 1, 32))


def elapsed() -> Millis:
    """Return milliseconds that go on while the ledger's time stands still, for what is so many a second."""
    return Millis(int(1000 * trio.current_time()))


class Peer:
    """One running peer."""

    def __init__(
        self, config: PeerConfig, genesis: Genesis, events: EventLog, started: Started = NOTHING_BEFORE
    ) -> None:
        """Open the peer's files; raises UserError for those that are not its own."""
        own, run, account = config.folder.peer(config.account.name), genesis.run, config.account
        self._config, self._manifest, self._store = config, genesis.manifest, BlobStore(own / "blobs")
        self._bench = ComputeClient(program=config.character.compute, started=config.compute)
        self._library = StoredPrograms(self._store, genesis.manifest)
        self._ledger = LedgerPort(config.folder, self._library)
        self._record = Record(events, self._ledger.now)
        self._access = Access(genesis.manifest, lambda: self._wake.set())
        self._post = PostOffice(
            account.identity,
            run,
            clock_of(config.folder),
            listen=config.listen,
            grants=config.grants,
            on_refusal=self._record.refused,
            is_member=self._is_member,
            outside=config.outside,
        )
        exchange = Exchange(self._store, self._post, on_drop=self._record.dropped, admits=self._access.admits)
        self._depot = Depot(self._store, exchange, genesis.manifest, self._record)
        self._contacts = Contacts(account.address, self._post.reach)
        self._arrival = Arrival(
            account.address, self._record, started, lambda: received_by(self._post), config.tell
        )
        self._note_served = started.note_served
        self._comparison = Comparison(self._post, self._ledger, self._contacts.all)
        self._rumours = Rumours(self._post, self._contacts.all, elapsed)
        self._journal = Journal(account.journal, account.identity.secret, genesis.chain, run)
        voice = Voice(self._journal, self._ledger, self._record, self._announce)
        self._taken = own / "taken"
        self._letters = Letters(self._post, self._contacts, self._expects)
        crew = CrewWork(
            account.address, self._bench, self._ledger, self._letters, voice.sign, self._library,
            self._taken, self._record,
        )  # fmt: skip
        self._deeds = Deeds(
            account.address, self._bench, self._ledger, self._depot, self._contacts, self._record, crew
        )
        self._policy = config.character.policy(self._deeds, voice)
        self._results = actions.Results()
        self._running: dict[Computed, trio.CancelScope] = {}
        self._faults: Counter[Computed] = Counter()
        self._wake = trio.Event()
        self._due: Millis | None = None

    async def run(self) -> None:
        """Take part until the run has ended; raises UserError for a machine or folder that cannot."""
        self._depot.adopt(BlobStore(self._config.folder.blobs))
        await trio.to_thread.run_sync(self._check_run)
        async with trio.open_nursery() as nursery:
            async with self._post, self._bench.running(nursery):
                nursery.start_soon(self._bench.watch)
                self._comparison.serve()
                # A long log is folded while the machine tries the run.
                async with trio.open_nursery() as both:
                    both.start_soon(self._open_ledger)
                    prepared = await self._prepare()
                if not await self._post.is_reserved():
                    self._config.tell(NO_RELAY)
                if self._post.gateway:
                    self._config.tell(f"UPnP: {await self._post.gateway.answer()}")
                self._depot.serve()
                if self._config.joining.post is not None:
                    self._letters.serve()
                if self._note_served is not None:
                    nursery.start_soon(serve_beside, self._config, self._post, self._note_served)
                else:
                    nursery.start_soon(self._post.announce)
                nursery.start_soon(self._rumours.run)
                nursery.start_soon(self._hear_hints)
                if self._config.host is not None:
                    nursery.start_soon(self._comparison.run)
                if self._config.host is not None or self._config.serves:
                    nursery.start_soon(self._post.keep_open, self._contacts.all)
                nursery.start_soon(self._log_traffic)
                await self._take_part(lambda: self._self(prepared), nursery)
                self._record.write("stopped")
            nursery.cancel_scope.cancel()

    async def _open_ledger(self) -> None:
        """Fold the ledger of the folder, or its copy and what the host has beyond it; raises UserError."""
        if self._config.host is None:
            await self._ledger.open()
        else:
            line = HostLine(
                self._post, self._config.host, lambda: self._hear_of_host(line), self._contacts.all
            )
            line.listen()
            await self._ledger.follow(line.ask, self._config.tell)
        async with self._ledger.state() as state:
            self._journal.require_own(state)
            if self._config.host is not None:
                require_place(state, self._config.account.address)

    def _is_member(self, account: Address) -> bool:
        """Return whether an account has its part in the run: a member, or who serves its ledger."""
        host = self._config.host
        return self._access.is_member(account) or (host is not None and account == host.address)

    async def _expects(self, account: Address, number: Round) -> bool:
        """Return whether this peer is to work with an account in a round; it may know that later than the account."""
        self._wake.set()
        async with self._ledger.state() as state:
            return expects(state, self._config.account.address, account, number)

    def _hear_of_host(self, line: HostLine) -> None:
        remember(self._config.folder, line.host)
        self._ledger.try_again()
        self._wake.set()

    def _check_run(self) -> None:
        """Learn how long the run's blobs are; raises UserError for a run that nobody should stake on. (SPEC.md 11.7)"""
        manifest, joining = self._manifest, self._config.joining
        try:
            require_post(manifest, joining.post)
            programs = sound_programs(manifest, StoredPrograms(self._store, manifest), joining.accept_unsound)
        except (UserError, Malformed) as error:
            raise UserError(f"this peer does not take the run: {error}") from error
        self._depot.expect(programs)

    async def _prepare(self) -> orders.Prepared:
        """Have the machine try the run; raises UserError when it must not stake on it."""
        config = self._config
        order = orders.Prepare(
            codec.encode(self._manifest), str(self._store.folder), Count(config.threads), config.options,
            config.joining.post, str(self._taken),
        )  # fmt: skip
        listen = self._post.address.multiaddr
        self._record.write(
            "started",
            role=config.joining.role,
            **config.character.label,
            listen=listen,
            compute=self._bench.pid,
        )
        try:
            prepared = await self._deeds.prepare(order)
        except Refused as refusal:
            raise UserError(
                f"this peer does not take the run: {refusal}; --memory raises the limit"
            ) from refusal
        self._record.write("measured", golden=prepared.golden, agrees=prepared.agrees, speed=prepared.speed)
        self._tell_kernels(prepared.kernels)
        if not (prepared.golden and prepared.agrees):
            wrong = (
                "make the same of the run's step in two ways"
                if prepared.golden
                else "reproduce the run's golden step"
            )
            doctor = f"proofswarm doctor {config.folder.path}"
            doctor += "" if config.options.device == "cpu" else f" --device {config.options.device}"
            raise UserError(f"this machine does not {wrong}, so it must not stake: see '{doctor}'")
        return prepared

    def _tell_kernels(self, kernels: Kernels) -> None:
        """Log what steps run on here; refused kernels cost time and money, so a person hears of them."""
        self._record.write(
            "kernels", products=kernels.products, compiled=kernels.compiled, refused=kernels.refused,
            over_float32=kernels.over_float32 / 1000 if kernels.over_float32 else None,
        )  # fmt: skip
        if kernels.complaint:
            self._config.tell(kernels.complaint)

    def _self(self, prepared: orders.Prepared) -> Me:
        identity, joining = self._config.account.identity, self._config.joining
        least = stake_of(self._manifest, joining.role, joining.post)
        return Me(
            address=identity.address,
            secret=identity.salt_secret,
            role=joining.role,
            stake=Amount(least if joining.stake is None else joining.stake),
            speed=prepared.speed,
            endpoint=self._post.address.multiaddr,
            post=joining.post,
        )

    async def _take_part(self, me: Callable[[], Me], nursery: trio.Nursery) -> None:
        """Look, decide, act; return some time after the run has ended. A relay may come to `me` on the way."""
        last: float | None = None
        failure = ""
        while last is None or trio.current_time() < last:
            self._wake = trio.Event()
            try:
                ended = await self._look_and_act(me(), nursery)
                if await self._is_over():
                    return
                failure = ""
            except Unavailable as error:  # somebody else holds the ledger, or its host is away; told once
                if str(error) != failure:
                    failure = str(error)
                    self._record.write("failed", action="look", reason=failure)
                ended = False
            if ended and last is None:
                last = trio.current_time() + LINGER_SECONDS
            with trio.move_on_after(self._rest()):
                await self._wake.wait()

    def _rest(self) -> float:
        """Return the seconds until the next look: sooner where something is due before."""
        longest = POLL_SECONDS if self._config.host is None else FOLLOW_SECONDS
        until = math.inf if self._due is None else (self._due - self._ledger.now()) / 1000
        return min(longest, until) if until > 0 else longest

    async def _look_and_act(self, me: Me, nursery: trio.Nursery) -> bool:
        """Do one turn; return whether the run has ended for this peer."""
        news = await self._ledger.refresh()
        async with self._look(me) as view:
            if news:
                self._config.watch(news)
                self._contacts.note(view.state)
                self._access.note(view.state)
                self._arrival.note(view.state)
            wanted = self._policy.decide(view, self._ledger.contradictions)
            ended = view.state.stage is Stage.ENDED
            self._due = looks_at(view.state, me)
            unwanted = holding.unwanted(view.state, me.address, wanted, self._running)
        for action in unwanted:
            self._running[action].cancel()
        for act in wanted:
            if isinstance(act, Computed) and act not in self._running and act not in self._results.done:
                self._running[act] = trio.CancelScope()
                nursery.start_soon(self._perform, act, me)
        # Last, since it fails while the ledger's host is away, and computing goes on.
        for act in wanted:
            if not isinstance(act, Computed):
                await self._policy.say(act)
        return ended

    @asynccontextmanager
    async def _look(self, me: Me) -> AsyncIterator[View]:
        """Hold the lock on the ledger and what there is to decide on."""
        async with self._ledger.state() as state:
            yield View(state, me, self._results, self._ledger.now())

    async def _is_over(self) -> bool:
        """Return whether everyone who still can has taken its stake, so that nobody needs this peer any more."""
        async with self._ledger.state() as state:
            if state.stage is not Stage.ENDED:
                return False
            return all(m.stake == 0 for m in state.members.values() if m.standing is Standing.ACTIVE)

    async def _perform(self, action: Computed, me: Me) -> None:
        """Compute or fetch, file the result, wake the loop; what cannot be had now is tried again later.

        Nothing that others served or claimed ends the peer, nor a moment without disk space or descriptors.
        """
        try:
            with self._running.setdefault(action, trio.CancelScope()):
                self._results.done[action] = await self._policy.compute(action, lambda: self._look(me))
                del self._faults[action]
        except UserError:
            raise
        except (ProofswarmError, OSError) as error:
            self._record.write("failed", action=type(action).__name__, reason=str(error))
            await self._forget_lost()
            await trio.sleep(self._pause(action, error))
        finally:
            del self._running[action]
        self._wake.set()

    async def _forget_lost(self) -> None:
        """Forget what stands on blobs that are gone, so that they are fetched or made again."""
        async with self._ledger.state() as state:
            gone = holding.lost(state, self._results, self._store.has)
        for action in gone:
            del self._results.done[action]

    def _pause(self, action: Computed, error: Exception) -> float:
        """Return the seconds until an action is tried again; a person hears of a machine that is at fault itself."""
        if not isinstance(error, Unsound | NoRoom):
            return RETRY_SECONDS
        self._faults[action] += 1
        pause = pause_after(self._faults[action])
        if isinstance(error, NoRoom):
            self._config.tell(f"{error}; tried again in {pause:.0f} s")
            return pause
        self._config.tell(
            f"at fault: {error}: nothing is committed to; tried again in {pause:.0f} s, see "
            f"'proofswarm doctor {self._config.folder.path}'"
        )
        return pause

    def _announce(self, head: Digest) -> None:
        """Tell others, and look oneself, that the ledger has moved."""
        self._rumours.announce(Hint("ledger", head, Count(self._ledger.height)))
        self._wake.set()

    async def _hear_hints(self) -> None:
        """Look when others have seen more of the ledger than this peer has."""
        heights = Heights()
        while True:
            sender, hint = await self._rumours.receive()
            if not heights.is_news(sender, hint.height, self._ledger.height):
                continue
            self._ledger.try_again()  # the host has answered somebody
            self._wake.set()
            if self._config.host is not None:
                await trio.sleep(min(FOLLOW_SECONDS, REST * self._ledger.look_seconds))

    async def _log_traffic(self) -> None:
        while True:
            await trio.sleep(TRAFFIC_SECONDS)
            self._record.traffic(self._post.traffic())


async def run_peer(config: PeerConfig) -> None:
    """Run one peer to the end of its run, from nothing but its account and the host's address where it follows one.

    Raises UserError.
    """
    began = trio.current_time()
    raise_descriptor_limit()
    if config.host is not None:
        config = replace(config, host=last_seen(config.folder, config.host))
        await begin_following(config)
    folder, account = config.folder.checked(), config.account
    check_host(folder, None if config.host is None else config.host.address)
    # A contribution is not for all before it is committed to.
    _make_folder(folder.peer(account.name), is_private=True)
    _make_folder(folder.events)
    with ExitStack() as held:
        held.enter_context(alone(folder.lock(checksum(account.address))))
        note = None
        if config.serves:
            (await refuse_older(folder, account.identity, config.listen, config.outside)).close()
            with writable(folder):
                note = held.enter_context(serving(folder, account.address))
        events = EventLog(folder.log(account.name), checksum(account.address), config.tell)
        held.callback(events.close)
        received = 0
        if config.host is not None:
            received = await fetch_run(config, Record(events, clock_of(folder)))
        await Peer(config, genesis_of(folder), events, Started(began, received, note)).run()


def _make_folder(path: Path, is_private: bool = False) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if is_private:
            path.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there: {error.strerror}; check the run folder's owner"
        ) from error
