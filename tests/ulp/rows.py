"""Composites of whole rows: softmax, losses, norms and embeddings, on seeded normal numbers of several sizes."""

from collections.abc import Callable, Sequence

import mpmath
import torch
from torch import Tensor
from torch.nn import functional

from tests.lowered import vjp
from tests.ulp.composite import Composite, Truth, alone, reals
from tests.ulp.points import Real
from trainer.exact.rng import normal_f32


def rows(count: int, width: int, size: float, mean: float = 0.0, stream: str = "rows") -> Tensor:
    """float32 [count, width], normal."""
    return normal_f32(b"ulp", f"{stream} {width} {size}", (count, width), size) + mean


def _rows(size: float, *more: str, width: int = 37, mean: float = 0.0) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(density: int) -> tuple[Tensor, ...]:
        count = 5 * density if width < 100 else density
        return (rows(count, width, size, mean), *(rows(count, width, 1.0, stream=name) for name in more))

    return inputs


def _softmax_of(row: Sequence[Real]) -> list[Real]:
    largest = max(row)
    powers = [mpmath.exp(value - largest) for value in row]
    total = mpmath.fsum(powers)
    return [power / total for power in powers]


def _largest(values: Sequence[Real]) -> Real:
    return max(abs(value) for value in values)


def _by_row(formula: Callable[..., list[Real]], least: float = 0.0) -> Callable[..., Truth]:
    """Each row's exact values, measured against the largest of them, or `least`."""

    def truth(*inputs: Tensor) -> Truth:
        for row in zip(
            *(tensor if tensor.dim() > 1 else [tensor] * len(inputs[0]) for tensor in inputs), strict=True
        ):
            exact = formula(*map(reals, row))
            scale = max(_largest(exact), mpmath.mpf(least))
            yield from ((value, scale) for value in exact)

    return truth


def _softmax_gradient(x: Tensor, g: Tensor) -> Truth:
    for row, gradient in zip(map(reals, x), map(reals, g), strict=True):
        shares = _softmax_of(row)
        terms = [share * value for share, value in zip(shares, gradient, strict=True)]
        total, scale = mpmath.fsum(terms), _largest(terms)
        yield from ((term - share * total, scale) for share, term in zip(shares, terms, strict=True))


def _log_softmax(x: list[Real]) -> list[Real]:
    return [mpmath.log(share) for share in _softmax_of(x)]


def _log_softmax_gradient(x: list[Real], g: list[Real]) -> list[Real]:
    total = mpmath.fsum(g)
    return [value - share * total for share, value in zip(_softmax_of(x), g, strict=True)]


EPS = 1e-5
EXACT_EPS = mpmath.mpf(torch.tensor(EPS).item())


def _layer_norm(x: list[Real], weight: list[Real], bias: list[Real]) -> list[Real]:
    mean = mpmath.fsum(x) / len(x)
    root = mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in x) / len(x) + EXACT_EPS)
    return [(v - mean) / root * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def _layer_norm_gradient(x: list[Real], weight: list[Real], bias: list[Real], g: list[Real]) -> list[Real]:
    count, mean = len(x), mpmath.fsum(x) / len(x)
    root = mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in x) / count + EXACT_EPS)
    normal = [(v - mean) / root for v in x]
    inner = [a * b for a, b in zip(g, weight, strict=True)]
    first, second = mpmath.fsum(inner) / count, mpmath.fdot(inner, normal) / count
    return [(a - first - n * second) / root for a, n in zip(inner, normal, strict=True)]


def _rms_norm(x: list[Real], weight: list[Real]) -> list[Real]:
    root = mpmath.sqrt(mpmath.fsum(v * v for v in x) / len(x) + EXACT_EPS)
    return [v / root * w for v, w in zip(x, weight, strict=True)]


def _rms_norm_gradient(x: list[Real], weight: list[Real], g: list[Real]) -> list[Real]:
    count = len(x)
    root = mpmath.sqrt(mpmath.fsum(v * v for v in x) / count + EXACT_EPS)
    inner = [a * b for a, b in zip(g, weight, strict=True)]
    second = mpmath.fdot(inner, x) / count / root**2
    return [(a - v * second) / root for a, v in zip(inner, x, strict=True)]


def _norm_inputs(size: float, mean: float, *more: str) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(density: int) -> tuple[Tensor, ...]:
        vectors = [rows(1, 37, 1.0, stream=name)[0] + 1.0 for name in ("weight", "bias")]
        x = rows(5 * density, 37, size, mean)
        return (
            x,
            *vectors[: 2 if "bias" in more else 1],
            *([rows(5 * density, 37, 1.0, stream="g")] if "g" in more else []),
        )

    return inputs


def _apply_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(x, (x.shape[-1],), weight, bias, EPS)


def _apply_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],), weight, EPS)


def _labels(count: int) -> Tensor:
    return torch.arange(count) * 5 % 37


def _cross_entropy(x: Tensor) -> Tensor:
    return functional.cross_entropy(x, torch.arange(x.shape[0]) * 5 % 37, reduction="none")


def _cross_entropy_truth(x: Tensor) -> Truth:
    for row, label in zip(x, _labels(len(x)).tolist(), strict=True):
        loss = -_log_softmax(reals(row))[label]
        yield loss, max(loss, mpmath.mpf(1))


def _cross_entropy_gradient(x: Tensor, g: Tensor) -> Truth:
    for row, label in zip(x, _labels(len(x)).tolist(), strict=True):
        for place, share in enumerate(_softmax_of(reals(row))):
            yield share - (place == label), mpmath.mpf(1)


PLACES = torch.arange(331) * 7 % 11


def _table_inputs(density: int) -> tuple[Tensor, ...]:
    return rows(11, 3 * density, 1.0, stream="table"), rows(len(PLACES), 3 * density, 1.0, stream="gradients")


def _looked_up(table: Tensor) -> Tensor:
    return functional.embedding(PLACES, table)


def _table_gradient(table: Tensor, gradients: Tensor) -> Truth:
    for place in range(11):
        for column in gradients[place == PLACES].T:
            exact = mpmath.fsum(reals(column))
            yield exact, exact


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _log(x: Tensor) -> Tensor:
    return x.log_softmax(-1)


ROWS: dict[str, Composite] = {
    "softmax, rows of 1000": Composite(_rows(1.0, width=1000), alone(_softmax), _by_row(_softmax_of)),
    "log-softmax, rows of 1000": Composite(_rows(1.0, width=1000), alone(_log), _by_row(_log_softmax)),
    "embedding backward": Composite(_table_inputs, vjp(_looked_up, 1), _table_gradient),
}
for _size in (0.01, 1.0, 30.0):
    _x, _pair = _rows(_size), _rows(_size, "g")
    ROWS |= {
        f"softmax, spread {_size:g}": Composite(_x, alone(_softmax), _by_row(_softmax_of)),
        f"softmax backward, spread {_size:g}": Composite(_pair, vjp(_softmax, 1), _softmax_gradient),
        f"log-softmax, spread {_size:g}": Composite(_x, alone(_log), _by_row(_log_softmax)),
        f"log-softmax backward, spread {_size:g}": Composite(
            _pair, vjp(_log, 1), _by_row(_log_softmax_gradient)
        ),
        f"cross-entropy, spread {_size:g}": Composite(_x, alone(_cross_entropy), _cross_entropy_truth),
        f"cross-entropy backward, spread {_size:g}": Composite(
            lambda density, x=_x: (*x(density), torch.ones(5 * density)),
            vjp(_cross_entropy, 1),
            _cross_entropy_gradient,
        ),
    }
for _size, _mean in ((1e-3, 0.0), (1.0, 0.0), (1.0, 10.0), (1e4, 0.0)):
    _kind, _norm, _root = f"{_mean:g} +- {_size:g}", _apply_layer_norm, _apply_rms_norm
    ROWS |= {
        f"layer norm, {_kind}": Composite(
            _norm_inputs(_size, _mean, "bias"), alone(_norm), _by_row(_layer_norm)
        ),
        f"layer norm backward, {_kind}": Composite(
            _norm_inputs(_size, _mean, "bias", "g"), vjp(_norm, 3), _by_row(_layer_norm_gradient)
        ),
        f"rms norm, {_kind}": Composite(_norm_inputs(_size, _mean), alone(_root), _by_row(_rms_norm)),
        f"rms norm backward, {_kind}": Composite(
            _norm_inputs(_size, _mean, "g"), vjp(_root, 2), _by_row(_rms_norm_gradient)
        ),
    }
