"""Where things lie in a run's folder, for everyone who opens one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verification.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """The layout of one run.

    ledger.sqlite      the local ledger
    job.toml           what `run create` was given
    model.json         Hugging Face config, parameter names and what tokens mean, to export and judge the model
    frozen.safetensors what the run does not train of its model; none where it trains everything
    tokenizer/         the tokenizer's files, which go with the model; none where tokens came without it
    held_out.bin       records that no worker trains on
    host               where the host of a ledger that the folder follows was last
    blobs/             programs, data and start state, by digest
    keys/NAME.key      one key per account; beside it 0xACCOUNT.said.sqlite, all that the account ever signed
    keys/handed-out/   keys that went into tickets: they are somebody else's now
    peers/NAME/        a peer's store, for nobody else to read
    peers/0xACCOUNT.lock   held while a peer of the account runs
    peers/serving.lock     held while the ledger is served; `serving` tells where
    events/NAME.jsonl  a peer's record; NAME.jsonl.1 is the part before it, once the record is long
    evidence/          a file for each conviction, which `proofswarm verify` checks
    """

    path: Path

    @property
    def ledger(self) -> Path:
        """The local ledger's file."""
        return self.path / "ledger.sqlite"

    @property
    def job(self) -> Path:
        """The job file that made the run."""
        return self.path / "job.toml"

    @property
    def host(self) -> Path:
        """Where the host of a followed ledger was last."""
        return self.path / "host"

    @property
    def model(self) -> Path:
        """Config and parameter names of the model."""
        return self.path / "model.json"

    @property
    def frozen(self) -> Path:
        """Weights that the run does not train."""
        return self.path / "frozen.safetensors"

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer's files."""
        return self.path / "tokenizer"

    @property
    def held_out(self) -> Path:
        """The held-out records."""
        return self.path / "held_out.bin"

    @property
    def blobs(self) -> Path:
        """The submitter's store."""
        return self.path / "blobs"

    @property
    def keys(self) -> Path:
        """The folder of key files."""
        return self.path / "keys"

    @property
    def handed_out(self) -> Path:
        """The folder of keys that are in tickets."""
        return self.keys / "handed-out"

    @property
    def serving(self) -> Path:
        """Where the ledger is served, while `serving_lock` is held."""
        return self.path / "serving"

    @property
    def serving_lock(self) -> Path:
        """What the one process holds that serves the ledger."""
        return self.path / "peers" / "serving.lock"

    @property
    def events(self) -> Path:
        """The folder of event logs."""
        return self.path / "events"

    @property
    def evidence(self) -> Path:
        """The folder of convictions."""
        return self.path / "evidence"

    def peer(self, name: str) -> Path:
        """The folder of one peer's own files."""
        return self.path / "peers" / name

    def stores(self) -> list[Path]:
        """The blobs' folders of all peers that have run here; locks lie beside them."""
        return sorted((self.path / "peers").glob("*/blobs"))

    def lock(self, account: str) -> Path:
        """What a running peer of an account holds."""
        return self.path / "peers" / f"{account}.lock"

    def log(self, name: str) -> Path:
        """The event log of one peer."""
        return self.events / f"{name}.jsonl"

    def checked(self) -> "RunFolder":
        """Return self; raises UserError when there is no run here."""
        if not self.ledger.is_file():
            raise UserError(
                f"{self.path} holds no run: make one with 'proofswarm run create JOB.toml --out {self.path}'"
            )
        return self


class Taken(UserError):
    """Another process holds what only one may hold."""


@contextmanager
def alone(path: Path, taken: str = "") -> Iterator[None]:
    """Hold a lock, by default an account's, for this process, as long as it lives.

    Raises Taken, which says `taken`, when another process has it, UserError where nobody can.
    """
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there: {error.strerror}; check the run folder's owner"
        ) from error
    taken = taken or f"{path.stem} already runs in another process: end that one, or join with another key"
    try:
        _lock(held, path, taken)
        yield
    finally:
        os.close(held)


def _lock(held: int, path: Path, taken: str) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Taken(taken) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be locked: {error.strerror}; keep the run on a file system with locks"
        ) from error
