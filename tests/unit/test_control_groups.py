"""Control groups of both versions: files are read and written as each has them, and no group is left behind."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks import control_groups
from benchmarks.control_groups import FIRST, SECOND, ControlGroup, Version, control_group
from verification.errors import UserError

STATISTICS = {
    FIRST: "cache 8192\nrss 4096\nrss_huge 0\ntotal_cache 16384\ntotal_rss 12288\n",
    SECOND: "anon 12288\nfile 16384\nanon_thp 0\n",
}
EVENTS = {
    FIRST: "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
    SECOND: "low 0\nhigh 0\nmax 71\noom 3\noom_kill 2\noom_group_kill 0\n",
}


def hierarchy(place: Path, version: Version, passed: str = "cpu memory") -> Path:
    """Files as they are at the top of a hierarchy of a version; return where its groups are."""
    if version is FIRST:
        (place / "memory").mkdir()
        (place / "memory" / FIRST.limit).write_text("9223372036854771712\n")
        return place / "memory"
    (place / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (place / "cgroup.subtree_control").write_text(passed)
    return place


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_a_group_tells_what_it_holds_and_what_was_ended(tmp_path: Path, version: Version) -> None:
    group = ControlGroup(tmp_path, version)
    assert (group.anonymous(), group.ended(), group.processes()) == (0, 0, [])
    (tmp_path / "memory.stat").write_text(STATISTICS[version])
    (tmp_path / version.events).write_text(EVENTS[version])
    (tmp_path / "cgroup.procs").write_text("17\n4\n")
    assert (group.anonymous(), group.ended(), group.processes()) == (12288, 2, [17, 4])


@pytest.mark.parametrize(("version", "swapped"), [(FIRST, "5000"), (SECOND, "0")])
def test_nothing_of_a_limited_group_is_swapped_out(tmp_path: Path, version: Version, swapped: str) -> None:
    """The first version limits memory and swap together, the second swap by itself; a kernel may count neither."""
    group = ControlGroup(tmp_path, version)
    group.limit(4000)
    assert not (tmp_path / version.swap).exists()
    (tmp_path / version.swap).touch()
    group.limit(5000)
    assert ((tmp_path / version.limit).read_text(), (tmp_path / version.swap).read_text()) == (
        "5000",
        swapped,
    )


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_a_group_is_made_at_the_top_and_removed_whatever_happens(tmp_path: Path, version: Version) -> None:
    top = hierarchy(tmp_path, version)
    having = control_group("one", None, tmp_path)
    group = having.__enter__()
    assert group.folder == top / "one" and group.folder.is_dir() and group.version is version
    assert not having.__exit__(KeyError, KeyError(), None)
    assert not group.folder.exists()


def test_the_second_version_passes_memory_on_to_groups_below(tmp_path: Path) -> None:
    hierarchy(tmp_path, SECOND, "cpu")
    with control_group("one", None, tmp_path):
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_where_there_are_no_groups_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no control groups for memory here: take a Linux"):
        control_group("one", 4000, tmp_path).__enter__()
    hierarchy(tmp_path, SECOND)
    (tmp_path / "one").touch()
    with pytest.raises(UserError, match=r"File exists; run it as root, where .* is writable"):
        control_group("one", 4000, tmp_path).__enter__()


def test_a_group_that_stays_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in it is what no control group has: its folder cannot be removed then."""
    hierarchy(tmp_path, FIRST)
    monkeypatch.setattr(control_groups, "PATIENCE_SECONDS", 0.0)
    having = control_group("one", None, tmp_path)
    (having.__enter__().folder / "file").touch()
    with pytest.raises(UserError, match=r"one: this control group stays: .*; remove it with rmdir"):
        having.__exit__(None, None, None)


def test_what_is_left_in_a_group_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for the group here: whoever is in it is whom its file names."""
    monkeypatch.setattr(control_groups, "PATIENCE_SECONDS", 0.0)
    left = subprocess.Popen(["sleep", "600"])
    (tmp_path / "cgroup.procs").write_text(f"{left.pid}\n")
    with pytest.raises(UserError, match="stays"):
        ControlGroup(tmp_path, FIRST).remove()
    assert left.wait() == -signal.SIGKILL


def test_a_command_joins_its_group_and_becomes_what_it_is(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path, SECOND)
    with subprocess.Popen(
        group.around(["sh", "-c", 'echo "$$ $1"', "sh", "a b"]), stdout=subprocess.PIPE
    ) as process:
        said, _ = process.communicate()
    assert said.decode() == f"{process.pid} a b\n"
    assert group.processes() == [process.pid] and process.pid != os.getpid()
