"""Bottlenecks as they begin, the first numbers of a row through all of them; and what programs make of trained ones."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.property.test_boundaries import AFTER, STEP, crossings_of, reference
from tests.shards import draw_bottlenecks
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.bottleneck import Bottleneck, add_bottlenecks
from trainer.programs.tracing.boundaries import Boundaries, standing
from trainer.programs.tracing.capture import trace_run
from trainer.programs.tracing.parameters import trained_parameters
from trainer.runs.architectures import difference
from verification.program import Output
from verification.units import Count

FEW = settings(max_examples=60, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4))
WIDE = 36


@FEW
@given(shape=SHAPES, narrow=st.integers(1, 9), more=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_they_begin_as_one_projection(shape: tuple[int, int], narrow: int, more: int, seed: int) -> None:
    """What has gone through one goes through all others as it is."""
    hidden = torch.randn(*shape, narrow + more, generator=torch.Generator().manual_seed(seed))
    first, second = Bottleneck(narrow + more, narrow), Bottleneck(narrow + more, narrow)
    outside = first(hidden)
    assert torch.equal(first.encoder(hidden), hidden[..., :narrow])
    assert torch.equal(outside[..., :narrow], hidden[..., :narrow])
    assert not outside[..., narrow:].any()
    assert torch.equal(second(outside), outside)


@FEW
@given(shape=SHAPES, narrow=st.integers(1, 9), more=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_trained_ones_are_linear_maps_of_no_higher_rank(
    shape: tuple[int, int], narrow: int, more: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    own = Bottleneck(narrow + more, narrow).double()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
        rows = own(torch.eye(narrow + more).double())
        hidden = torch.randn(*shape, narrow + more, generator=random).double()
        assert torch.allclose(own(hidden), hidden @ rows)
    assert torch.linalg.matrix_rank(rows) <= narrow


@pytest.mark.parametrize(("name", "bits", "narrow"), [("llama", 8, 9), ("gpt2", 16, 4), ("vit", 4, 12)])
def test_a_step_rounds_narrow_rows_and_trains_both_projections(name: str, bits: int, narrow: int) -> None:
    module, boundaries = zoo.model(name), Boundaries((AFTER[name],), bits, width=narrow)
    add_bottlenecks(module, {AFTER[name]: (WIDE, narrow)})
    draw_bottlenecks(module)
    loss = zoo.loss_of(name, module)
    run = trace_run(module, loss, replace(zoo.job(name), boundaries=boundaries, optimiser=STEP))
    crossings = crossings_of(run.inner)
    assert len(crossings) == 2, "one forwards, one backwards"
    ends = [Output(str(place), Count(n)) for place, n in enumerate(n for pair in crossings for n in pair)]
    seen = LoadedProgram(replace(run.inner, outputs=(*run.inner.outputs, *ends))).run(zoo.begun(run, name))
    for before, after in zip(seen[-4::2], seen[-3::2], strict=True):
        assert before.shape[-1] == narrow
        assert reference(before.numpy(), bits, 0).tolist() == after.tolist()
    made = dict(zip([output.name for output in run.inner.outputs], seen, strict=False))
    found = [made[f"working/m/{each}"] for each in run.parameter_names]
    with standing(module, boundaries):
        value = loss(module, zoo.records(name)[zoo.index(name)[0]].long())
    parameters = trained_parameters(module)
    wanted = list(torch.autograd.grad(value, list(parameters.values())))
    assert made["loss_sum"].item() == pytest.approx(value.item(), rel=1e-3)
    assert difference(found, wanted) < 0.02
    own = [place for place, each in enumerate(parameters) if ".boundary." in each]
    assert len(own) == 2
    for place in own:
        assert wanted[place].norm() > 0
        assert difference(found[place : place + 1], wanted[place : place + 1]) < 0.05
