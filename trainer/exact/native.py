"""Building C text into functions of this process, with the machine's own compiler and a cache in the user's folder.

What is loaded runs as this user, so it comes only from where nobody else can write; the compiler is no part of this
process and ends with its children when it takes too long.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from verification.errors import UserError

COMPILERS = ("cc", "gcc", "clang")
ON_ARM = platform.machine() in ("aarch64", "arm64")
# clang knows no -march=native there, and -mcpu on x86 says another thing.
NATIVE = "-mcpu=native" if ON_ARM else "-march=native"
# No -ffast-math and nothing of it that changes a result: its start-up code would flush subnormals in this process.
FLAGS = (
    "-std=gnu11", "-O3", NATIVE, "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv",
    "-fPIC", "-shared", "-w",
)  # fmt: skip
# 16: only _Float16 is evaluated in its own type, which gcc says of processors with arithmetic for it. Where there are
# tiles, vectors of 512 bits cost no speed of the core; gcc prefers 256 on all processors.
GUARD = """#include <float.h>
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "this compiler computes floats in a wider type"
#endif
#if defined(__AMX_INT8__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif
"""
TIMEOUT = 600.0
"""Seconds that the compiler may take."""
MEMORY = 4 << 30
"""Bytes of address space that each of its processes may take."""
LIMITED = 'exec 3>&2 2>/dev/null; ulimit -S -t "$1"; ulimit -S -v "$2"; shift 2; exec "$@" 2>&3 3>&-'
"""For sh: lower one's own limits to seconds and KiB, as far as the system has them, and become the command."""
OTHERS = stat.S_IWGRP | stat.S_IWOTH
MEND = "put another one first on PATH as cc, or leave `compiled` off"


class CannotCompile(UserError):
    """There is no C compiler, or it did not build the text; the message is one line with the mend."""


def compiler() -> str | None:
    """Return the path of the C compiler, or None when the machine has none; never one of the working folder."""
    path = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
    return next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)


def build(source: str, cache: Path | None = None, timeout: float = TIMEOUT) -> ctypes.CDLL:
    """Return the library of a C text; `timeout`: seconds that the compiler may take.

    `cache` is a folder that keeps what was built, the user's by default. A folder that somebody else may change, or
    that cannot be had, is left alone for a temporary one; a file there that somebody else may change is built anew.
    Raises CannotCompile.
    """
    command = compiler()
    if command is None:
        raise CannotCompile("no C compiler was found: install gcc or clang")
    text = GUARD + source
    name = hashlib.sha256("\0".join([text, *FLAGS, _version(command), _processor()]).encode()).hexdigest()[
        :32
    ]
    library = _folder(cache) / f"{name}.so"
    try:
        if not _is_own(library, stat.S_ISREG):
            _compile(command, text, library, timeout)
        return ctypes.CDLL(str(library))
    except OSError as error:
        library.unlink(missing_ok=True)
        raise CannotCompile(f"the compiled kernels do not load: {error}") from error


def _compile(command: str, text: str, library: Path, timeout: float) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        source, made = Path(scratch, "kernels.c"), Path(scratch, "kernels.so")
        source.write_text(text, encoding="utf-8")
        # Threads are torch's own where the compiler has OpenMP; without it kernels run on one.
        for threads in (("-fopenmp",), ()):
            arguments = [command, *FLAGS, *threads, str(source), "-o", str(made), "-lm"]
            status, said = _run(arguments, Path(scratch), timeout)
            if status == 0:
                made.chmod(stat.S_IRWXU)  # whatever the umask was
                os.replace(made, library)
                return
    lines = said.splitlines()
    if any("memory" in line.lower() for line in lines):
        raise CannotCompile(
            f"the C compiler {command} ran out of memory, of which it may take {MEMORY >> 30} GiB: {MEND}"
        )
    errors = [line for line in lines if "error" in line] or lines or [f"status {status}"]
    raise CannotCompile(f"the C compiler {command} refused the kernels: {errors[0]}")


def _run(command: list[str], folder: Path, seconds: float) -> tuple[int, str]:
    """Return status and output of a compiler that ran in a folder; raises CannotCompile when it takes too long.

    It runs in a session of its own, which ends as a whole, and under limits that reach whoever left the session.
    """
    limits = [str(math.ceil(seconds)), str(MEMORY >> 10)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ["/bin/sh", "-c", LIMITED, "sh", *limits, *command], cwd=folder, env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise CannotCompile(
                f"the C compiler {command[0]} took over {seconds:g} s and was ended: {MEND}"
            ) from error
        finally:
            if process.returncode is None:  # it is not reaped, so the number is still its own
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return process.returncode, said.read().decode(errors="replace")


def _folder(cache: Path | None) -> Path:
    """Return the cache's folder if nobody but this user, or root, can put anything into its place, else another."""
    try:
        folder = Path.home() / ".cache" / "proofswarm" / "kernels" if cache is None else cache
        folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        # Without links, so that what is checked here is what is opened later.
        folder = folder.parent.resolve() / folder.name
        is_writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # a user without a home, or a home without room
        return _temporary()
    if not _is_own(folder, stat.S_ISDIR) or not all(map(_keeps_its_entries, folder.parents)):
        _warn_of(folder)
        return _temporary()
    return folder if is_writable else _temporary()


def _is_own(path: Path, kind: Callable[[int], bool]) -> bool:
    """Return whether a path is of a kind, and no link, belongs to this user, and nobody else may write to it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS


def _keeps_its_entries(folder: Path) -> bool:
    """Return whether only this user and root can rename what is of this user in a folder."""
    found = folder.lstat()
    is_closed = not found.st_mode & OTHERS or bool(found.st_mode & stat.S_ISVTX)
    return is_closed and found.st_uid in (0, os.geteuid())


@functools.cache
def _warn_of(folder: Path) -> None:
    warnings.warn(
        f"others may change {folder} or a folder above it, so kernels are built anew in each process: "
        "make it this user's alone (chown, chmod go-w)",
        RuntimeWarning,
        stacklevel=4,
    )


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="proofswarm-kernels-")


def _temporary() -> Path:
    """Return a folder of this process, which ends with it."""
    return Path(_private_folder().name)


@functools.cache
def _version(command: str) -> str:
    return _run([command, "--version"], Path("/"), 60)[1]


def processor_has(feature: str) -> bool:
    """Return whether Linux names an instruction set of this processor; elsewhere no."""
    return feature in _processor().split()


@functools.cache
def _processor() -> str:
    """Return what `NATIVE` depends on, as far as the system tells: a cache may be shared between machines."""
    try:
        return identity(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return platform.processor() + platform.machine()


def identity(cpuinfo: str) -> str:
    """Return the lines of /proc/cpuinfo that compilers read, each once, and the architecture of this process.

    An ARM part's number is its implementer's own, and a process may be emulated, on the cpuinfo of its host.
    """
    named = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(
        [platform.machine(), *sorted({line for line in cpuinfo.splitlines() if line.startswith(named)})]
    )
