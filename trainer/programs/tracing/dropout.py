"""Dropout whose masks are a function of the round's inputs: every audit draws the same ones.

A mask is a hash of a seed and of each element's place, in wrapping int64 arithmetic. The seed is a hash of the round's
number and of the records that a worker is given, taken on for every step, part of a batch, and layer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from verification.errors import UserError

GAMMA = -7046029254386353131
"""The golden ratio's odd constant, as int64: what counts up walks through all numbers by it. (SplitMix64)"""
FACTORS = (-4658895280553007688, -7723592293110705686)
"""Even factors a: x + a x^2 is a permutation of the 64-bit numbers, whose high bits depend on every lower one."""


class Dropping(TorchFunctionMode):
    """While it is entered, `dropout` of torch draws its masks from a round's seed and the number of a part of its
    batches, both int64 0-d; `sites` counts how often."""

    def __init__(self, seed: torch.Tensor, part: torch.Tensor) -> None:
        super().__init__()
        self._seed, self._part, self.sites = seed, part, 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, or ours in the place of `dropout`; raises UserError for a share outside 0..1."""
        given = kwargs or {}
        if function is not functional.dropout:
            return function(*args, **given)
        named = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | given
        values, share = named["input"], named.get("p", 0.5)
        if not 0 <= share <= 1:
            raise UserError(f"dropout of {share}: give the model's config a share within 0..1")
        if not share or not named.get("training", True):
            return values
        self.sites += 1
        made = dropped(values, share, taken_on(taken_on(self._seed, self._part), self.sites))
        return values.copy_(made) if named.get("inplace") else made


def dropped(values: torch.Tensor, share: float, seed: torch.Tensor) -> torch.Tensor:
    """Return float32 values over 1 - share, and zero where `kept` says no. (Srivastava et al., "Dropout", 2014)"""
    scale = 0.0 if share == 1 else 1.0 / (1.0 - share)
    return torch.where(kept(values.shape, share, seed), values * scale, 0.0)


def kept(shape: Sequence[int], share: float, seed: torch.Tensor) -> torch.Tensor:
    """Return which elements stay, bool of that shape: each with chance 1 - share, by its place and the seed."""
    places = seed
    for dim, size in enumerate(shape):
        behind = shape[dim + 1 :]
        place = torch.arange(size).view(-1, *[1] * len(behind))
        places = places + place * _wrapped(GAMMA * math.prod(behind))
    return _mixed(places) >= max(-(2**63), min(2**63 - 1, math.floor((share - 0.5) * 2.0**64)))


def taken_on(seed: torch.Tensor, number: torch.Tensor | int) -> torch.Tensor:
    """Return the seed of part `number` of what a seed is for, both int64 0-d."""
    step = number * GAMMA if isinstance(number, torch.Tensor) else _wrapped(number * GAMMA)
    return _mixed(seed + step)


def round_seed(index: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Return a round's seed, int64 0-d, from a worker's records (int64 [steps, batch]) and its number (0-d)."""
    powers = [_wrapped(pow(GAMMA, place + 1, 1 << 64)) for place in range(index.numel())]
    drawn = ((index + 1) * torch.tensor(powers).view(index.shape)).sum()
    return taken_on(_mixed(drawn), number)


def _mixed(number: torch.Tensor) -> torch.Tensor:
    """Return a hash of int64, whose high bits count."""
    for factor in FACTORS:
        number = number * number * factor + number
    return number


def _wrapped(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
