"""The product of `int16.c`: compiled by the machine's own C compiler at first use, loaded with ctypes.

PyTorch has no product of int16 matrices, though every vector unit does: it forms two products per 32 bits, twice what
float32 gets, and needs no slices. Without a compiler this backend refuses and another one serves, with the same bits.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

SUM_LIMIT = 2**31 - 2**16
"""What a run of pairs may sum to in int32, above the 16 bits that the run before it left."""

FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
PARALLEL = ("-fopenmp",)
COMPILE_SECONDS = 120


class Unavailable(RuntimeError):
    """The kernel cannot be compiled or loaded here; the message says why in one line."""


class _Operand(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("outer", ctypes.c_int64),
        ("depth", ctypes.c_int64),
    )


class _Task(ctypes.Structure):
    _fields_ = (
        ("left", _Operand),
        ("right", _Operand),
        ("batch", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("flush", ctypes.c_int64),
        ("left_scale", ctypes.c_void_p),
        ("right_scale", ctypes.c_void_p),
        ("scaled", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
    )


def flush_pairs(bits: int) -> int:
    """How many pairs of products of `bits`-bit integers an int32 sums before it must be emptied."""
    return int(SUM_LIMIT // (2 * (2 ** (bits - 1) - 1) ** 2))


def refusal(device: torch.device, bits: int, depth: int) -> str:
    """Say why the compiled product cannot serve, or nothing."""
    if device.type != "cpu":
        return "runs on the CPU only"
    flush = flush_pairs(bits)
    if not flush:
        return f"a pair of {bits}-bit products exceeds int32"
    if depth > 2 * flush * 2**15:
        return f"int32 holds the upper halves of sums of {2 * flush * 2**15} products only"
    try:
        _library()
    except Unavailable as error:
        return str(error)
    return ""


def against(right: Tensor, bits: int) -> Callable[[Tensor], Tensor]:
    """Return the function that multiplies int16 [B, M, K] by right, int16 [B, K, N], into float64 [B, M, N]."""

    def multiply(left: Tensor) -> Tensor:
        result = torch.empty(left.shape[0], left.shape[1], right.shape[2], dtype=torch.float64)
        _run(_task(left, right, bits, exact=result.data_ptr()))
        return result

    return multiply


def rounded(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, bits: int) -> Tensor:
    """The product times float64 left_scale [B, M] and right_scale [B, N], contiguous, as float32 [B, M, N]."""
    result = torch.empty(left.shape[0], left.shape[1], right.shape[2])
    task = _task(left, right, bits, scaled=result.data_ptr())
    task.left_scale, task.right_scale = left_scale.data_ptr(), right_scale.data_ptr()
    _run(task)
    return result


def _task(
    left: Tensor, right: Tensor, bits: int, scaled: int | None = None, exact: int | None = None
) -> _Task:
    (batch, rows, depth), columns = left.shape, right.shape[2]
    a, b = left.stride(), right.stride()
    sides = _Operand(left.data_ptr(), a[0], a[1], a[2]), _Operand(right.data_ptr(), b[0], b[2], b[1])
    return _Task(*sides, batch, rows, columns, depth, flush_pairs(bits), None, None, scaled, exact)


def _run(task: _Task) -> None:
    if _library().int16_product(ctypes.byref(task), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError("no memory for the packed operands of a product")


@cache
def _built() -> ctypes.CDLL | Unavailable:
    try:
        return ctypes.CDLL(str(_compiled()))
    except (Unavailable, OSError, subprocess.SubprocessError) as error:
        return Unavailable(" ".join(str(error).split())[:200])


def _library() -> ctypes.CDLL:
    found = _built()
    if isinstance(found, Unavailable):
        raise found
    return found


def _compiled() -> Path:
    """Return the compiled kernel, from the cache where this machine has compiled this source before."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler (cc); on Debian or Ubuntu: apt-get install gcc")
    source = resources.files("trainer.exact").joinpath("int16.c").read_bytes()
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_SECONDS
    )
    made_of = (source, " ".join(FLAGS + PARALLEL).encode(), version.stdout, _processor())
    target = _cache() / f"int16-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:32]}.so"
    if not target.exists():
        _compile(compiler, source, target)
    return target


def _compile(compiler: str, source: bytes, target: Path) -> None:
    """Compile beside the target, then rename: processes that start together never load half a file."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file, made = Path(folder) / "int16.c", Path(folder) / "int16.so"
        file.write_bytes(source)
        for flags in (FLAGS + PARALLEL, FLAGS):
            command = [compiler, *flags, "-o", str(made), str(file)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                made.replace(target)
                return
    raise Unavailable(f"{Path(compiler).name} fails: {done.stderr.strip()}")


def _cache() -> Path:
    """The user's cache folder; a folder of this process where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "proofswarm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="proofswarm-"))


def _processor() -> bytes:
    """What `-march=native` depends on: a cache may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    kept = [line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))]
    return "\n".join(sorted(set(kept))).encode()
