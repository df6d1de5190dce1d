"""`proofswarm verify`: what it prints, what it asks for on trust, and how it refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.simulation.test_evidence import files_of
from trainer.cli import app
from trainer.commands.verify import LazyExecutor, check_file
from verification.digest import ZERO
from verification.errors import Unavailable, UserError
from verification.program import Node


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return status and output of a check."""
    status = check_file(path)
    return status, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("skip-steps", ["inner step", "node ", "an output is not", "trusts  nothing"]),
        ("equivocate", ["round 1", "two different things in slot Commit", "trusts  nothing"]),
        (
            "withhold",
            ["stayed silent about the opening", "the ledger's clock and log", "trusts  the ledger's head"],
        ),
    ],
)
def test_a_conviction_is_told_with_its_trust(
    name: str, shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.evidence"
    path.write_bytes(next(iter(files_of(name).values())))
    status, told = checked(path, capsys)
    assert status == 0
    assert told.startswith("guilty: 0x")
    assert [part for part in shown if part not in told.replace("\n", " ")] == []


def test_another_arithmetic_and_damage_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(iter(files_of("wrong-node").values()))
    for body, message in (
        (data, "arithmetic"),
        (data[:-1] + b"x", "altered or damaged"),
        (b"", "not msgpack"),
    ):
        path = tmp_path / "one.evidence"
        path.write_bytes(body)
        status, told = checked(path, capsys)
        assert status == 1
        assert told.startswith("refused: ")
        assert message in told.replace("\n", " ")


def test_a_missing_file_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read it"):
        check_file(tmp_path / "none")
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "none")])
    assert isinstance(done.exception, UserError)


def test_evidence_brings_its_program() -> None:
    with pytest.raises(Unavailable):
        LazyExecutor().program(ZERO)
    with pytest.raises(Unavailable, match="arithmetic"):
        LazyExecutor().execute_node("toy/1", 0, Node("add", (), (), "int64", ()), [])
