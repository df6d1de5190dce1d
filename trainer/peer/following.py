"""How a folder begins that shares nothing with the run's host: a copy of the ledger, and the published blobs."""

import re
from collections.abc import Callable

import trio

from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.served import HostLine
from p2p.transport import PeerAddress
from trainer.folder import RunFolder
from trainer.runs.ledgers import begin_copy, check_host, clock_of, genesis_of
from trainer.runs.library import published
from verification.errors import Malformed, Unavailable, UserError
from verification.units import Digest


def host_named(text: str) -> PeerAddress:
    """Return a host's address with its key; raises UserError for text that is none."""
    try:
        return PeerAddress.parse(text)
    except Malformed as error:
        raise UserError(f"--ledger: {error}; it is what 'proofswarm run serve' prints") from error


def run_named(text: str) -> Digest:
    """Return a run's identity; raises UserError for text that is none."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise UserError(
            "--run-id: a run's identity has 64 hex digits; it is what 'proofswarm run serve' prints"
        )
    return Digest(bytes.fromhex(text))


async def fetch_run(
    folder: RunFolder, identity: Identity, host: PeerAddress, run: Digest | None, tell: Callable[[str], None]
) -> None:
    """Have a run's copy of the ledger and its published blobs in a folder; what is there already is kept.

    `run` is the run's identity, which a folder that has its copy knows itself. Raises UserError for a host that is not
    there, is another, or lacks something; the same again goes on where it stopped.
    """
    if folder.ledger.is_file():
        check_host(folder, host.address)
        run = genesis_of(folder).run
    elif run is None:
        raise UserError(f"{folder.path} holds no copy of a ledger yet: say of which run with --run-id")
    async with PostOffice(identity, run, clock_of(folder)) as post:
        if not folder.ledger.is_file():
            ask = HostLine(post, host).ask
            await trio.to_thread.run_sync(begin_copy, folder, ask, host.address, run)
            tell(f"follows run {run.hex()} into {folder.path}")
        store = BlobStore(folder.blobs)
        exchange = Exchange(store, post)
        for blob in published(genesis_of(folder).manifest):
            try:
                await exchange.fetch(blob, (host,))
            except Unavailable as error:
                raise UserError(
                    f"the host does not give blob {blob.hex()}: {error}; try again later"
                ) from error
