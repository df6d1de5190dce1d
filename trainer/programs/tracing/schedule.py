"""The learning rate of every inner step, built from operators: a function of the round's number and nothing else."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from trainer.programs.tracing.builder import Builder, Value
from verification.arithmetic.numbers import FLOAT, INDEX

Curve = Literal["constant", "linear", "cosine", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """Rates over a whole run of `steps` inner steps: step `s` of round `r` is step `r * max_steps + s` of the run.

    The rate grows linearly to `lr` over the run's first `warmup` steps. Then it stays there ("constant"), falls to
    `final_share` of it by the run's end on a straight line or half a cosine (Loshchilov and Hutter, "SGDR", 2017), or
    stays until the last `decay` steps, in which it falls on a straight line ("wsd"; Hu et al., "MiniCPM", 2024). Over
    the first `round_warmup` steps of every round it grows from nothing too, since optimizers begin anew there. Of a run
    that goes on from another one `first` steps are done before.
    """

    lr: float
    steps: int
    curve: Curve = "constant"
    warmup: int = 0
    decay: int = 0
    final_share: float = 0.0
    round_warmup: int = 1
    first: int = 0

    def rates(self, b: Builder, number: Value, max_steps: int) -> Value:
        """Return the rates of a round's steps, float32 [max_steps]; `number` is the round's, int64 0-d."""
        within = [min(1.0, (step + 1) / max(1, self.round_warmup)) for step in range(max_steps)]
        rates = b.multiply(b.constant(torch.tensor(within)), b.scalar(self.lr))
        begun = b.multiply(number, b.scalar(max_steps, INDEX))
        step = b.add(b.constant(self.first + torch.arange(max_steps)), begun)
        if self.warmup > 1:
            share = b.divide(b.cast(b.add(step, b.scalar(1, INDEX)), FLOAT), b.scalar(float(self.warmup)))
            rates = b.multiply(rates, b.emit("minimum", share, b.scalar(1.0)))
        return rates if self.curve == "constant" else b.multiply(rates, self._falling(b, step))

    def _falling(self, b: Builder, step: Value) -> Value:
        begin = self.steps - self.decay if self.curve == "wsd" else self.warmup
        passed = b.cast(b.subtract(step, b.scalar(begin, INDEX)), FLOAT)
        share = b.divide(passed, b.scalar(float(max(1, self.steps - begin))))
        share = b.emit("minimum", b.emit("maximum", share, b.scalar(0.0)), b.scalar(1.0))
        if self.curve == "cosine":
            turned = b.emit("cos", b.multiply(share, b.scalar(math.pi)))
            height = b.multiply(b.add(turned, b.scalar(1.0)), b.scalar(0.5))
        else:
            height = b.subtract(b.scalar(1.0), share)
        return b.add(b.multiply(height, b.scalar(1.0 - self.final_share)), b.scalar(self.final_share))
