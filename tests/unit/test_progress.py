"""What a long command is at: a line now and then where nothing can move, and none among the results."""

import io

from rich.console import Console

from trainer.progress import QUIET_SECONDS, Stages


def test_without_a_terminal_a_line_now_and_then(capsys: object) -> None:
    errors = io.StringIO()
    now = 0.0
    stages = Stages(Console(file=errors, stderr=True), 4, lambda: now)
    stages._console = Console(file=errors)
    with stages:
        for what, seconds in (("one", 1), ("two", QUIET_SECONDS), ("three", 1), ("four", QUIET_SECONDS)):
            now += seconds
            stages(what)
    assert errors.getvalue() == "2 of 4: two\n4 of 4: four\n"


def test_on_a_terminal_a_line_that_goes_away() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Stages(console, 2, lambda: 0.0) as stages:
        stages("certifying")
        stages._progress.refresh()
        console.print("a result")
    shown = screen.getvalue()
    assert "certifying" in shown and "a result" in shown
    assert shown.endswith("\x1b[2K")
