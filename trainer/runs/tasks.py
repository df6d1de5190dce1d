"""What a model learns from a record: the named losses, and the Hugging Face class that goes with each.

A loss takes (model, int64 [batch, width]), the bytes of a batch of records as numbers, and returns a 0-d float32. It is
traced once; everything it needs comes from the bytes themselves, so every machine that holds a record knows its loss.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainer.programs.tracing.capture import Loss
from verification.errors import UserError

MASK = 256
"""The token that hides a byte from a masked language model: the first that is no byte."""

MASKED_SHARE = 0.15
"""Of a record's bytes (Devlin et al., "BERT", 2019, 3.1)."""

_MULTIPLIERS = (-7046029254386353131, -4658895280553007687)
"""Odd constants that mix well (the golden ratio's and SplitMix64's first, as int64)."""


@dataclass(frozen=True)
class Task:
    """`auto_class` of transformers builds the model; `loss` makes its loss from the model's config."""

    auto_class: str
    loss: Callable[[Any], Loss]


def causal_lm_loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of tokens[:, 1:] given tokens[:, :-1], for a Hugging Face causal model."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def masked_lm_loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of the hidden tokens, for a Hugging Face masked model.

    A hidden token reads `MASK`. Which ones are hidden follows from the record alone (`hidden_places`), so a record has
    the same mask each time; a batch that hides nothing has the loss 0.
    """
    hidden = hidden_places(tokens)
    logits = model(input_ids=torch.where(hidden, MASK, tokens)).logits
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    count = hidden.sum().clamp(min=1).float()
    return torch.where(hidden.flatten(), losses, 0.0).sum() / count


def hidden_places(tokens: torch.Tensor) -> torch.Tensor:
    """Return which tokens of int64 [batch, width] to hide, bool: about `MASKED_SHARE` of them.

    A hash of the record and the position in wrapping int64 arithmetic: the record's polynomial in an odd constant, and
    a square whose high bits depend on every bit of both; hidden where it is small.
    """
    powers = [pow(_MULTIPLIERS[0], place + 1, 1 << 64) for place in range(tokens.shape[1])]
    weights = torch.tensor([power - (power >> 63 << 64) for power in powers])
    places = torch.arange(tokens.shape[1]) * _MULTIPLIERS[1]
    mixed = ((tokens + 1) * weights).sum(1, keepdim=True) + places
    mixed = mixed * mixed * _MULTIPLIERS[0] + mixed
    return mixed * mixed * _MULTIPLIERS[1] + mixed < math.floor((MASKED_SHARE - 0.5) * 2.0**64)


def image_loss(shape: tuple[int, int, int]) -> Loss:
    """Return the loss of an image classifier on records of channels * height * width bytes and a label's byte.

    Bytes become float32 within -1..1. The model gives logits [batch, classes], or an object that holds them.
    """
    size = math.prod(shape)

    def loss(model: nn.Module, records: torch.Tensor) -> torch.Tensor:
        if records.shape[1] != size + 1:
            raise UserError(
                f"a record has {records.shape[1]} bytes, but images of {list(shape)} and a label need {size + 1}"
            )
        pixels = records[:, :-1].float() * (2.0 / 255.0) - 1.0
        made = model(pixels.view(-1, *shape))
        logits = getattr(made, "logits", made)
        return functional.cross_entropy(logits, records[:, -1])

    return loss


def _masked_lm(config: Any) -> Loss:
    if config.vocab_size <= MASK:
        raise UserError(
            f"masked-lm hides bytes behind token {MASK}: give the model's config vocab_size {MASK + 1}"
        )
    return masked_lm_loss


def _image_classification(config: Any) -> Loss:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return image_loss((config.num_channels, height, width))


TASKS: Mapping[str, Task] = {
    "causal-lm": Task("AutoModelForCausalLM", lambda config: causal_lm_loss),
    "masked-lm": Task("AutoModelForMaskedLM", _masked_lm),
    "image-classification": Task("AutoModelForImageClassification", _image_classification),
}
