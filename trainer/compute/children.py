"""Starting processes of this program: from its own installation, and from no folder that happens to be at hand.

Light to import: who is about to load the rest of the program has its compute process load PyTorch meanwhile.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from trainer.lifetimes import held, python

PROCESS = ("trainer.shards.computing",)
"""Module and arguments of the process that computes for a peer."""

ABANDON = signal.SIGUSR1
"""Tells a compute process that nobody waits for the job that it is at."""

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""Settings of glibc's allocator: freed memory stays with the process. A step frees and takes the same hundreds of
megabytes again and again, and giving them back each time costs more than the arithmetic on them."""


def start(
    program: Sequence[str] = PROCESS, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a compute process; it waits for orders, and ends when its standard input or this process does."""
    return subprocess.Popen(
        held(python("-m", *program)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ALLOCATOR | dict(os.environ if environment is None else environment),
    )


@contextmanager
def started(program: Sequence[str] = PROCESS) -> Iterator[subprocess.Popen[bytes]]:
    """Have a compute process, which does not outlive the block."""
    child = start(program)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
