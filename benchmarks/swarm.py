"""A real swarm that can be harmed: a ledger's host and its peers, each on a host of a laboratory, or on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from simulator.plan import Cast, Fault, Kind
from trainer.folder import RunFolder
from trainer.hosts.net import Host
from trainer.hosts.system import nft
from trainer.lifetimes import held, python
from verification.errors import UserError
from verification.statements import VERIFIER, WORKER

ENDING_SECONDS = 20.0
PORT = 4100


class Place(Protocol):
    """Where processes run: a host of a laboratory, or this machine."""

    ipv4: str

    def start(self, command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        """Start a process, as the leader of a group, that writes to the end of `output`."""
        ...

    def kill(self) -> None:
        """Kill every process that was started here, with its group."""
        ...


class Loopback:
    """This machine itself, for who may make no hosts on it: its processes can be harmed, links cannot."""

    ipv4 = "127.0.0.1"

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        """Start a process as `Place` says."""
        with output.open("ab") as sink:
            process = subprocess.Popen(
                held(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        self._processes.append(process)
        return process

    def kill(self) -> None:
        """Kill what runs, as `Place` says."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()


class Machine:
    """One program at a place: started, killed, stopped, continued."""

    def __init__(self, name: str, place: Place, command: Sequence[str], output: Path) -> None:
        self.name, self.place, self.output = name, place, output
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program, the same way each time."""
        self._process = self.place.start(self._command, self.output)

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        self.place.kill()
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send all its processes a signal."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def check(self) -> None:
        """Raise UserError when the program has ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            lines = self.output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise UserError(f"{self.name} ended with status {status} ({lines[-1]}): see {self.output}")

    def end(self) -> None:
        """Ask the program to end, and kill it when it does not."""
        if self._process is not None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_SECONDS)
        self.kill()


class Swarm:
    """A ledger's host and the peers that follow it, none of which share a folder."""

    def __init__(
        self, run: RunFolder, cast: Cast, places: Sequence[Place], link: "Link | None" = None
    ) -> None:
        """`run` is a new run with a key for each peer; the host runs at the last of `places`. `link` harms links."""
        self.run, self.cast, self._link = run, cast, link
        self._places, self._ports = places, free_ports(places)
        serve = python("-m", "trainer.cli", "run", "serve", str(run.path), "--listen", self._listen(-1))
        self.host = Machine("the ledger's host", places[-1], serve, run.path / "host.log")
        self.folders = [self._move_away(number) for number in cast.peers]
        self.peers: list[Machine] = []

    def _listen(self, number: int) -> str:
        return f"/ip4/{self._places[number].ipv4}/tcp/{self._ports[number]}"

    def _move_away(self, number: int) -> RunFolder:
        """Return a folder for one peer, with its key and nothing else."""
        own = RunFolder(self.run.path.parent / f"peer-{number}")
        own.keys.mkdir(parents=True)
        shutil.move(self.run.keys / f"peer-{number}.key", own.keys / f"peer-{number}.key")
        return own

    def start(self) -> None:
        """Start the host, and the peers when it serves; raises UserError when it does not."""
        self.host.start()
        options = self._told()
        for number, own in enumerate(self.folders):
            role = WORKER if number in self.cast.roles[0] else VERIFIER
            command = python("-m", "trainer.cli", "peer", "--run", str(own.path), "--role", role, *options)
            command += ["--key", str(own.keys / f"peer-{number}.key"), "--listen", self._listen(number)]
            machine = Machine(f"peer-{number}", self._places[number], command, own.path / "output.log")
            machine.start()
            self.peers.append(machine)

    def _told(self) -> list[str]:
        """Wait for the host's word on how it is followed, and return it as options."""
        while True:
            self.host.check()
            words = self.host.output.read_text(errors="replace").split()
            if "--run-id" in words[:-1]:
                return words[words.index("--ledger") : words.index("--run-id") + 2]
            time.sleep(0.1)

    def check(self) -> None:
        """Raise UserError when a program has ended that nobody killed."""
        for machine in (self.host, *self.peers):
            machine.check()

    def strike(self, fault: Fault) -> None:
        """Begin a fault."""
        struck = [self.peers[number] for number in fault.peers]
        match fault.kind:
            case Kind.HOST:
                self.host.kill()
            case Kind.KILL:
                struck[0].kill()
            case Kind.STOP:
                struck[0].signal(signal.SIGSTOP)
            case _:
                assert self._link is not None, "nothing harms links here"
                self._link.strike(fault)

    def relieve(self, fault: Fault) -> None:
        """End a fault."""
        struck = [self.peers[number] for number in fault.peers]
        match fault.kind:
            case Kind.HOST:
                self.host.start()
            case Kind.KILL:
                struck[0].start()
            case Kind.STOP:
                struck[0].signal(signal.SIGCONT)
            case _:
                assert self._link is not None, "nothing harms links here"
                self._link.relieve(fault)

    def end(self) -> None:
        """End all programs, the peers first."""
        for machine in (*self.peers, self.host):
            machine.signal(signal.SIGCONT)
        for machine in (*self.peers, self.host):
            machine.end()


class Link(Protocol):
    """Harms and mends the links of peers."""

    def strike(self, fault: Fault) -> None:
        """Begin a fault of a link."""
        ...

    def relieve(self, fault: Fault) -> None:
        """End it."""
        ...


class Links:
    """The links of a laboratory's hosts, by the number of the peer."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts

    def strike(self, fault: Fault) -> None:
        """Begin a fault, as `Link` says; raises UserError for what the kernel does not do."""
        hosts = [self._hosts[number] for number in fault.peers]
        match fault.kind:
            case Kind.CUT:
                hosts[0].cut()
            case Kind.PART:
                for one, other in (hosts, hosts[::-1]):
                    nft(one.space, parting(other))
            case Kind.SLOW:
                hosts[0].limit(fault.amount / 1000)
            case Kind.LOSS:
                hosts[0].lose(fault.amount / 1000)

    def relieve(self, fault: Fault) -> None:
        """End a fault, as `Link` says."""
        hosts = [self._hosts[number] for number in fault.peers]
        match fault.kind:
            case Kind.CUT:
                hosts[0].mend()
            case Kind.PART:
                for one in hosts:
                    nft(one.space, "delete table inet parted\n")
            case Kind.SLOW:
                hosts[0].limit(None)
            case Kind.LOSS:
                hosts[0].lose(0)


def parting(other: Host) -> str:
    """Return the rules of a host that sends another one nothing."""
    return f"""
table inet parted {{
  chain leaving {{
    type filter hook output priority filter;
    ip daddr {other.ipv4} drop
    ip6 daddr {other.ipv6} drop
  }}
}}
"""


def free_ports(places: Sequence[Place]) -> list[int]:
    """Return a port for each place: hosts have all of theirs, and one machine gives each another."""
    if len({place.ipv4 for place in places}) == len(places):
        return [PORT] * len(places)
    held = [socket.socket() for _ in places]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()
