"""Worker groups on the command line: a peer that leads one, and `group`, which joins one with another machine.

Every peer asks here whether it leads one, so what brings PyTorch waits inside the functions that need it.
"""

import dataclasses
import ipaddress
import secrets
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from trainer.commands.join import ticket_text
from trainer.folder import RunFolder
from trainer.groups.messages import SHARDS, Welcome
from trainer.groups.ticket import GroupTicket
from trainer.loading import loading
from trainer.peer.config import PeerConfig
from trainer.programs.options import RunOptions
from verification.errors import UserError

PROCESS = "trainer.groups.process"
TICKET = "group.ticket"

Tell = Callable[[str], None]


def leading(config: PeerConfig, members: int | None, listen: str, way: str) -> PeerConfig:
    """Return the settings of a peer that leads a group of so many machines, None: of one that has none.

    Other machines join at the address and port in `listen`. They share a step's records and exchange totals by `way`,
    or where that is `shards` hold the model in parts. Raises UserError for what is no address of this machine, a port
    that is taken, a way that there is not, and a peer that holds a shard alone.
    """
    if members is None:
        return config
    from trainer.groups.meeting import WAYS

    if config.joining.post is not None:
        raise UserError("a group is a whole worker of one owner: leave out --group or --shard")
    if way not in (*WAYS, SHARDS):
        raise UserError(f"unknown --group-by {way!r}: choose {', '.join(WAYS)} or {SHARDS}")
    if way == "hivemind" and find_spec(way) is None:
        raise UserError("--group-by hivemind needs hivemind: pip install 'proofswarm[groups]' brings it")
    address, port = place_of(listen)
    ticket = ticket_of(config.folder, config.account.name)
    ticket.parent.mkdir(parents=True, exist_ok=True)
    compute = (PROCESS, str(members), address, str(port), way, str(ticket))
    return dataclasses.replace(config, character=dataclasses.replace(config.character, compute=compute))


def ticket_of(folder: RunFolder, name: str) -> Path:
    """Return where a peer writes its group's ticket."""
    return folder.peer(name) / TICKET


def join_group(ticket: str, threads: int, options: RunOptions, tell: Tell) -> None:
    """Make a leader's steps with it until it goes, which raises Unavailable; raises UserError for a bad ticket."""
    with loading():
        import torch

        from trainer.compute.memory import within_memory
        from trainer.groups.member import Member, reached
        from trainer.groups.stage_member import StageMember

    given = GroupTicket.parse(ticket_text(ticket))
    channel = reached(given.address, int(given.port), given.secret, secrets.token_bytes)
    torch.set_num_threads(threads)
    welcome, options = channel.receive(Welcome), within_memory(options)
    member: Member | StageMember
    if welcome.way == SHARDS:
        member = StageMember(channel, welcome, given.secret, secrets.token_bytes, options)
    else:
        member = Member(channel, welcome, given.address, options)
    tell(
        f"in the group of {given.members} at {given.address} port {given.port}; it shares steps until its leader goes"
    )
    member.serve()


def place_of(listen: str) -> tuple[str, int]:
    """Return the address and the port of ADDRESS or ADDRESS:PORT, of IPv4, 0 for any port that is free.

    Raises UserError for what is neither, and for where this machine cannot listen now.
    """
    address, _, port = listen.partition(":")
    try:
        number = ipaddress.IPv4Address(address)
        socket.create_server((address, int(port or "0"))).close()
    except ValueError as error:
        raise UserError(
            f"{listen!r} is no place to listen: write --group-listen 192.0.2.1 or 192.0.2.1:4002"
        ) from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {listen}: {reason}; give an address of this machine and a free port"
        ) from error
    if number.is_unspecified:
        raise UserError(
            f"nobody can be told to come to {address}: give the address by which others reach this machine"
        )
    return address, int(port or "0")
