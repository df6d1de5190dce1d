"""What a model learns from a record: the named losses, and the Hugging Face class that goes with each.

A loss takes (model, int64 [batch, width]), the tokens of a batch of records, and returns a 0-d float32. It is traced
once; everything it needs comes from the tokens themselves, so every machine that holds a record knows its loss.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from trainer.programs.tracing.capture import Loss
from verification.errors import UserError

MASKED_SHARE = 0.15
"""Of a record's tokens (Devlin et al., "BERT", 2019, 3.1)."""

_MULTIPLIERS = (-7046029254386353131, -4658895280553007687)
"""Odd constants that mix well (the golden ratio's and SplitMix64's first, as int64)."""


@dataclass(frozen=True)
class Marks:
    """What a loss must know of records: the token that hides others, the one that fills up, the shape of images
    (channels, height, width); None for none."""

    mask: int | None = None
    filler: int | None = None
    image: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Task:
    """`auto_class` of transformers builds the model; `of_config` makes its loss from its config and the marks."""

    auto_class: str
    of_config: Callable[[Any, Marks], Loss]

    def loss(self, config: Any, marks: Marks) -> Loss:
        """Return the loss of a model with a config of transformers, or with None, of any module that gives logits."""
        made = self.of_config(config, marks)
        return made if config is not None else partial(_of_plain_module, made)


class _Made(NamedTuple):
    logits: torch.Tensor


def _of_plain_module(loss: Loss, model: nn.Module, records: torch.Tensor) -> torch.Tensor:
    """Call a module that takes tokens or pixels alone by the names that models of transformers have for them."""

    def called(input_ids: torch.Tensor, use_cache: bool = False) -> _Made:
        return _Made(plain_logits(model, input_ids))

    as_known: Any = called
    return loss(as_known, records)


def plain_logits(model: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """Return the logits that a module makes of tokens or pixels: a tensor, or what it calls so; raises UserError."""
    made = model(given)
    logits = getattr(made, "logits", made)
    if not isinstance(logits, torch.Tensor):
        raise UserError(
            f"the model's forward returns {type(made).__name__}: it must return logits, or an object with .logits"
        )
    return logits


def causal_lm_loss(model: nn.Module, tokens: torch.Tensor, filler: int | None = None) -> torch.Tensor:
    """Return the mean cross entropy of tokens[:, 1:] given tokens[:, :-1], for a Hugging Face causal model.

    A filler after a filler does not count.
    """
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1).float()
    wanted = tokens[:, 1:]
    if filler is None:
        return functional.cross_entropy(logits, wanted.flatten())
    counted = (tokens[:, :-1] != filler) | (wanted != filler)
    return _mean_where(counted, functional.cross_entropy(logits, wanted.flatten(), reduction="none"))


def masked_lm_loss(model: nn.Module, tokens: torch.Tensor, mask: int) -> torch.Tensor:
    """Return the mean cross entropy of the hidden tokens, for a Hugging Face masked model.

    A hidden token reads `mask`. Which ones are hidden follows from the record alone (`hidden_places`), so a record has
    the same mask each time; a batch that hides nothing has the loss 0.
    """
    hidden = hidden_places(tokens)
    logits = model(input_ids=torch.where(hidden, mask, tokens)).logits
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return _mean_where(hidden, losses)


def _mean_where(counted: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return the mean of the losses that count, 0 where none does."""
    count = counted.sum().clamp(min=1).float()
    return torch.where(counted.flatten(), losses, 0.0).sum() / count


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


def image_loss(shape: Sequence[int]) -> Loss:
    """Return the loss of an image classifier on records of channels * height * width bytes and a label's byte.

    Bytes become float32 within -1..1. The model gives logits [batch, classes], or an object that holds them.
    """

    def loss(model: nn.Module, records: torch.Tensor) -> torch.Tensor:
        pixels = records[:, :-1].float() * (2.0 / 255.0) - 1.0
        made = model(pixels.view(-1, *shape))
        logits = getattr(made, "logits", made)
        return functional.cross_entropy(logits, records[:, -1])

    return loss


def _causal_lm(config: Any, marks: Marks) -> Loss:
    return partial(causal_lm_loss, filler=marks.filler)


def _masked_lm(config: Any, marks: Marks) -> Loss:
    if marks.mask is None:
        raise UserError("masked-lm hides tokens behind a mask token: give data.tokenizer one that has it")
    if config is not None and config.vocab_size <= marks.mask:
        raise UserError(
            f"masked-lm hides tokens behind token {marks.mask}: give the model's config vocab_size {marks.mask + 1}"
        )
    return partial(masked_lm_loss, mask=marks.mask)


def _image_classification(config: Any, marks: Marks) -> Loss:
    assert marks.image is not None
    return image_loss(marks.image)


TASKS: Mapping[str, Task] = {
    "causal-lm": Task("AutoModelForCausalLM", _causal_lm),
    "masked-lm": Task("AutoModelForMaskedLM", _masked_lm),
    "image-classification": Task("AutoModelForImageClassification", _image_classification),
}
