"""Linux control groups of either version: processes that together may hold so much memory, all page cache included."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.compute import memory
from trainer.compute.memory import CGROUPS, number_in
from verification.errors import UserError

PATIENCE_SECONDS = 10.0
"""How long a group may take to go when nothing is to be in it any more."""
LOOK_SECONDS = 0.05
PASSED_ON = "cgroup.subtree_control"
"""The file of version 2 that says what limits the groups below a group may have."""


@dataclass(frozen=True)
class Version(memory.Version):
    """What a version of control groups also calls its files: that which limits memory and swap together, or swap alone,
    and where it counts processes that it ended."""

    swap: str
    events: str

    def swap_limit(self, limit: int) -> int:
        """Return what `swap` is set to, so that nothing of a group that may hold `limit` bytes is swapped out."""
        return limit if self is FIRST else 0


FIRST = Version(**vars(memory.FIRST), swap="memory.memsw.limit_in_bytes", events="memory.oom_control")
SECOND = Version(**vars(memory.SECOND), swap="memory.swap.max", events="memory.events")


@dataclass(frozen=True)
class ControlGroup:
    """A group's folder, and its version."""

    folder: Path
    version: Version

    def around(self, command: Sequence[str]) -> list[str]:
        """Return a command that joins the group before it does anything, and then becomes `command`."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def anonymous(self) -> int:
        """Return the bytes that its processes hold now and no file holds as well."""
        return number_in(self.folder / "memory.stat", self.version.anonymous)

    def ended(self) -> int:
        """Return how many of its processes the system has ended because memory was short."""
        return number_in(self.folder / self.version.events, "oom_kill")

    def processes(self) -> list[int]:
        """Return the ids of the processes that are in it now."""
        listed = self.folder / "cgroup.procs"
        return [int(line) for line in listed.read_text(encoding="ascii").split()] if listed.exists() else []

    def limit(self, size: int) -> None:
        """Let the group hold at most `size` bytes, none of them swapped out; raises OSError."""
        (self.folder / self.version.limit).write_text(str(size), encoding="ascii")
        swap = self.folder / self.version.swap
        if swap.exists():  # not where the kernel does not count swap
            swap.write_text(str(self.version.swap_limit(size)), encoding="ascii")

    def remove(self) -> None:
        """End what is still in the group, and remove it; raises UserError where it stays."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            try:
                self.folder.rmdir()
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"{self.folder}: this control group stays: {error.strerror}; remove it with rmdir"
                    ) from error
            time.sleep(LOOK_SECONDS)


@contextmanager
def control_group(name: str, limit: int | None, cgroups: Path = CGROUPS) -> Iterator[ControlGroup]:
    """Have a new group at the top of its hierarchy that may hold `limit` bytes, None: as many as there are.

    At the end what is in it is ended, and it is removed. Raises UserError where there can be none.
    """
    try:
        folder, version = _hierarchy(cgroups)
        group = ControlGroup(folder / name, version)
        group.folder.mkdir()
    except OSError as error:
        raise _impossible(cgroups, error) from error
    try:
        if limit is not None:
            try:
                group.limit(limit)
            except OSError as error:
                raise _impossible(group.folder, error) from error
        yield group
    finally:
        group.remove()


def _hierarchy(cgroups: Path) -> tuple[Path, Version]:
    """Return the folder of the groups that limit memory, and their version; raises OSError, UserError for none."""
    first = cgroups / "memory"
    if (first / FIRST.limit).exists():
        return first, FIRST
    offered = cgroups / "cgroup.controllers"
    if not offered.exists() or "memory" not in offered.read_text(encoding="ascii").split():
        raise UserError(f"{cgroups}: no control groups for memory here: take a Linux whose kernel has them")
    passed = cgroups / PASSED_ON
    if "memory" not in passed.read_text(encoding="ascii").split():
        passed.write_text("+memory", encoding="ascii")
    return cgroups, SECOND


def _impossible(place: Path, error: OSError) -> UserError:
    return UserError(
        f"{place}: cannot make a control group: {error.strerror}; run it as root, where /sys/fs/cgroup is writable"
    )
