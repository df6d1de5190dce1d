"""What `proofswarm verify` says of the one number at which a dispute ended, from the file alone."""

from pathlib import Path

import pytest

from tests.one_number import PRODUCT, RATIO, SUM, Faults, Library, Played, played
from trainer.commands.verify import check_files
from verification.evidence.collect import convictions
from verification.evidence.file import pack

LAST = {
    "number": (
        Faults({PRODUCT: (7, 3.5)}),
        [
            "number  7 of [3, 5] (row 1, column 2)",
            "totals  95",
            "claimed 3.5 (0x40600000)",
            "is      1.13248825e-05 (0x373e0000)",
        ],
    ),
    "terms": (
        Faults(misreads={PRODUCT: (0, 200, 5)}),
        [
            "number  5 of [3, 5] (row 1, column 0)",
            "terms   64 to 127 of 130, added up",
            "claimed -1115",
            "is      -982",
        ],
    ),
    "failure": (
        Faults(fails=RATIO),
        [
            "number  0 of [3, 5] (row 0, column 0)",
            "claimed no value: the step ends there",
            "is      2.143919e-07 (0x34663399)",
        ],
    ),
}


def evidence_of(game: Played) -> bytes:
    """Return the file of the one conviction."""
    effects = [effect for _, effect in game.effects]
    (conviction,) = convictions(game.state, game.statements, effects, Library().program).values()
    return pack(conviction)


def told_of(faults: Faults, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that a check of the file prints, which must prove guilt."""
    path = folder / "one.evidence"
    path.write_bytes(evidence_of(played(faults)))
    assert check_files([path]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", LAST)
def test_the_number_is_told_as_in_the_report(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults, expected = LAST[name]
    lines = told_of(faults, tmp_path, capsys)
    start = lines.index(expected[0])
    assert lines[start : start + len(expected)] == expected
    assert lines[0].startswith("guilty: 0x")
    assert lines[-1] == "trusts  nothing: the file proves it by what the accused itself signed"


def test_an_output_is_told_by_its_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told_of(Faults(output=1), tmp_path, capsys)
    assert "because an output is not what its own trace gives" in lines
    assert [line.split()[0] for line in lines].count("claimed") == 1
    assert not [line for line in lines if line.startswith("number")]


def test_a_file_of_one_number_is_small() -> None:
    """64 terms of a product, each with blocks and paths of both operands."""
    assert len(evidence_of(played(Faults(misreads={PRODUCT: (0, 200, 5)})))) < 30_000
    assert len(evidence_of(played(Faults(misreads={SUM: (0, 200, 5.0)})))) < 6_000
