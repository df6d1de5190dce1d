"""The doctor: what it tells about backends, speeds and the golden step, and its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.commands import doctor, speeds, trials
from trainer.exact import BACKENDS, BackendFault, native
from trainer.exact.backends import REFERENCE
from trainer.exact.native import compiler
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.create import Created
from verification.errors import UserError
from verification.units import Digest

SMALL = {"70x64x80": (1, 70, 64, 80), "4 of 40x64x48": (4, 40, 64, 48)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes small enough for a test, certified in the short form as at every start."""
    certify = speeds.exact.certify
    monkeypatch.setattr(speeds, "SHAPES", SMALL)
    monkeypatch.setattr(doctor, "SHAPES", SMALL)
    monkeypatch.setattr(speeds.exact, "certify", lambda name, device: certify(name, device, full=False))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tables of speeds."""
    monkeypatch.setattr(doctor, "_products", lambda console, devices, tell: [])


@pytest.mark.slow
def test_a_sound_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert doctor.examine(tmp_path / "doctor.json") == 0
    text = capsys.readouterr().out
    assert "golden step node by node: reproduced" in text and "work units a second" in text
    record = json.loads((tmp_path / "doctor.json").read_text())
    golden = record["steps"]
    assert [step["how"] for step in golden] == ["node by node", "on compiled loops"][: len(golden)]
    assert len(golden) == 1 + (compiler() is not None)
    assert all(step["digest"] == step["expected"] == trials.GOLDEN_STEP for step in golden)
    fastest = min(step["seconds"] for step in golden)
    kernels = record["kernels"]
    assert kernels["compiled"] == (compiler() is not None) and kernels["products"]
    assert kernels["over_float32"] > 0 and f"takes {kernels['over_float32']:.2f} times as long" in text
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
        compiled = [row for row in rows if BACKENDS[row["name"]].instructions and not row["refused"]]
        assert [row for row in rows if row["instructions"]] == compiled
        assert all(f"{row['name']}: {row['instructions']}" in text for row in compiled)
    native = {row["name"]: row for row in on_cpu if not row["bits"]}
    assert set(native["float32, native"]["gflops"]) == set(SMALL)
    if torch.backends.mkldnn.is_available():
        assert native["float32, oneDNN"]["gflops"]["70x64x80"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("steps_alone")
def test_a_machine_without_a_compiler_is_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert doctor.examine() == 0
    text = capsys.readouterr().out
    assert "on compiled loops" not in text
    slow = [line for line in text.splitlines() if line.startswith("slow: ")]
    assert len(slow) == 1 and "no C compiler was found: install gcc or clang (a step takes " in slow[0]


@pytest.mark.slow
@pytest.mark.usefixtures("steps_alone")
def test_a_machine_with_other_bits_must_not_stake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(trials, "GOLDEN_STEP", "00" * 32)
    assert doctor.examine(tmp_path / "doctor.json") == 1
    text = capsys.readouterr().out
    assert "NOT reproduced" in text and "must not stake" in text and "paid for" not in text
    record = json.loads((tmp_path / "doctor.json").read_text())
    assert record["work_units_per_second"] == 0 and not any(step["reproduced"] for step in record["steps"])


def test_a_backend_that_fails_is_shown_with_its_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def certify(name: str, device: str) -> None:
        if name == "int8":
            raise BackendFault("backend int8 is wrong on 8-bit case full")

    monkeypatch.setattr(speeds.exact, "certify", certify)
    row = next(row for row in speeds.product_speeds("cpu", 8) if row.name == "int8")
    assert row.refused == "backend int8 is wrong on 8-bit case full" and row.is_faulty and not row.gflops
    monkeypatch.setattr(doctor, "BITS", (8,))
    doctor._products(doctor.Console(), ["cpu"], lambda what: None)
    assert "\nint8: backend int8 is wrong on 8-bit case full\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("steps_alone")
def test_a_runs_own_step_is_tried_too(
    tiny_run: Created, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert doctor.examine(tmp_path / "doctor.json", tiny_run.folder) == 0
    text = capsys.readouterr().out
    assert "the run's golden step node by node: reproduced" in text
    assert "the run's step on drawn numbers node by node: reproduced" in text
    steps = json.loads((tmp_path / "doctor.json").read_text())["steps"]
    assert steps[-2]["expected"] == tiny_run.manifest.golden.hex()
    assert len({step["digest"] for step in steps}) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("steps_alone")
def test_a_machine_that_gets_a_runs_own_step_wrong_must_not_stake(
    tiny_run: Created, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its golden steps come out right: a fault that only other numbers show."""
    sound, inner, faults = TorchEngine.run, tiny_run.manifest.programs.inner.digest, []

    def broken(self: TorchEngine, digest: Digest, inputs: Any, tap: Any = None) -> Any:
        made = sound(self, digest, inputs, tap)
        if digest == inner and _has_moments(inputs):
            faults.append(digest)
            made[0] = made[0] + 2.0**-20
        return made

    monkeypatch.setattr(TorchEngine, "run", broken)
    assert doctor.examine(run=tiny_run.folder) == 1
    text = capsys.readouterr().out
    assert "the run's golden step node by node: reproduced" in text
    assert "the run's step on drawn numbers node by node: NOT reproduced" in text
    assert "must not stake: its results would be convicted" in text and faults


def _has_moments(inputs: Any) -> bool:
    (tensors,) = inputs
    return bool(tensors[-8].count_nonzero())


def test_a_process_that_flushes_subnormals_must_not_stake(capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        assert doctor.examine() == 1
    finally:
        torch.set_flush_denormal(False)
    assert "must not stake: subnormal numbers are flushed to zero" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("steps_alone")
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write there"):
        doctor.examine(tmp_path / "missing" / "doctor.json")
