"""The memory that a peer may fill: the least of the machine's and of every control group's above it."""

import os
import re
from pathlib import Path

import pytest

from trainer.compute.memory import left_memory, number_in, resident_memory, usable_memory

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


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/a", {"a/memory.max": 1200, "a/memory.stat": "anon {300}\nfile {500}"}, 600),
        ("0::/a", {"a/memory.max": 1200, "a/memory.stat": "anon {20}\nfile {500}"}, 800),
        ("0::/a", {"a/memory.max": 1200}, 800),
        ("0::/a", {"a/memory.max": 4000}, 3516),
        ("0::/a", {"a/memory.max": 1200, "a/memory.stat": "anon {950}"}, 0),
        (
            "4:memory:/a",
            {"memory/a/memory.limit_in_bytes": 1200, "memory/a/memory.stat": "total_rss {300}"},
            600,
        ),
        (
            "0::/a/b",
            {
                "a/memory.max": 1200,
                "a/memory.stat": "anon {800}",
                "a/b/memory.max": 400,
                "a/b/memory.stat": "anon {220}",
            },
            80,
        ),
    ],
)
def test_what_others_take_of_a_limit_is_not_left(
    groups: str, files: dict[str, int | str], left: int, tmp_path: Path
) -> None:
    """Numbers are in MiB; this process takes 100, and a quarter of a limit stays free, 384 at most."""
    membership, cgroups, status = tmp_path / "cgroup", tmp_path / "groups", tmp_path / "statm"
    membership.write_text(groups)
    status.write_text(f"0 {100 * MIB // os.sysconf('SC_PAGE_SIZE')} 0")
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        numbers = re.sub(r"{(\d+)}", lambda found: str(int(found[1]) * MIB), str(text))
        (cgroups / name).write_text(str(text * MIB) if isinstance(text, int) else numbers)
    assert left_memory(membership, cgroups, status) == left * MIB


def test_without_a_limit_all_but_its_own_is_left(tmp_path: Path) -> None:
    assert left_memory(tmp_path / "none", tmp_path, tmp_path / "none") == MACHINE


def test_a_line_of_a_groups_file_is_found_by_its_whole_first_word(tmp_path: Path) -> None:
    file = tmp_path / "memory.stat"
    assert number_in(file, "rss") == 0
    file.write_text("oom_kill_disable 0\noom_kill 5\ntotal_rss_huge 7\nbroken\n\nrss 1 2\n")
    assert (number_in(file, "oom_kill"), number_in(file, "rss")) == (5, 0)
