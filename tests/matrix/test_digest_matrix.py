"""The same training, bit for bit, under every thread count, vector width and library mode, eager and compiled.

Every run is compared with the golden digests, after every fifth of 20 steps. `make test` runs a few settings that
differ in everything; `make test-matrix` all of them. What a processor lacks cannot be tried on it: without AVX-512 the
settings that ask for it take the best there is, and a test in test_settings skips with that reason. What it has must
be taken.
"""

import pytest

from benchmarks import golden
from tests.matrix.settings import FULL, LIBRARIES, QUICK, Setting, run
from trainer.exact import native
from trainer.exact.backends import BACKENDS
from trainer.exact.choice import LACKING

pytestmark = pytest.mark.slow

EVERY = 5
"""Steps from one digest to the next: a bit that differs once differs for good."""


def compare(setting: Setting, timeout: float) -> None:
    """Train every golden run under the setting and compare all digests."""
    answer = run(setting, golden.names(), golden.STEPS, EVERY, timeout)
    took = answer["took"]
    if took["refused"]:
        _require_excuse(str(setting.product), took["refused"])
        pytest.skip(f"this machine certifies no {setting.product}: {took['refused']}")
    assert answer["loaded"] == [], "an auditor needs no tracer"
    assert took["threads"] == setting.threads
    # Where the processor cannot follow, torch says the width that was asked for or a smaller one.
    if setting.capability is not None and not Setting(1, "eager", setting.capability).lacking():
        assert took["capability"] == setting.capability.upper()
    wrong = {}
    for name, digests in golden.expected().items():
        expected = [*digests[: golden.STEPS + 1 : EVERY], *digests[golden.STEPS + 1 :]]
        pairs = zip(expected, answer["digests"][name], strict=True)
        differing = [EVERY * place for place, (right, found) in enumerate(pairs) if right != found]
        wrong |= {name: differing[0]} if differing else {}
    assert not wrong, f"steps after which a digest differs: {wrong}"


def _require_excuse(product: str, refused: str) -> None:
    """Fail where a compiled product is refused though this processor and a compiler could make it."""
    is_compiled = BACKENDS[product].rounded is not None
    assert not is_compiled or LACKING in refused or native.compiler() is None, refused


@pytest.mark.parametrize("setting", QUICK, ids=str)
def test_quick_subset(setting: Setting) -> None:
    compare(setting, 580)


@pytest.mark.matrix
@pytest.mark.parametrize("setting", [*FULL, *LIBRARIES], ids=str)
@pytest.mark.timeout(900)
def test_full_matrix(setting: Setting) -> None:
    compare(setting, 880)


def test_golden_digests_change_with_every_step_and_run() -> None:
    """Another guard: digests that never change would agree everywhere too."""
    for name, digests in golden.expected().items():
        assert len(digests) == golden.STEPS + 3, name
        assert len(set(digests)) == len(digests), name
    last = {digests[golden.STEPS] for digests in golden.expected().values()}
    assert len(last) == len(list(golden.FOLDER.glob("*.xz"))), (
        "a golden file without digests, or two equal runs"
    )
