"""The same training, bit for bit, under every thread count, vector width and library mode, eager and compiled.

Every run is compared with the golden digests, after each of 20 steps. `make test` runs a few settings that differ in
everything; `make test-matrix` all of them. What a processor lacks cannot be tried on it: without AVX-512 the settings
that ask for it take the best there is, and `test_capability_takes_effect` skips with that reason.
"""

import subprocess
import sys

import pytest

from benchmarks import golden
from tests.matrix.settings import FULL, LIBRARIES, QUICK, ROOT, Setting, run

pytestmark = pytest.mark.slow

WIDTHS = ("DEFAULT", "AVX2", "AVX512")
PROBE = """
import torch
from threadpoolctl import threadpool_info
import numpy
small = torch.ones(64, 64)
torch.mm(small, small)
torch.ops.mkldnn._linear_pointwise(small, small, None, "none", [], "")
print("capability", torch.backends.cpu.get_cpu_capability())
print("openblas", [library["architecture"] for library in threadpool_info() if library["internal_api"] == "openblas"])
"""


def compare(setting: Setting, timeout: float) -> None:
    """Train every golden run under the setting and compare all digests."""
    answer = run(setting, golden.names(), golden.STEPS, timeout)
    took = answer["took"]
    if took["refused"]:
        pytest.skip(f"this machine certifies no {setting.product}: {took['refused']}")
    assert answer["loaded"] == [], "an auditor needs no tracer"
    assert took["threads"] == setting.threads
    if setting.capability is not None:
        asked = setting.capability.upper()
        assert took["capability"] == asked or WIDTHS.index(took["capability"]) < WIDTHS.index(asked)
    wrong = {
        name: next(step for step, pair in enumerate(zip(digests, found, strict=True)) if pair[0] != pair[1])
        for name, digests in golden.expected().items()
        if digests != (found := answer["digests"][name])
    }
    assert not wrong, f"first digest that differs, 0 before the first step: {wrong}"


@pytest.mark.parametrize("setting", QUICK, ids=str)
@pytest.mark.timeout(600)
def test_quick_subset(setting: Setting) -> None:
    compare(setting, 580)


@pytest.mark.matrix
@pytest.mark.parametrize("setting", [*FULL, *LIBRARIES], ids=str)
@pytest.mark.timeout(900)
def test_full_matrix(setting: Setting) -> None:
    compare(setting, 880)


def _libraries(setting: Setting) -> str:
    """Return what the libraries say about themselves under the setting."""
    environment = setting.environment() | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        (Setting(1, "eager", onednn="SSE41"), "isa:Intel SSE4.1"),
        (Setting(1, "eager", onednn="AVX2"), "isa:Intel AVX2\n"),
        (Setting(1, "eager", mkl="COMPATIBLE"), "CNR:COMPATIBLE"),
        (Setting(1, "eager"), "CNR:OFF"),
        (Setting(1, "eager", capability="default"), "capability DEFAULT"),
        (Setting(1, "eager", openblas="Sandybridge"), "openblas ['Sandybridge']"),
    ],
    ids=str,
)
def test_a_setting_takes_effect(setting: Setting, shown: str) -> None:
    """A guard of the matrix: a variable that a library ignores would agree with everything."""
    assert shown in _libraries(setting)


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_capability_takes_effect(capability: str) -> None:
    widest = WIDTHS.index(_libraries(Setting(1, "eager")).split("capability ")[1].split()[0])
    if WIDTHS.index(capability.upper()) > widest:
        pytest.skip(f"this processor has no {capability}: the matrix cannot try it here")
    assert f"capability {capability.upper()}" in _libraries(Setting(1, "eager", capability=capability))


def test_golden_digests_change_with_every_step_and_run() -> None:
    """Another guard: digests that never change would agree everywhere too."""
    for name, digests in golden.expected().items():
        assert len(digests) == golden.STEPS + 3, name
        assert len(set(digests)) == len(digests), name
    last = {digests[golden.STEPS] for digests in golden.expected().values()}
    assert len(last) == len(list(golden.FOLDER.glob("*.xz"))), (
        "a golden file without digests, or two equal runs"
    )
