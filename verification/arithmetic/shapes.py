"""Shape and dtype rules: what each kind of operator makes of its inputs. No tensor is touched here.

A rule takes the inputs' specs, the node's attributes and the spec that the node declares, and returns the spec that the
operator really makes; it raises ShapeError, whose text the caller puts behind the node's number.
"""

import math
from collections.abc import Callable, Sequence

from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import MAX_DIMENSIONS, Attributes, Spec

NUMERIC = (FLOAT, INDEX)
INTEGERS = ("uint8", "int8", "int16", "int32", INDEX)
ANY = (FLOAT, *INTEGERS, "bool")
PRECISIONS = (8, 14)
"""Bits, sign included, that an operand of a product may have."""
DEFAULT_BITS = 14


class ShapeError(ValueError):
    """An operator does not apply to these shapes, dtypes or attributes; the text says why."""


Rule = Callable[[Sequence[Spec], Attributes, Spec], Spec]


def need(condition: bool, reason: str) -> None:
    """Raise ShapeError with `reason` unless the condition holds."""
    if not condition:
        raise ShapeError(reason)


def one(attributes: Attributes, name: str) -> int:
    """Return the single integer of attribute `name`; raises ShapeError when it is not exactly one."""
    need(len(attributes[name]) == 1, f"attribute {name} must be one integer")
    return attributes[name][0]


def dimension(attributes: Attributes, spec: Spec) -> int:
    """Return attribute `dim` when it is a dimension of `spec`, counted from 0."""
    dim = one(attributes, "dim")
    need(0 <= dim < len(spec.shape), f"dimension {dim} is outside shape {list(spec.shape)}")
    return dim


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape to which `shapes` broadcast, right-aligned as in NumPy; raises ShapeError."""
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        for place, size in enumerate(shape, rank - len(shape)):
            need(
                size == result[place] or 1 in (size, result[place]),
                f"shapes {list(map(list, shapes))} do not fit",
            )
            result[place] = size if result[place] == 1 else result[place]
    return tuple(result)


def elementwise(dtypes: Sequence[str], result: str | None = None) -> Rule:
    """Return the rule of an operator on equal dtypes out of `dtypes`; the result has theirs, or `result`."""

    def rule(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
        dtype = inputs[0].dtype
        need(dtype in dtypes, f"dtype {dtype} is none of {', '.join(dtypes)}")
        need(all(spec.dtype == dtype for spec in inputs), "dtypes differ")
        return Spec(result or dtype, broadcast([spec.shape for spec in inputs]))

    return rule


def where(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Condition bool, two values of one dtype."""
    need(inputs[0].dtype == "bool", "the condition must be bool")
    need(inputs[1].dtype == inputs[2].dtype, "dtypes differ")
    return Spec(inputs[1].dtype, broadcast([spec.shape for spec in inputs]))


def cast(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Any dtype to the declared one."""
    return Spec(declared.dtype, inputs[0].shape)


def view(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """The same elements in C order under the declared shape."""
    need(math.prod(inputs[0].shape) == math.prod(declared.shape), "the number of elements changes")
    return Spec(inputs[0].dtype, declared.shape)


def expand(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Repetition to the declared shape."""
    need(len(declared.shape) >= len(inputs[0].shape), "an expansion cannot drop dimensions")
    need(broadcast([inputs[0].shape, declared.shape]) == declared.shape, "shapes do not fit")
    return Spec(inputs[0].dtype, declared.shape)


def permute(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Dimension i of the result is dimension `dims[i]` of the input."""
    dims, shape = attributes["dims"], inputs[0].shape
    need(sorted(dims) == list(range(len(shape))), "dims are no permutation")
    return Spec(inputs[0].dtype, tuple(shape[dim] for dim in dims))


def cut(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """`slice`: indices start, start + step, ... below stop."""
    shape, dim = inputs[0].shape, dimension(attributes, inputs[0])
    start, stop, step = (one(attributes, name) for name in ("start", "stop", "step"))
    need(0 <= start <= stop <= shape[dim] and step > 0, "the slice is outside its dimension")
    return Spec(inputs[0].dtype, (*shape[:dim], len(range(start, stop, step)), *shape[dim + 1 :]))


def concatenate(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Inputs one after another along `dim`."""
    dim, first = dimension(attributes, inputs[0]), inputs[0]
    for spec in inputs:
        need(spec.dtype == first.dtype and len(spec.shape) == len(first.shape), "dtypes or ranks differ")
        same = all(
            a == b for place, (a, b) in enumerate(zip(spec.shape, first.shape, strict=True)) if place != dim
        )
        need(same, "shapes differ outside the joined dimension")
    total = sum(spec.shape[dim] for spec in inputs)
    return Spec(first.dtype, (*first.shape[:dim], total, *first.shape[dim + 1 :]))


def reduce(float_only: bool, sums: bool) -> Rule:
    """Return the rule of a reduction over `dims` with `keepdim`; a sum of integers or bools is int64."""

    def rule(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
        (spec,), dims, keepdim = inputs, attributes["dims"], one(attributes, "keepdim")
        need(spec.dtype == FLOAT or not float_only, f"dtype {spec.dtype} is not {FLOAT}")
        need(keepdim in (0, 1), "keepdim must be 0 or 1")
        need(len(dims) > 0 and list(dims) == sorted(set(dims)), "dims must ascend")
        need(dims[0] >= 0 and dims[-1] < len(spec.shape), "dims are outside the shape")
        need(all(spec.shape[dim] > 0 for dim in dims), "a reduced dimension is empty")
        kept = [
            1 if place in dims else size
            for place, size in enumerate(spec.shape)
            if keepdim or place not in dims
        ]
        return Spec(INDEX if sums and spec.dtype != FLOAT else spec.dtype, tuple(kept))

    return rule


def row_exponent(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """float32 to int16 with `dim` reduced to 1."""
    dim = dimension(attributes, inputs[0])
    need(inputs[0].dtype == FLOAT, f"dtype {inputs[0].dtype} is not {FLOAT}")
    need(inputs[0].shape[dim] > 0, "a reduced dimension is empty")
    return Spec("int16", _reduced(inputs[0].shape, dim))


def rank(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """int64 of the same shape, whose last dimension is the row."""
    shape = inputs[0].shape
    need(len(shape) > 0 and shape[-1] > 0, "needs rows with numbers")
    return Spec(INDEX, shape)


def quantise(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """float32 and its row exponents to int16 of the same shape."""
    value, exponent = inputs
    dim = dimension(attributes, value)
    need(value.dtype == FLOAT and exponent.dtype == "int16", "dtypes must be float32 and int16")
    need(exponent.shape == _reduced(value.shape, dim), "exponents do not fit")
    _bits(attributes)
    return Spec("int16", value.shape)


def product(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """[..., M, K], [..., M, 1], [..., K, N], [..., 1, N] of int16 to float32 [..., M, N]."""
    left, left_exponent, right, right_exponent = inputs
    need(all(spec.dtype == "int16" for spec in inputs), "operands must be int16")
    need(len(left.shape) == len(right.shape) >= 2, "operands must have one rank of at least 2")
    *batch, rows, inner = left.shape
    columns = right.shape[-1]
    need(right.shape == (*batch, inner, columns), "operands do not fit")
    need(left_exponent.shape == (*batch, rows, 1), "the left exponents do not fit")
    need(right_exponent.shape == (*batch, 1, columns), "the right exponents do not fit")
    # The integer sum must fit into a float64's 53 bits, which is what makes every backend exact.
    need(0 < inner << (2 * _bits(attributes) - 2) <= 1 << 53, "the summed dimension is empty or too long")
    return Spec(FLOAT, (*batch, rows, columns))


def gather(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Rows of the first input, which `index` names."""
    table, index = inputs
    need(len(table.shape) > 0 and index.dtype == INDEX, "needs a table with rows and an int64 index")
    shape = (*index.shape, *table.shape[1:])
    need(len(shape) <= MAX_DIMENSIONS, "too many dimensions")
    return Spec(table.dtype, shape)


def take_along(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Elements along `dim`, one for each entry of an index of the same rank."""
    table, index = inputs
    dim = dimension(attributes, table)
    need(
        index.dtype == INDEX and len(index.shape) == len(table.shape), "needs an int64 index of the same rank"
    )
    same = all(
        a == b for place, (a, b) in enumerate(zip(table.shape, index.shape, strict=True)) if place != dim
    )
    need(same, "shapes differ outside the taken dimension")
    return Spec(table.dtype, index.shape)


def scatter_sum(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """Sums of float32 values by the row that an int64 index names: [rows, ...]."""
    index, value = inputs
    rows = one(attributes, "rows")
    need(index.dtype == INDEX and value.dtype == FLOAT, "dtypes must be int64 and float32")
    need(rows > 0 and value.shape[: len(index.shape)] == index.shape, "index and values do not fit")
    return Spec(FLOAT, (rows, *value.shape[len(index.shape) :]))


def select(inputs: Sequence[Spec], attributes: Attributes, declared: Spec) -> Spec:
    """The row that a 0-d int64 index names."""
    table, index = inputs
    need(len(table.shape) > 0 and index == Spec(INDEX, ()), "needs rows and a 0-d int64 index")
    return Spec(table.dtype, table.shape[1:])


def _reduced(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 1, *shape[dim + 1 :])


def _bits(attributes: Attributes) -> int:
    bits = one(attributes, "bits")
    need(bits in PRECISIONS, "bits must be 8 or 14")
    return bits
