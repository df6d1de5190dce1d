"""What commands print is what was meant: on terminals of few signs, and with text that looks like instructions."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import environment
from tests.sample_report import sample
from trainer.commands import demo
from trainer.commands.console import LIKE, Console
from trainer.commands.report import print_report
from trainer.folder import RunFolder
from trainer.lifetimes import python

ODD = ("demo[exp1]", "[/]", "[red]", ":dog:", "a\\[b]", "[link=x]y[/link]")
"""Names of folders that a markup language would take for its own."""


def output(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Make standard output a strict stream of an encoding, as Python does, and return what it writes to."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, write_through=True))
    return written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r", "utf-8"])
def test_a_report_is_printed_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    written = output(encoding, monkeypatch)
    print_report(sample())
    text = written.getvalue().decode(encoding)
    assert "convicted" in text and "?" not in text.replace("Does cheating pay?", "")


def test_signs_that_an_encoding_lacks_keep_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    written = output("ascii", monkeypatch)
    Console().print("✓ · ≠ ✕ – → … é", "\udcff")
    assert written.getvalue() == b"+ . ! x - > . ? ?\n"
    assert all(sign < 128 for sign in LIKE.values())


def test_what_is_echoed_without_a_console_is_printed_too() -> None:
    code = "import typer; from trainer import cli; cli.app = lambda: typer.echo('→ ключ'); cli.main()"
    done = subprocess.run(
        python("-c", code), env=environment(PYTHONIOENCODING="latin-1"), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"> ????\n"), done.stderr


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_printed_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / name)
    demo._print_places(Console(), folder)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        os.path.join(folder.path, file) for file in ("report.html", "report.json", "model")
    ]


@pytest.mark.parametrize("name", ODD)
def test_what_a_demo_says_while_it_makes_a_run_is_no_markup(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also on a terminal, where the line is drawn again and again."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(demo, "create_run", lambda job, base, out, tell: tell(f"tracing {name}") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo._make_run(demo.DemoSettings(tmp_path / name, "none", 5, 1, 1, 0, None), Console())
    assert f"tracing {name}" in capsys.readouterr().out
