"""A run on hosts of a laboratory: its ledger served on one, and peers that join by tickets on others.

No two share a folder. What a process sees at the run's folder is its own disk, or, on the ledger's host, the run itself
without anybody's disk.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from p2p.ticket import Ticket
from trainer.commands.invite import invite
from trainer.commands.join import name_of
from trainer.commands.scene import Seat
from trainer.folder import RunFolder
from trainer.hosts.net import Disk, Host
from trainer.lifetimes import python
from trainer.runs.ledgers import genesis_of
from trainer.runs.serving import endpoint_of
from verification.errors import UserError

PORT = 4001
TICKET = "ticket"
"""The file on a peer's disk with its ticket."""
SERVING_SECONDS = 60.0
"""Longest wait for a ledger's host to serve."""


class Hosted:
    """A run in a folder, and the host that serves its ledger."""

    def __init__(self, folder: RunFolder, host: Host) -> None:
        """`serve` begins; disks are made in the folder."""
        self.folder, self._host = RunFolder(folder.path.resolve()), host
        self.disks = self.folder.path / "hosts"
        self._nobody = self.disks / "nobody"
        self._nobody.mkdir(parents=True)
        self._ways: dict[str, list[str]] = {}

    @property
    def output(self) -> Path:
        """What the ledger's host prints."""
        return self.disks / "ledger.log"

    def serve(self) -> None:
        """Start to serve the ledger."""
        listen = f"/ip4/{self._host.ipv4}/tcp/{PORT}"
        command = python("-m", "trainer.cli", "run", "serve", str(self.folder.path), "--listen", listen)
        self._host.start(command, self.output, Disk(self._nobody, self.disks))

    def kill(self) -> None:
        """Kill what serves the ledger, as a power cut does."""
        self._host.kill()

    def invite(self, seats: Sequence[Seat]) -> None:
        """Hand out a ticket to each of some peers, once the ledger is served; raises UserError."""
        self._endpoint()
        for text in invite(self.folder, len(seats), (), True, lambda line: None):
            identity = Ticket.parse(text).identity
            assert identity is not None
            seat = next(seat for seat in seats if seat.account == identity.address)
            path = self._disk(seat, name_of(seat.account)).path / TICKET
            path.touch(0o600)
            path.write_text(text, encoding="ascii")
            self._ways[seat.name] = [
                "join",
                str(self.folder.path / TICKET),
                "--folder",
                str(self.folder.path),
            ]

    def give_key(self, seat: Seat) -> None:
        """Put a peer's key on its disk, for one that is no honest one: there are no tickets for those."""
        endpoint, keys = self._endpoint(), self._disk(seat, seat.name).keys
        keys.mkdir()
        shutil.move(self.folder.keys / f"{seat.name}.key", keys)
        key, run = str(self.folder.keys / f"{seat.name}.key"), genesis_of(self.folder).run.hex()
        way = ["peer", "--run", str(self.folder.path), "--key", key, "--ledger", endpoint, "--run-id", run]
        self._ways[seat.name] = way

    def start(self, seat: Seat, host: Host) -> None:
        """Start a peer that was invited, or given its key, on a host."""
        command = seat.command(*self._ways[seat.name], "--listen", f"/ip4/{host.ipv4}/tcp/0")
        seat.process = host.start(command, seat.output, Disk(seat.folder.path, self.folder.path))

    def _disk(self, seat: Seat, recorded_as: str) -> RunFolder:
        """Make a peer's disk."""
        seat.folder, seat.recorded_as = RunFolder(self.disks / seat.name), recorded_as
        seat.output.parent.mkdir(0o700, parents=True)
        return seat.folder

    def _endpoint(self) -> str:
        """Return where the ledger is served, once it is; raises UserError."""
        until = time.monotonic() + SERVING_SECONDS
        while (endpoint := endpoint_of(self.folder)) is None:
            if time.monotonic() > until:
                raise UserError(f"the ledger's host does not serve: see {self.output}")
            time.sleep(0.1)
        return endpoint
