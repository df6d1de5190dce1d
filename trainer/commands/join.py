"""`join`, and what it has in common with `peer`: from a ticket and a person's choices to a peer's settings."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2p.listening import Outside
from p2p.server import Grants
from p2p.ticket import Ticket
from p2p.words import MAX_TEXT
from trainer.folder import RunFolder
from trainer.logs.run_log import logged
from trainer.peer.config import Account, Joining, PeerConfig
from trainer.programs.options import peer_options
from trainer.runs.ledgers import genesis_of
from verification.errors import UserError
from verification.manifest import Post
from verification.statements import VERIFIER, WORKER
from verification.units import Address, Count

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a person chooses for a peer, however it comes to its run; `memory` in GiB, `up` and `down` in kB/s."""

    role: str
    listen: str
    outside: Outside
    threads: int
    stake: int | None
    memory: float | None
    device: str
    up: int | None
    down: int | None
    accept_unsound: bool
    shard: int | None = None
    cut: int = 0

    @property
    def post(self) -> Post | None:
        """The post of a worker that holds a shard, which people count from 1."""
        return None if self.shard is None else Post(Count(self.cut), Count(self.shard - 1))


def settled(settings: Settings, folder: RunFolder, account: Account, tell: Tell) -> PeerConfig:
    """Return the settings of a peer in a folder; raises UserError for a role or a device that there is not."""
    if settings.role not in (WORKER, VERIFIER):
        raise UserError(f"unknown role {settings.role!r}: choose worker or verifier")
    if settings.post is not None and settings.role == VERIFIER:
        raise UserError("a verifier audits all shards: leave out --shard, or take --role worker")
    memory = None if settings.memory is None else Count(int(settings.memory * 2**30))
    return PeerConfig(
        folder,
        account,
        Joining(settings.role, settings.stake, settings.accept_unsound, settings.post),
        settings.listen,
        settings.threads,
        peer_options(settings.device, memory),
        tell,
        grants=Grants(up=_bytes(settings.up), down=_bytes(settings.down)),
        outside=settings.outside,
    )


def _bytes(kilobytes: int | None) -> int | None:
    return None if kilobytes is None else 1000 * kilobytes


def read_ticket(text: str) -> Ticket:
    """Return the ticket in an argument (`ticket_text`); raises UserError."""
    return Ticket.parse(ticket_text(text))


def ticket_text(text: str) -> str:
    """Return what an argument says: a ticket itself, a file's name, or - for standard input; raises UserError."""
    if text == "-":
        return sys.stdin.read(MAX_TEXT + 2)
    if not os.path.isfile(text):
        return text
    try:
        with open(text, encoding="ascii", errors="replace") as file:
            return file.read(MAX_TEXT + 2)
    except OSError as error:
        raise UserError(f"{text}: cannot read the ticket: {error.strerror}") from error


def config_of(
    settings: Settings, ticket: Ticket, folder: Path | None, key: Path | None, tell: Tell
) -> PeerConfig:
    """Return the settings of a peer that joins by a ticket, which always leads to the same folder and account.

    `key` names an account's file in the place of the ticket's account. Raises UserError for a ticket without account
    where there is no key either.
    """
    place = RunFolder(folder or Path("runs") / ticket.run.hex()[:12])
    config = settled(settings, place, _account(ticket, place, key), tell)
    return replace(config, host=ticket.host, run=ticket.run)


def _account(ticket: Ticket, folder: RunFolder, key: Path | None) -> Account:
    if key is not None:
        return Account.read(key)
    identity = ticket.identity
    if identity is None:
        raise UserError("the ticket brings no account: name the key file of a funded one with --key")
    return Account(folder.keys / f"{name_of(identity.address)}.key", identity)


def name_of(account: Address) -> str:
    """Return what a peer is called whose account came with a ticket."""
    return f"peer-{account.hex()[:8]}"


@contextmanager
def logging_to(config: PeerConfig, names: Sequence[str]) -> Iterator[PeerConfig]:
    """Have the ledger logged while a peer takes part; gives the peer's settings with that.

    Raises UserError for a destination that cannot be, before the peer does anything.
    """
    if not names:
        yield config
        return
    run = config.run or genesis_of(config.folder).run
    with logged(config.folder, run, names, config.tell) as watch:
        yield replace(config, watch=watch)
