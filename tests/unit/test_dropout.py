"""Dropout: masks as random as they must be, the same for everyone, and gradients as native's under the same masks."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import zoo
from tests.zoo import JOB
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.programs.tracing.dropout import Dropping, kept, round_seed, taken_on
from trainer.programs.tracing.optimiser import SGD
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from verification.errors import UserError

CONFIG = zoo.CONFIGS["gpt2"] | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.2}
SITES = 1 + 2 * 3
"""Of GPT-2: the embedding, and in each layer attention, its projection and the feed-forward layer."""
FAR = 4.5
"""Standard deviations: of some hundred normal numbers none is further off."""


def deviates(values: torch.Tensor, share: float) -> float:
    """Return the sum of kept flags in standard deviations from what it should be."""
    flags = values.flatten().double()
    return float((flags - (1 - share)).sum() / math.sqrt(share * (1 - share) * flags.numel()))


def correlates(one: torch.Tensor, other: torch.Tensor, share: float) -> float:
    """Return by how many standard deviations two sets of flags go together."""
    first, second = (values.flatten().double() - (1 - share) for values in (one, other))
    return float((first * second).sum() / (share * (1 - share) * math.sqrt(first.numel())))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 64), (8, 19, 36), (2, 4, 32, 32)])
def test_masks_are_random_in_themselves_and_beside_each_other(share: float, shape: tuple[int, ...]) -> None:
    masks = [kept(shape, share, taken_on(torch.tensor(7), number)) for number in range(12)]
    for mask, after in pairwise(masks):
        assert abs(deviates(mask, share)) < FAR
        assert abs(correlates(mask, after, share)) < FAR
        flat = mask.flatten()
        for distance in (1, 2, shape[-1], shape[-1] + 1):
            assert abs(correlates(flat[:-distance], flat[distance:], share)) < FAR


def test_everything_or_nothing() -> None:
    seed = torch.tensor(5)
    assert kept((1000,), 2.0**-70, seed).all() and not kept((1000,), 1.0, seed).any()


@given(st.lists(st.integers(0, 1 << 40), min_size=4, max_size=4, unique=True), st.integers(0, 1 << 30))
def test_a_rounds_seed_moves_with_each_record_and_with_the_round(records: list[int], number: int) -> None:
    index, now = torch.tensor(records).view(2, 2), torch.tensor(number)
    seeds = {
        int(round_seed(index, now)),
        int(round_seed(index, now + 1)),
        int(round_seed(index.flip(0), now)),
    }
    assert len(seeds) == 3


@pytest.fixture(scope="module")
def run() -> TracedRun:
    descent = SGD(momentum=0.0, nesterov=False, weight_decay=0.0)
    job = replace(JOB, accumulate=2, optimiser=descent, schedule=Schedule(lr=0.5, steps=20))
    return trace_run(build_model(CONFIG, seed=3), causal_lm_loss, job)


def begun(run: TracedRun, number: int = 0) -> list[torch.Tensor]:
    state = [to_torch(tensor) for tensor in run.start.tensors]
    given = [*state, zoo.records("gpt2"), zoo.index("gpt2"), torch.tensor(number)]
    return LoadedProgram(run.prologue).run(given)


@pytest.mark.slow
def test_steps_are_those_of_native_training_under_the_same_masks(run: TracedRun) -> None:
    """Plain descent, so that a parameter's change is its gradient."""
    names = [port.name for port in run.inner.inputs]
    state, inner = begun(run), LoadedProgram(run.inner)
    seed, rate = state[names.index("seed")], state[names.index("rates")]
    assert torch.equal(seed, round_seed(zoo.index("gpt2"), torch.tensor(0)))
    model = build_model(CONFIG, seed=3)
    trained = dict(model.named_parameters())
    for step in range(2):
        after = inner.run(state)
        with torch.no_grad():
            for name, value in zip(run.parameter_names, state, strict=False):
                trained[name].copy_(value)
        model.zero_grad()
        tokens = zoo.records("gpt2")[zoo.index("gpt2")[step]].long()
        losses = []
        for part, rows in enumerate(tokens.chunk(2)):
            with Dropping(seed, torch.tensor(2 * step + part)) as dropping:
                losses.append(causal_lm_loss(model, rows) / 2)
            losses[-1].backward()
            assert dropping.sites == SITES
        place = names.index("loss_sum")
        assert after[place] - state[place] == pytest.approx(sum(each.item() for each in losses), rel=1e-3)
        for name, old, new in zip(run.parameter_names, state, after, strict=False):
            gradient, moved = trained[name].grad, (old - new) / rate[step]
            assert gradient is not None and (moved - gradient).norm() < 0.01 * gradient.norm() + 1e-6, name
        state = after


@pytest.mark.slow
def test_rounds_draw_other_masks_and_the_same_round_the_same(run: TracedRun) -> None:
    inner = LoadedProgram(run.inner)
    first, again, other = (inner.run(begun(run, number)) for number in (0, 0, 1))
    place = [port.name for port in run.inner.inputs].index("loss_sum")
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert first[place] != other[place]


@pytest.mark.parametrize("inplace", [False, True])
def test_what_drops_in_place_changes_what_it_was_given(inplace: bool) -> None:
    seed, given = torch.tensor(7), torch.ones(8, 16)
    with Dropping(seed, torch.tensor(0)):
        made = torch.nn.functional.dropout(given, 0.5, inplace=inplace)
    assert set(made.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(given, made) == inplace


def test_a_share_that_is_none_is_refused_by_its_number() -> None:
    config = zoo.CONFIGS["llama"] | {"attention_dropout": 1.5}
    with pytest.raises(UserError, match=r"^dropout of 1.5: give the model's config a share within 0..1$"):
        trace_run(build_model(config), causal_lm_loss, JOB)


def test_in_place_dropout_is_traced() -> None:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.drop = torch.nn.Embedding(256, 8), torch.nn.Dropout(0.5, inplace=True)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.table(tokens) * 2.0
            self.drop(hidden)
            return hidden

    run = trace_run(Small(), lambda model, tokens: model(tokens[:, :-1]).square().mean(), JOB)
    assert run.sizes.drops
    assert LoadedProgram(run.inner).run(begun(run))


def test_a_model_without_dropout_has_no_seed() -> None:
    assert "seed" not in {port.name for port in zoo.traced("gpt2").inner.inputs}
