"""Boundaries between a model's blocks: hidden states go on, and gradients come back, as small integers with scales.

A boundary is part of the model that is traced, so whoever executes the program rounds alike, whether in one machine or
cut into shards there. Rows are scaled by powers of two (block floating point); the gradient passes the rounding as if
there were none (the straight-through estimator of Bengio et al., 2013) and is then rounded itself.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from trainer.exact.scale import power_of_two32
from trainer.programs.tracing.bottleneck import NAME
from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.lower import Lowering, cover, rule
from verification.arithmetic.numbers import FLOAT
from verification.arithmetic.places import Spec
from verification.errors import UserError

LOWEST, HIGHEST = -111, 127
"""Exponents of scales: those of an int8 for which 2**(bits - 1 - e) and its inverse are normal float32 too."""


@dataclass(frozen=True)
class Boundaries:
    """The names of the modules behind whose results boundaries stand, and how finely these round.

    `chunk` numbers of a row, its last dimension, share a scale, 0: the whole row. A code has `bits` bits, 16, 8 or 4.
    With a `width` the modules have bottlenecks, within which the boundaries stand and rows have so many numbers.
    """

    after: tuple[str, ...]
    bits: int
    chunk: int = 0
    width: int = 0


def bytes_of_a_row(width: int, boundaries: Boundaries | None) -> int:
    """Return how many bytes the hidden states of a token have, `width` numbers, where they go from a block to the next:
    behind boundaries codes and scales, without them float32."""
    if boundaries is None:
        return 4 * width
    width = boundaries.width or width
    return -(-width * boundaries.bits // 8) + width // (boundaries.chunk or width)


@contextmanager
def standing(model: nn.Module, boundaries: Boundaries | None) -> Iterator[None]:
    """Let boundaries stand in a model for a while.

    Raises UserError for a result that is no float32 tensor with rows that the chunk divides, and, at the end, for a
    module that nothing has called.
    """
    if boundaries is None:
        yield
        return
    calls: Counter[str] = Counter()
    with ExitStack() as hooks:
        for name in boundaries.after:
            module = model.get_submodule(f"{name}.{NAME}.encoder" if boundaries.width else name)
            hook = module.register_forward_hook(_hook(name, boundaries, calls))
            hooks.callback(hook.remove)
        yield
    require_called(boundaries, calls)


def require_called(boundaries: Boundaries, called: Container[str]) -> None:
    """Raise UserError for a module, behind which a boundary is to stand, that is none of those which were called."""
    if waiting := [name for name in boundaries.after if name not in called]:
        raise UserError(
            f"model.boundaries.after: the model never calls {waiting[0]}, so that nothing would be rounded there: "
            "name another block"
        )


def _hook(name: str, boundaries: Boundaries, calls: Counter[str]) -> Any:
    def crossed(module: nn.Module, given: object, made: Any) -> Any:
        calls[name] += 1
        if isinstance(made, tuple) and made:
            return (_crossed(name, boundaries, made[0]), *made[1:])
        return _crossed(name, boundaries, made)

    return crossed


def _crossed(name: str, boundaries: Boundaries, made: Any) -> torch.Tensor:
    hidden = hidden_states(name, made)
    if boundaries.chunk and hidden.shape[-1] % boundaries.chunk:
        raise UserError(
            f"model.boundaries.chunk: {boundaries.chunk} does not divide the {hidden.shape[-1]} numbers that {name} "
            "makes of a token: take a divisor, or leave it out"
        )
    crossed: torch.Tensor = Crossing.apply(hidden, boundaries.bits, boundaries.chunk)
    return crossed


def hidden_states(name: str, made: Any) -> torch.Tensor:
    """Return the float32 rows that a module makes, or that its tuple begins with; raises UserError for none."""
    hidden = made[0] if isinstance(made, tuple) and made else made
    if not isinstance(hidden, torch.Tensor) or hidden.dtype != torch.float32 or not hidden.dim():
        raise UserError(
            f"model.boundaries.after: {name} makes no float32 tensor, or tuple that begins with one: name another block"
        )
    return hidden


class Crossing(torch.autograd.Function):
    """A rounding of hidden states whose gradient is rounded alike."""

    @staticmethod
    def forward(ctx: FunctionCtx, *given: Any) -> torch.Tensor:
        hidden, bits, chunk = given
        ctx.way = bits, chunk  # type: ignore[attr-defined]
        made: torch.Tensor = rounded(hidden, bits, chunk)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None]:
        return rounded(gradients[0], *ctx.way), None, None


@torch.library.custom_op("proofswarm::rounded", mutates_args=())
def rounded(hidden: torch.Tensor, bits: int, chunk: int) -> torch.Tensor:
    """Return what arrives of float32 [..., n] behind a boundary, in PyTorch's float32: the same numbers as a program's.

    A scale is 2**(e - bits + 1) for the least e of a chunk that is above its numbers' exponents, within `LOWEST` to
    `HIGHEST`. A number is a multiple of it, rounded half to even, of at most 2**(bits - 1) - 1 of them.
    """
    rows = hidden.reshape(_in_chunks(tuple(hidden.shape), chunk))
    exponent = torch.frexp(rows.abs().amax(-1, keepdim=True)).exponent.clamp(LOWEST, HIGHEST)
    shift, limit = bits - 1 - exponent, float(2 ** (bits - 1) - 1)
    codes = torch.round(rows * power_of_two32(shift)).clamp(-limit, limit)
    return (codes * power_of_two32(-shift)).reshape(hidden.shape)


@rounded.register_fake
def _fake(hidden: torch.Tensor, bits: int, chunk: int) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


@rule("proofswarm.rounded.default")
def _lower(low: Lowering, out: Spec, hidden: Any, bits: int, chunk: int) -> Value:
    cover(bits in (16, 8, 4), "only codes of 16, 8 or 4 bits")
    b, value = low.builder, low.value(hidden, FLOAT)
    codes, exponent = packed(b, value, bits, chunk)
    return unpacked(b, codes, exponent, bits, value.shape)


def packed(b: Builder, value: Value, bits: int, chunk: int) -> tuple[Value, Value]:
    """Return what crosses of float32 [..., n]: codes, and int8 exponents [..., n / chunk, 1], or [..., 1].

    Codes are int16 or int8 like the value, or of 4 bits uint8 [..., ceil(n / 2)]: code j, plus 8, in the lower half of
    byte j, and code j + ceil(n / 2) in the upper one.
    """
    rows, limit = b.view(value, _in_chunks(value.shape, chunk)), float((1 << bits - 1) - 1)
    exponent = b.cast(b.emit("row_exponent", rows, dim=len(rows.shape) - 1), FLOAT)
    exponent = _between(b, exponent, float(LOWEST), float(HIGHEST))
    scale = b.emit("power", b.scalar(2.0), b.subtract(b.scalar(bits - 1.0), exponent))
    codes = _between(b, b.emit("round", b.multiply(rows, scale)), -limit, limit)
    codes, exponent = b.view(codes, value.shape), b.cast(exponent, "int8")
    if bits != 4:
        return b.cast(codes, f"int{bits}"), exponent
    shape, bytes_ = value.shape, _bytes_of_a_row(value.shape)
    last = len(shape) - 1
    low = b.slice(codes, last, 0, bytes_)
    high = b.slice(codes, last, bytes_, shape[-1])
    if shape[-1] % 2:
        high = b.emit("concatenate", high, b.expand(b.scalar(0.0), (*shape[:-1], 1)), dim=last)
    both = b.add(low, b.multiply(high, b.scalar(16.0)))
    return b.cast(b.add(both, b.scalar(8.0 + 16.0 * 8.0)), "uint8"), exponent


def unpacked(b: Builder, codes: Value, exponent: Value, bits: int, shape: tuple[int, ...]) -> Value:
    """Return float32 of a shape: codes times 2**(e - bits + 1)."""
    numbers = b.cast(codes, FLOAT)
    if bits == 4:
        last = len(shape) - 1
        high = b.emit("floor", b.multiply(numbers, b.scalar(1.0 / 16.0)))
        low = b.subtract(numbers, b.multiply(high, b.scalar(16.0)))
        numbers = b.emit("concatenate", low, b.slice(high, last, 0, shape[-1] - codes.shape[-1]), dim=last)
        numbers = b.subtract(numbers, b.scalar(8.0))
    scale = b.emit("power", b.scalar(2.0), b.subtract(b.cast(exponent, FLOAT), b.scalar(bits - 1.0)))
    rows = b.view(
        numbers, (*exponent.shape[:-1], shape[-1] // math.prod(exponent.shape[len(shape) - 1 : -1]))
    )
    return b.view(b.multiply(rows, scale), shape)


def _in_chunks(shape: tuple[int, ...], chunk: int) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] // chunk, chunk) if chunk else shape


def _between(b: Builder, value: Value, low: float, high: float) -> Value:
    return b.emit("minimum", b.emit("maximum", value, b.scalar(low)), b.scalar(high))


def _bytes_of_a_row(shape: tuple[int, ...]) -> int:
    return -(-shape[-1] // 2)
