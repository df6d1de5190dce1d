"""`bench convergence`: a swarm of one is plain training, workers see each batch once, figures are as they say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import convergence
from benchmarks.convergence import CHOICES, DDP, Curve
from benchmarks.local_steps import Choice, DataParallel, LocalSteps, Plan, model_of
from benchmarks.trainers import PLAIN, Recipe, data
from trainer.programs.tracing.bottleneck import bottlenecks_in
from verification.errors import UserError

TINY = Recipe(64, 96, 1, 4, 16, 6, PLAIN)
CURVES = [
    Curve(DDP, 1000, [10, 20], [2.0, 1.0], 4000, 256),
    Curve("whole", 1000, [10, 20], [2.2, 1.02], 1000, 256),
    Curve("smaller", 1000, [10, 20], [2.4, 1.05], 20, 33),
]


def flat(named: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all parameters in the order of their names."""
    return nn.utils.parameters_to_vector([named[name] for name in sorted(named)])


@pytest.mark.slow
def test_a_swarm_of_one_that_averages_trains_as_pytorch_does() -> None:
    plan = Plan(TINY, 1, 6)
    batches, _ = data(TINY, 0)
    swarm, native = LocalSteps(plan, Choice(outer=(1.0, 0.0)), batches, 0), DataParallel(plan, batches, 0)
    start = flat(native.parameters()).clone()
    ours, theirs = swarm.run(0), native.run(0)
    assert ours == pytest.approx(theirs, rel=0.02)
    went = flat(native.parameters()) - start
    assert (flat(swarm.parameters()) - start - went).norm() < 0.1 * went.norm(), "but for the grid's units"
    assert len(swarm.sent) == 1 and swarm.sent[0] >= went.numel()


@pytest.mark.slow
def test_two_workers_take_their_parts_of_each_batch() -> None:
    plan = Plan(TINY, 2, 3)
    batches, _ = data(TINY, 0)
    swarm = LocalSteps(plan, CHOICES["whole"], batches, 0)
    seen = []
    for number in range(plan.rounds):
        for worker in range(plan.workers):
            seen.append(batches.flatten(0, 1)[swarm.index[number, :, worker]])
        swarm.run(number)
    expected = [
        batches[3 * number : 3 * number + 3, 2 * worker : 2 * worker + 2]
        for number in range(2)
        for worker in range(2)
    ]
    assert all(torch.equal(own, right) for own, right in zip(seen, expected, strict=True))
    assert len(swarm.sent) == 4


@pytest.mark.slow
def test_with_overlap_a_round_starts_from_the_state_before_the_last() -> None:
    plan = Plan(TINY, 2, 2)
    batches, _ = data(TINY, 0)
    late, prompt = (LocalSteps(plan, Choice(overlap=overlap), batches, 0) for overlap in (True, False))
    losses = [(late.run(number), prompt.run(number)) for number in range(2)]
    first = flat(late.parameters())
    assert losses[0][0] == losses[0][1], "the first round of both starts from the first state"
    assert losses[1][0] > losses[1][1], "the second one too, where it does not wait for the first"
    assert not torch.equal(first, flat(prompt.parameters()))
    late.run(2)
    assert not torch.equal(first, flat(late.parameters()))


@pytest.mark.slow
def test_a_swarm_with_bottlenecks_trains_and_is_judged_with_them() -> None:
    plan, choice = Plan(replace(TINY, layers=4), 1, 3), CHOICES["bottleneck-4-8"]
    batches, _ = data(TINY, 0)
    judge = model_of(plan.recipe, choice, 0, "sdpa")
    assert bottlenecks_in(judge) == {f"model.layers.{block}": (64, 16) for block in range(3)}
    swarm = LocalSteps(plan, choice, batches, 0)
    assert swarm.crossing == 16 + 1
    swarm.run(0)
    found = judge.load_state_dict(swarm.parameters())
    assert not found.unexpected_keys and not found.missing_keys
    own = [each for name, each in swarm.parameters().items() if ".boundary." in name]
    assert len(own) == 6 and all(each.any() for each in own)


def test_the_summary_is_of_the_smallest_payload() -> None:
    rows = convergence.rows(CURVES)
    assert [row["payload_ratio"] for row in rows] == [1.0, 4.0, 200.0]
    assert rows[1]["gaps"] == pytest.approx([0.1, 0.02])
    summary = convergence.summarise(CURVES, Plan(TINY, 2, 3))
    assert (summary["choice"], summary["payload_ratio"], summary["loss_gap"]) == ("smaller", 200.0, 0.05)
    assert (summary["steps"], summary["tokens"]) == (6, 6 * 4 * 16)


def test_steps_that_are_no_whole_rounds_are_refused() -> None:
    with pytest.raises(UserError, match="100 are no whole rounds of 30"):
        convergence.plan_of(100, 30, 2)


@pytest.mark.slow
def test_the_command_trains_writes_and_draws(tmp_path: Path) -> None:
    json_file, plot = tmp_path / "c.json", tmp_path / "c.svg"
    convergence.run(Plan(TINY, 2, 3), ["whole"], 0, 1, json_file, plot)
    found = json.loads(json_file.read_text())
    assert [row["name"] for row in found["rows"]] == [DDP, "whole"]
    assert found["rows"][1]["steps"] == [3, 6] and len(found["rows"][1]["gaps"]) == 2
    assert found["summary"]["payload_ratio"] > 3.5
    assert "whole" in plot.read_text()
