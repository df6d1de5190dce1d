"""Where a demo's peers are and what happens to them: here all in one folder, each with processes of its own."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.commands.ending import Check
from trainer.folder import RunFolder
from trainer.lifetimes import held, python
from verification.state import State
from verification.units import Address

ENDING_SECONDS = 10.0
"""How long a process that was told to end may take."""
Tell = Callable[[str], None]


@dataclass
class Seat:
    """One peer of a demo: its name, account, role and options, the folder it runs in, and its process once it runs.

    `recorded_as` is what it is called in its own folder.
    """

    name: str
    account: Address
    role: str
    options: Sequence[str]
    folder: RunFolder
    recorded_as: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Its record of events."""
        return self.folder.log(self.recorded_as)

    @property
    def output(self) -> Path:
        """What its process prints."""
        return self.folder.peer(self.recorded_as) / "output.log"

    @property
    def is_done(self) -> bool:
        """Whether its process has been and ended."""
        return self.process is not None and self.process.poll() is not None

    def command(self, *options: str) -> list[str]:
        """Return the command by which it takes part, where `options` say in what."""
        return python("-m", "trainer.cli", *options, "--role", self.role, *self.options)


@dataclass
class Scene:
    """A demo's peers, and the folder whose ledger says what becomes of them."""

    folder: RunFolder
    seats: Sequence[Seat]

    def act(self, state: State, tell: Tell) -> None:
        """Do what is due by the ledger's state, and tell it."""

    def checks(self, tell: Tell) -> list[Check]:
        """Return what must hold at the end beside what every demo must show; `tell` hears what takes its time."""
        return []


Staging = Callable[[RunFolder, Sequence[Seat]], AbstractContextManager[Scene]]
"""Starts peers for a run that was made in a folder, and ends those that are left at the end."""


@contextmanager
def in_one_folder(folder: RunFolder, seats: Sequence[Seat]) -> Iterator[Scene]:
    """Start every peer as `proofswarm peer` would in the run's own folder."""
    try:
        for seat in seats:
            seat.output.parent.mkdir(0o700, parents=True)
            start(folder, seat)
        yield Scene(folder, seats)
    finally:
        end([seat.process for seat in seats if seat.process is not None])


def start(folder: RunFolder, seat: Seat) -> None:
    """Start a peer as `proofswarm peer` would in the run's own folder, for the first time or again."""
    command = seat.command("peer", "--run", str(folder.path), "--key", str(folder.keys / f"{seat.name}.key"))
    with seat.output.open("ab") as log:
        seat.process = subprocess.Popen(held(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes, those that do not listen by force."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
