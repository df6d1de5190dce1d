"""One name for an adversary everywhere: the command line, the simulator, the documentation."""

import re
from pathlib import Path

from simulator.detection import ADVERSARIES
from trainer import cli
from trainer.rounds.cheats import TRAINING
from verification import adversaries
from verification.adversaries.playbook import PLAYS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "adversaries.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)


def test_the_page_has_every_row_of_the_catalogue_once() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 46))


def test_the_page_names_every_adversary_and_no_other() -> None:
    named = {word for word in re.findall(r"`([A-Za-z][a-z-]+(?:\(\w+\))?)`", PAGE) if word.islower()}
    known = set(TRAINING) | PLAYS.keys() | {adversary.name for adversary in ADVERSARIES}
    assert known - {"none"} <= named
    assert {word for word in named if "-" in word} <= known
    classes = {word.split("(")[0] for word in re.findall(r"`([A-Z][A-Za-z]+(?:\(\w+\))?)`", PAGE)}
    assert all(hasattr(adversaries, name) for name in classes)


def test_every_row_says_where_it_is_shown_or_why_it_cannot_be() -> None:
    root = Path(__file__).resolve().parents[2]
    for _, row in ROWS:
        for name in re.findall(r"\btest_\w+", row.rsplit("|", 1)[1]):
            found = list(root.glob(f"tests/*/{name}.py"))
            assert found, name


def test_the_command_line_lists_every_cheat() -> None:
    assert cli.CHEATS.split(", ") == [*TRAINING, *PLAYS]
