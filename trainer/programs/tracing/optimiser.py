"""The inner optimisers of a run, built from operators.

Tested against PyTorch's own optimisers (tests/unit/test_optimisers.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trainer.programs.tracing.builder import Builder, Value


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model; `hidden` for a matrix between two hidden layers, `token` for one of an embedding or the
    head, which has a row or a column for each token."""

    name: str
    shape: tuple[int, ...]
    hidden: bool = False
    token: bool = False


@dataclass(frozen=True)
class StateTensor:
    """A float32 tensor of an optimiser's state: its name in the working bundle, its shape and its first value."""

    name: str
    shape: tuple[int, ...]
    start: float = 0.0


@dataclass(frozen=True)
class Gradients:
    """What a step is made from: parameters and their gradients in one order, and the step's learning rate, 0-d."""

    parameters: Sequence[Value]
    gradients: Sequence[Value]
    rate: Value

    def only(self, places: Sequence[int]) -> "Gradients":
        """The same for some of the parameters."""
        return Gradients(
            [self.parameters[place] for place in places],
            [self.gradients[place] for place in places],
            self.rate,
        )


Stepped = tuple[list[Value], list[Value]]
"""(parameters, state) after a step."""


class Optimiser(Protocol):
    """The inner optimiser of a run: what it keeps, and its step as operators."""

    def slots(self, parameters: Sequence[Parameter]) -> list[StateTensor]:
        """Return its state's tensors, in the order in which `update` takes and gives them."""

    def update(
        self, b: Builder, parameters: Sequence[Parameter], now: Gradients, state: Sequence[Value]
    ) -> Stepped:
        """Return parameters and state after one step, one rounding per operation."""


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, 2019), none on 1-d tensors.

    As `torch.optim.AdamW`. `clip_norm` bounds the norm of all gradients together; 0 leaves them.
    """

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float = 0.0

    def slots(self, parameters: Sequence[Parameter]) -> list[StateTensor]:
        """Two moments per parameter, and the powers of the betas."""
        moments = [
            StateTensor(f"working/{kind}/{p.name}", p.shape) for kind in ("m", "v") for p in parameters
        ]
        return [*moments, StateTensor("beta1_power", (), 1.0), StateTensor("beta2_power", (), 1.0)]

    def update(
        self, b: Builder, parameters: Sequence[Parameter], now: Gradients, state: Sequence[Value]
    ) -> Stepped:
        """Return parameters and state after one step."""
        now = _clipped(b, now, self.clip_norm)
        count = len(now.parameters)
        beta1, beta2 = b.scalar(self.beta1), b.scalar(self.beta2)
        power1, power2 = b.multiply(state[-2], beta1), b.multiply(state[-1], beta2)
        rate = now.rate
        one = b.scalar(1.0)
        length = b.divide(rate, b.subtract(one, power1))
        spread = b.emit("sqrt", b.subtract(one, power2))
        kept = b.subtract(one, b.multiply(rate, b.scalar(self.weight_decay)))
        moved, first, second = [], [], []
        for place, (value, gradient) in enumerate(zip(now.parameters, now.gradients, strict=True)):
            m = _mixed(b, state[place], gradient, self.beta1)
            v = _mixed(b, state[count + place], b.multiply(gradient, gradient), self.beta2)
            below = b.add(b.divide(b.emit("sqrt", v), spread), b.scalar(self.eps))
            if self.weight_decay and len(value.shape) > 1:
                value = b.multiply(value, kept)
            moved.append(b.subtract(value, b.multiply(b.divide(m, below), length)))
            first.append(m)
            second.append(v)
        return moved, [*first, *second, power1, power2]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` without dampening.

    `weight_decay` times the parameter is added to its gradient, not on 1-d tensors; the rest as in `AdamW`.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    clip_norm: float = 0.0

    def slots(self, parameters: Sequence[Parameter]) -> list[StateTensor]:
        """The momentum of each parameter."""
        return [StateTensor(f"working/m/{p.name}", p.shape) for p in parameters]

    def update(
        self, b: Builder, parameters: Sequence[Parameter], now: Gradients, state: Sequence[Value]
    ) -> Stepped:
        """Return parameters and state after one step."""
        now = _clipped(b, now, self.clip_norm)
        rate, momentum = now.rate, b.scalar(self.momentum)
        moved, speeds = [], []
        for value, gradient, speed in zip(now.parameters, now.gradients, state, strict=True):
            if self.weight_decay and len(value.shape) > 1:
                gradient = b.add(gradient, b.multiply(value, b.scalar(self.weight_decay)))
            speed = b.add(b.multiply(speed, momentum), gradient)
            move = b.add(gradient, b.multiply(speed, momentum)) if self.nesterov else speed
            moved.append(b.subtract(value, b.multiply(move, rate)))
            speeds.append(speed)
        return moved, speeds


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum on the hidden matrices (Jordan et al., "Muon", 2024), AdamW (`rest`) on all else.

    As `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which makes one learning rate and weight decay, that
    of `rest`, fit both (Liu et al., "Muon is scalable for LLM training", 2025). Its products are exact, of
    quantised operands; torch's are bfloat16.
    """

    rest: AdamW
    momentum: float = 0.95
    nesterov: bool = True

    def slots(self, parameters: Sequence[Parameter]) -> list[StateTensor]:
        """The momentum of each hidden matrix, then the state of AdamW for the others."""
        momentum = [StateTensor(f"working/momentum/{p.name}", p.shape) for p in parameters if p.hidden]
        return momentum + self.rest.slots([p for p in parameters if not p.hidden])

    def update(
        self, b: Builder, parameters: Sequence[Parameter], now: Gradients, state: Sequence[Value]
    ) -> Stepped:
        """Return parameters and state after one step."""
        now = _clipped(b, now, self.rest.clip_norm)
        hidden = [place for place, p in enumerate(parameters) if p.hidden]
        others = [place for place, p in enumerate(parameters) if not p.hidden]
        rest = replace(self.rest, clip_norm=0.0)
        values, kept = rest.update(b, [parameters[n] for n in others], now.only(others), state[len(hidden) :])
        moved, speeds = self._orthogonal(b, now.only(hidden), state[: len(hidden)])
        made = dict(zip([*hidden, *others], [*moved, *values], strict=True))
        return [made[place] for place in range(len(parameters))], [*speeds, *kept]

    def _orthogonal(self, b: Builder, now: Gradients, state: Sequence[Value]) -> Stepped:
        rate = now.rate
        decay = b.subtract(b.scalar(1.0), b.multiply(rate, b.scalar(self.rest.weight_decay)))
        moved, speeds = [], []
        for value, gradient, speed in zip(now.parameters, now.gradients, state, strict=True):
            speed = _mixed(b, speed, gradient, self.momentum)
            direction = _mixed(b, speed, gradient, self.momentum) if self.nesterov else speed
            length = b.multiply(rate, b.scalar(0.2 * math.sqrt(max(value.shape))))
            kept = b.multiply(value, decay) if self.rest.weight_decay else value
            moved.append(b.subtract(kept, b.multiply(orthogonalised(b, direction), length)))
            speeds.append(speed)
        return moved, speeds


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The quintic a x + b x^3 + c x^5, which takes singular values in 0..1 to about 1 in five rounds (Jordan, 2024)."""
NEWTON_SCHULZ_ROUNDS = 5
LEAST_NORM = 1e-7


def orthogonalised(b: Builder, matrix: Value) -> Value:
    """Return [M, N] with about the singular vectors of `matrix` and singular values of 0.7 to 1.2.

    Five Newton-Schulz rounds on the matrix over its Frobenius norm, as in `torch.optim.Muon`, in exact products.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    first, third, fifth = (b.scalar(number) for number in NEWTON_SCHULZ)
    norm = b.emit("sqrt", b.total(b.multiply(matrix, matrix)))
    x = b.divide(matrix, b.emit("maximum", norm, b.scalar(LEAST_NORM)))
    x = b.permute(x, (1, 0)) if tall else x
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = b.matmul(x, b.permute(x, (1, 0)))
        change = b.add(b.multiply(gram, third), b.multiply(b.matmul(gram, gram), fifth))
        x = b.add(b.multiply(x, first), b.matmul(change, x))
    return b.permute(x, (1, 0)) if tall else x


def _mixed(b: Builder, old: Value, new: Value, keep: float) -> Value:
    """old * keep + new * (1 - keep)."""
    return b.add(b.multiply(old, b.scalar(keep)), b.multiply(new, b.scalar(1.0 - keep)))


def _clipped(b: Builder, now: Gradients, limit: float) -> Gradients:
    if not limit:
        return now
    total = b.scalar(0.0)
    for gradient in now.gradients:
        total = b.add(total, b.total(b.multiply(gradient, gradient)))
    below = b.add(b.emit("sqrt", total), b.scalar(1e-6))
    factor = b.emit("minimum", b.divide(b.scalar(limit), below), b.scalar(1.0))
    return replace(now, gradients=[b.multiply(gradient, factor) for gradient in now.gradients])
