"""How a folder begins that shares nothing with the run's host: a copy of the ledger, and the published blobs."""

import errno
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from p2p.addresses import relay_of
from p2p.blobs import BlobStore
from p2p.errors import Underway
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.reach import Way
from p2p.served import HostLine
from p2p.transport import PeerAddress
from trainer.folder import RunFolder
from trainer.peer.config import PeerConfig
from trainer.peer.contacts import Contacts
from trainer.peer.journal import Journal
from trainer.peer.ledger import LedgerPort
from trainer.peer.record import Record
from trainer.runs.ledgers import begin_copy, check_host, clock_of, genesis_of
from trainer.runs.library import StoredPrograms, published
from verification.content import CHUNK_BYTES
from verification.errors import Malformed, NoRoom, Unavailable, UserError, Violation
from verification.manifest import Place
from verification.program import MAX_PROGRAM
from verification.signing import checksum
from verification.sizes import PlacedPrograms, data_size, state_size
from verification.state import Stage, State
from verification.units import Address, Digest

TELL_SECONDS = 5.0
"""Between two lines about a fetch that goes on."""
TRIES = 6
"""How often sources that give nothing of a blob are asked, each time after a pause twice as long: half a minute, in
which peers behind routers may find a direct way."""
WAIT_SECONDS = 5.0
"""Between two tries while a disk is full, or another process fetches the same."""
MIB = 1 << 20


def host_named(text: str) -> PeerAddress:
    """Return a host's address with its key; raises UserError for text that is none."""
    try:
        return PeerAddress.parse(text)
    except Malformed as error:
        raise UserError(f"--ledger: {error}; it is what 'proofswarm run serve' prints") from error


def last_seen(folder: RunFolder, host: PeerAddress) -> PeerAddress:
    """Return a host's address with those first at which it was last; a file that says nothing of it counts for none."""
    remembered = _remembered(folder)
    return host.also_at(remembered) if remembered and remembered.address == host.address else host


def _remembered(folder: RunFolder) -> PeerAddress | None:
    try:
        return PeerAddress.parse(folder.host.read_text().strip())
    except (OSError, ValueError, Malformed):
        return None


def remember(folder: RunFolder, host: PeerAddress) -> None:
    """Keep where a host is for the next start; a full disk forgets it."""
    draft = folder.host.with_suffix(".draft")
    with suppress(OSError):
        draft.write_text(f"{host.multiaddr}\n")
        draft.replace(folder.host)


def way_told(way: Way | None, last: PeerAddress | None = None) -> str:
    """Return in a line how a host was reached, and whether it is there where it was `last`."""
    if way is None:
        return "the host is reached by a connection that it made"
    if way.is_nearby:
        return f"the host is reached at {way.address}, which the local network tells (mDNS)"
    if relay := relay_of(way.address):
        return f"the host is reached by way of the relay {relay}"
    is_last = last is not None and way.address in last.multiaddrs
    return f"the host is reached at {way.address}, {'where it was last' if is_last else 'as was given'}"


def run_named(text: str) -> Digest:
    """Return a run's identity; raises UserError for text that is none."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise UserError(
            "--run-id: a run's identity has 64 hex digits; it is what 'proofswarm run serve' prints"
        )
    return Digest(bytes.fromhex(text))


async def begin_following(config: PeerConfig) -> None:
    """Have the copy of a host's ledger and the account's key in the folder, both or nothing, and check what is there.

    Raises UserError for a folder of another run or host, for a host that is not there, is another or serves another
    run, for a clock that is wrong, and for a port that is taken.
    """
    folder, host, run = config.folder, config.host, config.run
    assert host is not None
    if folder.ledger.is_file():
        found = genesis_of(folder).run
        if run is not None and run != found:
            raise UserError(
                f"{folder.path} holds run {found.hex()[:12]}, not {run.hex()[:12]}: name another folder"
            )
        check_host(folder, host.address)
    elif run is None:
        raise UserError(f"{folder.path} holds no copy of a ledger yet: say of which run with --run-id")
    else:
        async with post_of(config, run) as post:
            config.tell(f"asks {checksum(host.address)} at {host.multiaddr} for run {run.hex()[:12]}")
            ask = HostLine(post, host).ask
            await trio.to_thread.run_sync(begin_copy, folder, ask, host.address, run)
        config.tell(f"follows run {run.hex()} into {folder.path}")
    config.account.keep()


async def fetch_run(config: PeerConfig, record: Record) -> int:
    """Have a run's published blobs in the folder, from its host and all members; return the bytes received.

    What is there already is kept, and where all is, nobody is asked; a disk that is full is waited for. Raises
    UserError for a run that takes no more members, for an account that somebody else uses, and when nobody gives a
    blob: the same again goes on from there.
    """
    store = BlobStore(config.folder.blobs)
    if all(store.has(blob) for blob in published(genesis_of(config.folder).manifest)):
        return 0
    async with post_of(config, genesis_of(config.folder).run) as post:
        newcomer = Newcomer(config, record, post)
        await newcomer.fetch(await newcomer.look())
        return received_by(post)


def require_place(state: State, account: Address) -> None:
    """Raise UserError for a run in which an account has no part and can have none any more."""
    is_open = state.stage in (Stage.GATHERING, Stage.RUNNING)
    if account not in state.members and not is_open:
        raise UserError(f"run {state.run.hex()[:12]} has ended, or is about to: it takes no more members")


def received_by(post: PostOffice) -> int:
    """Return the bytes that have come to a post office."""
    return sum(flow.size for flow in post.traffic() if flow.direction == "in")


def post_of(config: PeerConfig, run: Digest) -> PostOffice:
    """Return the post office of a peer that does not take part yet, where it will be; no relay is asked for it."""
    return PostOffice(
        config.account.identity,
        run,
        clock_of(config.folder),
        listen=config.listen,
        grants=config.grants,
        outside=replace(config.outside, via=(), relays=False, upnp=False),
    )


@dataclass(frozen=True)
class Part:
    """A published blob: what it is, and the bytes that it may have; data and start state have as many."""

    what: str
    blob: Digest
    limit: int


@dataclass(frozen=True)
class Found:
    """What a newcomer sees of a run: the ledger's state, the programs, what there is to fetch, and who may have it."""

    state: State
    programs: PlacedPrograms
    parts: tuple[Part, ...]
    sources: tuple[PeerAddress, ...]


class Newcomer:
    """A folder that fills: first the programs, by which the ledger can be folded, then what that one's members have."""

    def __init__(self, config: PeerConfig, record: Record, post: PostOffice) -> None:
        """Begin in a folder that has its copy of the ledger; `post` is open."""
        assert config.host is not None
        self._config, self._record, self._post, self._host = config, record, post, config.host
        self._hosts = (config.host, *config.host.relays())  # no relay carries what a host gives
        self._manifest = genesis_of(config.folder).manifest
        self._store = BlobStore(config.folder.blobs)
        self._exchange = Exchange(self._store, post, on_drop=record.dropped)

    async def look(self) -> Found:
        """Fetch the programs, fold the ledger and say what else there is; raises UserError where nobody can join."""
        refs, everything = self._manifest.programs.all(), self._manifest.all_programs()
        parts = tuple(Part("program", ref.blob, MAX_PROGRAM) for ref in everything)
        await self._have(parts, self._hosts)
        library = StoredPrograms(self._store, self._manifest)
        try:
            programs = {place: library.program(ref.digest) for place, ref in zip(Place, refs, strict=True)}
        except Violation as error:
            raise UserError(f"this peer does not take the run: {error}") from error
        state = await self._folded(library)
        contacts = Contacts(self._config.account.address, self._post.reach)
        contacts.note(state)
        data = Part("data", self._manifest.data.blob, data_size(programs))
        start = Part("state", self._manifest.start.blob, state_size(programs))
        return Found(state, programs, (*parts, data, start), (*contacts.all(), *self._hosts))

    async def _folded(self, library: StoredPrograms) -> State:
        ledger = LedgerPort(self._config.folder, library)
        self._config.tell("reads the ledger")
        line = HostLine(self._post, self._host, lambda: remember(self._config.folder, line.host))
        last = _remembered(self._config.folder)
        await ledger.follow(line.ask, self._config.tell)
        if self._host.address in self._post.connected():
            self._config.tell(way_told(self._post.way_to(self._host), last))
        try:
            async with ledger.state() as state:
                self._check(state)
                return state
        finally:
            await ledger.close()

    def _check(self, state: State) -> None:
        account = self._config.account
        require_place(state, account.address)
        journal = Journal(account.journal, account.identity.secret, state.chain, state.run)
        try:
            journal.require_own(state)
        finally:
            journal.close()

    async def fetch(self, found: Found) -> None:
        """Have all parts."""
        await self._have(found.parts, found.sources)

    async def _have(self, parts: Sequence[Part], sources: Sequence[PeerAddress]) -> None:
        """Fetch what is not here, telling how it goes."""
        missing = [part for part in parts if not self._store.has(part.blob)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, missing, len(sources))
            for part in missing:
                await self._have_one(part, sources)
                size = self._store.path(part.blob).stat().st_size
                self._record.write("fetched", what=part.what, blob=part.blob.hex(), size=size)
            nursery.cancel_scope.cancel()

    async def _have_one(self, part: Part, sources: Sequence[PeerAddress]) -> None:
        """Fetch a blob, however often it takes; raises UserError where more tries are no use."""
        name, told, tried = f"{part.what} {part.blob.hex()[:12]}", "", 0
        while True:
            before = received_by(self._post)
            try:
                await self._exchange.fetch(part.blob, sources, part.limit)
                return
            except Violation as lie:
                raise UserError(f"this peer does not take the run: {lie}") from lie
            except Underway as error:
                reason, pause = str(error), WAIT_SECONDS
            except NoRoom as error:
                reason, pause = str(error), WAIT_SECONDS
            except Unavailable as error:
                tried = 1 if received_by(self._post) > before + CHUNK_BYTES else tried + 1
                if tried == TRIES:
                    raise UserError(
                        f"nobody gives the {name}: {error}; try again later: what came is kept"
                    ) from error
                reason, pause = str(error), 2.0 ** (tried - 1)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(
                        f"{self._store.folder}: {error.strerror}; check its disk and owner"
                    ) from error
                reason, pause = f"{self._store.folder}: {error.strerror}", WAIT_SECONDS
            if reason != told:
                self._config.tell(f"waits for the {name}: {reason}")
                told = reason
            await trio.sleep(pause)

    async def _tell(self, parts: Sequence[Part], sources: int) -> None:
        """Tell every few seconds how much is here, and how fast it comes."""
        before, then = self._arrived(parts), trio.current_time()
        while True:
            await trio.sleep(TELL_SECONDS)
            here, now = self._arrived(parts), trio.current_time()
            self._config.tell(
                progress(here, sum(part.limit for part in parts), (here - before) / (now - then), sources)
            )
            before, then = here, now

    def _arrived(self, parts: Sequence[Part]) -> int:
        done = sum(part.limit for part in parts if self._store.has(part.blob))
        return done + sum(self._exchange.arrived.values())


def progress(here: int, total: int, rate: float, sources: int) -> str:
    """Return a line on a fetch: `here` and `total` in bytes, `rate` in bytes a second."""
    left = f"{(total - here) / rate:.0f} s left" if rate > 0 else "nothing comes: waits"
    return f"fetches from {sources} peers: {here / MIB:.1f} of {total / MIB:.1f} MiB, {rate / MIB:.2f} MiB/s, {left}"
