"""`proofswarm models`: families that crash or hang do not end the sweep, and outcomes are kept as they come."""

import json
import os
import signal
from pathlib import Path

import pytest

from trainer.commands.models import run_models, tried
from trainer.runs.architectures import Outcome
from verification.errors import UserError

PATIENCE = 600.0


def attempt(name: str) -> Outcome:
    """Do what the name says: end the process, wait forever, or answer."""
    if name == "ends":
        os._exit(1)
    if name == "hangs":
        signal.pause()
    return Outcome(name, True, 0.0, 0.0)


def test_a_family_that_ends_its_process_does_not_end_the_sweep() -> None:
    told: list[str] = []
    ended, answered = tried(["ends", "answers"], PATIENCE, told.append, attempt)
    assert told == ["ends", "answers"]
    assert (ended.exact, answered.exact) == (False, True)
    assert ended.reason == "its process ended without an answer"


def test_a_family_that_hangs_has_a_limit() -> None:
    (hung,) = tried(["hangs"], 0.2, lambda name: None, attempt)
    assert hung == Outcome("hangs", False, reason="no answer within 0.2 s")


@pytest.mark.slow
def test_outcomes_are_kept_and_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "models.json"
    assert run_models(["gpt2"], kept, PATIENCE) == run_models(["dbrx"], kept, PATIENCE) == 0
    found = json.loads(kept.read_text())
    assert [(row["name"], row["exact"]) for row in found["causal_lm"]] == [("dbrx", False), ("gpt2", True)]
    assert found["causal_lm_exact"] == 1
    assert found["causal_lm"][1]["gradient_error"] < found["tolerance"]
    assert "0 of 1 causal language models tried train exactly" in capsys.readouterr().out


def test_an_unknown_name_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no causal language model 'lama'"):
        run_models(["lama"], None, PATIENCE)
    strange = tmp_path / "models.json"
    strange.write_text("[]")
    with pytest.raises(UserError, match="name another file"):
        run_models(["gpt2"], strange, PATIENCE)
    assert strange.read_text() == "[]"
    with pytest.raises(UserError, match="no folder"):
        run_models(["gpt2"], tmp_path / "nowhere" / "models.json", PATIENCE)
