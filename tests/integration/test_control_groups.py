"""A real control group holds what is started in it to its limit, and takes with it what is left there."""

import os
import signal
import subprocess

import pytest

from benchmarks.control_groups import ControlGroup, control_group
from trainer.lifetimes import python
from verification.errors import UserError

LIMIT = 128 << 20
NAME = f"proofswarm-test-{os.getpid()}"
HOLD = "import sys; held = b'1' * (int(sys.argv[1]) << 20); print(len(held), flush=True); sys.stdin.read()"


def obstacle() -> str:
    try:
        with control_group(NAME, LIMIT):
            return ""
    except UserError as error:
        return str(error)


pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(obstacle()), reason=obstacle())]


def started(group: ControlGroup, size: int) -> subprocess.Popen[bytes]:
    """A process in a group that takes so many MiB and holds them."""
    command = group.around(python("-c", HOLD, str(size)))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_who_takes_more_is_ended_and_counted_and_who_does_not_is_held() -> None:
    with control_group(NAME, LIMIT) as group:
        few = started(group, 20)
        assert few.stdout is not None and few.stdout.readline() == b"20971520\n"
        assert started(group, 400).wait() == -signal.SIGKILL and group.ended() == 1
        assert 20 << 20 < group.anonymous() < LIMIT
        assert group.processes() == [few.pid]
    assert few.wait() == -signal.SIGKILL and not group.folder.exists()
