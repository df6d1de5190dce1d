"""How every operator of the arithmetic `exact-14/1` is computed, in one record each; the law's records define them.

A program that names anything else, or declares another shape or dtype than a rule gives, is refused before it runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trainer import exact
from trainer.programs import kernels
from trainer.programs.kernels import C_TYPES, Binder, Binding, Kernel, plain
from verification.arithmetic.numbers import FLOAT
from verification.arithmetic.places import Site, Spec
from verification.arithmetic.shapes import ShapeError
from verification.errors import Malformed
from verification.operators import made_by
from verification.program import Node

Text = str | Callable[[Node], str]
"""C text with the operands as {0}, {1}, ...; of the node, where dtypes or attributes change it."""


@dataclass(frozen=True)
class Operator:
    """How an operator is computed. What it is (its definition, shapes and price) stands in `verification.operators`.

    `binder` binds its kernel. `c` is an element of its result in compiled loops, empty: none compute it; `ends` is the
    condition, likewise, under which the step ends. `reduces`: loops reduce rows by it, with the passes of
    `trainer.programs.loops.emit`. `native` binds PyTorch's own kernel, where the operator's is exact.
    """

    binder: Binder
    c: Text = ""
    ends: str = ""
    reduces: bool = False
    native: Binder | None = None

    @property
    def native_binder(self) -> Binder:
        """What binds PyTorch's own kernel."""
        return self.native or self.binder

    def c_text(self, node: Node) -> str:
        """Return the C text of an element of a node's result."""
        return self.c if isinstance(self.c, str) else self.c(node)


def _each(kernel: Kernel, c: Text = "", native: Kernel | None = None, ends: str = "") -> Operator:
    """An operator without attributes; `native` is PyTorch's kernel where `kernel` is not."""
    return Operator(plain(kernel), c, ends, native=None if native is None else plain(native))


def _absolute(node: Node) -> str:
    return "fabsf({0})" if node.dtype == FLOAT else "{0} < 0 ? -{0} : {0}"


def _cast(node: Node) -> str:
    return "{0} != 0" if node.dtype == "bool" else f"({C_TYPES[node.dtype]}){{0}}"


def _quantise(node: Node) -> str:
    (bits,) = dict(node.attributes)["bits"]
    return f"quantise({{0}}, {{1}}, {bits}, {2 ** (bits - 1) - 1})"


def _first(*operands: torch.Tensor) -> torch.Tensor:
    """In place of rounding to integers: numbers stay as they are."""
    return operands[0]


def _matmul(
    left: torch.Tensor, left_e: torch.Tensor, right: torch.Tensor, right_e: torch.Tensor
) -> torch.Tensor:
    return torch.matmul(left, right)


OPERATORS: dict[str, Operator] = {
    "add": _each(torch.add, "{0} + {1}"),
    "subtract": _each(torch.sub, "{0} - {1}"),
    "multiply": _each(torch.mul, "{0} * {1}"),
    "maximum": _each(torch.maximum, "({0} > {1} || {0} != {0}) ? {0} : {1}"),
    "minimum": _each(torch.minimum, "({0} < {1} || {0} != {0}) ? {0} : {1}"),
    "negate": _each(torch.neg, "-{0}"),
    "absolute": _each(torch.abs, _absolute),
    "sign": _each(torch.sign, "({0} > 0) - ({0} < 0)"),
    "divide": _each(kernels.divide, "{0} / {1}", torch.divide, ends="{1} == 0"),
    "sqrt": _each(kernels.sqrt, "sqrtf({0})", torch.sqrt, ends="{0} < 0"),
    "round": _each(torch.round, "rintf({0})"),
    "floor": _each(torch.floor, "floorf({0})"),
    "exp": _each(exact.exp, "exp_f({0})", torch.exp),
    "log": _each(exact.log, "log_f({0})", torch.log),
    "tanh": _each(exact.tanh, "tanh_f({0})", torch.tanh),
    "erf": _each(exact.erf, "erf_f({0})", torch.erf),
    "sigmoid": _each(exact.sigmoid, "sigmoid_f({0})", torch.sigmoid),
    "sin": _each(exact.sin, "sin_f({0})", torch.sin),
    "cos": _each(exact.cos, "cos_f({0})", torch.cos),
    "rsqrt": _each(exact.rsqrt, "rsqrt_f({0})", torch.rsqrt),
    "power": _each(kernels.power, native=torch.pow),
    "less": _each(torch.lt, "{0} < {1}"),
    "less_equal": _each(torch.le, "{0} <= {1}"),
    "equal": _each(torch.eq, "{0} == {1}"),
    "not": _each(torch.logical_not, "!{0}"),
    "and": _each(torch.logical_and, "{0} & {1}"),
    "or": _each(torch.logical_or, "{0} | {1}"),
    "where": _each(torch.where, "{0} ? {1} : {2}"),
    "cast": Operator(kernels.cast, c=_cast),
    "view": Operator(kernels.view, c="{0}"),
    "expand": Operator(kernels.expand),
    "permute": Operator(kernels.permute),
    "slice": Operator(kernels.cut),
    "concatenate": Operator(kernels.concatenate),
    "select": _each(kernels.gather),
    "gather": _each(kernels.gather),
    "take_along": Operator(kernels.take_along),
    "scatter_sum": Operator(kernels.scatter_sum, native=kernels.native_scatter_sum),
    "sum": Operator(kernels.total, reduces=True, native=kernels.native_sum),
    "mean": Operator(kernels.mean, reduces=True, native=kernels.native_mean),
    "amax": Operator(kernels.amax, reduces=True),
    "rank": _each(kernels.rank),
    "row_exponent": Operator(kernels.row_exponent, reduces=True, native=plain(_first)),
    "quantise": Operator(kernels.quantise, c=_quantise, native=plain(_first)),
    "product": Operator(kernels.product, native=plain(_matmul)),
}


def infer(node: Node, inputs: Sequence[Spec]) -> Spec:
    """Return the dtype and shape that `node` makes of `inputs`; raises ShapeError."""
    declared = Spec(node.dtype, tuple(node.shape))
    return made_by(node.operator, Site(dict(node.attributes), tuple(inputs), declared))


def bind(number: int, node: Node, inputs: Sequence[Spec], products: exact.Products) -> Kernel:
    """Return the kernel of node `number`, checked, its products by `products`; raises Malformed with the number.

    Unknown operators, wrong numbers of inputs, wrong attributes and a declared shape or dtype that is not what the
    operator makes are all refused here.
    """
    try:
        made = infer(node, inputs)
    except ShapeError as error:
        raise Malformed(f"node {number} ({node.operator}): {error}") from error
    if made != Spec(node.dtype, node.shape):
        raise Malformed(
            f"node {number} ({node.operator}) declares {node.dtype}{list(node.shape)}"
            f" but makes {made.dtype}{list(made.shape)}"
        )
    return OPERATORS[node.operator].binder(Binding(dict(node.attributes), made, products))
