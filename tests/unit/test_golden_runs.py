"""The golden runs are what this tree traces: a change of an operator, a model or a lowering makes them anew."""

from dataclasses import replace

import pytest
import torch

from benchmarks import golden
from tests.make_golden import RUNS, make
from trainer.programs.conversion import to_torch
from verification.program import Program

pytestmark = pytest.mark.slow

ROLES = ("prologue", "inner", "epilogue", "outer")
MEND = "run `python -m tests.make_golden` and check in what it writes"


def test_every_model_of_the_zoo_has_a_golden_run() -> None:
    assert golden.names() == list(RUNS), MEND


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_is_what_this_tree_traces(name: str) -> None:
    """All but the constants must be equal: those are computed by the tracing machine, and differ in their last bits."""
    kept, made = golden.read(name), make(name)
    assert kept.data == made.data, MEND
    for role in ROLES:
        old: Program = getattr(kept, role)
        new: Program = getattr(made, role)
        assert replace(old, constants=()) == replace(new, constants=()), f"{role}: {MEND}"
        for before, after in zip(old.constants, new.constants, strict=True):
            assert (before.dtype, before.shape) == (after.dtype, after.shape), f"{role}: {MEND}"
            torch.testing.assert_close(to_torch(before), to_torch(after), rtol=1e-6, atol=1e-6)
