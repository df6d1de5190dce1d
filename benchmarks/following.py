"""What following a served ledger costs a follower and its host: a round of `simulator.scale`'s runs, over real sockets.

The round's statements are submitted to a real host in a process of its own, while a few real followers look as often as
they do in a minute. What one follower, statement or hint costs is measured, and multiplied by how many there are.
"""

import math
import socket
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio

from benchmarks.processes import beside, processor_seconds, wait_for_end
from p2p.hints import BURST, HINT, Rumours
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.messages import Hint, Hints
from p2p.served import HostDoor, HostLine
from p2p.server import Grants
from p2p.transport import PeerAddress
from simulator.scale import grow, steady_round
from simulator.toy import PROGRAMS, ToyLibrary
from trainer.peer.runtime import FOLLOW_SECONDS
from verification.codec import encode
from verification.ledger.follower import Follower
from verification.ledger.local import (
    LocalLedger,
    SqliteCopy,
    SqliteLog,
    create,
    create_copy,
    steady_clock,
    system_clock,
)
from verification.ledger.log import STATEMENT, Entry, genesis_of
from verification.ledger.remote import Remote
from verification.ledger.served import Host
from verification.program import Program
from verification.units import Address, Count, Digest, Millis

SECRET = b"\x07" * 32
"""The host's key."""
FOLLOWERS = 4
ROUND_SECONDS = 60
LOOKS, IDLE = round(ROUND_SECONDS / FOLLOW_SECONDS), 25
"""Looks of each follower in a round, and how many more there are at nothing new."""
SEGMENT, HEADERS = 1460, 52
"""Bytes in a TCP segment over Ethernet, which loopback would make larger, and of its IPv4 and TCP headers."""
LINK = 75e6
"""Bytes of a minute on a line of 10 Mbit/s."""

UNHURRIED = 1_000_000
"""Requests that the host takes of one peer at once, and in a second: here one speaks for all."""
LIMITS: dict[str, tuple[str, float]] = {
    "the host's processor": ("host_seconds", ROUND_SECONDS),
    "the host's upload": ("host_bytes_out", LINK),
    "a follower's processor": ("follower_seconds", ROUND_SECONDS),
    "a follower's download": ("follower_bytes_in", LINK),
    "hints, a peer's processor": ("hint_seconds", ROUND_SECONDS),
    "hints, a peer's upload": ("hint_bytes_out", LINK),
}
"""What a resource may cost in a round of a minute: one core of each, and a line of 10 Mbit/s."""


@dataclass(frozen=True)
class Cost:
    """Processor seconds of the asking side and of the host, and bytes on the wire to the host and from it."""

    asking: float = 0.0
    host: float = 0.0
    up: float = 0.0
    down: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> "Cost":
        return Cost(*(factor * each for each in astuple(self)))


class Sockets(trio.abc.SocketFactory):
    """Opens sockets whose segments are Ethernet's, and counts what they carried, headers of IPv4 and TCP included."""

    def __init__(self) -> None:
        self._opened: list[socket.socket] = []

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> trio.socket.SocketType:
        """Open a socket."""
        made = socket.socket(family, type, proto)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        self._opened.append(made)
        return trio.socket.from_stdlib_socket(made)

    def carried(self) -> tuple[int, int]:
        """Return the bytes that open sockets have sent and received."""
        out = into = 0
        for each in self._opened:
            # tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out and tcpi_segs_in of Linux's struct tcp_info.
            info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
            sent, received, segments_out, segments_in = struct.unpack_from("=QQII", info, 120)
            out += sent + HEADERS * segments_out
            into += received + HEADERS * segments_in
        return out, into


class Trial:
    """A host in its own process, and what is asked of it from this one."""

    def __init__(self, pid: int, sockets: Sockets) -> None:
        self._pid, self._sockets = pid, sockets

    async def cost(self, work: Callable[[], Awaitable[None]]) -> Cost:
        """Return what something cost both sides."""
        before = self._read()
        await work()
        return self._read() + before * -1

    def _read(self) -> Cost:
        return Cost(time.process_time(), processor_seconds(self._pid), *self._sockets.carried())


def measure(peers: int, committee: int, seed: int) -> dict[str, Any]:
    """Return one row: a round's cost to each follower, to the host, and of hints."""
    world = grow(peers, committee, seed)
    before, during = steady_round(world)
    secrets = [actor.secret for actor in world.actors[: FOLLOWERS + 1]]
    with (
        tempfile.TemporaryDirectory() as name,
        hosted(Path(name), before, world.ledger.log) as (pid, address),
    ):
        costs = trio.run(_measure, Path(name), before, during, secrets, pid, PeerAddress.parse(address))
    statements = sum(entry.kind == STATEMENT for entry in during)
    return {"peers": peers, "committee": committee, "entries": len(during)} | row_of(
        peers, statements, *costs
    )


def row_of(peers: int, statements: int, look: Cost, said: Cost, idle: Cost, hint: Cost) -> dict[str, float]:
    """Return the figures of a round: `look` is all looks of a follower in it, the others are of one each."""
    own = statements / peers
    follower = look + (said + idle) * own
    host = look * peers + (said + idle) * statements
    heard = statements - own
    return {
        "statements": statements,
        "look_seconds": look.asking / LOOKS,
        "look_host_seconds": look.host / LOOKS,
        "idle_look_seconds": idle.asking,
        "idle_look_host_seconds": idle.host,
        "idle_look_bytes": idle.up + idle.down,
        "submit_seconds": said.asking,
        "submit_host_seconds": said.host,
        "submit_bytes": said.up + said.down,
        "hint_send_seconds": hint.asking,
        "hint_hear_seconds": hint.host,
        "follower_seconds": follower.asking,
        "follower_bytes_in": follower.down,
        "follower_bytes_out": follower.up,
        "host_seconds": host.host,
        "host_bytes_in": host.up,
        "host_bytes_out": host.down,
        "hint_seconds": own * (peers - 1) * hint.asking + heard * hint.host,
        "hint_bytes_out": own * (peers - 1) * hint.up + heard * hint.down,
        "hint_bytes_in": own * (peers - 1) * hint.down + heard * hint.up,
    }


def walls(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return at how many peers each resource is used up, on the power of their number that fits the two largest sizes.

    A resource whose use does not grow is left out.
    """
    found, (before, last) = {}, rows[-2:]
    for wall, (key, limit) in LIMITS.items():
        power = math.log(last[key] / before[key]) / math.log(last["peers"] / before["peers"])
        if power > 0:
            found[wall] = last["peers"] * (limit / last[key]) ** (1 / power)
    return found


@contextmanager
def hosted(folder: Path, before: Sequence[Entry], log: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """Serve the first entries of a log from a process of its own; yields its id and its address."""
    path = folder / "host.sqlite"
    create(path, genesis_of(before[0]), before[0].at)
    _fill(SqliteLog(path), before)
    with beside(serve, path, [entry.at for entry in log], PROGRAMS) as served:
        yield served


def serve(path: Path, times: Sequence[Millis], programs: Mapping[Digest, Program], line: Connection) -> None:
    """Serve a ledger in this process until the other end of `line` is closed; entry n is admitted at `times[n]`."""
    PROGRAMS.update(programs)
    trio.run(_serve, path, times, line)


async def _serve(path: Path, times: Sequence[Millis], line: Connection) -> None:
    ledger = LocalLedger(path, ToyLibrary(), lambda: times[min(ledger.height + 1, len(times) - 1)])
    host = Host(ledger, SECRET)
    grants = Grants(burst=UNHURRIED, pace=UNHURRIED)
    post_office = PostOffice(
        Identity(SECRET), ledger.state.run, system_clock, is_member=host.is_member, grants=grants
    )
    async with post_office as post:
        HostDoor(post, host).open()
        Rumours(post, tuple, system_clock)  # a host hears no hints; here it stands for a peer that does
        line.send(post.address.multiaddr)
        await trio.to_thread.run_sync(wait_for_end, line)


def _fill(storage: SqliteLog, log: Sequence[Entry]) -> None:
    """Write all but the first entry, which is there, and close the file."""
    with storage.writing():
        for entry in log[1:]:
            storage.append(entry)
    storage.close()


async def _measure(
    folder: Path,
    before: Sequence[Entry],
    during: Sequence[Entry],
    secrets: Sequence[bytes],
    pid: int,
    address: PeerAddress,
) -> tuple[Cost, Cost, Cost, Cost]:
    """Return what all looks of a follower cost, a statement, a look at nothing new, and a hint."""
    sockets, run = Sockets(), genesis_of(before[0]).run
    trio.socket.set_custom_socket_factory(sockets)
    trial = Trial(pid, sockets)
    async with AsyncExitStack() as stack:
        posts = [PostOffice(Identity(secret), run, system_clock) for secret in secrets]
        for post in posts:
            await stack.enter_async_context(post)
        speaker, *lines = [HostLine(post, address) for post in posts]
        remote = Remote(speaker.ask, address.address, run)
        await trio.to_thread.run_sync(remote.head, 0)  # dials
        followers = [
            await trio.to_thread.run_sync(_follower, folder / f"{number}.sqlite", before, line, run)
            for number, line in enumerate(lines)
        ]
        looks, said = await _round(trial, remote, followers, during)
        assert {follower.state.head for follower in followers} == {during[-1].head}
        idle = await trial.cost(partial(_look, followers * IDLE))
        hints = await trial.cost(partial(_hint, posts, address, during[-1].head))
    return (
        looks * (1 / FOLLOWERS),
        said * (1 / len(during)),
        idle * (1 / (FOLLOWERS * IDLE)),
        hints * (1 / (BURST * len(posts))),
    )


async def _round(
    trial: Trial, remote: Remote, followers: Sequence[Follower], during: Sequence[Entry]
) -> tuple[Cost, Cost]:
    """Say a round's statements and look in turn; returns what the looks cost, and what saying did."""
    looks, said, count = Cost(), Cost(), len(during)
    for look in range(LOOKS):
        part = during[count * look // LOOKS : count * (look + 1) // LOOKS]
        said += await trial.cost(partial(trio.to_thread.run_sync, _say, remote, part))
        looks += await trial.cost(partial(_look, followers))
    return looks, said


def _follower(path: Path, log: Sequence[Entry], line: HostLine, run: Digest) -> Follower:
    """Return a follower that has folded a log already, and is connected."""
    host: Address = line.host.address
    create_copy(path, log[0], host)
    _fill(SqliteCopy(path), log)
    return Follower(SqliteCopy(path), ToyLibrary(), steady_clock, Remote(line.ask, host, run))


def _say(remote: Remote, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.kind == STATEMENT:
            answer, _ = remote.submit(entry.data)
            assert answer.is_new, answer.reason
        else:
            remote.head(None)


async def _look(followers: Sequence[Follower]) -> None:
    for follower in followers:
        await trio.to_thread.run_sync(follower.tick)
        follower.entries()


async def _hint(posts: Sequence[PostOffice], address: PeerAddress, head: Digest) -> None:
    """Send as many hints as one may at once."""
    for post in posts:
        for number in range(BURST):
            body = encode(Hints((Hint("ledger", head, Count(number)),)))
            await post.request(address, HINT, body, 5.0)
