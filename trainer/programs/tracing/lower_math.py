"""Lowerings of arithmetic: elementwise operators, reductions, normalisations and matrix products."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from trainer.programs.kernels import DTYPE_NAMES
from trainer.programs.tracing.builder import Value
from trainer.programs.tracing.lower import RULES, Argument, Lowering, cover, positive, rule
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import Spec


def _binary(operator: str) -> Any:
    def lower(low: Lowering, out: Spec, left: Argument, right: Argument, *, alpha: float = 1) -> Value:
        kind = FLOAT if out.dtype == FLOAT else INDEX
        second = low.value(right, kind)
        if alpha != 1:
            second = low.builder.multiply(low.value(alpha, kind), second)
        return low.builder.cast(low.builder.emit(operator, low.value(left, kind), second), out.dtype)

    return lower


def _unary(operator: str) -> Any:
    def lower(low: Lowering, out: Spec, value: Argument) -> Value:
        return low.builder.emit(operator, low.value(value, FLOAT if out.dtype == FLOAT else INDEX))

    return lower


for _name, _operator in {"add": "add", "sub": "subtract", "mul": "multiply"}.items():
    RULES[_name] = _binary(_operator)
for _name in ("maximum", "minimum"):
    RULES[_name] = _binary(_name)
for _name, _operator in {
    "neg": "negate", "abs": "absolute", "sign": "sign", "sqrt": "sqrt", "round": "round", "floor": "floor",
    "exp": "exp", "log": "log", "tanh": "tanh", "erf": "erf", "sigmoid": "sigmoid", "sin": "sin", "cos": "cos",
    "rsqrt": "rsqrt",
}.items():  # fmt: skip
    RULES[_name] = _unary(_operator)


@rule("div")
def _divide(
    low: Lowering, out: Spec, left: Argument, right: Argument, *, rounding_mode: str | None = None
) -> Value:
    cover(rounding_mode is None and out.dtype == FLOAT, "only true division")
    if isinstance(right, int | float) and right and math.frexp(right)[0] in (0.5, -0.5):
        return low.builder.multiply(low.value(left, FLOAT), low.value(1.0 / right, FLOAT))
    return low.builder.divide(low.value(left, FLOAT), low.value(right, FLOAT))


@rule("reciprocal")
def _reciprocal(low: Lowering, out: Spec, value: Argument) -> Value:
    return low.builder.divide(low.value(1.0, FLOAT), low.value(value, FLOAT))


@rule("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _power(low: Lowering, out: Spec, base: Argument, exponent: Argument) -> Value:
    cover(out.dtype == FLOAT, "only float32 powers")
    b, value = low.builder, low.value(base, FLOAT)
    if exponent == -0.5:
        return b.emit("rsqrt", value)
    if not isinstance(exponent, int | float) or exponent == 0 or abs(exponent) > 16 or exponent * 2 % 1:
        return b.emit("power", value, low.value(exponent, FLOAT))
    whole, half = divmod(abs(exponent), 1)
    factors = [value] * int(whole) + ([b.emit("sqrt", value)] if half else [])
    result = functools.reduce(b.multiply, factors)
    return b.divide(b.scalar(1.0), result) if exponent < 0 else result


@rule("square")
def _square(low: Lowering, out: Spec, value: Argument) -> Value:
    return low.builder.multiply(low.value(value), low.value(value))


@rule("log1p")
def _log1p(low: Lowering, out: Spec, value: Argument) -> Value:
    return low.builder.emit("log", low.builder.add(low.value(value), low.value(1.0)))


@rule("expm1")
def _expm1(low: Lowering, out: Spec, value: Argument) -> Value:
    return low.builder.subtract(low.builder.emit("exp", low.value(value)), low.value(1.0))


@rule("relu")
def _relu(low: Lowering, out: Spec, value: Argument) -> Value:
    return low.builder.emit("maximum", low.value(value), low.value(0, out.dtype))


@rule("clamp", "hardtanh")
def _clamp(
    low: Lowering, out: Spec, value: Argument, lowest: Argument = None, highest: Argument = None
) -> Value:
    result = low.value(value, FLOAT if out.dtype == FLOAT else INDEX)
    for operator, limit in (("maximum", lowest), ("minimum", highest)):
        if limit is not None:
            result = low.builder.emit(operator, result, low.value(limit, result.dtype))
    return low.builder.cast(result, out.dtype)


@rule("gelu")
def _gelu(low: Lowering, out: Spec, value: Argument, *, approximate: str = "none") -> Value:
    b, x = low.builder, low.value(value)
    if approximate == "tanh":
        cubic = b.multiply(b.multiply(x, x), x)
        inner = b.add(x, b.multiply(cubic, b.scalar(0.044715)))
        curve = b.emit("tanh", b.multiply(inner, b.scalar(math.sqrt(2 / math.pi))))
    else:
        curve = b.emit("erf", b.multiply(x, b.scalar(math.sqrt(0.5))))
    return b.multiply(b.multiply(x, b.scalar(0.5)), b.add(curve, b.scalar(1.0)))


def _compare(operator: str, swap: bool = False, negate: bool = False) -> Any:
    def lower(low: Lowering, out: Spec, left: Argument, right: Argument) -> Value:
        kind = _common(left, right)
        pair = (low.value(left, kind), low.value(right, kind))
        result = low.builder.emit(operator, *(pair[::-1] if swap else pair))
        return low.builder.emit("not", result) if negate else result

    return lower


RULES["lt"] = _compare("less")
RULES["le"] = _compare("less_equal")
RULES["gt"] = _compare("less", swap=True)
RULES["ge"] = _compare("less_equal", swap=True)
RULES["eq"] = _compare("equal")
RULES["ne"] = _compare("equal", negate=True)


def _common(*arguments: Argument) -> str:
    """The dtype in which two operands are compared: a tensor's beats a number's unless only the number is a float."""
    kinds = [argument.dtype for argument in arguments if isinstance(argument, Value)]
    kinds += [DTYPE_NAMES[argument.dtype] for argument in arguments if isinstance(argument, torch.Tensor)]
    if FLOAT in kinds or any(isinstance(argument, float) for argument in arguments):
        return FLOAT
    return kinds[0] if len(set(kinds)) == 1 else INDEX


def _logical(operator: str) -> Any:
    def lower(low: Lowering, out: Spec, *values: Argument) -> Value:
        if out.dtype == "bool":
            return low.builder.emit(operator, *(low.value(value, "bool") for value in values))
        return low.builder.cast(
            low.builder.emit(operator, *(_bit(low, value) for value in values)), out.dtype
        )

    return lower


def _bit(low: Lowering, value: Argument) -> Value:
    """An integer that was made from a bool, or is a constant of bits, as that bool."""
    if isinstance(value, torch.Tensor):
        cover(bool(((value == 0) | (value == 1)).all()), "only on bool")
        return low.value(value, "bool")
    made = source = low.value(value)
    while (node := low.builder.nodes.get(source.serial)) and node[0].operator in ("cast", "view", "expand"):
        source = node[1][0]
    cover(source.dtype == "bool", "only on bool")
    return low.builder.cast(made, "bool")


for _name in ("and", "or"):
    RULES[f"bitwise_{_name}"] = RULES[f"logical_{_name}"] = _logical(_name)
RULES["logical_not"] = _logical("not")


@rule("bitwise_not")
def _bitwise_not(low: Lowering, out: Spec, value: Argument) -> Value:
    """Of an integer the one whose every bit is the other: -1 - x."""
    if out.dtype == "bool":
        return low.builder.emit("not", low.value(value))
    cover(out.dtype == INDEX, "only on bool and int64")
    return low.builder.subtract(low.builder.scalar(-1, INDEX), low.value(value, INDEX))


@rule("where")
def _where(low: Lowering, out: Spec, condition: Argument, left: Argument, right: Argument) -> Value:
    kind = out.dtype
    return low.builder.emit(
        "where", low.value(condition, "bool"), low.value(left, kind), low.value(right, kind)
    )


def reduce(low: Lowering, operator: str, value: Value, dims: Sequence[int] | None, keepdim: bool) -> Value:
    """A reduction over `dims` (all for None or none); over dimensions of size 1 it is a view."""
    rank = len(value.shape)
    places = sorted({positive(dim, rank) for dim in dims} if dims else set(range(rank)))
    kept = [
        1 if place in places else size
        for place, size in enumerate(value.shape)
        if keepdim or place not in places
    ]
    if all(value.shape[place] == 1 for place in places) and (value.dtype == FLOAT or operator == "amax"):
        return low.builder.view(value, kept)
    return low.builder.emit(operator, value, dims=places, keepdim=int(keepdim))


@rule("sum", "sum.dim_IntList")
def _sum(
    low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    cover(out.dtype in (FLOAT, INDEX), "only float32 and int64 sums")
    source = low.value(value, FLOAT if out.dtype == FLOAT else None)
    return reduce(low, "sum", source, dims, keepdim)


@rule("mean", "mean.dim")
def _mean(
    low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    return reduce(low, "mean", low.value(value, FLOAT), dims, keepdim)


@rule("amax")
def _amax(low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False) -> Value:
    return reduce(low, "amax", low.value(value), dims, keepdim)


@rule("amin")
def _amin(low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False) -> Value:
    b = low.builder
    return b.emit("negate", reduce(low, "amax", b.emit("negate", low.value(value)), dims, keepdim))


@rule("any.dim", "any.default", "any.dims")
def _any(low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False) -> Value:
    return reduce(low, "amax", low.value(value, "bool"), [dims] if isinstance(dims, int) else dims, keepdim)


@rule("_is_all_true", "all.dim", "all.default", "all.dims")
def _all(low: Lowering, out: Spec, value: Argument, dims: Any = None, keepdim: bool = False) -> Value:
    wrong = low.builder.emit("not", low.value(value, "bool"))
    return low.builder.emit("not", _any(low, out, wrong, dims, keepdim))


@rule("max.default")
def _max(low: Lowering, out: Spec, value: Argument) -> Value:
    return reduce(low, "amax", low.value(value), None, False)


@rule("max.dim", "argmax")
def _max_place(
    low: Lowering, out: Any, value: Argument, dim: int | None = None, keepdim: bool = False
) -> Value | tuple[Value, Value]:
    """The largest number along `dim`, and the first place that has it, as in PyTorch."""
    b, x = low.builder, low.value(value)
    if dim is None:
        x, dim, keepdim = b.view(x, (math.prod(x.shape),)), 0, False
    place = positive(dim, len(x.shape))
    count = [x.shape[place] if other == place else 1 for other in range(len(x.shape))]
    ranks = b.constant(torch.arange(x.shape[place], 0, -1).view(count))
    largest = reduce(low, "amax", x, [place], True)
    rank = b.emit("where", b.emit("equal", x, largest), ranks, b.scalar(0, INDEX))
    index = b.subtract(b.scalar(x.shape[place], INDEX), reduce(low, "amax", rank, [place], keepdim))
    if isinstance(out, Spec):
        return b.view(index, out.shape)
    return b.view(largest, index.shape), index


@rule("linalg_vector_norm")
def _vector_norm(
    low: Lowering,
    out: Spec,
    value: Argument,
    order: float = 2,
    dims: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> Value:
    cover(order == 2, "only the norm of order 2")
    b, x = low.builder, low.value(value, FLOAT)
    return b.emit("sqrt", reduce(low, "sum", b.multiply(x, x), dims, keepdim))


def _moments(low: Lowering, value: Value, dims: Any, correction: float, keepdim: bool) -> tuple[Value, Value]:
    """(variance, mean): variance over `dims`, divided by count - correction."""
    b, rank = low.builder, len(value.shape)
    places = {positive(dim, rank) for dim in dims} if dims else set(range(rank))
    count = math.prod(value.shape[place] for place in places)
    centre = reduce(low, "mean", value, dims, True)
    away = b.subtract(value, centre)
    total = reduce(low, "sum", b.multiply(away, away), dims, keepdim)
    cover(count > correction, "no degrees of freedom are left")
    mean = centre if keepdim else b.view(centre, total.shape)
    return b.divide(total, b.scalar(count - correction)), mean


@rule("var.correction")
def _variance(
    low: Lowering, out: Spec, value: Argument, dims: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> Value:
    return _moments(low, low.value(value), dims, 1 if correction is None else correction, keepdim)[0]


@rule("var_mean.correction")
def _variance_mean(
    low: Lowering, out: Any, value: Argument, dims: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[Value, Value]:
    return _moments(low, low.value(value), dims, 1 if correction is None else correction, keepdim)


@rule("_softmax")
def _softmax(low: Lowering, out: Spec, value: Argument, dim: int, half_to_float: bool) -> Value:
    b, x = low.builder, low.value(value, FLOAT)
    powers = b.emit("exp", b.subtract(x, reduce(low, "amax", x, [dim], True)))
    return b.divide(powers, reduce(low, "sum", powers, [dim], True))


@rule("_log_softmax")
def _log_softmax(low: Lowering, out: Spec, value: Argument, dim: int, half_to_float: bool) -> Value:
    b, x = low.builder, low.value(value, FLOAT)
    away = b.subtract(x, reduce(low, "amax", x, [dim], True))
    total = reduce(low, "sum", b.emit("exp", away), [dim], True)
    return b.subtract(away, b.emit("log", total))


@rule("_log_softmax_backward_data")
def _log_softmax_gradient(
    low: Lowering, out: Spec, gradient: Argument, result: Argument, dim: int, dtype: Any
) -> Value:
    b, g = low.builder, low.value(gradient, FLOAT)
    chances = b.emit("exp", low.value(result, FLOAT))
    made = b.subtract(g, b.multiply(chances, reduce(low, "sum", g, [dim], True)))
    if positive(dim, len(made.shape)) == len(made.shape) - 1:
        # Most chances are small, and together they weigh as much as the one that was right.
        b.long_tailed.add(made.serial)
    return made


def _normalised(low: Lowering, x: Value, dims: Sequence[int], eps: float) -> tuple[Value, Value, Value]:
    """(x less its mean over `dims`, times the reciprocal root of its variance; that mean; that root), dims kept."""
    b, centre = low.builder, reduce(low, "mean", x, dims, True)
    away = b.subtract(x, centre)
    spread = b.emit("rsqrt", b.add(reduce(low, "mean", b.multiply(away, away), dims, True), b.scalar(eps)))
    return b.multiply(away, spread), centre, spread


@rule("native_layer_norm")
def _layer_norm(
    low: Lowering, out: Any, value: Argument, sizes: list[int], weight: Argument, bias: Argument, eps: float
) -> tuple[Value, Value, Value]:
    b, x = low.builder, low.value(value, FLOAT)
    result, centre, spread = _normalised(low, x, range(len(x.shape) - len(sizes), len(x.shape)), eps)
    result = result if weight is None else b.multiply(result, low.value(weight))
    return (result if bias is None else b.add(result, low.value(bias))), centre, spread


@rule("native_group_norm")
def _group_norm(
    low: Lowering, out: Any, value: Argument, weight: Argument, bias: Argument, batch: int, channels: int,
    space: int, groups: int, eps: float,
) -> tuple[Value, Value, Value]:  # fmt: skip
    b, x = low.builder, low.value(value, FLOAT)
    grouped = b.view(x, (batch, groups, channels // groups * space))
    result, centre, spread = _normalised(low, grouped, [2], eps)
    result, column = b.view(result, x.shape), (channels, *[1] * (len(x.shape) - 2))
    result = result if weight is None else b.multiply(result, b.view(low.value(weight), column))
    result = result if bias is None else b.add(result, b.view(low.value(bias), column))
    return result, b.view(centre, (batch, groups)), b.view(spread, (batch, groups))


@rule("mm", "bmm")
def _product(low: Lowering, out: Spec, left: Argument, right: Argument) -> Value:
    return low.builder.matmul(low.value(left, FLOAT), low.value(right, FLOAT))


@rule("addmm", "baddbmm")
def _add_product(
    low: Lowering,
    out: Spec,
    bias: Argument,
    left: Argument,
    right: Argument,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Value:
    b, result, offset = low.builder, _product(low, out, left, right), low.value(bias, FLOAT)
    result = result if alpha == 1 else b.multiply(result, b.scalar(alpha))
    return b.add(result, offset if beta == 1 else b.multiply(offset, b.scalar(beta)))


@rule("leaky_relu")
def _leaky_relu(low: Lowering, out: Spec, value: Argument, slope: float = 0.01) -> Value:
    b, x = low.builder, low.value(value)
    return b.emit("where", b.emit("less", b.scalar(0.0), x), x, b.multiply(x, b.scalar(slope)))


@rule("elu")
def _elu(
    low: Lowering, out: Spec, value: Argument, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Value:
    b, x = low.builder, low.value(value)
    below = b.emit("exp", b.multiply(b.emit("minimum", x, b.scalar(0.0)), b.scalar(input_scale)))
    negative = b.multiply(b.subtract(below, b.scalar(1.0)), b.scalar(alpha * scale))
    return b.emit("where", b.emit("less", b.scalar(0.0), x), b.multiply(x, b.scalar(scale)), negative)
