"""`bench crews` without processes: a member's rounds, rows by link, what needs a whole worker, the pace."""

import json
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.crew_pace import Pace
from benchmarks.crew_play import Told
from benchmarks.crew_rows import Work, judged, opened_at, rows_of, spells_of, summarise, table
from benchmarks.crews import Plan, caption_of
from trainer.rounds.engine import Job
from trainer.runs.job import parse_job
from verification.digest import ZERO
from verification.units import Address, Round

WORK = Work(100, 1000, 4)
PLAN = Plan("d64", 4, 16, 8, 4, 2, 500.0, 60.0, (1, 2, 4), (1000.0, 100.0))


def report(number: int, steps: int, began: float) -> list[dict[str, Any]]:
    """A round of a compute process, a second a step, of which it computed a half."""
    marks = [
        {"kind": "step", "at": began + step, "stated": step / 2, "really": step / 4, "peak": 1000 + step}
        for step in range(steps + 1)
    ]
    begun = {"kind": "round", "at": began - 1, "number": number, "steps": steps}
    return [begun, *marks, {"kind": "ended", "at": began + steps + 0.5}]


def events(number: int, steps: int, began: float) -> list[dict[str, Any]]:
    """What its node told of the round: it began at a state, and committed a second after the last step."""
    ended = began + steps
    computed = {"own": True, "round": number, "waited": 500 * steps, "sent": 700}
    return [
        {"kind": "state", "round": number, "at": began - 2},
        {"kind": "computed", "at": ended + 0.75, **computed},
        {"kind": "said", "statement": "Commit", "at": ended + 1},
    ]


ROUNDS = ((0, 1, 10.0), (1, 2, 20.0), (2, 2, 30.0), (3, 2, 40.0))
END = {"kind": "ended", "round": 4, "at": 50.0}


def told(members: int) -> Told:
    """Four rounds of some members alike, the first of one step and the others of two."""
    one = [line for each in ROUNDS for line in report(*each)]
    own = [*(event for each in ROUNDS for event in events(*each)), END]
    sent = {number: 1000 * number for number in range(5)}
    return Told((tuple(own),) * members, (tuple(one),) * members, (sent,) * members)


def test_a_members_rounds_are_those_that_it_committed_to() -> None:
    whole = report(0, 2, 10.0)
    assert list(spells_of(whole, events(0, 2, 10.0))) == [0]
    assert spells_of(whole[:-1], events(0, 2, 10.0)) == {}
    assert spells_of(whole, events(0, 2, 10.0)[:2]) == {}
    steps, spell = spells_of(whole, events(0, 2, 10.0))[0]
    assert (steps, spell.began, spell.stepped, spell.ended) == (2, 10.0, 12.0, 12.5)
    assert (spell.agreed, spell.committed, spell.waited, spell.sent, spell.peak) == (
        12.75,
        13.0,
        1.0,
        700,
        1002,
    )


def test_a_row_is_of_the_rounds_over_one_link_with_all_steps() -> None:
    found = rows_of(told(2), (None, None, 100.0, None), 500.0, WORK)
    assert [(row["mbit"], row["rounds"], row["steps"]) for row in found] == [(None, 2, 2), (100.0, 1, 2)]
    slow = found[1]
    assert slow["tokens_a_second"] == 100.0 and slow["round_seconds"] == 10.0
    assert slow["round_tokens_a_second"] == 20.0 and slow["stepping_share"] == 0.2
    assert (slow["receipts_share"], slow["commitments_share"]) == (0.025, 0.025)
    assert (slow["waited"], slow["really_busy"]) == (0.5, 0.25)
    assert slow["crossing_bytes_per_token"] == 7 and slow["moved_bytes_per_token"] == 10
    assert slow["peaks"] == [1002, 1002] and slow["schedule"] == 0.8
    assert opened_at([[END]]) == {4: 50.0}


def test_rows_are_judged_by_a_whole_worker_a_pace_and_the_crew_without_limits() -> None:
    rows = [
        *rows_of(told(1), (None,) * 4, 0.0, WORK),
        *rows_of(told(2), (None, None, 100.0, None), 0.0, WORK),
        *rows_of(told(4), (None, None, 100.0, None), 500.0, WORK),
    ]
    found = judged(rows, WORK)
    assert [row["efficiency"] for row in found] == [1.0, 0.5, 0.5, 0.5, 0.5]
    assert [row["kept"] for row in found] == [1.0] * 5
    assert found[1]["peaks_over_whole"] == [1.0, 1.0]
    summary = summarise(found)
    assert summary["efficiency_2_members_real"] == 0.5 and summary["efficiency_4_members"] == 0.5
    assert summary["kept_100mbit_4_members"] == 1.0
    console = Console(file=StringIO(), width=220)
    console.print(table(found, caption_of(PLAN)))
    assert "a core each" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_whole_worker_real_crews_have_no_efficiency() -> None:
    (row,) = judged(rows_of(told(2), (None,) * 4, 0.0, WORK), WORK)
    assert row["efficiency"] is None and row["peaks_over_whole"] == [None, None]


def test_links_take_turns_once_shares_have_grown() -> None:
    assert PLAN.rounds_by_link == (None, None, None, 1000.0, 100.0, None, 1000.0, 100.0)
    alone, pair, four = PLAN.casts([2, 4])
    assert alone.links == (None,) * 4 and alone.speed == 0.0
    assert (pair.cut, four.cut, four.speed, four.cores) == (0, 1, 500.0, ())
    job = parse_job(PLAN.job(), "the bench's job")
    assert job.swarm.crews == [2, 4] and job.training.rounds == 8 and job.leaf_every == 1


def test_a_pace_takes_its_time_and_tells_of_rounds(tmp_path: Path) -> None:
    path = tmp_path / "report"
    pace = Pace(path, 1000.0)
    pace.conduct(None, Job(Round(3), Address(bytes(20)), ZERO, 2))  # type: ignore[arg-type]
    began = time.perf_counter()
    pace.keep(began, 20)
    pace.keep(time.perf_counter(), 10)
    assert time.perf_counter() - began >= 0.03 and pace.stated == pytest.approx(0.03)
    pace.step()
    pace.end()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["round", "step", "ended"]
    assert lines[0]["number"] == 3 and lines[1]["stated"] == pytest.approx(0.03) and lines[1]["peak"] > 0


@pytest.mark.parametrize("members", ["1", "x", "0"])
def test_members_that_are_no_crew_are_refused_in_a_line(members: str) -> None:
    from typer.testing import CliRunner

    from benchmarks.commands import app

    result = CliRunner().invoke(app, ["crews", "--members", members])
    assert result.exit_code != 0 and "--members" in str(result.exception)
