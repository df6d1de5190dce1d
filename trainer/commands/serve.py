"""`run serve`: give others the ledger of this folder, and what was published with the run."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import Identity, create, load
from p2p.listening import AS_LISTENED, Outside
from p2p.transport import ANY_LOCAL_PORT
from trainer.folder import RunFolder, alone
from trainer.peer.contacts import Contacts
from trainer.peer.hosting import NO_RELAY, Hosting, refuse_older, writable
from trainer.peer.runtime import raise_descriptor_limit
from trainer.runs.ledgers import clock_of, followed_host, genesis_of, open_ledger
from trainer.runs.library import StoredPrograms
from trainer.runs.serving import serving
from verification.ledger.port import Ledger
from verification.ledger.served import Host
from verification.signing import checksum


def host_identity(folder: RunFolder, key: Path | None) -> Identity:
    """Return the key that a host signs with: the given file's, or the folder's own, made when it is first asked for."""
    path = key or folder.keys / "host.key"
    return create(path) if key is None and not path.exists() else load(path)


@dataclass(frozen=True)
class Service:
    """Who serves, and where it is reached: the multiaddrs where it listens, joined by spaces, and what is outside."""

    identity: Identity
    listen: str = ANY_LOCAL_PORT
    outside: Outside = AS_LISTENED


async def serve_run(folder: RunFolder, service: Service, tell: Callable[[str], None]) -> None:
    """Serve until interrupted; raises UserError (another's log, a taken port, a key in use, a full disk)."""
    raise_descriptor_limit()
    (folder.path / "peers").mkdir(exist_ok=True)
    address = service.identity.address
    with ExitStack() as held:
        held.enter_context(alone(folder.lock(checksum(address))))
        ledger = await refuse_older(folder, service.identity, service.listen, service.outside)
        is_copy = followed_host(folder) is not None
        with writable(folder):
            note = held.enter_context(serving(folder, address))
        if is_copy:
            ledger.close()
            library = StoredPrograms(BlobStore(folder.blobs), genesis_of(folder).manifest)
            ledger = await trio.to_thread.run_sync(open_ledger, folder, library)
        await _serve(folder, ledger, service, tell, note)


async def _serve(
    folder: RunFolder, ledger: Ledger, service: Service, tell: Callable[[str], None], note: Callable[[], None]
) -> None:
    genesis, store, identity = genesis_of(folder), BlobStore(folder.blobs), service.identity
    host = Host(ledger, identity.secret)
    async with PostOffice(
        identity,
        genesis.run,
        clock_of(folder),
        listen=service.listen,
        is_member=host.is_member,
        outside=service.outside,
    ) as post:
        contacts = Contacts(identity.address, post.reach)
        contacts.note(ledger.state)
        Exchange(store, post).serve()
        if not await post.is_reserved():
            tell(NO_RELAY)
        if post.gateway:
            tell(f"UPnP: {await post.gateway.answer()}")
        await Hosting(folder, host, post, contacts, note, tell).run()
