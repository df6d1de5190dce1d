"""The memory that a peer may fill: the least of the machine's and of every control group's above it."""

import os
from pathlib import Path

import pytest

from trainer.compute.memory import resident_memory, usable_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
UNLIMITED_V1 = "9223372036854771712"
MIB = 1 << 20


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/", {"memory.max": str(500 * MIB)}, 500 * MIB),
        ("0::/", {}, MACHINE),
        ("0::/", {"memory.max": str(MACHINE * 2)}, MACHINE),
        ("0::/a/b", {"a/memory.max": str(300 * MIB), "a/b/memory.max": "max"}, 300 * MIB),
        ("0::/a/b", {"a/memory.max": str(300 * MIB), "a/b/memory.max": str(200 * MIB)}, 200 * MIB),
        ("0::/docker/1f", {"memory.max": str(500 * MIB)}, 500 * MIB),
        ("0::/../../x", {"memory.max": "max"}, MACHINE),
        ("4:memory:/", {"memory/memory.limit_in_bytes": UNLIMITED_V1}, MACHINE),
        ("4:memory:/d/1f", {"memory/memory.limit_in_bytes": str(500 * MIB)}, 500 * MIB),
        ("4:memory:/d", {"memory/d/memory.limit_in_bytes": str(400 * MIB)}, 400 * MIB),
        ("8:pids:/\n2:cpu,memory:/\n0::/", {"memory/memory.limit_in_bytes": str(400 * MIB)}, 400 * MIB),
        ("3:cpu:/\n0::/", {"memory/memory.limit_in_bytes": str(400 * MIB)}, MACHINE),
        ("0::/a:b", {"a:b/memory.max": str(100 * MIB)}, 100 * MIB),
        ("", {"memory.max": "1"}, MACHINE),
    ],
)
def test_the_least_limit_counts(groups: str, limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    membership, cgroups = tmp_path / "cgroup", tmp_path / "groups"
    membership.write_text(groups)
    for name, limit in limits.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(limit + "\n")
    assert usable_memory(membership, cgroups) == expected


def test_a_system_without_control_groups_has_the_machines(tmp_path: Path) -> None:
    assert usable_memory(tmp_path / "none", tmp_path) == MACHINE


def test_this_process_takes_some_of_it_already(tmp_path: Path) -> None:
    assert MIB < resident_memory() < MACHINE
    assert resident_memory(tmp_path / "none") == 0


def test_this_process_may_use_some_of_the_machines() -> None:
    assert 0 < usable_memory() <= MACHINE
