"""`bench join`: every model makes a job, and the summary is made of the rows as it says."""

from pathlib import Path

import pytest

from benchmarks import join
from benchmarks.trainers import MODELS
from trainer.commands.demo import DemoSettings, demo_job
from verification.errors import UserError


@pytest.mark.parametrize("model", ["demo", *MODELS])
def test_every_model_makes_a_job_that_begins_without_the_newcomers(model: str) -> None:
    settings = DemoSettings(
        Path("runs/join"), "none", join.ROUNDS, 4, 1, 0, None, late=3, model=join.config_of(model)
    )
    _, job = demo_job(settings)
    assert (job.swarm.workers, job.swarm.min_workers, job.accounts.peers) == (4, 1, 5)
    width = 192 if model == "demo" else MODELS[model].hidden
    config = job.model.config
    assert config["n_embd" if config["model_type"] == "gpt2" else "hidden_size"] == width


def test_the_summary_is_of_medians_and_says_what_the_link_alone_would_take() -> None:
    rows = [
        {
            "mbit": 8.0, "joined_seconds": seconds, "joined_received": 100, "committed_seconds": 2 * seconds,
            "committed_received": received, "committed_sent": 7,
        }
        for seconds, received in ((1.0, 1_000_000), (3.0, 2_000_000), (2.0, 9_000_000))
    ]  # fmt: skip
    summary = join._summary(rows, 123)
    assert summary == {
        "newcomers": 3, "published_bytes": 123, "joined_seconds": 2.0, "joined_received_bytes": 100,
        "committed_seconds": 4.0, "committed_received_bytes": 2_000_000, "committed_sent_bytes": 7,
        "link_seconds": 2.0,
    }  # fmt: skip


def test_where_there_are_no_hosts_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "obstacle", lambda: "only root may")
    with pytest.raises(UserError, match="bench join: only root may"):
        join.run("demo", 100, 1, None)
