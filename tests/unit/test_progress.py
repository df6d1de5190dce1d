"""What a long command is at: a line now and then where nothing can move, and none among the results."""

import io

import pytest

from trainer.commands.console import Console
from trainer.commands.progress import QUIET_SECONDS, Stages


def test_without_a_terminal_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with Stages(Console(), 4, lambda: now) as stages:
        for what, seconds in (("one", 1), ("two", QUIET_SECONDS), ("three", 1), ("four", QUIET_SECONDS)):
            now += seconds
            stages(what)
    shown = capsys.readouterr()
    assert shown.err == "2 of 4: two\n4 of 4: four\n"
    assert shown.out == ""


def test_on_a_terminal_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = io.StringIO()
    console = Console()
    console.file, console._force_terminal, console.is_interactive = screen, True, True
    with Stages(console, 2, lambda: 0.0) as stages:
        stages("certifying")
        stages._progress.refresh()
        console.print("a result")
    shown = screen.getvalue()
    assert "certifying" in shown and "a result" in shown
    assert shown.endswith("\x1b[2K")
