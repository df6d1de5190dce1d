"""`run invite`: tickets for newcomers, each with where the ledger is served and an account that nobody has yet."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from p2p.addresses import Scope, reach_of
from p2p.blobs import sync_folder
from p2p.identity import Identity, load
from p2p.ticket import Ticket
from p2p.transport import PeerAddress
from trainer.commands.report import read_ledger
from trainer.folder import RunFolder
from trainer.peer.journal import journal_of
from trainer.runs.ledgers import genesis_of
from trainer.runs.serving import endpoint_of
from verification.errors import Malformed, UserError
from verification.state import Stage, State

SECRET = (
    "each ticket holds the secret key of an account: whoever reads it can spend its stake; pass it on in private, to "
    "one machine"
)
NEAR = "the ledger is served on this machine alone: for others give 'proofswarm run serve' a --listen that they reach"


def invite(
    folder: RunFolder, count: int, addresses: Sequence[str], with_account: bool, warn: Callable[[str], None]
) -> list[str]:
    """Return new tickets; an account goes into one ticket only, whoever asks at the same time.

    `addresses` stand for where the ledger is served now. `warn` hears what a person must know of the tickets. Raises
    UserError: nobody serves the ledger, an address that is none, a run that has ended, too few accounts.
    """
    run, endpoint = genesis_of(folder).run, _endpoint(folder, addresses)
    ledger = read_ledger(folder)
    state = ledger.state
    ledger.close()
    if state.stage not in (Stage.GATHERING, Stage.RUNNING):
        raise UserError(f"{folder.path}: the run takes no more members: it has ended, or is about to")
    secrets = [one.secret for one in hand_out(folder, state, count)] if with_account else [b""] * count
    if with_account:
        warn(SECRET)
    if reach_of(endpoint.split()) is Scope.MACHINE:
        warn(NEAR)
    return [Ticket(run, endpoint, secret).text() for secret in secrets]


def _endpoint(folder: RunFolder, addresses: Sequence[str]) -> str:
    """Return where the ledger's host is reached: as a person says, or as the one who serves it wrote down."""
    endpoint = " ".join(addresses) or endpoint_of(folder)
    if endpoint is None:
        raise UserError(
            f"nobody serves {folder.path}: start 'proofswarm run serve {folder.path}', or name the host with --address"
        )
    try:
        PeerAddress.parse(endpoint)
    except Malformed as error:
        raise UserError(f"--address: {error}; it ends in /p2p/ and the host's key") from error
    return endpoint


def hand_out(folder: RunFolder, state: State, count: int) -> list[Identity]:
    """Return accounts that nobody uses, their keys moved to where nobody looks for one; raises UserError for too few.

    A key is moved before it is told, so that a crash may leave one that nobody has, and never one that two have.
    """
    free = unused_keys(folder, state)
    if len(free) < count:
        raise UserError(
            f"{folder.keys} has {len(free)} accounts that nobody uses, {count} are asked for: ask for fewer, or invite "
            "with --no-account who has a funded key"
        )
    taken: list[Path] = []
    try:
        folder.handed_out.mkdir(mode=0o700, exist_ok=True)
        for path in free:
            if len(taken) < count and _moved(path, folder.handed_out / path.name):
                taken.append(folder.handed_out / path.name)
        sync_folder(folder.handed_out)
    except OSError as error:
        raise UserError(f"{folder.handed_out}: cannot write there: {error.strerror}") from error
    if len(taken) < count:
        for path in taken:
            os.rename(path, folder.keys / path.name)
        raise UserError(f"{folder.keys}: another invitation has just taken the accounts: try again")
    return [load(path) for path in taken]


def _moved(path: Path, place: Path) -> bool:
    """Move a key; False where another process was faster. A key of that name may have been handed out before."""
    if place.exists():
        return False
    try:
        os.rename(path, place)
    except FileNotFoundError:
        return False
    return True


def unused_keys(folder: RunFolder, state: State) -> list[Path]:
    """Return the keys here whose accounts can pay a stake, are no members, and have never signed anything here."""
    money, free = state.manifest.money, []
    least = min(money.worker_stake, money.verifier_stake)
    for path in sorted(folder.keys.glob("*.key"), key=lambda path: (len(path.name), path.name)):
        account = load(path).address
        is_used = account in state.members or account == state.submitter or journal_of(path, account).exists()
        if not is_used and state.balances.get(account, 0) >= least:
            free.append(path)
    return free
