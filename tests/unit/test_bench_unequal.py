"""`bench unequal` without processes: rounds' rows, which of them count, the figures, the picture."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.opponents.plan import Plan
from benchmarks.opponents.task import Task
from benchmarks.unequal import draw, grown, rows_of, summarise, table

FAST, SLOW = b"\x01" * 20, b"\x02" * 20
PLAN = Plan("d64", 2, 1, 16, 8, 3, 0.5, 60.0, (1.0, 0.25), 2)


def state(*rounds: tuple[int, int]) -> Any:
    """A run whose rounds assigned so many steps to the two workers; 0 for a contribution that did not count."""
    return SimpleNamespace(
        rounds=[
            SimpleNamespace(
                was_included={FAST: fast, SLOW: slow}.__getitem__,
                assignments={FAST: SimpleNamespace(steps=fast), SLOW: SimpleNamespace(steps=slow)},
            )
            for fast, slow in rounds
        ]
    )


def rows() -> list[dict[str, Any]]:
    """Four rounds between states, of which the first one's start is not known."""
    ended = state((2, 2), (4, 2), (8, 2), (8, 0), (8, 2))
    return rows_of(ended, [FAST, SLOW], {1: 10.0, 2: 15.0, 3: 19.5, 5: 28.5}, PLAN)  # type: ignore[list-item]


def test_a_row_has_the_steps_that_counted_and_who_was_busy() -> None:
    """The state after round 4 was not seen, so two rounds are one row."""
    found = rows()
    assert [row["round"] for row in found] == [1, 2, 3]
    assert [row["steps"] for row in found] == [[4, 2], [8, 2], [16, 2]]
    assert found[1]["busy"] == [round(8 * 0.5 / 4.5, 4), round(2 * 2.0 / 4.5, 4)]
    assert found[1]["efficiency"] == round(10 / (4.5 * 1.25 / 0.5), 4)


def test_what_counts_begins_when_the_fastest_does_all() -> None:
    kept = grown(rows())
    assert [row["round"] for row in kept] == [2, 3]
    found = summarise(rows(), PLAN)
    assert found["rounds"] == 2
    assert found["heterogeneous_efficiency"] == round(28 / (13.5 * 1.25 / 0.5), 4)
    assert found["steps_a_second"] == round(28 / 13.5, 3)


def test_a_run_that_never_grew_has_no_figure() -> None:
    found = summarise(rows()[:1], PLAN)
    assert found["heterogeneous_efficiency"] is None and found["rounds"] == 0


def test_rows_are_shown_and_drawn(tmp_path: Path) -> None:
    assert len(table(rows(), PLAN).rows) == 3
    draw(rows(), PLAN, tmp_path / "busy.svg")
    assert b"<svg" in (tmp_path / "busy.svg").read_bytes()


def test_a_slower_peer_takes_longer_for_a_step(tmp_path: Path) -> None:
    addresses, path = ("10.1.0.1", "10.1.0.2"), tmp_path / "task.json"
    task = Task(2, 8, 3, 1, 1e-3, 3, 0.7, 0.6, 0.5, addresses, "10.1.0.3", str(tmp_path), (), (1.0, 0.25))
    assert [task.seconds_of(rank) for rank in range(2)] == [0.5, 2.0]
    task.write(path)
    assert Task.read(path) == task


@pytest.mark.parametrize("speeds", ["", "1,x", "1,0", "nan"])
def test_speeds_that_are_none_are_refused_in_a_line(speeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from benchmarks.commands import app

    result = CliRunner().invoke(app, ["unequal", "--speeds", speeds])
    assert result.exit_code != 0
    assert "--speeds" in str(result.exception)
