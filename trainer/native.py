"""Building C text into functions of this process, with the machine's own compiler and a cache in the user's folder."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from verification.errors import UserError

COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math and nothing of it that changes a result: its start-up code would flush subnormals in this process.
FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv",
    "-fPIC", "-shared", "-w",
)  # fmt: skip
# 16: only _Float16 is evaluated in its own type, which gcc says of processors with arithmetic for it.
GUARD = """#include <float.h>
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "this compiler computes floats in a wider type"
#endif
"""
TIMEOUT = 600
"""Seconds that the compiler may take."""


class CannotCompile(UserError):
    """There is no C compiler, or it did not build the text; the message is one line with the mend."""


def compiler() -> str | None:
    """Return the path of the C compiler, or None when the machine has none."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def build(source: str, cache: Path | None = None) -> ctypes.CDLL:
    """Return the library of a C text; `cache` is a folder that keeps what was built, the user's by default.

    Raises CannotCompile.
    """
    command = compiler()
    if command is None:
        raise CannotCompile("no C compiler was found: install gcc or clang, or leave `compiled` off")
    text = GUARD + source
    name = hashlib.sha256("\0".join([text, *FLAGS, _version(command), _processor()]).encode()).hexdigest()[
        :32
    ]
    folder = _writable(Path.home() / ".cache" / "proofswarm" / "kernels" if cache is None else cache)
    library = folder / f"{name}.so"
    if not library.exists():
        _compile(command, text, library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        library.unlink(missing_ok=True)
        raise CannotCompile(f"the compiled kernels do not load: {error}") from error


def _compile(command: str, text: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        source, made = Path(scratch, "kernels.c"), Path(scratch, "kernels.so")
        source.write_text(text, encoding="utf-8")
        # Threads are torch's own where the compiler has OpenMP; without it kernels run on one.
        for threads in (("-fopenmp",), ()):
            arguments = [command, *FLAGS, *threads, str(source), "-o", str(made), "-lm"]
            try:
                done = subprocess.run(
                    arguments,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CannotCompile(f"the C compiler {command} did not run: {error}") from error
            if done.returncode == 0:
                os.replace(made, library)
                return
    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
    raise CannotCompile(f"the C compiler {command} refused the kernels: {lines[0]}")


def _writable(folder: Path) -> Path:
    """Return the folder if this process may write there, else a temporary one that ends with it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="proofswarm-kernels-")


@functools.cache
def _version(command: str) -> str:
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"the C compiler {command} did not run: {error}") from error
    return done.stdout


def processor_has(feature: str) -> bool:
    """Return whether Linux names an instruction set of this processor; elsewhere no."""
    return feature in _processor().split()


@functools.cache
def _processor() -> str:
    """Return what -march=native depends on, as far as the system tells: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )
