"""`bench tuned`: native and exact training follow one schedule, clip and add up alike, and figures are as they say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import tuned
from benchmarks.losses import Training
from benchmarks.trainers import RATE, WARMUP, ExactTrainer, Method, NativeTrainer, Recipe, data
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from verification.arithmetic.numbers import INDEX

TINY = Recipe(64, 96, 1, 2, 16, 40, tuned.METHOD)


@pytest.mark.parametrize("method", [tuned.METHOD, Method(tuned.METHOD.adamw)])
def test_pytorchs_schedulers_give_the_rates_of_the_programs(method: Method) -> None:
    steps, b = 300, Builder()
    rates = method.traced(steps).rates(b, b.port("round", INDEX, ()), steps)
    (ours,) = LoadedProgram(b.finish("prologue", [("rates", rates)])).run([torch.tensor(0)])
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, theirs = method.native(optimiser, steps), []
    for _ in range(steps):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert theirs == pytest.approx(ours.tolist(), rel=1e-5)
    assert theirs[0] == pytest.approx(RATE / WARMUP) and max(theirs) == pytest.approx(RATE)
    low = RATE * method.final_share if method.curve == "cosine" else RATE
    assert theirs[-1] == pytest.approx(low, rel=1e-3)


@pytest.mark.slow
def test_both_clip_and_add_up_alike() -> None:
    """Four steps under a bound far below the gradients' norm move both by the same; without it they go elsewhere."""
    method = replace(tuned.METHOD, adamw=replace(tuned.METHOD.adamw, clip_norm=1e-9))
    batches, _ = data(TINY, 0)

    def moved(method: Method, kind: type[NativeTrainer] | type[ExactTrainer]) -> torch.Tensor:
        model = TINY.model(0, "eager")
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        make = kind.trace if issubclass(kind, ExactTrainer) else kind
        trainer = make(model, batches, method)
        for _ in range(4):
            trainer.step()
        if isinstance(trainer, NativeTrainer):
            assert trainer.clipped == 4
        names = [name for name, _ in model.named_parameters()]
        end = trainer.parameters()
        return nn.utils.parameters_to_vector([end[name] for name in names]) - start

    native, ours, free = (
        moved(method, NativeTrainer), moved(method, ExactTrainer), moved(tuned.METHOD, NativeTrainer)
    )  # fmt: skip
    assert (ours - native).norm() < 0.02 * native.norm()
    assert (free - native).norm() > 0.5 * native.norm()


def test_accumulation_adds_up_the_batchs_own_gradient() -> None:
    batches, _ = data(TINY, 0)
    found = []
    for parts in (1, 2):
        model = TINY.model(0, "sdpa")
        trainer = NativeTrainer(model, batches, replace(TINY.method, accumulate=parts))
        loss = trainer.step()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((loss, nn.utils.parameters_to_vector(grads)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


def run(kind: str, seed: int, held_out: float, clipped: int = 0) -> Training:
    """A finished training of four steps."""
    return Training(tuned.NAME, kind, seed, 1000, 1.0, [4.0, 3.0, 2.0, 1.0], 1.0, held_out, clipped)


def test_the_summary_holds_the_gap_against_natives_spread() -> None:
    native = [run("float32", 0, 1.9, 1), run("float32", 1, 2.1, 3)]
    near = [run("exact-14", 0, 2.0), run("exact-14", 1, 2.1)]
    assert tuned.summarise([*native, *near]) == {
        "parameters": 1000, "seeds": 2, "exact_14_gap": pytest.approx(0.025),
        "float32_spread_over_seeds": pytest.approx(0.1), "is_within_spread": True, "clipped": 0.5,
    }  # fmt: skip
    far = [run("exact-14", 0, 2.2), run("exact-14", 1, 2.3)]
    assert tuned.summarise([*native, *far])["is_within_spread"] is False
    assert tuned.summarise([native[0], near[0]])["is_within_spread"] is None


@pytest.mark.slow
def test_a_short_trial_leaves_a_record_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "RECIPE", TINY)
    monkeypatch.setattr(tuned.torch, "set_num_threads", lambda count: None)
    record, plot = tmp_path / "tuned.json", tmp_path / "tuned.png"
    tuned.run(2, TINY.steps, 1, record, plot)
    written = json.loads(record.read_text())
    assert [(row["kind"], row["seeds"]) for row in written["rows"]] == [
        (kind, [0, 1]) for kind in tuned.KINDS
    ]
    assert all(len(curve) == TINY.steps for row in written["rows"] for curve in row["losses"])
    native, ours = written["rows"]
    assert ours["held_out"] == pytest.approx(native["held_out"], rel=0.01)
    assert native["losses"][0][-1] < native["losses"][0][0] - 0.3
    assert written["summary"]["clipped"] > 0
    assert plot.read_bytes()[:4] == b"\x89PNG"
