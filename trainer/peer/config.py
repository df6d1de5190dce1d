"""A peer's own settings; none of them is part of the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from p2p.identity import Identity, create, load
from p2p.listening import AS_LISTENED, Outside
from p2p.server import Grants
from p2p.transport import ANY_LOCAL_PORT, PeerAddress
from trainer.compute.children import PROCESS
from trainer.folder import RunFolder
from trainer.peer.deeds import Deeds
from trainer.peer.journal import journal_of
from trainer.peer.policy import Honest, Policy
from trainer.peer.voice import Voice
from trainer.programs.options import AS_PEERS, RunOptions
from verification.errors import UserError
from verification.ledger.log import Entry
from verification.manifest import Post
from verification.units import Address, Digest


@dataclass(frozen=True)
class Account:
    """Who a peer is: a key's file, and the identity in it. What the account signs lies beside the file."""

    key: Path
    identity: Identity

    @classmethod
    def read(cls, key: Path) -> "Account":
        """Return the account of a key's file; raises UserError for a file that is none."""
        return cls(key, load(key))

    def keep(self) -> None:
        """Write the key's file, unless it is there; raises UserError for a file that is none, or another account's."""
        if not self.key.exists():
            create(self.key, self.identity)
        elif load(self.key).address != self.address:
            raise UserError(f"{self.key} is the key of another account: name another file with --key")

    @property
    def name(self) -> str:
        """What the peer is called in the run's folder: the file's stem."""
        return self.key.stem

    @property
    def address(self) -> Address:
        """The account on the ledger."""
        return self.identity.address

    @property
    def journal(self) -> Path:
        """Where all that the account ever signed is kept."""
        return journal_of(self.key, self.address)


@dataclass(frozen=True)
class Joining:
    """As what a peer joins. `stake` None stakes what the role needs, `accept_unsound` takes a run that may not pay; a
    worker with a `post` is for crews, and holds that shard of the model."""

    role: str
    stake: int | None = None
    accept_unsound: bool = False
    post: Post | None = None


@dataclass(frozen=True)
class Character:
    """What a peer goes by: honest, unless somebody puts another in its place.

    `policy` decides what it says and does, `compute` is the program that computes for it, `label` goes on record.
    """

    policy: Callable[[Deeds, Voice], Policy] = Honest
    compute: Sequence[str] = PROCESS
    label: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PeerConfig:
    """Who takes part in which run, as what, and how.

    `host` serves the run's ledger, of which `folder` has a copy, or is to have one of `run`; None for a folder that
    holds the ledger itself, which the peer gives to others if it `serves`.
    `threads` are those of the compute process, `options` say how it runs programs, and `compute` is it where it has
    been started already; `tell` hears one line for people about what happens, and `watch` the ledger's new entries, for
    which nothing waits. `grants` are what others may use of its link and memory, and `listen` and `outside` say where
    it is reached.
    """

    folder: RunFolder
    account: Account
    joining: Joining
    listen: str = ANY_LOCAL_PORT
    threads: int = 1
    options: RunOptions = AS_PEERS
    tell: Callable[[str], None] = lambda line: None
    watch: Callable[[Sequence[Entry]], None] = lambda entries: None
    character: Character = Character()
    host: PeerAddress | None = None
    run: Digest | None = None
    serves: bool = False
    grants: Grants = field(default_factory=Grants)
    outside: Outside = AS_LISTENED
    compute: Popen[bytes] | None = None
