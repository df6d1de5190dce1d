"""Inner optimisers against PyTorch's own on the same gradients, and Muon's orthogonalisation against float64."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests import zoo
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import trace_run
from trainer.programs.tracing.optimiser import (
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_ROUNDS,
    SGD,
    AdamW,
    Gradients,
    Muon,
    Optimiser,
    Parameter,
    orthogonalised,
)
from trainer.programs.tracing.parameters import described_parameters

PARAMETERS = (
    Parameter("wide", (6, 11), hidden=True),
    Parameter("tall", (13, 5), hidden=True),
    Parameter("table", (9, 4)),
    Parameter("bias", (7,)),
)
STEPS = 7
RATE = 1e-2
ADAMW = AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)


def draw(step: int, size: float = 1.0) -> list[torch.Tensor]:
    """One tensor per parameter, the same for the same step."""
    generator = torch.Generator().manual_seed(step)
    return [size * torch.randn(p.shape, generator=generator) for p in PARAMETERS]


def train(optimiser: Optimiser) -> list[torch.Tensor]:
    """The parameters after `STEPS` steps by our operators."""
    b, slots = Builder(), optimiser.slots(PARAMETERS)
    values, gradients = (
        [b.port(f"{kind}/{p.name}", "float32", p.shape) for p in PARAMETERS] for kind in "pg"
    )
    state = [b.port(slot.name, "float32", slot.shape) for slot in slots]
    rate = b.port("rate", "float32", ())
    moved, kept = optimiser.update(b, PARAMETERS, Gradients(values, gradients, rate), state)
    program = LoadedProgram(b.finish("inner", [(str(n), value) for n, value in enumerate([*moved, *kept])]))
    known = draw(0) + [torch.full(slot.shape, slot.start) for slot in slots]
    for step in range(STEPS):
        tensors, state_now = known[: len(PARAMETERS)], known[len(PARAMETERS) :]
        known = program.run([*tensors, *draw(step + 1), *state_now, torch.tensor(RATE)])
    return known[: len(PARAMETERS)]


def train_natively(
    makers: Sequence[tuple[type[torch.optim.Optimizer], list[int], dict[str, object]]],
) -> list[torch.Tensor]:
    """The parameters after `STEPS` steps by optimisers of PyTorch, each on some of the parameters."""
    tensors = [value.requires_grad_() for value in draw(0)]
    made = [make([tensors[n] for n in places], **options) for make, places, options in makers]  # type: ignore[arg-type]
    for step in range(STEPS):
        for tensor, gradient in zip(tensors, draw(step + 1), strict=True):
            tensor.grad = gradient
        for optimiser in made:
            optimiser.step()
    return [tensor.detach() for tensor in tensors]


def worst(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest difference, as a share of how far training moved the parameter."""
    return max(
        ((a - b).norm() / (b - start).norm()).item()
        for a, b, start in zip(found, wanted, draw(0), strict=True)
    )


def adamw(
    places: list[int], decay: float
) -> tuple[type[torch.optim.Optimizer], list[int], dict[str, object]]:
    options = {"lr": RATE, "betas": (ADAMW.beta1, ADAMW.beta2), "eps": ADAMW.eps, "weight_decay": decay}
    return torch.optim.AdamW, places, options


def test_adamw() -> None:
    assert worst(train(ADAMW), train_natively([adamw([0, 1, 2], 0.1), adamw([3], 0.0)])) < 2e-6


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_sgd(momentum: float, nesterov: bool) -> None:
    def native(
        places: list[int], decay: float
    ) -> tuple[type[torch.optim.Optimizer], list[int], dict[str, object]]:
        options = {"lr": RATE, "momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
        return torch.optim.SGD, places, options

    found = train(SGD(momentum, nesterov, 0.1))
    assert worst(found, train_natively([native([0, 1, 2], 0.1), native([3], 0.0)])) < 2e-6


def test_sgd_without_momentum() -> None:
    native = (torch.optim.SGD, [0, 1, 2, 3], {"lr": RATE})
    assert worst(train(SGD(0.0, False, 0.0)), train_natively([native])) < 2e-6


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_as_close_to_torch_as_torchs_bfloat16(nesterov: bool) -> None:
    options = {
        "lr": RATE,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": nesterov,
        "adjust_lr_fn": "match_rms_adamw",
    }
    native = train_natively([(torch.optim.Muon, [0, 1], options), adamw([2], 0.1), adamw([3], 0.0)])
    found = train(Muon(ADAMW, 0.95, nesterov))
    for place in (0, 1):
        moved = native[place] - draw(0)[place]
        assert (found[place] - native[place]).norm() < 0.02 * moved.norm()
    for place in (2, 3):
        assert (found[place] - native[place]).norm() < 2e-6 * (native[place] - draw(0)[place]).norm()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 11), (13, 5), (8, 8), (1, 9), (40, 33)])
@pytest.mark.parametrize("size", [1.0, 1e-15, 1e15, 0.0])
def test_orthogonalisation_against_float64(shape: tuple[int, int], size: float) -> None:
    matrix = size * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    b = Builder()
    made = orthogonalised(b, b.port("x", "float32", shape))
    (found,) = LoadedProgram(b.finish("inner", [("y", made)])).run([matrix])
    x = matrix.double() / matrix.double().norm().clamp(min=1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.T
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    assert (found.double() - x).norm() <= 5e-3 * x.norm()
    if size == 1.0:
        values = torch.linalg.svdvals(found.double())
        assert values.min() > 0.6 and values.max() < 1.3


def test_a_gradient_clipped_before_the_step() -> None:
    """With all gradients scaled to norm 1, AdamW's first step is unchanged and SGD's is as long as its rate."""
    found = train(replace(SGD(0.0, False, 0.0), clip_norm=1.0))
    total = torch.cat([(a - b).flatten() for a, b in zip(found, draw(0), strict=True)])
    assert total.norm() < 1e-2 * STEPS


def named(model: str) -> tuple[set[str], set[str]]:
    """The names of a model's hidden matrices, and of those of its embeddings and its head."""
    found = described_parameters(zoo.model(model))
    return {p.name for p in found if p.hidden}, {p.name for p in found if p.token}


def test_hidden_matrices_are_neither_embeddings_nor_the_head() -> None:
    hidden, of_tokens = named("llama")
    assert "model.layers.0.mlp.up_proj.weight" in hidden
    assert of_tokens == {"model.embed_tokens.weight", "lm_head.weight"} and "model.norm.weight" not in hidden
    hidden, of_tokens = named("gpt2")
    assert of_tokens == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert not of_tokens & hidden
    hidden, of_tokens = named("bert")
    assert "bert.embeddings.word_embeddings.weight" in of_tokens - hidden
    hidden, of_tokens = named("vit")
    assert of_tokens == {"classifier.weight"} and len(hidden) == 2 * 6
    assert not named("convolutional")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "rate"), [(SGD(0.9, True, 0.0), 0.3), (Muon(zoo.ADAMW), 3e-3)], ids=["sgd", "muon"]
)
def test_a_model_learns_with_it(optimiser: Optimiser, rate: float) -> None:
    module, schedule = zoo.model("llama"), replace(zoo.SCHEDULE, lr=rate)
    run = trace_run(
        module, zoo.loss_of("llama", module), replace(zoo.JOB, optimiser=optimiser, schedule=schedule)
    )
    losses = zoo.losses_of(run, "llama", zoo.JOB.max_steps)
    assert losses[-1] < losses[0] - 1.0
