"""Kernels: each makes the function that executes one node on torch tensors, its attributes already bound.

Only operations whose every bit IEEE 754 or integer arithmetic fixes are used directly; everything else comes from
`trainer.exact`. A kernel raises KernelFailed (or `trainer.exact.NonFinite`) where its operator's rule ends the step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer import exact
from verification.arithmetic.places import Attributes, Spec
from verification.arithmetic.shapes import one

Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Binding:
    """What a node's kernel is bound to: its attributes, the dtype and shape that it declares, and what multiplies."""

    attributes: Attributes
    declared: Spec
    products: exact.Products


Binder = Callable[[Binding], Kernel]

TORCH_DTYPES = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
C_TYPES = {
    "float32": "float", "float64": "double", "int64": "int64_t", "int32": "int32_t", "int16": "int16_t",
    "int8": "int8_t", "uint8": "uint8_t", "bool": "uint8_t",
}  # fmt: skip
"""What a buffer of a dtype holds in a compiled loop."""


class KernelFailed(ArithmeticError):
    """The operator's rule ends the step on these values: division by zero, an index out of range."""


def plain(kernel: Kernel) -> Binder:
    """Return the binder of a kernel without attributes."""
    return lambda binding: kernel


def divide(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """IEEE division of float32; a zero divisor ends the step, for 1/-0 and 1/+0 would differ."""
    if left.numel() and not bool(right.all()):
        raise KernelFailed("division by zero")
    return left / right


def sqrt(value: torch.Tensor) -> torch.Tensor:
    """IEEE square root of float32; a negative value ends the step, for the sign of a NaN differs between machines."""
    if bool((value < 0).any()):
        raise KernelFailed("square root of a negative number")
    return exact.sqrt(value)


def power(base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """base ** exponent of two float32 tensors, by the exact kernel."""
    return exact.pow(base, exponent)


def cast(node: Binding) -> Kernel:
    """Conversion; a float becomes an integer by truncation, and must be finite and in range."""
    dtype = TORCH_DTYPES[node.declared.dtype]
    if dtype in (torch.float32, torch.bool):
        return lambda value: value.to(dtype)
    limits = torch.iinfo(dtype)
    # 2**63 is the first float32 above int64; for the others max + 1 is exact too.
    low, high = float(limits.min) - 1.0 if limits.bits < 32 else float(limits.min), float(limits.max + 1)

    def kernel(value: torch.Tensor) -> torch.Tensor:
        if value.dtype is torch.float32:
            inside = (value >= limits.min) if limits.bits >= 32 else (value > low)
            if not bool((inside & (value < high)).all()):
                raise KernelFailed("a float does not fit into the integer")
        return value.to(dtype)

    return kernel


def view(node: Binding) -> Kernel:
    """The same elements under another shape."""
    shape = node.declared.shape
    return lambda value: value.reshape(shape)


def expand(node: Binding) -> Kernel:
    """Repetition without a copy."""
    shape = node.declared.shape
    return lambda value: value.expand(shape)


def permute(node: Binding) -> Kernel:
    """Dimensions in another order, without a copy."""
    dims = node.attributes["dims"]
    return lambda value: value.permute(dims)


def cut(node: Binding) -> Kernel:
    """A slice along one dimension, without a copy."""
    dim = one(node.attributes, "dim")
    place = (slice(None),) * dim + (
        slice(*(one(node.attributes, name) for name in ("start", "stop", "step"))),
    )
    return lambda value: value[place]


def concatenate(node: Binding) -> Kernel:
    """Tensors joined along one dimension."""
    dim = one(node.attributes, "dim")
    return lambda *parts: torch.cat(parts, dim)


def total(node: Binding) -> Kernel:
    """Sum over `dims`: exact and rounded once for float32, int64 for the rest."""
    dims, keepdim = node.attributes["dims"], bool(one(node.attributes, "keepdim"))

    def kernel(value: torch.Tensor) -> torch.Tensor:
        if value.dtype is torch.float32:
            return exact.exact_sum(value, dims, keepdim)
        return value.sum(dims, keepdim=keepdim, dtype=torch.int64)

    return kernel


def mean(node: Binding) -> Kernel:
    """Mean of float32 over `dims`."""
    dims, keepdim = node.attributes["dims"], bool(one(node.attributes, "keepdim"))
    return lambda value: exact.exact_mean(value, dims, keepdim)


def amax(node: Binding) -> Kernel:
    """Largest element over `dims`."""
    dims, keepdim = node.attributes["dims"], bool(one(node.attributes, "keepdim"))
    return lambda value: value.amax(dims, keepdim=keepdim)


def rank(value: torch.Tensor) -> torch.Tensor:
    """How many numbers of its row stand before each: larger ones, and equal ones that come first; NaN is above all."""
    if value.dtype is torch.float32:
        value = torch.where(
            value.isnan(), math.nan, value + 0.0
        )  # a sort by bits would tell zeros and NaN apart
    order = torch.sort(value, dim=-1, descending=True, stable=True).indices
    places = torch.arange(value.shape[-1], device=value.device).expand(value.shape)
    return torch.empty_like(order).scatter_(-1, order, places)


def row_exponent(node: Binding) -> Kernel:
    """Exponent of the power of two that scales each row along `dim`."""
    dim = one(node.attributes, "dim")
    return lambda value: exact.row_exponent(value, dim)


def quantise(node: Binding) -> Kernel:
    """Integers of `bits` bits along `dim`."""
    dim, bits = one(node.attributes, "dim"), one(node.attributes, "bits")
    return lambda value, exponent: exact.quantise(value, exponent, dim, bits)


def product(node: Binding) -> Kernel:
    """Exact integer matrix product, scaled and rounded once."""
    bits, products = one(node.attributes, "bits"), node.products
    return lambda left, left_e, right, right_e: exact.product(left, left_e, right, right_e, bits, products)


def gather(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `table` by number, on the device of these; of rows without numbers any, since nothing is read of them."""
    if not math.prod(table.shape[1:]):
        return index.new_empty((*index.shape, *table.shape[1:]), dtype=table.dtype)
    _check_index(index, table.shape[0])
    return table[index.to(table.device)].to(index.device)


def take_along(node: Binding) -> Kernel:
    """Elements along `dim` by number."""
    dim = one(node.attributes, "dim")

    def kernel(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        _check_index(index, table.shape[dim])
        return table.gather(dim, index)

    return kernel


def scatter_sum(node: Binding) -> Kernel:
    """Exact sums by row."""
    rows, shape = one(node.attributes, "rows"), node.declared.shape

    def kernel(index: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if value.numel():
            _check_index(index, rows)
        flat = value.reshape(index.numel(), math.prod(shape[1:]))
        return exact.scatter_sum(index.reshape(-1), flat, rows).reshape(shape)

    return kernel


def _check_index(index: torch.Tensor, size: int) -> None:
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < size):
        raise KernelFailed(f"an index is outside 0..{size - 1}")


# PyTorch's own float32, against which the cost of exactness is measured.


def native_sum(node: Binding) -> Kernel:
    """Sum over `dims`, rounded as PyTorch rounds."""
    return _reduced(torch.sum, node)


def native_mean(node: Binding) -> Kernel:
    """Mean over `dims`, likewise."""
    return _reduced(torch.mean, node)


def native_scatter_sum(node: Binding) -> Kernel:
    """Sums by row, likewise."""
    rows, shape = one(node.attributes, "rows"), node.declared.shape

    def kernel(index: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        flat = value.reshape(index.numel(), math.prod(shape[1:]))
        made = torch.zeros(rows, flat.shape[1], dtype=value.dtype, device=value.device)
        return made.index_add_(0, index.reshape(-1), flat).reshape(shape)

    return kernel


def _reduced(reduce: Kernel, node: Binding) -> Kernel:
    dims, keepdim = node.attributes["dims"], bool(one(node.attributes, "keepdim"))
    return lambda value: reduce(value, dims, keepdim=keepdim)
