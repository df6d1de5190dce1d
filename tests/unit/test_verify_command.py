"""`proofswarm verify`: what it prints, what it asks for on trust, and how it refuses."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.toy import ToyLibrary
from tests.contract.ledgers import SECRET
from tests.property.test_served_properties import a_fork
from tests.simulation.test_evidence import changed, files_of, world_of
from trainer.cli import app
from trainer.commands.verify import check_files
from verification.digest import ZERO
from verification.errors import BadEvidence, UserError
from verification.evidence.collect import require_borne_out
from verification.evidence.file import Conviction, Kind, Nowhere, pack, unpack
from verification.signed import open_statement
from verification.signing import address_of, checksum


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return status and output of a check."""
    status = check_files([path])
    return status, capsys.readouterr().out


PROVEN_CASES = {
    "skip-steps": ["inner step", "node ", "an output is not", "trusts  nothing"],
    "wrong-node": ["inner step", "node ", "trusts  nothing"],
    "equivocate": ["round 1", "two different things in slot Commit", "trusts  nothing"],
}
RESTING_CASES = {
    "withhold": [
        "stayed silent about the opening",
        "the ledger's clock and log",
        "trusts  the ledger's head",
    ],
    "wrong-data": ["prologue", "node ", "trusts  the ledger's beacon"],
}


@pytest.mark.parametrize("name", PROVEN_CASES)
def test_what_a_file_proves_by_itself_is_guilt(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.evidence"
    path.write_bytes(next(iter(files_of(name).values())))
    status, told = checked(path, capsys)
    assert status == 0
    assert told.startswith("guilty: 0x")
    assert [part for part in PROVEN_CASES[name] if part not in told.replace("\n", " ")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", RESTING_CASES)
def test_what_rests_on_the_ledger_calls_nobody_guilty(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.evidence"
    path.write_bytes(next(iter(files_of(name).values())))
    status, told = checked(path, capsys)
    assert status == 3
    assert told.startswith("rests on the ledger: 0x")
    assert "guilty" not in told
    assert [part for part in RESTING_CASES[name] if part not in told.replace("\n", " ")] == []


def forged_silence(kind: str) -> bytes:
    """Return a file that says an honest worker stayed silent, made of one public statement of its own."""
    world = world_of("skip-steps")
    honest = next(actor for actor in world.actors if actor.name == "w0")
    said = (line.data for line in world.ledger.log if line.kind == "statement")
    data = next(
        d for d in said for s in [open_statement(d)] if (s.sender, s.statement.kind) == (honest.address, kind)
    )
    body = open_statement(data).body
    rest = ((), None, None, (), None, None, None)
    return pack(
        Conviction(
            world.state.manifest,
            world.state.chain,
            Kind.SILENCE,
            honest.address,
            body.round,
            Nowhere.NOWHERE,
            None,
            (data,),
            *rest,
        )
    )


def test_a_forged_silence_of_an_honest_peer_is_never_guilt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its public Join made a file that printed "guilty" with status 0; now it is refused, and a commitment rests."""
    path = tmp_path / "one.evidence"
    for kind, expected in (("Join", 1), ("Attest", 1), ("Commit", 3)):
        path.write_bytes(forged_silence(kind))
        status, told = checked(path, capsys)
        assert (status, "guilty" in told) == (expected, False)


def test_several_files_and_folders_have_the_gravest_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proven, rests, refused = (tmp_path / f"{name}.evidence" for name in ("a", "b", "c"))
    proven.write_bytes(next(iter(files_of("noise").values())))
    rests.write_bytes(forged_silence("Commit"))
    assert check_files([proven, proven]) == 0
    assert check_files([tmp_path]) == 3
    refused.write_bytes(b"")
    assert check_files([tmp_path]) == check_files([proven, refused]) == 1
    told = capsys.readouterr().out
    assert [f"{path}:" in told.replace("\n", "") for path in (proven, rests, refused)] == [True] * 3
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no evidence"):
        check_files([tmp_path / "none"])


def borne_out(name: str, data: bytes) -> None:
    """Hold a file against the ledger of a cheat's run."""
    log = world_of(name).ledger.log
    statements = [line.data for line in log if line.kind == "statement"]
    effects = [effect for line in log for effect in line.effects]
    require_borne_out(unpack(data), world_of(name).state, statements, effects, ToyLibrary().program)


@pytest.mark.parametrize("name", RESTING_CASES)
def test_the_ledger_decides_what_rests_on_it(name: str) -> None:
    for data in files_of(name).values():
        borne_out(name, data)
    with pytest.raises(BadEvidence, match=r"another run's|another ledger's|bear out"):
        borne_out("noise", next(iter(files_of(name).values())))


def test_the_ledger_refuses_a_forged_silence_and_a_forged_beacon() -> None:
    with pytest.raises(BadEvidence, match="bear out"):
        borne_out("skip-steps", forged_silence("Commit"))
    record = unpack(next(iter(files_of("wrong-data").values()))).record
    assert record is not None
    forged = changed("wrong-data", record=dataclasses.replace(record, beacon=ZERO))
    with pytest.raises(BadEvidence, match="bear out"):
        borne_out("wrong-data", forged)


def test_damage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = next(iter(files_of("skip-steps").values()))
    for body, message in (
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
        check_files([tmp_path / "none"])
    with pytest.raises(UserError, match="no plain file"):
        check_files([Path("/dev/zero")])
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "none")])
    assert isinstance(done.exception, UserError)


def test_two_signed_heads_of_one_number_are_a_fork(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fork.evidence"
    path.write_bytes(a_fork())
    status, told = checked(path, capsys)
    assert status == 0
    assert told.startswith(f"forked: {checksum(address_of(SECRET))} served two logs")
    assert "of      entry 7 of run" in told


def test_a_damaged_fork_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fork.evidence"
    for place in (30, -1):
        data = bytearray(a_fork())
        data[place] ^= 1
        path.write_bytes(data)
        status, told = checked(path, capsys)
        assert status == 1
        assert told.startswith("refused: ")
        assert len(told.splitlines()) == 1
