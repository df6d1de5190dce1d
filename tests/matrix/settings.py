"""The settings under which training must give the same bits, and the runs under them."""

import itertools
import json
import os
import subprocess
from typing import Any, NamedTuple

from benchmarks import golden
from tests.checkout import ROOT
from trainer.exact.backends import BACKENDS
from trainer.exact.native import processor_has
from trainer.lifetimes import python
from trainer.programs.options import FORCE

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OPENBLAS_CORETYPE", FORCE)

NEEDS = {
    "avx2": "avx2 fma",
    "avx512": "avx512f avx512bw avx512dq avx512vl fma",
    "SSE41": "sse4_1",
    "AVX2": "avx2",
    "AVX512_CORE": "avx512f avx512bw avx512dq avx512vl",
    "Prescott": "pni",
    "Sandybridge": "avx",
    "Haswell": "avx2 fma",
}
"""The instructions, as Linux names them, without which a library cannot follow a setting."""


class Setting(NamedTuple):
    """Threads, eager or compiled, and values of `VARIABLES`, None for unset."""

    threads: int
    mode: str
    capability: str | None = None
    onednn: str | None = None
    mkl: str | None = None
    openblas: str | None = None
    product: str | None = None

    def lacking(self) -> str:
        """Return the instructions that the setting needs and this processor has not, or nothing."""
        needs = " ".join(NEEDS.get(str(value), "") for value in self[2:])
        return ", ".join(sorted({need for need in needs.split() if not processor_has(need)}))

    def environment(self) -> dict[str, str]:
        """Return this process's environment under the setting."""
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        fixed = {"PYTHONPATH": str(ROOT)}
        chosen = {name: value for name, value in zip(VARIABLES, self[2:], strict=True) if value is not None}
        return kept | fixed | chosen

    def __str__(self) -> str:
        return " ".join([f"{self.threads}t", *(str(value or "unset") for value in self[1:])])


FULL = [
    Setting(threads, mode, capability, onednn, mkl)
    for mode, capability, threads, onednn, mkl in itertools.product(
        golden.MODES,
        ("default", "avx2", "avx512"),
        (1, 2, 4),
        (None, "AVX512_CORE", "AVX2", "SSE41"),
        (None, "COMPATIBLE"),
    )
]
"""Every combination."""

LIBRARIES = [
    *(Setting(2, "eager", openblas=core) for core in ("Prescott", "Sandybridge", "Haswell")),
    *(Setting(threads, "eager", product=name) for name in BACKENDS for threads in (1, 2)),
    *(
        Setting(1, "eager", onednn=isa, product=name)
        for isa in ("AVX2", "SSE41")
        for name in ("int8", "int8-slices")
    ),
]
"""Beside them numpy's OpenBLAS with kernels of older processors, and every backend of the product for all its work."""

QUICK = [
    Setting(1, "eager"),
    Setting(2, "eager", "default", "SSE41", "COMPATIBLE", "Prescott"),
    Setting(4, "eager", "avx2", "AVX2"),
    Setting(2, "compiled", "avx512", "AVX512_CORE", "COMPATIBLE"),
    Setting(1, "compiled", "default", "SSE41", None, "Haswell"),
]
"""A few that differ in everything, for every run of the tests."""


def run(setting: Setting, names: list[str], steps: int, every: int, timeout: float) -> dict[str, Any]:
    """Return what tests.matrix.child prints under the setting."""
    counts = str(setting.threads), str(steps), str(every)
    command = python("-m", "tests.matrix.child", *counts, setting.mode, *names)
    done = subprocess.run(
        command,
        env=setting.environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
