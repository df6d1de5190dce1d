"""How a folder's ledger is served by a post office: of `run serve` alone, or of a peer that takes part as well."""

import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import trio

from p2p.blobs import BlobStore
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.listening import Outside
from p2p.served import HostDoor
from trainer.folder import RunFolder
from trainer.peer.comparing import kept_heads
from trainer.peer.config import PeerConfig
from trainer.peer.contacts import Contacts
from trainer.runs.ledgers import clock_of, genesis_of, open_ledger
from trainer.runs.library import StoredPrograms
from trainer.runs.serving import tell_endpoint
from verification.errors import Unavailable, UserError
from verification.ledger.port import Ledger
from verification.ledger.served import Host

BEAT_SECONDS = 2.0
"""Between two notes of the time that was served: as much may be served once more after a kill."""
NO_RELAY = "no relay has a place for this peer yet: it goes on asking"


async def refuse_older(folder: RunFolder, identity: Identity, listen: str, outside: Outside) -> Ledger:
    """Raise UserError for a ledger, or a copy, that lacks what members were told: to go on from it would be a fork.

    Nothing is written. To be called before anybody serves the folder's ledger or adds to it. Returns it open, since
    to fold it takes long; a copy must be opened anew once it has been taken over.
    """
    genesis = genesis_of(folder)
    library = StoredPrograms(BlobStore(folder.blobs), genesis.manifest)
    ledger = await trio.to_thread.run_sync(open_ledger, folder, library)
    with ExitStack() as held:
        held.callback(ledger.close)
        host = Host(ledger, identity.secret)
        outside = replace(outside, upnp=False)  # for a moment
        async with PostOffice(
            identity, genesis.run, clock_of(folder), listen=listen, outside=outside
        ) as post:
            contacts = Contacts(identity.address, post.reach)
            contacts.note(ledger.state)
            heads = await kept_heads(post, contacts.all())
        lost = [head.seq for signed in heads if (head := host.lost(signed)) is not None]
        if lost:
            raise UserError(
                f"{folder.ledger} is older than what this key has signed: a member keeps its entry {max(lost)}; serve "
                "the longest copy that a member has instead"
            )
        held.pop_all()
    return ledger


class Hosting:
    """Serves one ledger until it is cancelled."""

    def __init__(
        self,
        folder: RunFolder,
        host: Host,
        post: PostOffice,
        contacts: Contacts,
        note: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        """`note` writes down that time was served; `contacts` knows the members, as far as the ledger names them."""
        self._folder, self._host, self._post, self._contacts = folder, host, post, contacts
        self._note, self._tell = note, tell
        self._endpoint = ""

    async def run(self) -> None:
        """Answer, let deadlines pass, and note where and until when; raises UserError (another's log, a full disk)."""
        door = HostDoor(self._post, self._host)
        door.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._post.announce)
            while True:
                with writable(self._folder):
                    if self._has_moved():
                        nursery.start_soon(door.tell_where, self._contacts.all())
                    await self._beat(door)
                await trio.sleep(BEAT_SECONDS)

    async def _beat(self, door: HostDoor) -> None:
        """Let due deadlines pass, and note that time was served; a ledger that another holds is tried again."""
        try:
            await door.look()
            await trio.to_thread.run_sync(self._note)
        except Unavailable:
            return

    def _has_moved(self) -> bool:
        """Write down, and the first time tell, where the ledger is served now; a relay may have come to it."""
        endpoint = self._post.address.multiaddr
        if endpoint == self._endpoint:
            return False
        tell_endpoint(self._folder, endpoint)
        is_first, self._endpoint = not self._endpoint, endpoint
        if is_first:
            self._tell_people()
        return True

    def _tell_people(self) -> None:
        run, folder = genesis_of(self._folder).run.hex(), shlex.quote(str(self._folder.path))
        self._tell(f"serves run {run} at {self._endpoint}")
        self._tell(
            f"invite others with: proofswarm run invite {folder}, or have them run: proofswarm peer --run FOLDER "
            f"--key KEY --ledger {shlex.quote(self._endpoint)} --run-id {run}"
        )


async def serve_beside(config: PeerConfig, post: PostOffice, note: Callable[[], None]) -> None:
    """Serve the ledger in a peer's folder by the peer's post office, with a view of the ledger of its own."""
    library = StoredPrograms(BlobStore(config.folder.blobs), genesis_of(config.folder).manifest)
    ledger = await trio.to_thread.run_sync(open_ledger, config.folder, library)
    contacts = Contacts(config.account.address, post.reach)
    contacts.note(ledger.state)
    host = Host(ledger, config.account.identity.secret)
    await Hosting(config.folder, host, post, contacts, note, config.tell).run()


@contextmanager
def writable(folder: RunFolder) -> Iterator[None]:
    """Raise UserError where the ledger cannot be written, or has let go of its file because it could not be."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise UserError(
            f"{folder.ledger}: {error}; free space on its disk and serve again: nothing acknowledged is lost"
        ) from error
