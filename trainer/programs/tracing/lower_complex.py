"""Lowerings of complex numbers, as far as rotary positions need them.

A complex tensor is a float32 one with one more dimension of two, the last: real and imaginary parts. The rules are
registered under `COMPLEX` and the operator's name, and `Lowering` takes them where the result is complex.
"""

from typing import Any

import torch

from trainer.programs.tracing.builder import Value
from trainer.programs.tracing.lower import COMPLEX, Argument, Lowering, rule
from verification.arithmetic.places import Spec


def _parts(low: Lowering, value: Argument) -> Value:
    """[..., 2] of a complex value or constant."""
    if isinstance(value, torch.Tensor) and value.is_complex():
        value = torch.view_as_real(value.resolve_conj().to(torch.complex64))
    return low.value(value)


def _halves(low: Lowering, value: Argument) -> tuple[Value, Value]:
    """Real and imaginary parts, each [..., 1]."""
    parts = _parts(low, value)
    last = len(parts.shape) - 1
    return low.builder.slice(parts, last, 0, 1), low.builder.slice(parts, last, 1, 2)


def _joined(low: Lowering, real: Value, imaginary: Value) -> Value:
    return low.builder.emit("concatenate", real, imaginary, dim=len(real.shape) - 1)


@rule("view_as_real", *(COMPLEX + name for name in ("view_as_complex", "clone", "alias", "detach")))
def _same(low: Lowering, out: Spec, value: Argument, **_: Any) -> Value:
    return _parts(low, value)


@rule(*(COMPLEX + name for name in ("view", "unsqueeze", "squeeze", "_unsafe_view", "reshape")))
def _view(low: Lowering, out: Spec, value: Argument, *_: Any) -> Value:
    return low.builder.view(_parts(low, value), (*out.shape, 2))


@rule(COMPLEX + "mul")
def _multiply(low: Lowering, out: Spec, left: Argument, right: Argument) -> Value:
    b, (a, c), (d, e) = low.builder, _halves(low, left), _halves(low, right)
    real = b.subtract(b.multiply(a, d), b.multiply(c, e))
    return _joined(low, real, b.add(b.multiply(a, e), b.multiply(c, d)))


@rule(COMPLEX + "_conj", COMPLEX + "conj_physical")
def _conjugate(low: Lowering, out: Spec, value: Argument) -> Value:
    real, imaginary = _halves(low, value)
    return _joined(low, real, low.builder.emit("negate", imaginary))
