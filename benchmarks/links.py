"""Links of a laboratory's hosts: made as slow as a bench says, and tried by a transfer before anything rests on them.

A token bucket that is too small for a packet lets nothing pass and says nothing, while senders go on counting. So what
is measured is what arrives.
"""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.hosts.net import Host
from trainer.lifetimes import python
from verification.errors import UserError

PORT = 4900
SECONDS, SKIPPED = 1.2, 0.4
"""How long a transfer takes, and its beginning, in which a full bucket and a growing window are left out."""
TRIES = 5
LOOK_SECONDS, PATIENCE_SECONDS = 0.01, 5.0
LEAST, MOST = 0.85, 1.02
"""What of a link's rate a transfer's payload takes: 1,448 of every 1,514 bytes, where nothing is in the way."""

RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
connection, _ = server.accept()
began, size, since = time.monotonic(), 0, None
while data := connection.recv(1 << 18):
    now = time.monotonic()
    if since is not None:
        size, last = size + len(data), now
    elif now > began + float(sys.argv[3]):
        since = last = now
print(0.0 if since is None or last == since else 8e-6 * size / (last - since), flush=True)
"""
SEND = """
import socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
until = time.monotonic() + float(sys.argv[3])
while time.monotonic() < until:
    client.sendall(bytes(1 << 14))
"""


def limited(hosts: Sequence[Host], mbit: float) -> float:
    """Let so many Mbit/s pass over each link in each direction, and return what the slowest one carries.

    Each host sends to the next, so every link is tried in both directions. Raises UserError for links that do not carry
    what they should.
    """
    for host in hosts:
        host.limit(mbit)
    around = zip(hosts, [*hosts[1:], hosts[0]], strict=True)
    return min(_tried(one, other, mbit) for one, other in around)


def _tried(one: Host, other: Host, mbit: float) -> float:
    """Return what passes from one host to another; what another program takes from it may be there at the next try."""
    for _ in range(TRIES):
        rate = transfer(one, other)
        if is_kept(rate, mbit):
            return rate
    raise UserError(
        f"a link of {mbit:g} Mbit/s carries {rate:.1f} from {one.name} to {other.name}: is this machine busy otherwise?"
    )


def is_kept(rate: float, mbit: float) -> bool:
    """Return whether what a transfer's payload took, in Mbit/s, is what a link of `mbit` carries."""
    return LEAST * mbit <= rate <= MOST * mbit


def transfer(one: Host, other: Host) -> float:
    """Return how many Mbit/s of payload arrive where one host sends to another as fast as it can; 0 where none does.

    Raises UserError where the other cannot listen.
    """
    with tempfile.TemporaryDirectory(prefix="proofswarm-link-") as folder:
        output = Path(folder, "received")
        receiver = other.start(python("-c", RECEIVE, other.ipv4, str(PORT), str(SKIPPED)), output)
        while "ready" not in (said := output.read_text()):
            time.sleep(LOOK_SECONDS)
            if receiver.poll() is not None:
                raise UserError(f"{other.name} receives nothing: {said.strip().splitlines()[-1:]}")
        command = python("-c", SEND, other.ipv4, str(PORT), str(SECONDS + SKIPPED))
        sender = one.start(command, Path(folder, "sent"))
        with suppress(subprocess.TimeoutExpired):
            sender.wait(PATIENCE_SECONDS)
            receiver.wait(PATIENCE_SECONDS)
        for process in (sender, receiver):
            process.kill()  # where nothing passes both wait on
            process.wait()
        lines = output.read_text().split()
        return float(lines[1]) if len(lines) == 2 else 0.0
