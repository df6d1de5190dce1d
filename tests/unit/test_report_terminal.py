"""The terminal's views: ten lines at most, whatever the run, and no peer steers the terminal."""

import dataclasses
import io

import pytest
from rich.console import Console, RenderableType

from tests.sample_report import sample
from verification.report import terminal
from verification.report.schema import KernelsReport, Report


def shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def many_convictions() -> Report:
    report = sample()
    return dataclasses.replace(report, disputes=report.disputes * 30)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("report", [sample(), sample(0, 0, 0), many_convictions(), sample(40, 64, 4)])
def test_the_summary_has_at_most_ten_lines(report: Report, width: int) -> None:
    lines = shown(terminal.summary(report), width).rstrip("\n").split("\n")
    assert 3 <= len(lines) <= terminal.SUMMARY_LINES
    assert max(map(len, lines)) <= width


def test_the_summary_says_who_was_caught_and_what_it_cost() -> None:
    text = shown(terminal.summary(sample()))
    for expected in (
        "✓ The swarm trained 10 rounds",
        "4.172 → 1.863",
        "worker-3",
        "19 000 slashed",
        "conserved",
    ):
        assert expected in text


def test_lost_money_shows() -> None:
    report = sample()
    money = dataclasses.replace(report.money, total=report.money.total + 1)
    assert "NOT conserved: -1" in shown(terminal.summary(dataclasses.replace(report, money=money)))


def test_the_tables_tell_disputes_peers_and_traffic() -> None:
    text = " ".join(shown(terminal.tables(sample()), 160).split())
    for expected in (
        "Dispute 1: worker-3, round 4: guilty",
        "✕–––––",
        "convicted for this round",
        "contributions",
        "as each peer said; nobody checked it",
        "worker-1, worker-3, worker-4, verifier-1: int16 products, the rest on compiled loops",
        "worker-2: 2 machines, of each step 6 records in 31.4 ms, 2 records",
        "worker-2: float64 products, the rest node by node, 2.9 times float32's time; compiled kernels refused: no C",
    ):
        assert expected in text
    for expected in (
        "number: 17 of [2, 16] (row 1, column 1)",
        "claimed: -31",
        "is: -32",
        "term 0: 14 * -3 = -42, from 1180[1, 0], 1181[0, 1]",
        "term 1: 5 * 2 = 10, from 1180[1, 1], 1181[1, 1]",
        "The law computed terms of this one number itself, and the accused was wrong",
    ):
        assert expected in text


def test_an_empty_run_has_tables_too() -> None:
    assert "0 re-run" in shown(terminal.tables(sample(0, 0, 0)))


def test_a_name_cannot_steer_the_terminal() -> None:
    report = sample()
    hostile = "[red]x[/red]\x1b[2J\r\n\u202ey"
    kernels = KernelsReport((hostile,), False, hostile, None)
    peers = tuple(dataclasses.replace(peer, name=hostile, kernels=kernels) for peer in report.peers)
    text = shown(terminal.tables(dataclasses.replace(report, peers=peers)), 300)
    assert "[red]x[/red]" in text
    assert not set(text) & {"\x1b", "\r", "\u202e"}
