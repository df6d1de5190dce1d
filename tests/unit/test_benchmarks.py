"""The benchmarks: figures are computed from rows as they say, opponents do the same work, mistakes are one line."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import carbon
import pytest
import torch
from torch import nn

from benchmarks import bars, commands, exact, golden, gpu, kahan, losses, report
from benchmarks.bfloat16 import Widened, WideProducts
from benchmarks.losses import Training
from benchmarks.opponent import OPPONENTS
from benchmarks.trainers import MODELS, NativeTrainer, Trainer, data
from tests.checkout import environment
from trainer import cli
from trainer.exact import normal_f32
from trainer.lifetimes import python
from verification.errors import UserError

SUMMARY = (
    "exact_over_float32_d512",
    "exact_over_float32_d256",
    "exact_over_best_float32_d512",
    "exact_over_bfloat16_d512",
    "memory_over_native",
    "loss_gap_300",
)


def row(model: str, opponent: str, seconds: list[float], memory: int = 100) -> exact.Row:
    """A measured opponent on one thread."""
    place = {"model": model, "threads": 1, "opponent": opponent, "step_memory": memory}
    return {**place, "seconds": seconds, "quartiles": exact.quartiles(seconds)}


def test_the_summary_compares_with_each_and_with_the_best() -> None:
    rows = [
        row("d512", "float32", [4.0, 4.0, 8.0]),
        row("d512", "float32-onednn", [2.0, 2.0, 2.0]),
        row("d512", "float32-compiled", [2.5, 2.5, 2.5]),
        row("d512", "bfloat16", [1.0, 1.0]),
        row("d512", "exact-eager", [6.0, 6.0, 6.0], 150),
        row("d512", "exact-compiled", [3.0, 3.0, 3.0], 120),
        row("d256", "float32", [1.0, 2.0]),
        row("d256", "exact-eager", [1.0, 2.0]),
        {"model": "d256", "threads": 1, "opponent": "exact-compiled", "failure": "no compiler"},
    ]
    assert exact.summarise(rows, 1, 0.003) == dict(
        zip(SUMMARY, (0.75, 1.0, 1.5, 3.0, 1.2, 0.003), strict=True)
    )
    assert exact.summarise(rows, 2, None) == dict.fromkeys(SUMMARY)


def test_a_ratio_is_the_median_over_rounds() -> None:
    """A round in which the machine was slow for both changes nothing."""
    assert exact.ratio(row("d256", "a", [2.0, 20.0, 2.2]), row("d256", "b", [1.0, 10.0, 1.0])) == 2.0


def test_quartiles_of_few_steps() -> None:
    assert exact.quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert exact.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def run(kind: str, seed: int, held_out: float) -> Training:
    """A finished run of the main trial."""
    return Training(losses.MAIN, kind, seed, 5_000_000, 1.0, [2.0, 1.0], 1.0, held_out)


def test_the_gap_is_over_the_seeds_that_both_have() -> None:
    runs = [run("float32", seed, 2.0 + seed / 10) for seed in range(3)]
    runs += [run("exact-14", seed, 2.02 + seed / 10) for seed in range(3)] + [run("bfloat16", 1, 2.1)]
    summary = losses.summarise(runs)
    assert summary["loss_gap_300"] == pytest.approx(0.02 / 2.1)
    assert summary["bfloat16_gap"] == pytest.approx(0.0)
    assert summary["exact_8_gap"] is None
    assert summary["float32_spread_over_seeds"] == pytest.approx(0.2 / 2.1)


def test_disturbed_groups_are_not_drawn(tmp_path: Path) -> None:
    steady = [
        row("d256", name, [base, base, base]) for name, base in (("float32", 1.0), ("exact-compiled", 0.5))
    ]
    disturbed = [row("d768", "float32", [1.0, 1.0, 1.0]), row("d768", "exact-compiled", [0.5, 1.0, 9.0])]
    bars.draw([*steady, *disturbed], tmp_path / "all.svg")
    bars.draw(steady, tmp_path / "steady.svg")
    drawn = (tmp_path / "all.svg").read_bytes()
    assert drawn == (tmp_path / "steady.svg").read_bytes()
    bars.draw([row("d256", "float32", [1.0]), row("d256", "exact-compiled", [0.7])], tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_bytes() != drawn


@pytest.mark.slow
def test_wide_products_are_those_of_bfloat16() -> None:
    shapes = ((40, 70), (70, 30), (30,), (3, 40, 70), (3, 70, 30))
    left, right, bias, *batches = (normal_f32(b"wide", str(shape), shape).bfloat16() for shape in shapes)
    native = left @ right, torch.addmm(bias, left, right), torch.bmm(*batches)
    with WideProducts():
        wide = left @ right, torch.addmm(bias, left, right), torch.bmm(*batches)
    for ours, theirs in zip(wide, native, strict=True):
        assert ours.dtype is torch.bfloat16
        # One order of summing may round the other way: at most a last place of the largest.
        assert (ours.float() - theirs.float()).abs().max() <= theirs.abs().max().float() * 2.0**-7
        assert (ours == theirs).float().mean() > 0.9


@pytest.mark.slow
def test_widened_training_follows_native_bfloat16() -> None:
    recipe = MODELS["d64"]
    batches, _ = data(recipe, 0)
    trainers: list[Trainer] = [
        NativeTrainer(recipe.model(0, "eager"), batches, recipe.method, autocast=torch.bfloat16)
        for _ in range(2)
    ]
    native, wide = trainers[0], Widened(trainers[1])
    for _ in range(3):
        assert wide.step() == pytest.approx(native.step(), rel=2e-3)


def test_kahans_float64_takes_part_on_the_smallest_model_alone() -> None:
    who = exact.opponents_of(["d512", "d256", "d768"], quick=False)
    assert [model for model, names in who.items() if "alia-carbon" in names] == ["d256"]
    assert who["d256"] == OPPONENTS and len(who["d768"]) == len(OPPONENTS) - 1
    assert "alia-carbon" not in exact.opponents_of(["d256"], quick=True)["d256"]
    assert exact.opponents_of(["d512"], True, ["alia-carbon"]) == {"d512": ("alia-carbon",)}


@pytest.mark.parametrize("found", [None, "0.2.0"])
def test_an_opponent_that_is_not_installed_says_so_with_the_mend(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=r"of alia-carbon is installed: pip install alia-carbon==0\.2\.1"):
        kahan.through_kahan(nn.Linear(2, 2))


def test_kahans_float64_trains_every_layer() -> None:
    """Its own trainer, given an optimizer beforehand, trains no linear layer."""
    recipe = MODELS["d64"]
    batches, _ = data(recipe, 0)
    native = NativeTrainer(recipe.model(0, "sdpa"), batches, recipe.method)
    try:
        kahans = NativeTrainer(kahan.through_kahan(recipe.model(0, "sdpa")), batches, recipe.method)
        start = {name: parameter.clone() for name, parameter in kahans.parameters().items()}
        for _ in range(3):
            assert kahans.step() == pytest.approx(native.step(), rel=1e-4)
    finally:
        carbon.disable()
    assert not any(torch.equal(start[name], value) for name, value in kahans.parameters().items())
    kinds = {type(module).__name__ for module in kahans.model.modules()}
    assert "DeterministicLinear" in kinds and "Linear" not in kinds


def test_finished_runs_are_not_pending(tmp_path: Path) -> None:
    wanted = list(losses.pending(tmp_path, [losses.MAIN]))
    trial = losses.TRIALS[losses.MAIN]
    assert len(wanted) == len(trial.kinds) * len(trial.seeds)
    _, kind, seed, path = wanted[0]
    path.write_text(json.dumps(vars(run(kind, seed, 1.5))))
    assert list(losses.pending(tmp_path, [losses.MAIN])) == wanted[1:]
    assert losses.read_runs(tmp_path, [losses.MAIN]) == [run(kind, seed, 1.5)]


@pytest.mark.slow
def test_main_trial_is_what_the_issue_of_precision_needs() -> None:
    trial = losses.TRIALS[losses.MAIN]
    assert (trial.recipe.steps, trial.seeds) == (300, (0, 1, 2))
    parameters = sum(parameter.numel() for parameter in trial.recipe.model(0, "sdpa").parameters())
    assert parameters >= 5_000_000


def test_the_gpu_summary_needs_every_digest() -> None:
    rows = [row("d512", "float32", [2.0]), row("d512", "tf32", [1.0]), row("d512", "exact-eager", [3.0])]
    assert gpu.summarise([{"equal": True}, {"equal": False}], rows) == {
        "digests_equal": False,
        "exact_over_float32_d512": 1.5,
        "exact_over_tf32_d512": 3.0,
    }
    with pytest.raises(UserError, match=r"no device 'cuda:7'"):
        report.run_gpu([], "cuda:7", 1, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["exact", "--models", "d255"], "unknown model 'd255': choose from d256, d512"),
        (["exact", "--threads", "one"], "--threads: 'one' is no list of numbers"),
        (["exact", "--opponents", "float32,tf32"], "unknown opponent 'tf32': choose from float32, "),
        (["losses", "--trials", "none"], "unknown trial 'none'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    told, complaint = capsys.readouterr()
    assert (ended.value.code, told) == (2, "")
    assert complaint.startswith("proofswarm: ") and expected in complaint and complaint.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own_is_one_line() -> None:
    command = python("-m", "benchmarks", "exact", "--models", "d255")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("proofswarm: unknown model 'd255'") and done.stderr.count("\n") == 1


def test_the_command_line_has_the_benchmarks() -> None:
    """They come in by an entry point: the trainer does not import them."""
    assert "bench" in [group.name for group in cli.app.registered_groups]


@pytest.mark.slow
def test_opponents_alternate_and_leave_a_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    words = "exact --models d64 --threads 1 --steps 2 --quick --json"
    command = python("-m", "benchmarks", *words.split(), str(out))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(out.read_text())
    assert set(record) == {"machine", "date", "commit", "command", "rows", "summary"}
    assert tuple(record["summary"]) == SUMMARY
    wanted = list(exact.opponents_of(["d64"], quick=True)["d64"])
    assert [row["opponent"] for row in record["rows"]] == wanted
    assert {f"exact-{mode}" for mode in golden.MODES} & set(wanted)
    for measured in record["rows"]:
        assert len(measured["seconds"]) == 2, measured
        assert measured["step_memory"] > 0
    first = [measured["first_loss"] for measured in record["rows"]]
    assert max(first) / min(first) < 1 + exact.LOSS_TOLERANCE
