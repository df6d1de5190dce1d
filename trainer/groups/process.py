"""The compute process of a peer that leads a group: as `trainer.compute.process`, but the group makes inner steps, or
holds the model.

Started as `python -m trainer.groups.process MEMBERS ADDRESS PORT WAY TICKET`; it writes the group's ticket to a file.
"""

import os
import secrets
import socket
import sys
from functools import partial
from pathlib import Path

from trainer.compute import process
from trainer.groups import wire
from trainer.groups.engine import GroupEngine
from trainer.groups.leader import Leader
from trainer.groups.messages import SHARDS
from trainer.groups.staged import StagedEngine
from trainer.groups.stages import Stages
from trainer.groups.ticket import GroupTicket
from trainer.rounds.engine import honest
from verification.units import Count


def tell(line: str) -> None:
    """Say a line for people."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def write_ticket(path: Path, ticket: GroupTicket) -> None:
    """Write a ticket for nobody else to read, all of it or nothing."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(ticket.text() + "\n")
    beside.replace(path)


def main() -> None:
    """Serve on the standard streams, and lead a group of the machines that come with the ticket."""
    members, address, port, way, path = sys.argv[1:]
    listener = socket.create_server((address, int(port)))
    ticket = GroupTicket(
        address, Count(listener.getsockname()[1]), Count(int(members)), secrets.token_bytes(wire.SECRET)
    )
    write_ticket(Path(path), ticket)
    tell(
        f"a group of {members}: proofswarm group --ticket {path} on each other machine, with a copy of that file"
    )
    led = listener, ticket.secret, int(members), secrets.token_bytes, tell
    if way == SHARDS:
        process.main(honest, partial(StagedEngine, partial(Stages, *led)))
    else:
        process.main(honest, partial(GroupEngine, partial(Leader, *led, way)))


if __name__ == "__main__":
    main()
