"""Processes that a command starts: by this interpreter, and ended with the command, whatever ends it.

Light to import, and a program too: `held` has one of ours, or a foreign one, run by it.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a command beside an interrupt: a kill, and a terminal that is closed."""
_PR_SET_PDEATHSIG = 1


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter with `arguments`, such as "-m", "trainer.compute.process".

    -m and -c put the working folder before everything else on the path of imports, and a script puts its own folder
    there: a file there of a name of ours, Python's or a library's would run in its place. -P leaves both out.
    """
    return [sys.executable, "-P", *arguments]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an interrupt does, with the exit status that they have elsewhere.

    One that is ignored stays so, as under nohup; only the main thread can change that.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(end, heard):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no interrupt, kill or closed terminal end the block: it takes away what would stay."""
    with _handled(signal.SIG_IGN, (*ENDING, signal.SIGINT)):
        yield


@contextmanager
def _handled(handler: "signal._HANDLER", numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Put a handler in the place of others; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, even by SIGKILL; elsewhere than on Linux do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before
            os.kill(os.getpid(), signal.SIGKILL)


def held(command: Sequence[str]) -> list[str]:
    """Return the command that runs `command`, in the same process, until this one ends.

    The kernel takes the end of the thread that starts it for its parent's: without effect but from the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return list(command)
    return python(__file__, str(os.getpid()), *command)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
