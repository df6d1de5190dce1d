"""One adversary's pull on the model through the real outer step: never above the clip, whatever it sends."""

import dataclasses

import pytest
import torch

from simulator.toy import minimal
from tests import zoo
from tests.property.test_outer import closed, history
from tests.zoo import JOB
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.capture import trace_run
from trainer.runs.tasks import causal_lm_loss
from verification.outer import mixture

pytestmark = pytest.mark.slow

CLIP = 3000
STEPS = (20, 12, 20)
"""Of two honest workers and the adversary."""


def norm_of(parts: list[torch.Tensor]) -> int:
    """Return the sum of squares."""
    return sum(int(part.long().square().sum()) for part in parts)


@pytest.fixture(scope="module")
def outer() -> LoadedProgram:
    """The outer step of a Llama for three workers and the ballast."""
    return LoadedProgram(
        trace_run(zoo.model("llama"), causal_lm_loss, dataclasses.replace(JOB, slots=4)).outer
    )


@pytest.mark.parametrize("size", [1, 127])
@pytest.mark.parametrize("clip", [CLIP, 0])
def test_an_adversary_moves_the_parameters_by_no_more_than_the_clip(
    outer: LoadedProgram, clip: int, size: int
) -> None:
    run = zoo.traced("llama")
    state, count = [to_torch(tensor) for tensor in run.start.tensors], len(run.parameter_names)
    dice = torch.Generator().manual_seed(1)
    shapes = [tensor.shape for tensor in state[:count]]
    honest = [
        [torch.randint(-4, 5, shape, generator=dice).to(torch.int8) for shape in shapes] for _ in range(2)
    ]
    bad = [torch.full(shape, size, dtype=torch.int8) for shape in shapes]
    zeros = [torch.zeros(shape, dtype=torch.int8) for shape in shapes]
    norms = [norm_of(parts) for parts in (*honest, bad)]
    worked = closed([(steps, norm, 10) for steps, norm in zip(STEPS, norms, strict=True)])
    history_of = history(worked)
    history_of.manifest = minimal(clip=clip)
    mixed = mixture(history_of, worked)
    weights = torch.tensor([*(part.weight for part in mixed.parts), mixed.ballast])

    def after(third: list[torch.Tensor]) -> torch.Tensor:
        tail = [torch.tensor(0), torch.tensor(0.0)]
        slots = [tensor for parts in (*honest, third, zeros) for tensor in (*parts, *tail)]
        moved = outer.run([*state, *slots, weights])[:count]
        return torch.cat([tensor.double().flatten() for tensor in moved])

    damage = float((after(bad) - after(zeros)).norm())
    step = JOB.outer_lr * (1 + JOB.outer_momentum) / 2**JOB.grid_exponent
    median = sorted(norms)[1]
    bound = step * STEPS[2] / sum(STEPS) * 3 * median**0.5
    assert (damage <= bound * (1 + 1e-3)) == (clip == CLIP or size == 1)
    if size == 127:
        unclipped = step * STEPS[2] / sum(STEPS) * norms[2] ** 0.5
        expected = bound if clip else unclipped
        assert damage == pytest.approx(expected, rel=1e-3)
        assert unclipped > 10 * bound
