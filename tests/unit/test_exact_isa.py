"""Products under every instruction set that oneDNN can be held to, some of whose int8 kernels saturate."""

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import ROOT
from trainer.lifetimes import python

pytestmark = pytest.mark.slow

LEVELS = (None, "AVX512_CORE", "AVX2", "SSE41")
THREADS = (1, 2)
EXPECTED = "bc41fdfd6c5ae11ec477de570d09981a89d04dd168c50117e23abd11b91640de"
"""Digest of all products, recorded once from int64; the same on every machine."""


@functools.cache
def examined(
    level: str | None, force: str | None = None, counts: tuple[int, ...] = THREADS
) -> dict[int, dict[str, Any]]:
    """What a process under these settings finds by its number of threads, one after the other."""
    settings = {
        "ONEDNN_MAX_CPU_ISA": level,
        "PROOFSWARM_PRODUCT": force,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    environment |= {key: value for key, value in settings.items() if value is not None}
    command = python(str(Path(__file__).with_name("exact_isa_child.py")), *map(str, counts))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(counts, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", THREADS)
def test_the_same_products_under_every_instruction_set(threads: int, level: str | None) -> None:
    found = examined(level)[threads]
    assert set(found["digests"].values()) == {EXPECTED}
    # 7-bit slices cannot saturate; full-range int8 may, and then its certificate must have found it.
    assert found["verdicts"]["int8-slices"] == "" and found["verdicts"]["float64"] == ""
    if found["saturates"]:
        assert "wrong on" in found["verdicts"]["int8"]
        assert "int8" not in found["digests"] and "int8" not in found["chosen"]
    assert "float64" in found["digests"] and found["chosen"]


@pytest.mark.parametrize("name", ["int8", "int8-slices", "float64", "numpy64"])
def test_the_environment_forces_a_backend(name: str) -> None:
    found = examined(None, name, (1,))[1]
    assert found["digests"]["chosen"] == EXPECTED
    # What the named backend serves is not measured; a saturating int8 kernel serves nothing.
    if not found["verdicts"][name]:
        assert found["chosen"] == []
