"""`bench size` end to end on a toy: all parts but the newcomer, in real processes and over real sockets."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.status import Status

from benchmarks import size
from benchmarks.costs import Plan, fetching, stepping
from benchmarks.processes import alone, beside
from benchmarks.trainers import MODELS
from tests.tiny import make_run
from trainer.runs.create import Created
from verification.errors import Unavailable, UserError

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_toy_has_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer needs a laboratory of hosts; `bench join` has it."""
    monkeypatch.setattr(size, "PEERS", 1 << 40)
    screen = Console(file=io.StringIO())
    recipe = replace(MODELS["gpt2-0.1"], batch=2, length=16)
    row = size.measure(
        Plan("gpt2-0.1", recipe, 1, 2), size.Progress(screen, Status("", console=screen), "0.1")
    )
    assert list(row["left_out"]) == ["join"] and "needs some" in row["left_out"]["join"]
    assert (row["batch"], row["length"], row["parameters"]) == (2, 16, size.parameters_of(recipe))
    assert len(row["seconds"]) == len(row["native_seconds"]) == len(row["round_seconds"]) == 2
    assert row["loss"] == pytest.approx(row["native_loss"], rel=0.05)
    assert row["state_bytes"] > 8 * row["parameters"]
    assert row["state_bytes"] < row["fetch_received_bytes"] < 1.2 * row["state_bytes"] + 50_000
    assert row["dispute_named"]
    assert size.summarise([row])["parameters"] == row["parameters"]
    dashes = [line for line, tell in size.LINES.items() if size._told(row, tell) == "-"]
    assert dashes == ["member after, s", "first commitment after, s", "received by then, GB"]


def test_sizes_that_do_not_fit_together_take_turns(tiny_run: Created) -> None:
    plan = Plan("gpt2-0.1", replace(MODELS["gpt2-0.1"], length=16), 1, 2)
    row = stepping(plan, tiny_run.folder.path, together=False)
    assert len(row["seconds"]) == len(row["native_seconds"]) == 2


def test_a_process_that_is_ended_is_one_line() -> None:
    with pytest.raises(UserError, match=r"_exit: the system ended the process; is memory short\?"):
        alone(os._exit, 3)
    with pytest.raises(UserError, match="its process ended before it said anything"), beside(os.close):
        pass


def test_a_run_whose_blobs_are_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    """It is not in a group, as nurseries raise it."""
    run, plan = make_run(tmp_path), Plan("gpt2-0.1", MODELS["gpt2-0.1"], 1, 1)
    for blob in run.folder.blobs.rglob("*"):
        if blob.is_file():
            blob.unlink()
    with pytest.raises(Unavailable):
        fetching(plan, run.folder.path)
