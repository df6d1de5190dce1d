"""Machines that hold a model in parts, on loopback: their rounds are one machine's, whoever fails, comes or goes."""

import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import torch

from tests.checkout import environment
from tests.groups import alone, outcome, programs_of
from tests.patience import PATIENCE
from tests.swarm import PeerProcess, Printing, final_digests
from tests.tiny import make_run, start_of
from trainer.commands.group import ticket_of
from trainer.commands.recompute import recompute
from trainer.commands.report import read_report
from trainer.compute.children import python
from trainer.exact import Products
from trainer.groups.member import reached
from trainer.groups.messages import Welcome
from trainer.groups.stage_member import StageMember
from trainer.groups.staged import StagedEngine
from trainer.groups.stages import Stages
from trainer.programs.conversion import from_torch, to_torch
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.create import Created
from trainer.shards.cut import Machine, cut_for
from verification.errors import Refused, Unavailable, UserError
from verification.program import decode_program, peak_bytes
from verification.tensors import Bundle
from verification.units import Count

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LOOPBACK, SECRET = "127.0.0.1", bytes(32)
MUCH = RunOptions(memory=Count(1 << 30))
SIZES = {"training.batch": 4, "training.accumulate": 4, "model.config.num_hidden_layers": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run of several layers, whose batch has parts."""
    return make_run(tmp_path_factory.mktemp("run"), SIZES)


def enough_for_two(made: Created) -> Count:
    """Bytes of memory in which two machines hold the model, and one does not."""
    programs = {each.role: each for each in map(decode_program, programs_of(made).values())}
    round_of = [programs[role] for role in ("prologue", "inner", "epilogue")]
    needed = max(cut_for(round_of, [Machine(1 << 40, 1)] * 2).peaks)
    limit = Count(max(needed * 3 // 2, peak_bytes(programs["outer"])))
    assert limit < peak_bytes(programs["inner"])
    return limit


class Member:
    """A machine in a thread of this process."""

    def __init__(self, port: int, options: RunOptions) -> None:
        self._channel = reached(LOOPBACK, port, SECRET, secrets.token_bytes)
        self._member = StageMember(
            self._channel, self._channel.receive(Welcome), SECRET, secrets.token_bytes, options
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Go at once."""
        self._channel.end()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        with suppress(Unavailable):
            self._member.serve()


class Group:
    """A leader in this thread, and members in others."""

    def __init__(self, made: Created, size: int, options: RunOptions) -> None:
        self.lines: list[str] = []
        self.members: list[Member] = []
        self._options = options
        self._listener = socket.create_server((LOOPBACK, 0))

        def led(programs: Sequence[bytes], options: RunOptions, products: Products) -> Stages:
            tell, draw = self.lines.append, secrets.token_bytes
            self.stages = Stages(self._listener, SECRET, size, draw, tell, programs, options, products)
            return self.stages

        self.engine = StagedEngine(led, programs_of(made), options)
        for _ in range(size - 1):
            self.join()

    def join(self) -> None:
        """Start a member."""
        self.members.append(Member(self._listener.getsockname()[1], self._options))

    def count(self, part: str) -> int:
        """How many lines have a part."""
        return sum(part in line for line in self.lines)


@contextmanager
def group(made: Created, size: int, options: RunOptions = MUCH) -> Iterator[Group]:
    """A group, which ends with the block."""
    opened = Group(made, size, options)
    try:
        yield opened
    finally:
        opened.stages.close()


def test_a_stage_that_goes_costs_a_repetition_and_a_failing_step_fails_alike(made: Created) -> None:
    """One goes while a step is made; what the others hold is made again, in a new cut."""
    with group(made, 3) as opened:
        assert outcome(made, opened.engine, checked=2) == alone(made)
        steps = []

        def leave(step: int) -> None:
            steps.append(step)
            if steps == [0, 1]:
                opened.members.pop().leave()

        assert outcome(made, opened.engine, on_step=leave) == alone(made)
        assert opened.count("a machine has left the group") == 1
        assert opened.count("2 machines hold the model") == 1
        assert len(opened.engine.group) == 2 and all(each.numbers for each in opened.engine.group)
        tensors = [to_torch(tensor) for tensor in start_of(made).tensors]
        start = Bundle(tuple(from_torch(torch.full_like(tensor, 3e38)) for tensor in tensors))
        right = alone(made, start)
        assert right.failed is not None
        assert outcome(made, opened.engine, start) == right
        assert outcome(made, opened.engine) == alone(made)


def test_machines_that_cannot_hold_a_model_say_what_it_needs(made: Created) -> None:
    with (
        group(made, 2, RunOptions(memory=Count(1 << 16))) as opened,
        pytest.raises(UserError, match=r"no cut over 2 machines fits their memory"),
    ):
        outcome(made, opened.engine)


def test_machines_train_together_what_none_could_alone(tmp_path: Path) -> None:
    """Two rounds of a worker of three machines, of which one is killed in the first; a single machine audits all."""
    sizes = {"swarm.workers": 2, "swarm.min_workers": 2, "swarm.verifiers": 1, "training.rounds": 2}
    made = make_run(tmp_path, SIZES | sizes)
    folder, limit = made.folder, enough_for_two(made)
    alone = TorchEngine(programs_of(made), RunOptions(memory=limit))
    with pytest.raises(Refused, match="needs"):
        alone.program(made.manifest.programs.inner.digest)
    memory = ("--memory", str(limit / 2**30))
    leading = ("--group", "3", "--group-by", "shards", *memory)
    with ExitStack() as ended:
        peers = [
            PeerProcess(folder, f"peer-{number}", role, *options)
            for number, (role, options) in enumerate([("worker", leading), ("worker", ()), ("verifier", ())])
        ]
        for peer in peers:
            ended.callback(peer.stop)
        peers[0].wait_line(lambda line: line.startswith("a group of 3"))
        ticket = ticket_of(folder, "peer-0")
        member = Printing(["group", "--ticket", str(ticket), *memory], tmp_path)
        ended.callback(member.stop)
        command = python("-m", "tests.integration.stage_member", ticket.read_text(), "30", str(limit))
        dying = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        ended.callback(dying.wait)
        ended.callback(dying.kill)
        assert [peer.wait() for peer in peers] == [0, 0, 0]
        assert member.wait() == 1
        assert dying.wait(PATIENCE) == -9
        assert len(peers[0].lines("a machine has left the group, which has 2 of 3")) == 1
        assert peers[0].lines("3 machines hold the model")
    digests = final_digests(peers)
    report = read_report(folder)
    assert report.result.ok
    (leader,) = (peer for peer in report.peers if peer.group)
    assert leader.name == "peer-0" and len(leader.group) == 2
    assert all(machine.numbers and machine.micros for machine in leader.group)
    assert [audit.outcome for entry in report.rounds for audit in entry.audits] == ["pass"] * 4
    holds, recomputed = recompute(folder, NODE_BY_NODE, {})
    assert holds and {digest for digest in digests if recomputed.endswith(digest[:16])} == digests
