"""What processes of this machine use, as Linux tells it, and work in processes of its own."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from trainer.compute.memory import usable_memory
from trainer.lifetimes import end_with
from verification.errors import UserError

Made = TypeVar("Made")


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used; raises OSError for one that is gone."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) names it


def resident_bytes(pid: int) -> int:
    """Return the bytes of memory that a process holds now; raises OSError for one that is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def peak_bytes(pid: int) -> int:
    """Return the most bytes of memory that a process has held; raises OSError for one that is gone."""
    return _kilobytes(f"/proc/{pid}/status", "VmHWM")


def own_bytes() -> int:
    """Return the bytes of memory that this process holds now; at most, on systems that do not tell."""
    try:
        return resident_bytes(os.getpid())
    except OSError:
        return own_peak_bytes()


def own_peak_bytes() -> int:
    """Return the most bytes of memory that this process has held, on any system."""
    try:
        return peak_bytes(os.getpid())
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(pid: int) -> bool:
    """Let `peak_bytes` of a process begin anew with what it holds now; return whether the system lets us."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def available_memory() -> int:
    """Return the bytes that new processes may use: what Linux says is left, within what this one may have at all."""
    try:
        left = _kilobytes("/proc/meminfo", "MemAvailable")
    except OSError:
        left = usable_memory()
    return min(left, usable_memory())


def _kilobytes(path: str, field: str) -> int:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def pool(processes: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Have processes for work, as many as there are cores unless said; where the block is broken off they end at once.

    They end with this one too, whatever ends it.
    """
    before = active_children()
    made = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    )

    def end() -> None:
        for child in active_children():
            if child not in before:
                child.kill()
        made.shutdown(cancel_futures=True)

    with made, ExitStack() as broken_off:
        broken_off.callback(end)
        yield made
        broken_off.pop_all()


def alone(function: Callable[..., Made], *arguments: Any) -> tuple[Made, int]:
    """Return what a function of a module makes in a process of its own, and the most bytes that this one held.

    Raises what the function raises, UserError where the system ended the process.
    """
    with pool(1) as one:
        try:
            return one.submit(_with_peak, function, arguments).result()
        except BrokenProcessPool as error:
            raise UserError(f"{function.__name__}: the system ended the process; is memory short?") from error


def _with_peak(function: Callable[..., Made], arguments: tuple[Any, ...]) -> tuple[Made, int]:
    return function(*arguments), own_peak_bytes()


@contextmanager
def beside(function: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, Any]]:
    """Have a process beside this one whose function takes one end of a line too, and ends when the other is closed.

    Yields its id and what it says first; raises UserError where it says nothing.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=kept, args=(os.getpid(), function, *arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        try:
            first = ours.recv()
        except EOFError as error:
            raise UserError(f"{function.__name__}: its process ended before it said anything") from error
        yield process.pid, first
    finally:
        ours.close()
        process.join()


def kept(parent: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in this process, which ends with its parent, whatever ends that."""
    end_with(parent)
    function(*arguments)


def wait_for_end(line: Connection) -> None:
    """Return when the other end of a line is closed."""
    try:
        line.recv()
    except EOFError:
        return
