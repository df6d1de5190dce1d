"""Worker groups of real processes on loopback: their rounds are one machine's, whoever comes, goes or lies."""

import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.checkout import environment
from tests.groups import alone, outcome, programs_of
from tests.patience import ANSWER, PATIENCE
from tests.swarm import PeerProcess, Printing, final_digests
from tests.tiny import make_run
from trainer.commands.group import ticket_of
from trainer.commands.recompute import recompute
from trainer.commands.report import read_report
from trainer.groups.engine import GroupEngine
from trainer.groups.leader import Leader
from trainer.groups.member import reached
from trainer.groups.messages import Ready, Welcome
from trainer.groups.step import Parts
from trainer.groups.ticket import GroupTicket
from trainer.lifetimes import python
from trainer.programs.options import NODE_BY_NODE
from trainer.runs.create import Created
from verification.digest import ZERO
from verification.errors import BadSignature, Unavailable, Unsound
from verification.program import decode_program
from verification.units import Count

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run whose batches three members share unevenly."""
    return make_run(tmp_path_factory.mktemp("run"), {"training.batch": 5})


class Told:
    """What a leader tells; a test blocks until it has told something so many times."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        """Note a line."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def wait(self, part: str, times: int = 1) -> None:
        """Block until a part has been told."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(part) >= times, PATIENCE), self._lines

    def count(self, part: str) -> int:
        """Return how many lines have a part."""
        return sum(part in line for line in self._lines)


class Group:
    """A leader in this process, and members in processes of their own."""

    def __init__(self, made: Created, size: int, folder: Path, way: str) -> None:
        self.told, self._folder = Told(), folder
        listener, secret = socket.create_server((LOOPBACK, 0)), secrets.token_bytes(32)
        self.ticket = GroupTicket(LOOPBACK, Count(listener.getsockname()[1]), Count(size), secret)
        self.leader: Leader

        def led(program: bytes, parts: Parts) -> Leader:
            self.leader = Leader(listener, secret, size, secrets.token_bytes, self.told, way, program, parts)
            return self.leader

        self.engine = GroupEngine(led, programs_of(made))
        self._ended = ExitStack()

    def join(self) -> Printing:
        """Start a member as a user does."""
        member = Printing(["group", "--ticket", self.ticket.text()], self._folder)
        self._ended.callback(member.stop)
        return member

    def join_wrongly(self, manner: str) -> None:
        """Start a member that lies or dies."""
        command = python("-m", "tests.integration.group_member", manner, self.ticket.text())
        member = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        self._ended.callback(member.wait)
        self._ended.callback(member.kill)

    def end(self) -> None:
        """End all."""
        self.leader.close()
        self._ended.close()


@contextmanager
def group(made: Created, size: int, folder: Path, way: str = "gloo") -> Iterator[Group]:
    """A group, which ends with the block."""
    opened = Group(made, size, folder, way)
    try:
        yield opened
    finally:
        opened.end()


def test_two_and_three_processes_make_one_machines_rounds(made: Created, tmp_path: Path) -> None:
    """One dies while the others wait for its sums: two make that step again and go on, three make the next round."""
    with group(made, 3, tmp_path) as opened:
        opened.join_wrongly("dies")
        members = [opened.join()]
        assert outcome(made, opened.engine) == alone(made)
        assert opened.told.count("the group has 3 of 3") == 1
        assert opened.told.count("goes on with 2 of 3") == 1
        members.append(opened.join())
        opened.told.wait("a machine has come", times=3)
        assert outcome(made, opened.engine, checked=2) == alone(made)
        assert opened.told.count("the group has 3 of 3") == 2
        opened.leader.close()
        assert [member.wait() for member in members] == [1, 1]
        assert all(member.lines("proofswarm: ") for member in members)


def test_an_audit_finds_the_lie_of_a_member(made: Created, tmp_path: Path) -> None:
    """One machine's re-run has other digests from the step of the lie on, and the leader's own check finds it too."""
    with group(made, 2, tmp_path) as opened:
        opened.join_wrongly("lies")
        told, audited = outcome(made, opened.engine), alone(made)
        assert told.digests[0] == audited.digests[0]
        assert told.digests[-1] != audited.digests[-1] and told.contribution != audited.contribution
        with pytest.raises(Unsound, match="the group makes another digest"):
            outcome(made, opened.engine, checked=1)


def test_a_stranger_is_no_member(made: Created, tmp_path: Path) -> None:
    with group(made, 2, tmp_path) as opened:
        with pytest.raises((BadSignature, Unavailable)):
            reached(LOOPBACK, int(opened.ticket.port), bytes(32), secrets.token_bytes)
        opened.told.wait("did not become a member")


def test_a_machine_that_splits_otherwise_is_no_member(made: Created, tmp_path: Path) -> None:
    """As one with another version would, which would sum other things than the leader's."""
    with group(made, 2, tmp_path) as opened:
        channel = reached(LOOPBACK, int(opened.ticket.port), opened.ticket.secret, secrets.token_bytes)
        assert decode_program(channel.receive(Welcome, ANSWER).programs[0]).role == "inner"
        channel.send(Ready(ZERO))
        opened.told.wait("it splits the step in another way")
        with pytest.raises(Unavailable):
            channel.receive(Welcome, ANSWER)
        channel.close()


def test_peers_accept_what_a_group_trained(tmp_path: Path) -> None:
    """One of two workers is a group of two machines: all its rounds are audited by a single one, and pass."""
    sizes = {"swarm.workers": 2, "swarm.min_workers": 2, "swarm.verifiers": 1, "training.rounds": 2}
    folder = make_run(tmp_path, sizes).folder
    with ExitStack() as ended:
        peers = [
            PeerProcess(folder, f"peer-{number}", role, *options)
            for number, (role, options) in enumerate(
                [("worker", ("--group", "2")), ("worker", ()), ("verifier", ())]
            )
        ]
        for peer in peers:
            ended.callback(peer.stop)
        peers[0].wait_line(lambda line: line.startswith("a group of 2"))
        member = Printing(["group", "--ticket", str(ticket_of(folder, "peer-0"))], tmp_path)
        ended.callback(member.stop)
        assert [peer.wait() for peer in peers] == [0, 0, 0]
        assert member.wait() == 1
        assert peers[0].lines("the group has 2 of 2 machines")
    digests = final_digests(peers)
    report = read_report(folder)
    assert report.result.ok
    (leader,) = (peer for peer in report.peers if peer.group)
    assert leader.name == "peer-0" and len(leader.group) == 2, "both machines shared its last step"
    assert all(machine.records and machine.micros for machine in leader.group)
    assert [audit.outcome for entry in report.rounds for audit in entry.audits] == ["pass"] * 4
    holds, recomputed = recompute(folder, NODE_BY_NODE, {})
    assert holds and {digest for digest in digests if recomputed.endswith(digest[:16])} == digests


@pytest.mark.skipif(find_spec("hivemind") is None, reason="hivemind is not installed: extra `groups`")
@pytest.mark.parametrize("size", [3])
def test_hivemind_makes_one_machines_round_too(made: Created, tmp_path: Path, size: int) -> None:
    with group(made, size, tmp_path, "hivemind") as opened:
        members = [opened.join() for _ in range(size - 1)]
        assert outcome(made, opened.engine, checked=2) == alone(made)
        assert opened.told.count(f"the group has {size} of {size}") == 1
        assert opened.told.count("goes on") == 0
        opened.leader.close()
        assert [member.wait() for member in members] == [1] * (size - 1)
