"""The doctor: what it tells about backends, speeds and the golden step, and its exit code."""

import json
from pathlib import Path

import pytest
import torch

from trainer import doctor, native, speeds
from trainer.exact import BACKENDS, BackendFault
from trainer.exact.backends import REFERENCE
from trainer.native import compiler
from verification.errors import UserError

SMALL = {"70x64x80": (1, 70, 64, 80), "4 of 40x64x48": (4, 40, 64, 48)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes small enough for a test, certified in the short form as at every start."""
    certify = speeds.exact.certify
    monkeypatch.setattr(speeds, "SHAPES", SMALL)
    monkeypatch.setattr(doctor, "SHAPES", SMALL)
    monkeypatch.setattr(speeds.exact, "certify", lambda name, device: certify(name, device, full=False))
    monkeypatch.setenv("COLUMNS", "200")


def test_a_sound_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert doctor.examine(tmp_path / "doctor.json") == 0
    text = capsys.readouterr().out
    assert "golden step node by node: reproduced" in text and "work units a second" in text
    record = json.loads((tmp_path / "doctor.json").read_text())
    golden = record["golden"]
    assert [step["how"] for step in golden] == ["node by node", "on compiled loops"][: len(golden)]
    assert len(golden) == 1 + (compiler() is not None)
    assert all(step["digest"] == step["expected"] == doctor.GOLDEN_STEP for step in golden)
    fastest = min(step["seconds"] for step in golden)
    assert record["work_units_per_second"] == pytest.approx(golden[0]["work_units"] / fastest)
    on_cpu = [row for row in record["products"] if row["device"] == "cpu"]
    assert {row["name"] for row in on_cpu if row["bits"]} == set(BACKENDS)
    for bits in speeds.BITS:
        rows = [row for row in on_cpu if row["bits"] == bits]
        # Every shape has one backend, which is certified and measured.
        chosen = [(shape, row) for row in rows for shape in row["chosen"]]
        assert sorted(shape for shape, _ in chosen) == sorted(SMALL)
        assert all(not row["refused"] and row["gflops"][shape] > 0 for shape, row in chosen)
        assert REFERENCE not in {row["name"] for _, row in chosen}
    native = {row["name"]: row for row in on_cpu if not row["bits"]}
    assert set(native["float32, native"]["gflops"]) == set(SMALL)
    if torch.backends.mkldnn.is_available():
        assert native["float32, oneDNN"]["gflops"]["70x64x80"] > 0


def test_a_machine_without_a_compiler_is_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert doctor.examine() == 0
    text = capsys.readouterr().out
    assert "no compiled loops: no C compiler was found" in text and "on compiled loops" not in text


def test_a_machine_with_other_bits_must_not_stake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "GOLDEN_STEP", "00" * 32)
    assert doctor.examine(tmp_path / "doctor.json") == 1
    text = capsys.readouterr().out
    assert "NOT reproduced" in text and "must not stake" in text and "paid for" not in text
    record = json.loads((tmp_path / "doctor.json").read_text())
    assert record["work_units_per_second"] == 0 and not any(step["reproduced"] for step in record["golden"])


def test_a_backend_that_fails_is_shown_with_its_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def certify(name: str, device: str) -> None:
        if name == "int8":
            raise BackendFault("backend int8 is wrong on 8-bit case full")

    monkeypatch.setattr(speeds.exact, "certify", certify)
    row = next(row for row in speeds.product_speeds("cpu", 8) if row.name == "int8")
    assert row.refused == "backend int8 is wrong on 8-bit case full" and not row.gflops
    doctor.Console().print(doctor._table("cpu", 8, [row], []))
    assert "int8: backend int8 is wrong" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write the examination"):
        doctor.examine(tmp_path / "missing" / "doctor.json")
