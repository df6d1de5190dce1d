"""Tracing: the same bytes each time, close to float64 PyTorch, learning like torch's own AdamW, refusing by name."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests import zoo
from tests.zoo import JOB
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import trace_gradients, trace_run
from trainer.programs.tracing.lower import Lowering
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from verification.errors import UserError
from verification.program import encode_program, program_digest

pytestmark = pytest.mark.slow

KINDS = ("llama", "gpt2")


def _gradients(module: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of a module by our arithmetic."""
    b = Builder()
    parameters = list(module.parameters())
    values = [b.port(f"p{n}", "float32", parameter.shape) for n, parameter in enumerate(parameters)]
    graph, drops = trace_gradients(module, causal_lm_loss, JOB)
    assert not drops
    values.append(b.port("tokens", "int64", tokens.shape))
    loss, *gradients = Lowering(b).run(graph, values)
    outputs = [("loss", loss), *((f"g{n}", gradient) for n, gradient in enumerate(gradients))]
    program = LoadedProgram(b.finish("gradients", outputs))
    found = program.run([*(parameter.detach() for parameter in parameters), tokens])
    return found[0], found[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_tracing_twice_gives_the_same_bytes(kind: str) -> None:
    again = trace_run(zoo.model(kind), causal_lm_loss, JOB)
    for name in ("prologue", "inner", "epilogue", "outer"):
        first, second = (encode_program(getattr(run, name)) for run in (zoo.traced(kind), again))
        assert program_digest(first) == program_digest(second), name
    assert again.start == zoo.traced(kind).start


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_close_to_float64(kind: str) -> None:
    module = zoo.model(kind)
    tokens = zoo.records(kind)[: JOB.batch].long()
    loss, gradients = _gradients(module, tokens)
    wide = copy.deepcopy(module).double()
    expected = torch.nn.functional.cross_entropy(
        wide(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1), tokens[:, 1:].flatten()
    )
    gradients64 = torch.autograd.grad(expected, list(wide.parameters()))
    assert abs(loss.item() - expected.item()) < 1e-3
    names = [name for name, _ in wide.named_parameters()]
    for name, gradient, exact in zip(names, gradients, gradients64, strict=True):
        error = (gradient.double() - exact).norm() / exact.norm()
        assert error < 1e-2, f"{name}: relative error {error:.1e}"


def test_epilogue_and_outer_step_are_what_they_say() -> None:
    run = zoo.traced("llama")
    state, working = [to_torch(tensor) for tensor in run.start.tensors], zoo.working("llama")
    for _ in range(3):
        working = LoadedProgram(run.inner).run(working)
    contribution = LoadedProgram(run.epilogue).run(state + working)
    count = len(run.parameter_names)
    expected = [
        ((a - b) * 2.0**JOB.grid_exponent).round().clamp(-127, 127).to(torch.int8)
        for a, b in zip(state[:count], working[:count], strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(contribution[:count], expected, strict=True))
    assert contribution[count].item() == sum((e.long() ** 2).sum().item() for e in expected)
    assert contribution[count + 1].item() == pytest.approx(working[-4].item() / 3)
    outer = LoadedProgram(run.outer)
    after = outer.run([*state, *contribution * JOB.slots, torch.tensor([1, 2, 0])])
    delta = expected[0].double() / 2.0**JOB.grid_exponent
    torch.testing.assert_close(after[count].double(), delta, rtol=1e-5, atol=0)
    moved = state[0].double() - JOB.outer_lr * (delta + JOB.outer_momentum * delta)
    torch.testing.assert_close(after[0].double(), moved, rtol=1e-5, atol=1e-7)
    nothing = outer.run([*state, *contribution * JOB.slots, torch.tensor([0, 0, 0])])
    assert all(torch.equal(a, b) for a, b in zip(nothing, state, strict=True))


class _Wrapped(nn.Module):
    """A model around one function of its logits."""

    def __init__(self, function: Callable[..., torch.Tensor], extra: nn.Module | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 8)
        self.extra = extra or nn.Identity()
        self.function = function

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(self.extra(self.table(tokens)))
        return result


def _mean_loss(module: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = module(tokens[:, :-1]).mean()
    return result


def _refusal(module: nn.Module) -> str:
    with pytest.raises(UserError) as caught:
        trace_run(module, _mean_loss, JOB)
    message = str(caught.value)
    assert "\n" not in message
    return message


class _Bessel(nn.Module):
    """Calls an operator that has no exact form."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(value.detach()) + value


class _ByFrequency(nn.Module):
    """Calls an operator whose gradient has no exact form: what fails is a node of the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 8))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value + torch.nn.functional.embedding(
            value[..., 0].long() * 0, self.table, scale_grad_by_freq=True
        )


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        (_Bessel(), 1, r"special_bessel_j0\.default has no exact form \(called at test_trace\.py:{}"),
        (
            _ByFrequency(),
            2,
            r"embedding_dense_backward.* \(in a gradient, near test_trace\.py:{}",
        ),
    ],
)
def test_an_operator_without_an_exact_form_is_refused_with_its_line(
    module: nn.Module, line: int, reason: str
) -> None:
    message = _refusal(_Wrapped(lambda value: value, module))
    first = type(module).forward.__code__.co_firstlineno
    assert re.search(reason.format(first + line), message), message


def test_state_and_randomness_inside_a_model_are_refused_by_name() -> None:
    batch_norm = _refusal(_Wrapped(torch.sum, nn.BatchNorm1d(JOB.length)))
    assert "BatchNorm1d" in batch_norm and "track_running_stats=False" in batch_norm
    assert "random" in _refusal(_Wrapped(torch.sum, nn.AlphaDropout(0.1)))
    assert "random" in _refusal(_Wrapped(lambda value: value * torch.rand(1)))
    assert "buffer 'extra.seen'" in _refusal(_Wrapped(torch.sum, _Counter()))


class _Counter(nn.Module):
    """Changes its own buffer in forward."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        self.seen.add_(value.detach().mean())
        return value * self.seen


def test_a_shape_that_depends_on_data_is_refused() -> None:
    assert "depends on data" in _refusal(_Wrapped(lambda value: value[value > 0]))
    assert "cannot be traced" in _refusal(_Wrapped(lambda value: value @ torch.zeros(3, 3)))


@pytest.mark.parametrize(
    "module",
    [
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        nn.GRU(8, 8, batch_first=True),
        nn.Sequential(nn.RMSNorm(8), nn.SiLU(), nn.Softplus(), nn.ELU(), nn.LeakyReLU(), nn.Hardtanh()),
    ],
    ids=["encoder", "gru", "activations"],
)
def test_plain_modules_train(module: nn.Module) -> None:
    def function(value: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        out = value[0] if isinstance(value, tuple) else value
        twisted = torch.zeros_like(out)
        twisted[..., ::2] = out[..., 1::2]
        return (out.std(-1) + twisted.var(-1)).clamp(0.1, 5.0) ** 1.5

    wrapped = _Wrapped(function, module)
    run = trace_run(wrapped, _mean_loss, JOB)
    working = LoadedProgram(run.prologue).run(
        [*map(to_torch, run.start.tensors), zoo.records("llama"), zoo.index("llama"), torch.tensor(0)]
    )
    inner, losses = LoadedProgram(run.inner), []
    for _ in range(5):
        before = working[-4].item()
        working = inner.run(working)
        losses.append(working[-4].item() - before)
    batches = zoo.records("llama")[zoo.index("llama")[:5]]
    assert losses == pytest.approx(zoo.train_natively(wrapped, _mean_loss, batches), abs=2e-3)


def test_in_place_operators_on_temporaries_are_traced() -> None:
    def function(value: torch.Tensor) -> torch.Tensor:
        twice = value * 2
        twice[:, 0] = 1.0
        return twice.mul_(value)

    run = trace_run(_Wrapped(function), _mean_loss, JOB)
    LoadedProgram(run.inner)


def test_bad_configs_are_explained() -> None:
    with pytest.raises(UserError, match="model_type"):
        build_model({"vocab_size": 256})


def test_gpt2_ties_its_embedding() -> None:
    assert "lm_head.weight" not in zoo.traced("gpt2").parameter_names
    assert "transformer.wte.weight" in zoo.traced("gpt2").parameter_names
