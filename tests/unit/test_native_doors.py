"""The compiler is a door: nobody else's library comes in by it, and it takes no more time and memory than it may."""

import os
import pwd
import select
import shlex
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.exact import native
from trainer.exact.native import CannotCompile
from trainer.lifetimes import python

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
SEVEN = "int seven(void) { return 7; }"
PLANTED = """
#include <stdio.h>
__attribute__((constructor)) static void begin(void) {{ fclose(fopen("{mark}", "w")); }}
int seven(void) {{ return 13; }}
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of kernels that holds somebody else's library under the right name."""
    folder = tmp_path / "home" / "kernels"
    native.build(PLANTED.format(mark=tmp_path / "mark"), tmp_path / "theirs")
    (tmp_path / "mark").unlink()
    native.build(SEVEN, tmp_path / "name")
    (theirs,), (name,) = (tmp_path / "theirs").iterdir(), (tmp_path / "name").iterdir()
    folder.mkdir(mode=0o700, parents=True)
    shutil.copy(theirs, folder / name.name)
    return folder


def held(cache: Path) -> Path:
    """The library in a cache."""
    (library,) = cache.iterdir()
    return library


def linked(path: Path) -> None:
    """Move a path aside and leave a link to it."""
    path.symlink_to(path.rename(path.with_name("aside")))


def given_away(path: Path) -> None:
    """Give a path to nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 65534, 65534)


OTHERS_CHANGE_IT: dict[str, Callable[[Path], None]] = {
    "a folder that all may write": lambda cache: cache.chmod(0o777),
    "a folder that a group may write": lambda cache: cache.chmod(0o770),
    "a folder behind a link": linked,
    "a folder of another user": given_away,
    "a folder that all may exchange": lambda cache: cache.parent.chmod(0o777),
    "a folder that its folder's owner may exchange": lambda cache: given_away(cache.parent),
    "a library that all may write": lambda cache: held(cache).chmod(0o766),
    "a library that a group may write": lambda cache: held(cache).chmod(0o770),
    "a library behind a link": lambda cache: linked(held(cache)),
    "a library of another user": lambda cache: given_away(held(cache)),
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("way", OTHERS_CHANGE_IT)
@pytest.mark.filterwarnings("ignore:others may change")
def test_a_library_that_others_may_change_is_not_loaded(way: str, cache: Path, tmp_path: Path) -> None:
    OTHERS_CHANGE_IT[way](cache)
    assert native.build(SEVEN, cache).seven() == 7
    assert not (tmp_path / "mark").exists()


@needs_compiler
def test_the_planted_library_runs_where_it_is_trusted(cache: Path, tmp_path: Path) -> None:
    """The guard of the test above: the fixture plants what would be loaded."""
    assert native.build(SEVEN, cache).seven() == 13
    assert (tmp_path / "mark").exists()


@needs_compiler
def test_a_folder_that_others_may_change_is_named_with_the_mend(cache: Path) -> None:
    cache.chmod(0o777)
    with pytest.warns(RuntimeWarning, match=rf"others may change {cache} .*chmod go-w"):
        native.build(SEVEN, cache)
    assert [path.stat().st_size for path in cache.iterdir()] == [held(cache).stat().st_size]


@needs_compiler
def test_what_is_built_is_the_users_alone_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        native.build(SEVEN, tmp_path / "kernels")
    finally:
        os.umask(before)
    (library,) = (tmp_path / "kernels").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (library.parent, library)] == [0o700, 0o700]


@needs_compiler
def test_a_user_without_a_home_has_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert native.build(SEVEN).seven() == 7


def compiler_that(folder: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a compiler first on PATH that knows its version and otherwise runs a line of shell; return it."""
    folder.mkdir()
    script = folder / "cc"
    script.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{folder}"; exit; fi\n{does}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return script


@pytest.mark.slow
def test_a_compiler_that_never_ends_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiler and child hold a pipe open, so its end says that neither is left."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    compiler_that(tmp_path / "bin", f"exec 9>{pipe}; sleep 600 & echo $! >&9; wait", monkeypatch)
    with pytest.raises(CannotCompile, match=r"cc took over 5 s and was ended: put another one first on PATH"):
        native.build(SEVEN, tmp_path / "kernels", timeout=5)
    child = int(os.read(reader, 100))
    assert select.select([reader], [], [], 60)[0], f"process {child} is left"
    assert os.read(reader, 100) == b""
    os.close(reader)
    assert list((tmp_path / "kernels").iterdir()) == []


def test_a_compiler_that_wants_too_much_memory_is_refused_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler_that(tmp_path / "bin", "exec " + shlex.join(python("-c", "bytearray(8 << 30)")), monkeypatch)
    with pytest.raises(CannotCompile, match="ran out of memory, of which it may take 4 GiB: put another one"):
        native.build(SEVEN, tmp_path / "kernels")


def test_every_process_of_a_compiler_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_that(tmp_path / "bin", "sh -c 'echo \"error: $(ulimit -t) $(ulimit -v)\"'; exit 1", monkeypatch)
    with pytest.raises(CannotCompile, match=f"error: 21 {native.MEMORY >> 10}"):
        native.build(SEVEN, tmp_path / "kernels", timeout=20.5)


@pytest.mark.parametrize("entry", ["", ".", "bin"])
def test_no_compiler_of_the_working_folder_runs(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = os.environ["PATH"], native.compiler()
    script = compiler_that(tmp_path / "bin", "exit 1", monkeypatch)
    assert native.compiler() == str(script)
    monkeypatch.setenv("PATH", f"{entry}:{path}")
    monkeypatch.chdir(tmp_path if entry == "bin" else script.parent)
    assert native.compiler() == before
