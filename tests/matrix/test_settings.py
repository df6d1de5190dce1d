"""Guards of the matrix: each variable reaches its library. One that a library ignores would agree with everything."""

import subprocess

import pytest

from tests.matrix.settings import WIDTHS, Setting
from trainer.children import python

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
    assert shown in _libraries(setting)


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_capability_takes_effect(capability: str) -> None:
    widest = WIDTHS.index(_libraries(Setting(1, "eager")).split("capability ")[1].split()[0])
    if WIDTHS.index(capability.upper()) > widest:
        pytest.skip(f"this processor has no {capability}: the matrix cannot try it here")
    assert f"capability {capability.upper()}" in _libraries(Setting(1, "eager", capability=capability))
