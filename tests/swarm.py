"""A swarm of real peer processes for tests: started as a user starts them, watched through what they print."""

import os
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from p2p.blobs import BlobStore
from p2p.identity import load
from tests.checkout import environment
from tests.patience import PATIENCE
from trainer.events import Event, read_events
from trainer.folder import RunFolder
from trainer.lifetimes import python
from trainer.runs.library import StoredPrograms
from verification.ledger.local import LocalLedger, read_genesis, verify_log
from verification.signed import Statement, open_statement
from verification.signing import checksum
from verification.state import State
from verification.statements import VERIFIER
from verification.units import Address


class Printing:
    """One command of ours as a process; a thread reads what it prints, so that a test can block on a line."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Start it in a working folder."""
        self.command, self.name = python("-m", "trainer.cli", *command), command[0]
        self._cwd = folder
        self._printed = threading.Condition()
        self._lines: list[str] = []
        self._start()

    def _start(self) -> None:
        """Run the command line; a restart uses the very same one."""
        self._ended = False
        self._process = subprocess.Popen(
            self.command, cwd=self._cwd, env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with self._printed:
                    self._lines.append(line.rstrip())
                    self._printed.notify_all()
        with self._printed:
            self._ended = True
            self._printed.notify_all()

    def lines(self, start: str = "") -> list[str]:
        """Return what was printed so far, by all of its processes."""
        with self._printed:
            return [line for line in self._lines if line.startswith(start)]

    def wait_line(self, wanted: Callable[[str], bool], since: int = 0) -> str:
        """Block until a line after the first `since` ones is wanted; fails when the peer ends or takes too long."""
        with self._printed:

            def found() -> str | None:
                return next((line for line in self._lines[since:] if wanted(line)), None)

            self._printed.wait_for(lambda: found() is not None or self._ended, PATIENCE)
            line = found()
            assert line is not None, f"{self.name} did not print it: {self._lines[-5:]}"
            return line

    def wait(self, patience: float = PATIENCE) -> int:
        """Block until the process has ended and return its exit status."""
        status = self._process.wait(patience)
        self._reader.join(PATIENCE)
        return status

    def restart(self) -> None:
        """Run the same command line again."""
        self._start()

    def stop(self) -> None:
        """End what is left, also when it is stopped."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


class PeerProcess(Printing):
    """One `proofswarm peer`."""

    def __init__(self, folder: RunFolder, name: str, role: str, *options: str) -> None:
        """Start the peer."""
        key = folder.keys / f"{name}.key"
        self.folder, self.account = folder, checksum(load(key).address)
        self.kills = 0
        command = ["peer", "--accept-unsound", "--run", str(folder.path), "--key", str(key), "--role", role]
        super().__init__([*command, *options], folder.path)
        self.name = name

    def pids(self) -> tuple[int, int]:
        """Return the processes of node and compute."""
        started = self.lines("started ")[-1]
        return self._process.pid, int(started.rsplit("compute=", 1)[1])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to node and compute."""
        for pid in self.pids():
            os.kill(pid, number)

    def kill(self) -> None:
        """Kill node and compute at once, as a power cut does."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL
        self.kills += 1

    def events(self, kind: str) -> list[Event]:
        """Return the peer's recorded events of a kind."""
        path = self.folder.log(self.name)
        return [event for event in read_events(path) if event["kind"] == kind]


@contextmanager
def swarm(
    folder: RunFolder,
    roles: Sequence[str],
    options: dict[int, Sequence[str]] | None = None,
    workers_first: bool = False,
) -> Iterator[list[PeerProcess]]:
    """Start a peer per role, peer-0 first, each with its own `options`; end those that are left.

    With `workers_first` verifiers start when the workers listed before them are ready to join, so that a run that asks
    for fewer workers does not begin without them.
    """
    peers: list[PeerProcess] = []
    try:
        for number, role in enumerate(roles):
            if role == VERIFIER and workers_first:
                for worker in peers:
                    worker.wait_line(lambda line: line.startswith("measured "))
            peers.append(PeerProcess(folder, f"peer-{number}", role, *(options or {}).get(number, ())))
        yield peers
    finally:
        for peer in peers:
            peer.stop()


def library_of(folder: RunFolder) -> StoredPrograms:
    """Return a run's programs."""
    return StoredPrograms(BlobStore(folder.blobs), read_genesis(folder.ledger).manifest)


def final_state(folder: RunFolder) -> State:
    """Return the ledger's state, folded anew with every verdict given again."""
    verify_log(folder.ledger)
    ledger = LocalLedger(folder.ledger, library_of(folder))
    ledger.close()
    return ledger.state


def final_digests(peers: Sequence[PeerProcess]) -> set[str]:
    """Return the states on which peers ended; each must have ended on one."""
    digests = [{str(event["digest"]) for event in peer.events("ended")} for peer in peers]
    assert all(len(own) == 1 for own in digests)
    return set().union(*digests)


def statements(folder: RunFolder) -> list[tuple[Address, Statement, bytes]]:
    """Return every statement on the ledger with its author and bytes."""
    ledger = LocalLedger(folder.ledger, library_of(folder))
    entries = ledger.entries()
    ledger.close()
    opened = [open_statement(entry.data) for entry in entries if entry.kind == "statement"]
    return [(said.sender, said.statement, said.data) for said in opened]


def places(folder: RunFolder) -> dict[tuple[Any, ...], set[bytes]]:
    """Return what was said on the ledger at each place (author, chain, run, round, slot, head)."""
    said: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)
    for author, s, data in statements(folder):
        said[author, s.chain, s.run, s.round, s.slot, s.head].add(data)
    return said
