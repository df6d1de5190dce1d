"""`bench audit`: what its figures are made of, and the smallest real measurement."""

from pathlib import Path

import pytest

from benchmarks.auditing import Measured, measure, table
from benchmarks.opponents.plan import Plan
from trainer.commands.console import Console
from verification.honest.selfcheck import RAREST

PLAN = Plan("d64", 2, 1, 16, 4, 2, 1.0, 60.0, leaf_every=2)


def test_the_cost_is_of_round_checks_and_audits() -> None:
    """A check takes as long as eight steps, so in one round of `RAREST` a step is made twice."""
    row = Measured([1.1, 1.2, 1.3], [1.0, 1.0, 1.0], 2.0).row(PLAN, 0.05)
    assert row["leaves"] == 0.2
    assert row["checks"] == pytest.approx(2 / RAREST, rel=0.05)
    assert row["verification_cost"] == pytest.approx((1.2 + row["checks"]) * 1.05, abs=1e-3)
    assert row["audits"] == pytest.approx((1.2 + row["checks"]) * 0.05, abs=1e-3)
    assert len(table(row).rows) == 1


@pytest.mark.slow
def test_rounds_are_measured_with_proof_and_without(tmp_path: Path) -> None:
    found = measure(PLAN.start("ours", tmp_path / "run").folder, PLAN, 2, 1, Console())
    assert len(found.proven) == len(found.bare) == 2
    assert min(found.proven + found.bare) > 0
