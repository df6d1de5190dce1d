"""Guards of the matrix: each variable reaches its library. One that a library ignores would agree with everything.

So a guard fails where this processor could follow the setting; where it could not, the guard skips and says so.
"""

import subprocess

import pytest

from tests.matrix import settings
from tests.matrix.settings import Setting
from trainer.lifetimes import python

pytestmark = pytest.mark.slow

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


def _libraries(setting: Setting) -> str:
    """Return what the libraries say about themselves under the setting."""
    environment = setting.environment() | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    command = python("-c", PROBE)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


GUARDS = [
    (
        Setting(1, "eager", "default", "SSE41", "COMPATIBLE", "Sandybridge"),
        ("capability DEFAULT", "isa:Intel SSE4.1\n", "CNR:COMPATIBLE", "openblas ['Sandybridge']"),
    ),
    (
        Setting(1, "eager", "avx2", "AVX2", None, "Haswell"),
        ("capability AVX2\n", "isa:Intel AVX2\n", "CNR:OFF", "openblas ['Haswell']"),
    ),
    (
        Setting(1, "eager", "avx512", "AVX512_CORE"),
        ("capability AVX512\n", "isa:Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ"),
    ),
]
"""Settings, and what the libraries say of each variable; those of one setting need the same processor, nearly."""


@pytest.mark.parametrize(("setting", "shown"), GUARDS, ids=[str(setting) for setting, _ in GUARDS])
def test_a_setting_takes_effect(setting: Setting, shown: tuple[str, ...]) -> None:
    if lacking := setting.lacking():
        pytest.skip(f"this processor has no {lacking}: the matrix cannot try it here")
    said = _libraries(setting)
    assert [words for words in shown if words not in said] == []


def test_a_guard_needs_what_the_setting_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard of the guards: none skips on a processor that can do everything."""
    lacking = {"nothing"}
    monkeypatch.setattr(settings, "processor_has", lambda feature: feature not in lacking)
    assert not any(setting.lacking() for setting, _ in GUARDS)
    lacking.add("avx512bw")
    assert Setting(1, "eager", "avx512", "AVX2").lacking() == "avx512bw"
    assert not Setting(1, "eager", "avx2", "AVX2").lacking()
