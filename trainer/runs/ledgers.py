"""Which ledger a run's folder holds: the one place that names an implementation of it."""

import sqlite3
from collections.abc import Callable

from p2p.errors import Skewed
from trainer.folder import RunFolder
from verification.errors import Unavailable, UserError, Violation
from verification.ledger import local
from verification.ledger.follower import Follower, Forked
from verification.ledger.log import Genesis
from verification.ledger.port import Ledger
from verification.ledger.remote import Ask, Remote
from verification.library import Library
from verification.signing import checksum
from verification.units import Address, Digest, Millis


def found_run(folder: RunFolder, genesis: Genesis) -> None:
    """Write the first entry of a new run's ledger; raises UserError when there is one, Refused for an unlawful run."""
    local.create(folder.ledger, genesis, local.system_clock())


def begin_copy(folder: RunFolder, ask: Ask, host: Address, run: Digest) -> None:
    """Write the first entry of a run that a host serves; raises UserError for a host that gives none or another's."""
    try:
        first = Remote(ask, host, run).founding()
    except Skewed as error:
        raise UserError(str(error)) from error
    except (Unavailable, Violation) as error:
        raise UserError(
            f"no ledger at that address: {error}; check the host's address and the run's identity, or ask for a "
            "new ticket"
        ) from error
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        local.create_copy(folder.ledger, first, host)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{folder.path}: cannot begin a copy of the ledger there: {error}") from error


def genesis_of(folder: RunFolder) -> Genesis:
    """Return what a run's first entry fixes; raises UserError."""
    return local.read_genesis(folder.ledger)


def clock_of(folder: RunFolder) -> Callable[[], Millis]:
    """Return the clock by which a run's peers date what they send each other, and go before they have folded anything.

    It is the machine's: a ledger that was not served for a while has another time, and newcomers do not know it yet.
    """
    return machine_clock()


def machine_clock() -> Callable[[], Millis]:
    """Return this machine's clock, by which messages are dated where there is no ledger at all."""
    return local.system_clock


def open_ledger(folder: RunFolder, library: Library) -> Ledger:
    """Fold a run's ledger; raises UserError for one that is missing, foreign or altered.

    A copy of a served one is folded as far as it goes, and its host is away.
    """
    if local.host_of(folder.ledger) is None:
        return local.LocalLedger(folder.ledger, library)
    return open_copy(folder, library, _nobody, lambda line: None)


def open_copy(folder: RunFolder, library: Library, ask: Ask, tell: Callable[[str], None]) -> Follower:
    """Fold a copy of a served ledger and what its host has beyond it; raises UserError as `Follower` does."""
    host = local.host_of(folder.ledger)
    if host is None:
        raise UserError(f"{folder.path} holds the ledger itself: leave out --ledger")
    remote = Remote(ask, host, genesis_of(folder).run)
    return Follower(local.SqliteCopy(folder.ledger), library, local.steady_clock, remote, tell)


def followed_host(folder: RunFolder) -> Address | None:
    """Return whose ledger a folder has a copy of; None for one that holds the ledger itself. Raises UserError."""
    return local.host_of(folder.ledger)


def check_host(folder: RunFolder, host: Address | None) -> None:
    """Raise UserError unless a folder's ledger is a copy of what this host serves, or, for None, the ledger itself."""
    followed = local.host_of(folder.ledger)
    if followed == host:
        return
    if followed is None:
        raise UserError(
            f"{folder.path} holds the ledger itself: leave out --ledger, and join by a ticket into another folder"
        )
    if host is None:
        raise UserError(
            f"{folder.path} holds a copy of a ledger that {checksum(followed)} serves: give its address with --ledger"
        )
    raise UserError(
        f"{folder.path} follows {checksum(followed)}, --ledger names {checksum(host)}: correct the address, or take "
        "another folder"
    )


def served_time(folder: RunFolder, host: Address) -> local.ServedTime:
    """Begin to serve a run's ledger, or the host's own log from a copy of it; raises UserError for another's copy."""
    local.take_over(folder.ledger, host)
    return local.ServedTime(folder.ledger)


def with_proof(folder: RunFolder, fork: Forked) -> UserError:
    """Return what a person reads of a fork; the file that proves it, if there is one, lies in the folder then."""
    if fork.proof is None:
        return fork
    folder.evidence.mkdir(exist_ok=True)
    path = folder.evidence / "fork.evidence"
    path.write_bytes(fork.proof)
    return UserError(f"{fork}; {path} proves it to 'proofswarm verify'")


def verify_log(folder: RunFolder) -> int:
    """Recompute the hash chain of a run's log and return its length; raises UserError at the first broken link."""
    return local.verify_log(folder.ledger)


def _nobody(name: str, body: bytes) -> bytes:
    raise Unavailable("this folder has a copy of its log, and nobody was asked; do this where the ledger is")
