"""How much memory there is for this process: the machine's, or its container's where that is less."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from trainer.programs.devices import device_memory
from trainer.programs.options import RunOptions
from verification.units import Count

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/statm")


def within_memory(options: RunOptions) -> RunOptions:
    """Return options that allow a program what there is, where they say nothing of memory: the GPU's own, or as below,
    without what this process takes already.

    Raises UserError where the device is not here.
    """
    if options.memory is not None:
        return options
    own = device_memory(options)
    return replace(options, memory=Count(max(0, usable_memory() - resident_memory()) if own is None else own))


def usable_memory(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process may use before the system ends it, swap left out.

    `membership` names its control groups and `cgroups` holds their limits, of either version of Linux's.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(membership, cgroups)])


def resident_memory(status: Path = STATUS) -> int:
    """Return the bytes of memory that this process takes now; 0 where the system does not tell."""
    try:
        pages = int(status.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limits(membership: Path, cgroups: Path) -> Iterator[int]:
    """Give the limit of every group on the way up: one that is not there, or has none, limits nothing.

    A container often sees its own group at the top and not under the name that the system gives it.
    """
    for controllers, group in _groups(membership):
        if controllers == [""]:
            folder, file = cgroups, "memory.max"
        elif "memory" in controllers:
            folder, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        for place in (group, *group.parents):
            try:
                yield int((folder / place / file).read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue


def _groups(membership: Path) -> Iterator[tuple[list[str], PurePosixPath]]:
    """Give each hierarchy's controllers, one empty name for version 2, and this process's group in it."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        yield controllers.split(","), PurePosixPath(group.lstrip("/"))
