"""The allowlist: every operator of the arithmetic `exact-14/1`, in one record each.

A program that names anything else, or declares another shape or dtype than a rule gives, is refused before it runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trainer import exact
from trainer.programs import kernels, shapes
from trainer.programs.kernels import C_TYPES, Binder, Binding, Kernel, plain
from trainer.programs.shapes import FLOAT, INTEGERS, NUMERIC, Rule, ShapeError, Spec
from verification.errors import Malformed
from verification.program import Node

ARITHMETIC = "exact-14/1"
"""Version of the semantics of all operators below; old evidence is judged by its own version."""

ANY = (FLOAT, *INTEGERS, "bool")


Text = str | Callable[[Node], str]
"""C text with the operands as {0}, {1}, ...; of the node, where dtypes or attributes change it."""


@dataclass(frozen=True)
class Operator:
    """All that the trainer knows of an operator. What the law knows stands in `verification.operators`.

    `arity` inputs (None: one or more), exactly the named attributes, a shape rule, and what binds its kernel.
    `broadcasts`: it takes operands of unequal shapes. `c` is an element of its result in compiled loops, empty: none
    compute it; `ends` is the condition, likewise, under which the step ends. `reduces`: loops reduce rows by it, with
    the passes of `trainer.programs.loops.emit`. `native` binds PyTorch's own kernel, where the operator's is exact.
    """

    arity: int | None
    attributes: tuple[str, ...]
    rule: Rule
    binder: Binder
    broadcasts: bool = False
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


def _float(
    arity: int, kernel: Kernel, c: Text = "", native: Kernel | None = None, ends: str = ""
) -> Operator:
    """An elementwise operator on float32; `native` is PyTorch's kernel where `kernel` is not."""
    binder = None if native is None else plain(native)
    rule = shapes.elementwise((FLOAT,))
    return Operator(arity, (), rule, plain(kernel), arity > 1, c, ends, native=binder)


def _numeric(arity: int, kernel: Kernel, c: Text) -> Operator:
    return Operator(arity, (), shapes.elementwise(NUMERIC), plain(kernel), arity > 1, c)


def _compare(kernel: Kernel, c: Text) -> Operator:
    return Operator(2, (), shapes.elementwise(ANY, "bool"), plain(kernel), True, c)


def _logical(arity: int, kernel: Kernel, c: Text) -> Operator:
    return Operator(arity, (), shapes.elementwise(("bool",)), plain(kernel), arity > 1, c)


def _reduction(rule: Rule, binder: Binder, native: Binder | None = None) -> Operator:
    return Operator(1, ("dims", "keepdim"), rule, binder, reduces=True, native=native)


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
    "add": _numeric(2, torch.add, "{0} + {1}"),
    "subtract": _numeric(2, torch.sub, "{0} - {1}"),
    "multiply": _numeric(2, torch.mul, "{0} * {1}"),
    "maximum": _numeric(2, torch.maximum, "({0} > {1} || {0} != {0}) ? {0} : {1}"),
    "minimum": _numeric(2, torch.minimum, "({0} < {1} || {0} != {0}) ? {0} : {1}"),
    "negate": _numeric(1, torch.neg, "-{0}"),
    "absolute": _numeric(1, torch.abs, _absolute),
    "sign": _numeric(1, torch.sign, "({0} > 0) - ({0} < 0)"),
    "divide": _float(2, kernels.divide, "{0} / {1}", torch.divide, ends="{1} == 0"),
    "sqrt": _float(1, kernels.sqrt, "sqrtf({0})", torch.sqrt, ends="{0} < 0"),
    "round": _float(1, torch.round, "rintf({0})"),
    "floor": _float(1, torch.floor, "floorf({0})"),
    "exp": _float(1, exact.exp, "exp_f({0})", torch.exp),
    "log": _float(1, exact.log, "log_f({0})", torch.log),
    "tanh": _float(1, exact.tanh, "tanh_f({0})", torch.tanh),
    "erf": _float(1, exact.erf, "erf_f({0})", torch.erf),
    "sigmoid": _float(1, exact.sigmoid, "sigmoid_f({0})", torch.sigmoid),
    "sin": _float(1, exact.sin, "sin_f({0})", torch.sin),
    "cos": _float(1, exact.cos, "cos_f({0})", torch.cos),
    "rsqrt": _float(1, exact.rsqrt, "rsqrt_f({0})", torch.rsqrt),
    "power": _float(2, kernels.power, native=torch.pow),
    "less": _compare(torch.lt, "{0} < {1}"),
    "less_equal": _compare(torch.le, "{0} <= {1}"),
    "equal": _compare(torch.eq, "{0} == {1}"),
    "not": _logical(1, torch.logical_not, "!{0}"),
    "and": _logical(2, torch.logical_and, "{0} & {1}"),
    "or": _logical(2, torch.logical_or, "{0} | {1}"),
    "where": Operator(3, (), shapes.where, plain(torch.where), True, "{0} ? {1} : {2}"),
    "cast": Operator(1, (), shapes.cast, kernels.cast, c=_cast),
    "view": Operator(1, (), shapes.view, kernels.view, c="{0}"),
    "expand": Operator(1, (), shapes.expand, kernels.expand),
    "permute": Operator(1, ("dims",), shapes.permute, kernels.permute),
    "slice": Operator(1, ("dim", "start", "step", "stop"), shapes.cut, kernels.cut),
    "concatenate": Operator(None, ("dim",), shapes.concatenate, kernels.concatenate),
    "select": Operator(2, (), shapes.select, plain(kernels.select)),
    "gather": Operator(2, (), shapes.gather, plain(kernels.gather)),
    "take_along": Operator(2, ("dim",), shapes.take_along, kernels.take_along),
    "scatter_sum": Operator(
        2, ("rows",), shapes.scatter_sum, kernels.scatter_sum, native=kernels.native_scatter_sum
    ),
    "sum": _reduction(shapes.reduce(False, True), kernels.total, kernels.native_sum),
    "mean": _reduction(shapes.reduce(True, True), kernels.mean, kernels.native_mean),
    "amax": _reduction(shapes.reduce(False, False), kernels.amax),
    "row_exponent": Operator(
        1, ("dim",), shapes.row_exponent, kernels.row_exponent, reduces=True, native=plain(_first)
    ),
    "quantise": Operator(
        2, ("bits", "dim"), shapes.quantise, kernels.quantise, c=_quantise, native=plain(_first)
    ),
    "product": Operator(4, ("bits",), shapes.product, kernels.product, native=plain(_matmul)),
}


def infer(node: Node, inputs: Sequence[Spec]) -> Spec:
    """Return the dtype and shape that `node` makes of `inputs`; raises ShapeError."""
    operator = OPERATORS.get(node.operator)
    if operator is None:
        raise ShapeError(f"unknown operator {node.operator!r}")
    arity = operator.arity
    if (arity is None and not inputs) or (arity is not None and len(inputs) != arity):
        raise ShapeError(f"{node.operator} takes {arity or 'one or more'} inputs, got {len(inputs)}")
    attributes = dict(node.attributes)
    if tuple(attributes) != operator.attributes:
        raise ShapeError(
            f"{node.operator} takes attributes {list(operator.attributes)}, got {list(attributes)}"
        )
    return operator.rule(inputs, attributes, Spec(node.dtype, node.shape))


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
