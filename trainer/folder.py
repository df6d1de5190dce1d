"""Where things lie in a run's folder, for everyone who opens one."""

from dataclasses import dataclass
from pathlib import Path

from verification.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """The layout of one run.

    ledger.sqlite      the local ledger
    job.toml           what `run create` was given
    model.json         Hugging Face config and parameter names, to export the model
    blobs/             programs, data and start state, by digest
    keys/NAME.key      one key per account
    peers/NAME/        a peer's store and signed statements
    events/NAME.jsonl  a peer's record
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
    def model(self) -> Path:
        """Config and parameter names of the model."""
        return self.path / "model.json"

    @property
    def blobs(self) -> Path:
        """The submitter's store."""
        return self.path / "blobs"

    @property
    def keys(self) -> Path:
        """The folder of key files."""
        return self.path / "keys"

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
