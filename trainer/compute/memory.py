"""How much memory there is for this process: the machine's, or its container's where that is less."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from trainer.programs.devices import device_memory
from trainer.programs.options import RunOptions
from verification.units import Count

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/statm")


@dataclass(frozen=True)
class Version:
    """What a version of control groups calls the file of a group's limit, and the line of its `memory.stat` about
    memory that no file holds as well."""

    limit: str
    anonymous: str


FIRST, SECOND = Version("memory.limit_in_bytes", "total_rss"), Version("memory.max", "anon")
RESERVE = 4, 384 << 20
"""The part of a limit, and the most bytes, that no program may take: by so much a peer's node, compute process and
compiler still grow."""


def within_memory(options: RunOptions) -> RunOptions:
    """Return options that allow a program what there is, where they say nothing of memory: the GPU's own, or what is
    left here.

    Raises UserError where the device is not here.
    """
    if options.memory is not None:
        return options
    own = device_memory(options)
    return replace(options, memory=Count(left_memory() if own is None else own))


def usable_memory(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process may use before the system ends it, swap left out.

    `membership` names its control groups and `cgroups` holds their limits, of either version of Linux's.
    """
    return min([_machine_memory(), *(limit for limit, _ in _limits(membership, cgroups))])


def left_memory(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS, status: Path = STATUS) -> int:
    """Return the bytes of `usable_memory` that a program may take: without what this process takes already and whoever
    shares a limit with it, so that a peer's node and its compute process have room in one container.
    """
    own = resident_memory(status)
    part, most = RESERVE
    shared = (
        limit - max(own, taken) - min(limit // part, most) for limit, taken in _limits(membership, cgroups)
    )
    return max(0, min([_machine_memory() - own, *shared]))


def resident_memory(status: Path = STATUS) -> int:
    """Return the bytes of memory that this process takes now; 0 where the system does not tell."""
    try:
        pages = int(status.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(membership: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """Give the limit of every group on the way up, and the bytes that it takes which no file holds as well: one that is
    not there, or has no limit, limits nothing.

    A container often sees its own group at the top and not under the name that the system gives it.
    """
    for controllers, group in _groups(membership):
        if controllers == [""]:
            folder, version = cgroups, SECOND
        elif "memory" in controllers:
            folder, version = cgroups / "memory", FIRST
        else:
            continue
        for place in (group, *group.parents):
            try:
                limit = int((folder / place / version.limit).read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
            yield limit, number_in(folder / place / "memory.stat", version.anonymous)


def number_in(file: Path, name: str) -> int:
    """Return the number in the line of a group's file that begins with `name`; 0 where there is no such."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    words = (line.split() for line in lines)
    return next((int(each[1]) for each in words if len(each) == 2 and each[0] == name), 0)


def _groups(membership: Path) -> Iterator[tuple[list[str], PurePosixPath]]:
    """Give each hierarchy's controllers, one empty name for version 2, and this process's group in it."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        yield controllers.split(","), PurePosixPath(group.lstrip("/"))
