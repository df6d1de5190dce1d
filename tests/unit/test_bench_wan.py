"""`bench wan`: reports, courses, predictions, rows and summary, all of which are pure; and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import links, wan, wan_plot, wan_rows
from benchmarks.opponents import environments, ours, plan
from benchmarks.opponents.course import Course, Report, Step, Sync, Trained, course_of
from benchmarks.opponents.plan import Plan
from benchmarks.opponents.task import Task
from benchmarks.prediction import FORMULAS, PAYLOAD, Setting, ring, seconds_per_step
from benchmarks.wan_rows import Measured, rows_of, summarise
from trainer.lifetimes import python
from trainer.runs.job import parse_job
from verification.errors import UserError

SETTING = Setting(2, 10.0, 0.5, 30, 1_000_000, 4_000_000, 1)
PLAN = Plan("d64", 2, 4, 32, 5, 3, 0.0, 60.0)


def course(begun: float, each: float, steps: int, alone: float = 0.5) -> Course:
    """Return a course of steps that take `each` second and are synced at once."""
    made = tuple(Step(begun + each * (n + 1), alone, 5.0 - 0.1 * n) for n in range(steps))
    synced = tuple(Sync(step.at, n + 1, 900 + 100 * n, 800 + 50 * n) for n, step in enumerate(made))
    return Course(Sync(begun, 0, 800, 750), made, synced, alone)


def trained(each: float, steps: int = 10, wanted: int = 10) -> Trained:
    """Return a training of two peers of which one begins later."""
    courses = (course(100.0, each, steps), course(100.5, each, steps))
    return Trained(courses, 0.5, False, 128, wanted, steps >= wanted)


def measured(opponent: str, mbit: float, figures: Trained | None, **changes: Any) -> Measured:
    """Return one opponent's part of a bench."""
    whole = figures is not None and figures.is_whole
    made = Measured(PLAN.described, opponent, mbit, 0.957 * mbit, 300.0, figures, whole, "", 4.5, 0)
    return replace(made, **changes)


def test_a_report_is_read_as_it_grows_and_a_line_that_is_not_whole_waits(tmp_path: Path) -> None:
    report = Report(tmp_path / "report")
    assert report.lines() == []
    lines = [
        {"kind": "ready", "at": 1.0, "seconds": 0.25},
        {"kind": "begun", "at": 2.0, "sent": 10, "received": 20},
        {"kind": "step", "at": 3.0, "seconds": 0.5, "loss": 4.0},
        {"kind": "sync", "at": 3.5, "steps": 1, "sent": 30, "received": 40},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "report").write_text(text[:-5])
    assert report.lines() == lines[:3] and course_of(report.lines()[:1]) is None
    (tmp_path / "report").write_text(text)
    assert course_of(report.lines()) == Course(
        Sync(2.0, 0, 10, 20), (Step(3.0, 0.5, 4.0),), (Sync(3.5, 1, 30, 40),), 0.25
    )


def test_figures_are_of_what_was_synced_from_the_first_beginning_to_the_last_sync() -> None:
    made = trained(2.0)
    assert made.last == (20.5, 20)
    assert made.rate == pytest.approx(20 * 128 / 20.5)
    assert made.utilisation == pytest.approx(10 * 0.5 / 20.5)
    assert (made.sent, made.received) == (2_000, 1_000)
    assert made.bytes_per_token == pytest.approx(3_000 / (20 * 128))


def test_steps_beyond_those_that_are_wanted_do_not_count() -> None:
    made = trained(2.0, steps=12)
    assert made.last == (20.5, 20)
    assert made.loss_after() == pytest.approx(4.1)


def test_what_no_sync_followed_does_not_count() -> None:
    lone = Course(Sync(0.0, 0, 5, 5), (Step(1.0, 0.5, 5.0),), (), 0.5)
    made = Trained((lone, lone), 0.5, False, 128, 10, False)
    assert (made.last, made.rate, made.utilisation, made.bytes_per_token) == ((0.0, 0), 0.0, 0.0, None)


def test_losses_are_those_of_the_last_tenth_by_then() -> None:
    made = trained(2.0)
    assert made.loss_after() == pytest.approx(5.0 - 0.9)
    assert made.loss_after(10.0) == pytest.approx((4.6 + 4.7) / 2)
    assert made.loss_after(1.0) is None


def test_steps_that_ran_longer_than_stated_are_told() -> None:
    quick, slow = course(0.0, 1.0, 4, alone=0.0), course(0.0, 1.0, 4, alone=2.0)
    quick = replace(quick, steps=(Step(1.0, 1.5, 1.0), Step(2.0, 0.5, 1.0), Step(3.0, 0.0, 1.0)))
    made = Trained((quick, slow), 1.0, True, 1, 4, True)
    assert made.overrun == pytest.approx(2 / 3)
    assert replace(made, is_stated=False).overrun == 0.0


def test_an_opponent_of_messages_alone_is_as_quick_as_its_link() -> None:
    second = SETTING.mbit * PAYLOAD * 1e6 / 8
    assert SETTING.seconds(second) == pytest.approx(1.0)
    assert ring(2, 100.0) == 100.0 and ring(4, 100.0) == 150.0
    assert seconds_per_step("ddp", SETTING) == pytest.approx(4_000_000 / second)
    assert seconds_per_step("ddp", replace(SETTING, mbit=1e6)) == 0.5
    assert seconds_per_step("torchft", SETTING) == pytest.approx(0.5 + 4_000_000 / second / 30)
    assert seconds_per_step("hivemind", SETTING) == pytest.approx(0.5 + 4_000_000 / second)
    assert seconds_per_step("ours", SETTING) == pytest.approx(0.5 + 8_000_000 / second / 30)
    assert seconds_per_step("ours-overlap", SETTING) == 0.5
    slow = replace(SETTING, mbit=SETTING.mbit / 100)
    assert seconds_per_step("ours-overlap", slow) == pytest.approx(8_000_000 / second * 100 / 30)
    with pytest.raises(KeyError):
        seconds_per_step("nobody", SETTING)


@given(st.sampled_from(sorted(FORMULAS)), st.floats(0.1, 1e4), st.floats(1.01, 100))
def test_a_quicker_link_makes_nobody_slower(formula: str, mbit: float, times: float) -> None:
    slow, quick = (replace(SETTING, mbit=speed) for speed in (mbit, mbit * times))
    assert seconds_per_step(formula, quick) <= seconds_per_step(formula, slow)
    assert seconds_per_step(formula, quick) >= SETTING.step_seconds


def test_rows_compare_losses_when_the_quickest_on_that_link_was_done() -> None:
    rows = rows_of(
        [
            measured("ours", 10, trained(1.0)),
            measured("ddp", 10, trained(2.0)),
            measured("ddp", 100, trained(4.0, steps=4)),
        ]
    )
    assert [row["equal_time"] for row in rows] == [10.5, 10.5, None]
    assert rows[1]["loss_equal_time"] > rows[1]["loss_equal_tokens"]
    assert rows[2]["loss_equal_tokens"] is None and rows[2]["tokens"] == 8 * 128
    assert rows[0]["mbit"] == 10 and rows[0]["local_steps"] == PLAN.local_steps


def test_the_summary_has_its_keys_whatever_was_measured() -> None:
    keys = [
        "choice", "utilisation_100mbit", "utilisation_50mbit", "utilisation_10mbit", "speedup_ddp_10mbit",
        "speedup_hivemind_10mbit", "speedup_torchft_10mbit", "bytes_per_token",
    ]  # fmt: skip
    assert summarise([]) == dict.fromkeys(keys)
    rows = rows_of(
        [
            measured("ours", 10, trained(2.0)),
            measured("ours-top-k", 10, trained(1.0)),
            measured("ours", 100, trained(0.1)),
            measured("ours-top-k", 100, trained(0.5)),
            measured("ddp", 10, trained(8.0)),
            measured("hivemind", 10, None, failure="peer 0: no memory"),
        ]
    )
    found = summarise(rows)
    assert found["speedup_ddp_10mbit"] == round(80.5 / 10.5, 2)
    assert found["choice"] == "ours-top-k" and found["speedup_hivemind_10mbit"] is None
    assert found["utilisation_10mbit"] == round(5 / 10.5, 4) and found["utilisation_50mbit"] is None
    assert found["bytes_per_token"] == round(3_000 / (20 * 128), 1)


def test_the_table_says_what_a_reader_must_know() -> None:
    stopped = measured("ddp", 10, trained(8.0, steps=2))
    failed = measured("torchft", 10, None, failure="peer 1: RuntimeError: no quorum", predicted=None)
    lost = measured("ours", 10, trained(1.0, steps=8), left_out=2, is_whole=True)
    rows = rows_of([stopped, failed, lost])
    assert [wan_rows.remark(row) for row in rows] == [
        "stopped after 60 s", "peer 1: RuntimeError: no quorum",
        "2048 of 2560 tokens; 2 contributions did not count",
    ]  # fmt: skip
    assert wan_rows.line_of(rows[1]) == "torchft, 10 Mbit/s: no tokens: peer 1: RuntimeError: no quorum"
    assert wan_rows.cells(rows[1])[2] == "-"
    assert "a core each" in wan_rows.caption(rows)
    stated = [{**row, "step_seconds": 2.0, "overrun": 0.25} for row in rows[:1]]
    assert "emulated" in wan_rows.caption(stated) and "until 2 s have passed" in wan_rows.caption(stated)
    assert "25% of steps ran longer than stated" in wan_rows.remark(stated[0])


@pytest.mark.parametrize("name", ["wan.svg", "wan.png"])
def test_the_same_rows_draw_the_same_file(tmp_path: Path, name: str) -> None:
    rows = rows_of([measured(who, mbit, trained(1.0)) for who in wan.OPPONENTS for mbit in (10, 100)])
    rows += rows_of([measured("ddp", 1000, None, failure="it failed")])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        wan_plot.draw(rows, tmp_path / folder / name)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_links_are_kept_within_what_headers_take() -> None:
    assert links.is_kept(9.57, 10) and links.is_kept(957, 1000)
    assert not links.is_kept(0.0, 10) and not links.is_kept(8, 10) and not links.is_kept(10.5, 10)


def test_more_peers_than_cores_need_a_stated_step() -> None:
    many = replace(PLAN, peers=4096)
    with pytest.raises(UserError, match=r"4096 peers cannot have a core each of .*--step-seconds"):
        many.require_cores()
    stated = replace(many, step_seconds=1.0)
    stated.require_cores()
    assert stated.cores == ()


@pytest.mark.parametrize("variant", sorted(ours.VARIANTS))
def test_every_variant_of_ours_is_a_job(variant: str) -> None:
    settings = {
        **PLAN.described, "config": plan.MODELS["d64"].config, "seed": 1, "learning_rate": 1e-3, "warmup": 3,
        "audit_rate": 0.05,
    }  # fmt: skip
    job = parse_job(ours.job_text(settings, variant), "a job")
    assert (job.training.rounds, job.training.max_steps, job.training.batch) == (3, 5, 4)
    assert job.training.leaf_every == job.training.max_steps
    assert (job.swarm.workers, job.swarm.min_workers, job.swarm.verifiers) == (2, 2, 1)
    assert job.data.length == 32


def test_a_round_that_was_made_twice_has_the_steps_of_the_last_time() -> None:
    step, told = {"kind": "step"}, [{"kind": "round", "number": number} for number in (0, 1, 1)]
    assert ours.steps_by_round([told[0], step, step, told[1], step, told[2], step, step]) == {0: 2, 1: 2}


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    task = Task(2, 5, 3, 4, 1e-3, 10, 0.7, 0.6, 0.0, ("10.1.0.1", "10.1.0.2"), "10.1.0.3", "/tmp", (0, 1))
    task.write(tmp_path / "task")
    assert Task.read(tmp_path / "task") == task and task.steps == 15


def test_pins_keep_the_torch_that_is_here() -> None:
    lines = environments.pins(environments.PACKAGES["hivemind"]).split()
    assert "hivemind==1.1.12" in lines and f"torch=={torch.__version__}" in lines
    assert environments.python_of("ddp") == python()[0]
