"""The demo's job: its audit rate misses a cheat with the promised chance at most, whatever the sizes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.commands import on_hosts
from trainer.commands.demo import MISSED_CHANCE, WAITED_FOR, DemoSettings, audit_rate, demo_job, run_demo
from trainer.runs.job import parse_job
from verification.adversaries.playbook import PLAYS
from verification.errors import UserError


def settings(
    rounds: int = 12,
    workers: int = 4,
    verifiers: int = 2,
    text: Path | None = None,
    cheat: str = "skip-steps",
) -> DemoSettings:
    """Return what a user may choose."""
    return DemoSettings(Path("runs/demo"), cheat, rounds, workers, verifiers, 0, text)


@given(rounds=st.integers(1, 1000), verifiers=st.integers(1, 16))
def test_a_cheat_is_missed_with_the_promised_chance_at_most(rounds: int, verifiers: int) -> None:
    rate = audit_rate(rounds, verifiers)
    assert 0 < rate <= 1
    assert (1 - rate) ** (verifiers * rounds) <= MISSED_CHANCE


@given(rounds=st.integers(1, 999), verifiers=st.integers(1, 16))
def test_the_rate_is_not_much_higher_than_needed(rounds: int, verifiers: int) -> None:
    needed = 1 - MISSED_CHANCE ** (1 / (verifiers * rounds))
    assert needed <= audit_rate(rounds, verifiers) <= needed + 0.002


@given(rounds=st.integers(1, 1000), workers=st.integers(1, 64), verifiers=st.integers(1, 16))
def test_every_choice_gives_a_job_that_parses(rounds: int, workers: int, verifiers: int) -> None:
    text, job = demo_job(settings(rounds, workers, verifiers))
    assert parse_job(text, "again") == job
    assert (job.training.rounds, job.swarm.workers, job.swarm.verifiers) == (rounds, workers, verifiers)
    assert job.accounts.peers == workers + verifiers
    assert job.swarm.audit_rate == pytest.approx(audit_rate(max(1, rounds - 4), verifiers))


def test_the_cheat_decides_who_cheats_how_often_it_can_be_caught_and_how_long_the_law_waits() -> None:
    usual, once, lazy = (settings(cheat=cheat) for cheat in ("skip-steps", "backdoor", "skip-duties"))
    assert [s.cheat_number for s in (usual, once, lazy, settings(cheat="none"))] == [3, 3, 5, None]
    assert [s.cheated_rounds for s in (usual, once, lazy)] == [8, 1, 8]
    mute = settings(cheat="noise,withhold-opening")
    patient, hasty = (demo_job(s)[1].windows.silence for s in (lazy, mute))
    assert hasty < patient / 10
    assert PLAYS.keys() >= WAITED_FOR


@pytest.mark.parametrize(
    "name", ["plain.txt", "with space.txt", "quo'te.txt", 'double"quote.txt', "back\\slash.txt"]
)
def test_a_text_of_any_name_is_found_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _, job = demo_job(settings(text=path))
    assert job.data.text is not None
    assert Path(job.data.text) == path.resolve()
    assert job.data.builtin is None


def test_a_demo_replaces_a_demo_and_nothing_else(tmp_path: Path) -> None:
    keepsake = tmp_path / "keepsake.txt"
    keepsake.write_text("mine")
    with pytest.raises(UserError, match="holds something else than a demo"):
        run_demo(DemoSettings(tmp_path, "none", 5, 1, 1, 0, None))
    assert keepsake.read_text() == "mine"


def test_a_cheat_needs_rounds_to_cheat_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take --rounds 5 or more"):
        run_demo(DemoSettings(tmp_path, "noise", 4, 1, 1, 0, None))


def test_a_verifier_that_cheats_needs_another_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take --verifiers 2 or more"):
        run_demo(DemoSettings(tmp_path, "skip-duties", 12, 1, 1, 0, None))


@pytest.mark.parametrize(
    ("obstacle", "changes", "mend"),
    [
        ("only root may", {}, "--hosts: only root may"),
        ("", {"workers": 3}, "take --workers 4 or more"),
        ("", {"workers": 2, "cheat": "none"}, "take --workers 3 or more"),
        ("", {"rounds": 5}, "take --rounds 6 or more"),
    ],
)
def test_hosts_need_what_they_show(
    monkeypatch: pytest.MonkeyPatch, obstacle: str, changes: dict[str, Any], mend: str
) -> None:
    monkeypatch.setattr(on_hosts, "obstacle", lambda: obstacle)
    with pytest.raises(UserError, match=mend):
        on_hosts.run_on_hosts(settings(**changes))


def test_a_run_does_not_wait_for_who_comes_late() -> None:
    waits = demo_job(settings(workers=4))[1].swarm
    begins = demo_job(dataclasses.replace(settings(workers=4), late=1))[1].swarm
    assert (waits.min_workers, begins.min_workers, begins.workers) == (4, 3, 4)


def test_guests_have_seats_and_accounts_and_are_not_waited_for() -> None:
    _, job = demo_job(dataclasses.replace(settings(workers=4, verifiers=2), guests=3))
    assert (job.swarm.min_workers, job.swarm.workers, job.accounts.peers) == (4, 7, 9)
    assert job.windows.silence < demo_job(settings())[1].windows.silence  # a guest may leave without a word
