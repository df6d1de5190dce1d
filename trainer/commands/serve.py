"""`run serve`: give others the ledger of this folder, and what was published with the run."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import Identity, create, load
from p2p.served import HostDoor
from trainer.folder import RunFolder, alone
from trainer.peer.comparing import kept_heads
from trainer.peer.contacts import Contacts
from trainer.peer.runtime import raise_descriptor_limit
from trainer.runs.ledgers import clock_of, genesis_of, open_ledger, served_time
from trainer.runs.library import StoredPrograms
from verification.errors import Unavailable, UserError
from verification.ledger.served import Host
from verification.signing import checksum

BEAT_SECONDS = 2.0
"""Between two notes of the time that was served: as much may be served once more after a kill."""


def host_identity(folder: RunFolder, key: Path | None) -> Identity:
    """Return the key that a host signs with: the given file's, or the folder's own, made when it is first asked for."""
    path = key or folder.keys / "host.key"
    return create(path) if key is None and not path.exists() else load(path)


async def serve_run(folder: RunFolder, identity: Identity, listen: str, tell: Callable[[str], None]) -> None:
    """Serve until interrupted; raises UserError (another's log, a taken port, a key in use, a full disk)."""
    raise_descriptor_limit()
    (folder.path / "peers").mkdir(exist_ok=True)
    with alone(folder.lock(checksum(identity.address))):
        with _writable(folder):
            time = served_time(folder, identity.address)
        try:
            await _serve(folder, identity, listen, tell, time.note)
        finally:
            time.close()


async def _serve(
    folder: RunFolder, identity: Identity, listen: str, tell: Callable[[str], None], note: Callable[[], None]
) -> None:
    genesis, store, contacts = genesis_of(folder), BlobStore(folder.blobs), Contacts(identity.address, listen)
    ledger = await trio.to_thread.run_sync(open_ledger, folder, StoredPrograms(store, genesis.manifest))
    contacts.note(ledger.state)
    host = Host(ledger, identity.secret)
    async with PostOffice(
        identity, genesis.run, clock_of(folder), listen=listen, is_member=host.is_member
    ) as post:
        Exchange(store, post).serve()
        await _refuse_older(folder, host, post, contacts)
        door = HostDoor(post, host)
        door.open()
        tell(f"serves run {genesis.run.hex()} at {post.address.multiaddr}")
        tell(
            "follow it with: proofswarm peer --run FOLDER --key KEY "
            f"--ledger {post.address.multiaddr} --run-id {genesis.run.hex()}"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.tell_where, contacts.all())
            while True:
                with _writable(folder):
                    await _beat(door, note)
                await trio.sleep(BEAT_SECONDS)


async def _refuse_older(folder: RunFolder, host: Host, post: PostOffice, contacts: Contacts) -> None:
    """Raise UserError for a ledger that lacks what members were told: to go on from it would be a fork."""
    for signed in await kept_heads(post, contacts.all()):
        if (head := host.lost(signed)) is not None:
            raise UserError(
                f"{folder.ledger} is older than what this key has signed: a member keeps its entry {head.seq}; serve "
                "the longest copy that a member has instead"
            )


async def _beat(door: HostDoor, note: Callable[[], None]) -> None:
    """Let due deadlines pass, and note that time was served; a ledger that another process holds is tried again."""
    try:
        await door.look()
        await trio.to_thread.run_sync(note)
    except Unavailable:
        return


@contextmanager
def _writable(folder: RunFolder) -> Iterator[None]:
    """Raise UserError where the ledger cannot be written, or has let go of its file because it could not be."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"{folder.ledger}: {error}; free space on its disk and serve again: nothing acknowledged is lost"
        ) from error
