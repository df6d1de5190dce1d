"""Machines that hold a model in parts, on loopback: their rounds are one machine's, whoever fails, comes or goes."""

import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.groups import alone, outcome, programs_of
from tests.patience import PATIENCE
from tests.tiny import make_run
from trainer.exact import Products
from trainer.groups.member import reached
from trainer.groups.messages import Welcome
from trainer.groups.stage_member import StageMember
from trainer.groups.staged import StagedEngine
from trainer.groups.stages import Stages
from trainer.programs.options import RunOptions
from trainer.runs.create import Created
from verification.errors import Unavailable
from verification.units import Count

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LOOPBACK, SECRET = "127.0.0.1", bytes(32)
MUCH = RunOptions(memory=Count(1 << 30))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run of several layers, whose batch has parts."""
    sizes = {"training.batch": 4, "training.accumulate": 4, "model.config.num_hidden_layers": 3}
    return make_run(tmp_path_factory.mktemp("run"), sizes)


class Group:
    """A leader in this thread, and members in others."""

    def __init__(self, made: Created, size: int) -> None:
        self.lines: list[str] = []
        self.members: list[StageMember] = []
        self._ended = ExitStack()
        self.listener = socket.create_server((LOOPBACK, 0))

        def led(programs: Sequence[bytes], options: RunOptions, products: Products) -> Stages:
            self.stages = Stages(
                self.listener,
                SECRET,
                size,
                secrets.token_bytes,
                self.lines.append,
                programs,
                options,
                products,
            )
            return self.stages

        self.engine = StagedEngine(led, programs_of(made), MUCH)

    def join(self, options: RunOptions = MUCH) -> StageMember:
        """Start a member."""
        channel = reached(LOOPBACK, self.listener.getsockname()[1], SECRET, secrets.token_bytes)
        member = StageMember(channel, channel.receive(Welcome), SECRET, secrets.token_bytes, options)

        def serve() -> None:
            with suppress(Unavailable):
                member.serve()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self._ended.callback(thread.join, PATIENCE)
        self.members.append(member)
        return member

    def end(self) -> None:
        """End all."""
        self.stages.close()
        self._ended.close()


@contextmanager
def group(made: Created, size: int) -> Iterator[Group]:
    """A group, which ends with the block."""
    opened = Group(made, size)
    try:
        yield opened
    finally:
        opened.end()


def test_three_stages_make_one_machines_rounds(made: Created) -> None:
    with group(made, 3) as opened:
        for _ in range(2):
            opened.join()
        assert outcome(made, opened.engine, checked=2) == alone(made)
        assert outcome(made, opened.engine) == alone(made)
        assert len(opened.engine.group) == 3 and all(each.micros for each in opened.engine.group)
