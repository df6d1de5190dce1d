"""A crew of `bench crews` on hosts of a laboratory: its peers, a verifier and a ledger's host, links that change by
round, and what all of them told."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.links import limited
from benchmarks.opponents.course import Report
from benchmarks.opponents.running import Tell
from p2p.identity import load
from trainer.commands.hosted import Hosted
from trainer.commands.scene import Seat
from trainer.events import Tail
from trainer.folder import RunFolder
from trainer.hosts.net import Host, laboratory
from trainer.lifetimes import python
from verification.errors import UserError
from verification.statements import VERIFIER, WORKER

LOOK_SECONDS = 0.02
"""Between two looks at what peers say: how late a link changes after a round has opened."""
DATED = ("computed", "said", "state")
"""Kinds of events that a member has by the ledger's own clock."""
Line = dict[str, Any]


@dataclass
class CrewSeat(Seat):
    """A worker that may keep a pace of so many work units a second, with shard `shard` of cut `cut`, or all with 0."""

    report: Path = field(default_factory=Path)
    speed: float = 0.0
    core: int = -1
    shard: int = 0
    cut: int = 0

    def command(self, *options: str) -> list[str]:
        """Return the command by which it takes part; `options` are those of `join`."""
        _, ticket, _, folder, _, listen = options
        own = (str(self.report), repr(self.speed), str(self.core), str(self.shard), str(self.cut))
        return python("-m", "benchmarks.crew_peer", *own, ticket, folder, listen)


@dataclass(frozen=True)
class Cast:
    """Who plays: `members` of cut number `cut`, or one whole worker. Each works at `speed` work units a second, or at 0
    as fast as it can on the core of its own in `cores`.

    By round `links` says in Mbit/s how fast links are, None: as fast as they can.
    """

    members: int
    cut: int
    speed: float
    cores: tuple[int, ...]
    links: tuple[float | None, ...]


@dataclass(frozen=True)
class Told:
    """What came of it: of each member its events, dated by this machine's clock in seconds since 1970, its compute
    process's report, and bytes that its link had sent by the time that a round was seen to open."""

    events: tuple[tuple[Line, ...], ...]
    reports: tuple[tuple[Line, ...], ...]
    sent: tuple[dict[int, int], ...]


def play(template: RunFolder, cast: Cast, work: Path, limit: float, tell: Tell) -> Told:
    """Have a crew train the rounds that `cast.links` has, in a copy of a run.

    Raises UserError where links are not what they should, a peer ends before its time, or `limit` seconds are over.
    """
    with laboratory() as lab:
        names = [*(f"member-{number}" for number in range(cast.members)), "verifier", "server"]
        hosts = [lab.public(name) for name in names]
        for mbit in sorted({each for each in cast.links if each is not None}):
            tell(f"trying links of {mbit:g} Mbit/s")
            limited(hosts, mbit)
        stage = _Stage(RunFolder(Path(shutil.copytree(template.path, work / "run"))), cast, hosts, work)
        try:
            return stage.played(limit, tell)
        finally:
            stage.kill()


class _Stage:
    """The processes of one play."""

    def __init__(self, folder: RunFolder, cast: Cast, hosts: Sequence[Host], work: Path) -> None:
        self._cast, self._hosts, self._work = cast, hosts, work
        self._hosted = Hosted(folder, hosts[-1])
        self._seats = [self._seat(number) for number in range(cast.members + 1)]
        self._opened = -1
        count = cast.members
        self._events: list[list[Line]] = [[] for _ in range(count)]
        self._behind = [math.inf] * count
        self._sent: list[dict[int, int]] = [{} for _ in range(count)]

    def _seat(self, number: int) -> Seat:
        cast, folder, name = self._cast, self._hosted.folder, f"peer-{number}"
        account = load(folder.keys / f"{name}.key").address
        if number == cast.members:
            return Seat(name, account, VERIFIER, ["--device", "cpu", "--accept-unsound"], folder, name)
        return CrewSeat(
            name, account, WORKER, [], folder, name, report=self._report(number), speed=cast.speed,
            core=cast.cores[number] if cast.cores else -1, shard=number + 1 if cast.members > 1 else 0, cut=cast.cut,
        )  # fmt: skip

    def _report(self, number: int) -> Path:
        return self._work / f"member-{number}.jsonl"

    def played(self, limit: float, tell: Tell) -> Told:
        """Start everybody, change links as rounds open, and return what was told."""
        self._limit_links(0)
        self._hosted.serve()
        self._hosted.invite(self._seats)
        for seat, host in zip(self._seats, self._hosts, strict=False):
            self._hosted.start(seat, host)
        tails = [Tail(seat.log) for seat in self._seats[: self._cast.members]]
        rounds, until = len(self._cast.links), time.monotonic() + limit
        while self._opened < rounds:
            for member, tail in enumerate(tails):
                self._note(member, tail.read())
            self._note_rounds()
            tell(f"round {self._opened} of {rounds}")
            if failure := self._failure():
                raise UserError(f"bench crews: {failure}")
            if time.monotonic() > until:
                raise UserError(f"bench crews: stopped after {limit:.0f} s: raise --limit")
            time.sleep(LOOK_SECONDS)
        dated = [
            tuple(each | {"at": each["at"] / 1000 + behind} for each in events)
            for events, behind in zip(self._events, self._behind, strict=True)
        ]
        reports = [tuple(Report(self._report(n)).lines()) for n in range(self._cast.members)]
        return Told(tuple(dated), tuple(reports), tuple(self._sent))

    def _note(self, member: int, events: Sequence[Line]) -> None:
        """Keep a member's events, and how far the ledger's clock, which dates them, is behind this machine's at most.

        Before a member has joined it may not know that clock yet.
        """
        now = time.time()
        self._events[member] += events
        late = [now - each["at"] / 1000 for each in events if each["kind"] in DATED]
        self._behind[member] = min([self._behind[member], *late])

    def _note_rounds(self) -> None:
        """Take note of a state that a member has: it begins the next round, for which links are to be as planned."""
        for events in self._events:
            begun = max((each["round"] for each in events if each["kind"] in ("state", "ended")), default=-1)
            if begun <= self._opened:
                continue
            self._opened = begun
            self._limit_links(begun)
            for sent, host in zip(self._sent, self._hosts, strict=False):
                sent[begun] = host.moved().sent_bytes

    def _limit_links(self, number: int) -> None:
        links = self._cast.links
        if number < len(links) and (number == 0 or links[number] != links[number - 1]):
            for host in self._hosts:
                host.limit(links[number])

    def _failure(self) -> str:
        """Return which peer has ended before its time, with its last words; nothing if none has."""
        for seat in self._seats:
            if (
                seat.process is not None
                and seat.process.poll() is not None
                and self._opened < len(self._cast.links)
            ):
                words = seat.output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
                return f"{seat.name}: {words[-1]}"
        return ""

    def kill(self) -> None:
        """End everybody."""
        for host in self._hosts[:-1]:
            host.kill()
        self._hosted.kill()
