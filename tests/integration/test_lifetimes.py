"""Processes that a command starts end with it, whatever ends it: real commands, real signals."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.checkout import environment
from tests.patience import PATIENCE
from trainer.lifetimes import python

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system tells of no descendants"),
]

HEARD = signal.SIGTERM, signal.SIGHUP
ENDINGS = [*HEARD, signal.SIGINT, signal.SIGKILL]
STAGED = """
import signal, sys
from pathlib import Path
from benchmarks.swarm import Loopback, Machine
from trainer.lifetimes import python
from trainer.lifetimes import ended_by_signals

CHILD = "import signal; print('up', flush=True); signal.pause()"
with ended_by_signals():
    machines = [Machine(name, Loopback(), python("-c", CHILD), Path(sys.argv[1], name)) for name in "ab"]
    try:
        for machine in machines:
            machine.start()
            while "up" not in machine.output.read_text():
                machine.check()
        machines[1].signal(signal.SIGSTOP)
        print("round", flush=True)
        signal.pause()
    finally:
        for machine in machines:
            machine.kill()
"""


def descendants(pid: int) -> set[int]:
    """Return the processes that a process has started, and theirs, that are there now."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


@contextmanager
def running(
    command: Sequence[str], folder: Path, least: int = 2, tells: bool = True, deaf: bool = False
) -> Iterator[tuple[int, list[int]]]:
    """Run a command until it `tells` of a round and has started `least` processes; yield its own and descriptors of
    those. A `deaf` one ignores SIGHUP, as under nohup."""
    shell = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"] if deaf else []
    with hearing():
        process = subprocess.Popen(
            [*shell, *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment(HOME=str(folder)), start_new_session=True,
        )  # fmt: skip
    held: list[int] = []
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert not tells or any(line.startswith("round") for line in process.stdout), process.stderr.read()
        while len(found := descendants(process.pid)) < least:
            assert process.poll() is None, process.stderr.read()
        held += [os.pidfd_open(pid) for pid in found]
        yield process.pid, held
    finally:
        process.kill()
        for each in held:
            if not has_ended(each, 0):
                signal.pidfd_send_signal(each, signal.SIGKILL)
            os.close(each)
        process.communicate()


@contextmanager
def hearing() -> Iterator[None]:
    """Let what the block starts ignore no signal: who runs tests in the background, or under nohup, ignores some."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, *HEARD)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def has_ended(process: int, seconds: float = PATIENCE) -> bool:
    """Return whether a process ends in time, by a descriptor of it."""
    return bool(select.select([process], [], [], seconds)[0])


@pytest.mark.parametrize("number", ENDINGS)
def test_a_harmed_swarm_ends_with_its_benchmark(number: signal.Signals, tmp_path: Path) -> None:
    with running(python("-c", STAGED, str(tmp_path)), tmp_path) as (pid, started):
        os.kill(pid, number)
        assert all(has_ended(each) for each in started)


def test_who_ignores_a_closed_terminal_goes_on(tmp_path: Path) -> None:
    with running(python("-c", STAGED, str(tmp_path)), tmp_path, deaf=True) as (pid, started):
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGTERM)
        assert all(has_ended(each) for each in started)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_status == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", ENDINGS)
def test_a_benchmarks_pool_ends_with_it_amid_its_work(number: signal.Signals, tmp_path: Path) -> None:
    pooled = (
        "import signal; from benchmarks.processes import pool; from trainer.lifetimes import ended_by_signals\n"
        "if __name__ == '__main__':\n"
        "    with ended_by_signals(), pool(2) as workers:\n"
        "        [workers.submit(abs, n).result() for n in (1, 2)]\n"
        "        work = [workers.submit(signal.pause) for _ in range(5)]\n"
        "        print('round', flush=True)\n"
        "        work[0].result()\n"
    )
    (tmp_path / "pooled.py").write_text(pooled)
    with running(python(str(tmp_path / "pooled.py")), tmp_path) as (pid, started):
        os.kill(pid, number)
        assert all(has_ended(each) for each in started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demos_peers_end_with_it(number: signal.Signals, tmp_path: Path) -> None:
    command = python(
        "-m", "trainer.cli", "demo", "--out", str(tmp_path / "demo"), "--workers", "2", "--cheat", "none"
    )
    with running(command, tmp_path, 4) as (pid, started):
        os.kill(pid, number)
        assert all(has_ended(each) for each in started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_benchmark_ends_with_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    command = python("-m", "trainer.cli", "bench", "fuzz", "--seeds", "1000")
    with running(command, tmp_path, 3, tells=False) as (pid, started):
        os.kill(pid, number)
        assert all(has_ended(each) for each in started)
