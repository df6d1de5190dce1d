"""Which architectures of the installed transformers train exactly: one tiny model of each, one step, and PyTorch's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional

from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.capture import Loss, TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.optimiser import SGD
from trainer.programs.tracing.parameters import trained_parameters
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.models import REFUSALS, build_class
from trainer.runs.tasks import causal_lm_loss
from trainer.runs.tiny import tiny_config
from verification.errors import ProofswarmError

LENGTH, BATCH = 12, 2
TOLERANCE = 0.01
"""Largest part by which loss and gradients may differ from PyTorch's float32."""
JOB = TraceConfig(
    records=BATCH,
    length=LENGTH,
    batch=BATCH,
    max_steps=1,
    slots=1,
    grid_exponent=12,
    optimiser=SGD(momentum=0.0, nesterov=False, weight_decay=0.0),
    schedule=Schedule(lr=1e-3, steps=1, round_warmup=1),
    outer_lr=1.0,
    outer_momentum=0.0,
    tokens="int64",
)
"""One plain step: the optimiser's state after it is the gradients."""


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture: whether it trains exactly, and the two errors or the reason."""

    name: str
    exact: bool
    loss_error: float | None = None
    gradient_error: float | None = None
    reason: str = ""


def _mean_of_choices(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten())


def _masked(model: Any, records: torch.Tensor) -> torch.Tensor:
    given = records.where(torch.arange(records.shape[1]) % 4 != 1, 2)
    return _mean_of_choices(model(input_ids=given).logits, records)


def _signal(records: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return numbers within -1..1 of a shape, from the tokens of a record over and over."""
    places = torch.arange(math.prod(shape))
    waves = records[:, places % records.shape[1]].float() * 0.7 + places * 0.3
    return waves.sin().view(-1, *shape)


def _label(records: torch.Tensor) -> torch.Tensor:
    """Return one of two classes for each record."""
    return (records[:, 0] < 16).long()


def _image(model: Any, records: torch.Tensor) -> torch.Tensor:
    logits = model(pixel_values=_signal(records, 3, 16, 16)).logits
    return _mean_of_choices(logits, _label(records))


def _spectrogram(model: Any, records: torch.Tensor) -> torch.Tensor:
    config = model.config
    logits = model(input_values=_signal(records, config.max_length, config.num_mel_bins)).logits
    return _mean_of_choices(logits, _label(records))


def _speech(model: Any, records: torch.Tensor) -> torch.Tensor:
    config = model.config
    sound = _signal(records, config.num_mel_bins, 2 * config.max_source_positions)
    made = model(input_features=sound, decoder_input_ids=records[:, :-1], use_cache=False)
    return _mean_of_choices(made.logits, records[:, 1:])


def _pairs(model: Any, records: torch.Tensor) -> torch.Tensor:
    made = model(input_ids=records, pixel_values=_signal(records, 3, 16, 16))
    return _mean_of_choices(made.logits_per_text, torch.arange(records.shape[0]))


def _image_text(model: Any, records: torch.Tensor) -> torch.Tensor:
    """An image of four patches, then text."""
    patches = torch.full((records.shape[0], 4), model.config.image_token_id)
    given = torch.cat([patches, records[:, :-1]], 1)
    made = model(input_ids=given, pixel_values=_signal(records, 3, 16, 16), use_cache=False)
    return _mean_of_choices(made.logits[:, 4:], records[:, 1:])


@dataclass(frozen=True)
class Kind:
    """The class of transformers that builds a model, and a loss of int64 records [BATCH, LENGTH + 1]."""

    auto_class: str
    loss: Loss


CAUSAL = Kind("AutoModelForCausalLM", causal_lm_loss)
OTHERS: Mapping[str, tuple[str, Kind]] = {
    "bert as masked-lm": ("bert", Kind("AutoModelForMaskedLM", _masked)),
    "vit as image-classification": ("vit", Kind("AutoModelForImageClassification", _image)),
    "audio-spectrogram-transformer": (
        "audio-spectrogram-transformer", Kind("AutoModelForAudioClassification", _spectrogram),
    ),
    "whisper as speech-seq2seq": ("whisper", Kind("AutoModelForSpeechSeq2Seq", _speech)),
    "clip": ("clip", Kind("AutoModel", _pairs)),
    "llava": ("llava", Kind("AutoModelForImageTextToText", _image_text)),
}  # fmt: skip
"""What else is tried: a name, its model type, what builds it and its loss."""


def causal_lm_architectures() -> list[str]:
    """Return the model types for which the installed transformers has a causal language model, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_architecture(name: str) -> Outcome:
    """Build a tiny model, do one step of its program, and compare it with PyTorch's.

    Where the numbers differ a second start is tried: two scores of a router that are nearer than products' rounding may
    change places, and take other experts. An operator that is wrong is so at every start.
    """
    first = _tried(name, 1)
    if first.exact or first.gradient_error is None:
        return first
    second = _tried(name, 2)
    return (
        replace(second, reason=f"at a second start; {first.reason} at the first") if second.exact else first
    )


def _tried(name: str, seed: int) -> Outcome:
    model_type, kind = OTHERS.get(name, (name, CAUSAL))
    try:
        model = build_class(kind.auto_class, tiny_config(model_type), seed)
        redraw_constants(model)
        return compared(name, model, kind.loss, tokens())
    except ProofswarmError as error:
        return Outcome(name, False, reason=" ".join(str(error).split()))
    except (*REFUSALS, StrictDataclassError, LookupError, AssertionError) as error:
        return Outcome(name, False, reason=f"{type(error).__name__}: {' '.join(str(error).split())}")


def tokens() -> torch.Tensor:
    """Return int64 [BATCH, LENGTH + 1]: tokens that every tiny model knows, none of them special."""
    return 3 + torch.arange(BATCH * (LENGTH + 1)).view(BATCH, LENGTH + 1) * 7 % 29


def redraw_constants(model: nn.Module) -> None:
    """Draw anew what starts as one number over and over, such as routers of zeros: among equal scores PyTorch takes
    any experts, and the law the first."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))


def compared(name: str, model: nn.Module, loss: Loss, records: torch.Tensor) -> Outcome:
    """Return how the first step of a model's program differs from PyTorch's float32 on the same records."""
    run = trace_run(model, loss, JOB)
    found = one_step(run, records)
    value = loss(model, records)
    parameters = list(trained_parameters(model).values())
    wanted = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    loss_error = abs(found[0].item() - value.item()) / abs(value.item())
    gradient_error = difference(found[1:], list(wanted))
    exact = loss_error <= TOLERANCE and gradient_error <= TOLERANCE
    words = "" if exact else f"gradients off by {gradient_error:.1%}, loss by {loss_error:.1%}"
    return Outcome(name, exact, loss_error, gradient_error, words)


def one_step(run: TracedRun, records: torch.Tensor) -> list[torch.Tensor]:
    """Return [loss, gradient of each parameter] of the first step."""
    state = [to_torch(tensor) for tensor in run.start.tensors]
    index = torch.arange(BATCH).view(1, BATCH)
    working = LoadedProgram(run.prologue).run([*state, records, index, torch.tensor(0)])
    after = dict(zip([o.name for o in run.inner.outputs], LoadedProgram(run.inner).run(working), strict=True))
    return [after["loss_sum"], *(after[f"working/m/{name}"] for name in run.parameter_names)]


def difference(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Return the norm of the difference as a part of the norm of what is wanted, all tensors together."""
    away = math.sqrt(
        sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, wanted, strict=True))
    )
    size = math.sqrt(sum(float(b.double().square().sum()) for b in wanted))
    return away / size if size else away
