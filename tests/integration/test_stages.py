"""Machines that hold a model in parts, on loopback: their rounds are one machine's, whoever fails, comes or goes."""

import json
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from tests.checkout import environment
from tests.groups import alone, outcome, programs_of
from tests.patience import PATIENCE
from tests.swarm import Printing
from tests.tiny import STEPS, WORKER, data_of, make_run, start_of
from trainer.commands.group import PROCESS
from trainer.commands.sharded_demo import memory_for
from trainer.compute import frames, orders
from trainer.exact import Products
from trainer.groups.member import reached
from trainer.groups.messages import SHARDS, Welcome
from trainer.groups.stage_member import StageMember
from trainer.groups.staged import StagedEngine
from trainer.groups.stages import Stages
from trainer.lifetimes import python
from trainer.programs.conversion import from_torch, to_torch
from trainer.programs.options import Loops, RunOptions
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.create import Created
from trainer.shards.describe import described
from verification import codec
from verification.digest import tagged
from verification.errors import Refused, Unavailable, UserError
from verification.program import Program, decode_program, peak_bytes
from verification.tensors import Bundle, digest_of
from verification.units import Count, Round

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LOOPBACK, SECRET = "127.0.0.1", bytes(32)
R = TypeVar("R")
MUCH = RunOptions(memory=Count(1 << 30))
SIZES = {"training.batch": 4, "training.accumulate": 4, "model.config.num_hidden_layers": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run of several layers, whose batch has parts."""
    return make_run(tmp_path_factory.mktemp("run"), SIZES)


def roles_of(made: Created) -> dict[str, Program]:
    """Its programs by their roles."""
    return {each.role: each for each in map(decode_program, programs_of(made).values())}


def enough_for_two(made: Created) -> Count:
    """Bytes of memory in which two machines hold the model, and one does not."""
    limit = Count(memory_for(roles_of(made), 2))
    assert limit < peak_bytes(roles_of(made)["inner"])
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
        assert len(opened.engine.group) == 2 and all(
            each.shard and each.shard.numbers for each in opened.engine.group
        )
        tensors = [to_torch(tensor) for tensor in start_of(made).tensors]
        start = Bundle(tuple(from_torch(torch.full_like(tensor, 3e38)) for tensor in tensors))
        right = alone(made, start)
        assert right.failed is not None
        assert outcome(made, opened.engine, start) == right
        assert outcome(made, opened.engine) == alone(made)


def test_a_model_whose_head_is_tied_goes_round_the_machines_in_a_ring(tmp_path: Path) -> None:
    tied = {"model.config.tie_word_embeddings": True, "model.config.vocab_size": 4096}
    made = make_run(tmp_path, SIZES | tied)
    with group(made, 3) as opened:
        assert outcome(made, opened.engine, checked=2) == alone(made)
        cut = opened.stages.cut
        assert cut.is_ring and cut.count == 3
        held = [each.shard.numbers for each in opened.engine.group if each.shard]
        assert held == [each.elements for each in described(cut)]


def test_machines_that_cannot_hold_a_model_say_what_it_needs(made: Created) -> None:
    with (
        group(made, 2, RunOptions(memory=Count(enough_for_two(made) // 3))) as opened,
        pytest.raises(UserError, match=r"no cut over 2 machines fits their memory"),
    ):
        outcome(made, opened.engine)


class Leading:
    """A leader's compute process, whose node is the test."""

    def __init__(self, ticket: Path) -> None:
        command = python("-m", PROCESS, "3", LOOPBACK, "0", SHARDS, str(ticket))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment())
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._orders, self._replies, self._said = (
            self._process.stdin,
            self._process.stdout,
            self._process.stderr,
        )
        self.lines = [self._said.readline().decode()]
        self._reader = threading.Thread(
            target=lambda: self.lines.extend(line.decode() for line in self._said)
        )
        self._reader.start()

    def ask(self, order: orders.Order[R]) -> R:
        """Return the answer to an order, after the steps that it tells."""
        self._orders.write(frames.pack(1, order))
        self._orders.flush()
        while (frame := frames.read(self._replies)) is not None:
            reply = codec.decode(orders.REPLIES[frame.kind], frame.body, frames.MAX_FRAME)
            if not isinstance(reply, orders.StepDone):
                assert isinstance(reply, order.reply), (reply, self.lines)
                return reply  # type: ignore[no-any-return]
        raise AssertionError(self.lines)

    def end(self) -> None:
        """End it as its node does."""
        self._orders.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)


def test_machines_train_together_what_none_could_alone(made: Created, tmp_path: Path) -> None:
    """One of three is killed in the first of two rounds; a single machine with more memory makes the same of both."""
    limit, ticket = enough_for_two(made), tmp_path / "group.ticket"
    alone = TorchEngine(programs_of(made), RunOptions(memory=limit))
    with pytest.raises(Refused, match="needs"):
        alone.program(made.manifest.programs.inner.digest)
    with ExitStack() as ended:
        leader = Leading(ticket)
        ended.callback(leader.end)
        memory = ("--memory", str(limit / 2**30))
        member = Printing(["group", "--ticket", str(ticket), *memory], tmp_path)
        ended.callback(member.stop)
        command = python("-m", "tests.integration.stage_member", ticket.read_text(), "6", str(limit))
        dying = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        ended.callback(dying.wait)
        ended.callback(dying.kill)
        options = RunOptions(memory=limit, loops=Loops.WORTHWHILE)
        store, manifest = str(made.folder.blobs), codec.encode(made.manifest)
        prepared = leader.ask(orders.Prepare(manifest, store, Count(1), options))
        assert prepared.golden and prepared.agrees
        for number in (1, 2):
            beacon = tagged("beacon", bytes([number]))
            job = Job(Round(number), WORKER, beacon, STEPS)
            start = made.manifest.start
            order = orders.RunJob(job.number, WORKER, beacon, Count(STEPS), start, True, Count(STEPS))
            done = leader.ask(order)
            engine = TorchEngine(programs_of(made))
            right = Rounds(engine, made.manifest, data_of(made, engine)).run(job, start_of(made).tensors)
            assert right.contribution is not None
            assert done.digests == right.digests and done.contribution.digest == digest_of(right.contribution)
            assert len(done.group) == 2 and all(
                each.shard and each.shard.sent and each.micros for each in done.group
            )
        assert dying.wait(PATIENCE) == -signal.SIGKILL
        assert sum("a machine has left the group, which has 2 of 3" in line for line in leader.lines) == 1
        assert sum("3 machines hold the model" in line for line in leader.lines) == 1


def test_a_part_that_takes_as_much_as_the_whole_is_none(made: Created) -> None:
    with pytest.raises(UserError, match=r"--shards: a machine of 1 needs .* take more machines"):
        memory_for(roles_of(made), 1)


def test_a_demo_in_shards_ends_in_order_and_its_report_says_who_held_what(tmp_path: Path) -> None:
    sizes = ("--rounds", "2", "--workers", "1", "--verifiers", "1", "--cheat", "none")
    command = python("-m", "trainer.cli", "demo", "--shards", "2", *sizes, "--out", str(tmp_path / "run"))
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 machines held" in done.stdout
    peers = json.loads((tmp_path / "run" / "report.json").read_text())["peers"]
    (group,) = [peer["group"] for peer in peers if peer["group"]]
    assert all(each["shard"]["numbers"] and each["shard"]["sent"] for each in group) and len(group) == 2
