"""The allowlist: every operator of the arithmetic `exact-14/1`, its arity, attributes, rule and kernel.

A program that names anything else, or declares another shape or dtype than a rule gives, is refused before it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer import exact
from trainer.programs import kernels, shapes
from trainer.programs.kernels import Binder, Binding, Kernel, plain
from trainer.programs.shapes import FLOAT, INTEGERS, NUMERIC, Rule, ShapeError, Spec
from verification.errors import Malformed
from verification.program import Node

ARITHMETIC = "exact-14/1"
"""Version of the semantics of all operators below; old evidence is judged by its own version."""

ANY = (FLOAT, *INTEGERS, "bool")


@dataclass(frozen=True)
class Operator:
    """`arity` inputs (None: one or more), exactly the named attributes, a shape rule, and what binds its kernel."""

    arity: int | None
    attributes: tuple[str, ...]
    rule: Rule
    binder: Binder


def _float(arity: int, kernel: Kernel) -> Operator:
    return Operator(arity, (), shapes.elementwise((FLOAT,)), plain(kernel))


def _numeric(arity: int, kernel: Kernel) -> Operator:
    return Operator(arity, (), shapes.elementwise(NUMERIC), plain(kernel))


def _compare(kernel: Kernel) -> Operator:
    return Operator(2, (), shapes.elementwise(ANY, "bool"), plain(kernel))


def _logical(arity: int, kernel: Kernel) -> Operator:
    return Operator(arity, (), shapes.elementwise(("bool",)), plain(kernel))


OPERATORS: dict[str, Operator] = {
    "add": _numeric(2, torch.add),
    "subtract": _numeric(2, torch.sub),
    "multiply": _numeric(2, torch.mul),
    "maximum": _numeric(2, torch.maximum),
    "minimum": _numeric(2, torch.minimum),
    "negate": _numeric(1, torch.neg),
    "absolute": _numeric(1, torch.abs),
    "sign": _numeric(1, torch.sign),
    "divide": _float(2, kernels.divide),
    "sqrt": _float(1, kernels.sqrt),
    "round": _float(1, torch.round),
    "floor": _float(1, torch.floor),
    "exp": _float(1, exact.exp),
    "log": _float(1, exact.log),
    "tanh": _float(1, exact.tanh),
    "erf": _float(1, exact.erf),
    "sigmoid": _float(1, exact.sigmoid),
    "sin": _float(1, exact.sin),
    "cos": _float(1, exact.cos),
    "rsqrt": _float(1, exact.rsqrt),
    "power": _float(2, kernels.power),
    "less": _compare(torch.lt),
    "less_equal": _compare(torch.le),
    "equal": _compare(torch.eq),
    "not": _logical(1, torch.logical_not),
    "and": _logical(2, torch.logical_and),
    "or": _logical(2, torch.logical_or),
    "where": Operator(3, (), shapes.where, plain(torch.where)),
    "cast": Operator(1, (), shapes.cast, kernels.cast),
    "view": Operator(1, (), shapes.view, kernels.view),
    "expand": Operator(1, (), shapes.expand, kernels.expand),
    "permute": Operator(1, ("dims",), shapes.permute, kernels.permute),
    "slice": Operator(1, ("dim", "start", "step", "stop"), shapes.cut, kernels.cut),
    "concatenate": Operator(None, ("dim",), shapes.concatenate, kernels.concatenate),
    "select": Operator(2, (), shapes.select, plain(kernels.select)),
    "gather": Operator(2, (), shapes.gather, plain(kernels.gather)),
    "take_along": Operator(2, ("dim",), shapes.take_along, kernels.take_along),
    "scatter_sum": Operator(2, ("rows",), shapes.scatter_sum, kernels.scatter_sum),
    "sum": Operator(1, ("dims", "keepdim"), shapes.reduce(False, True), kernels.total),
    "mean": Operator(1, ("dims", "keepdim"), shapes.reduce(True, True), kernels.mean),
    "amax": Operator(1, ("dims", "keepdim"), shapes.reduce(False, False), kernels.amax),
    "row_exponent": Operator(1, ("dim",), shapes.row_exponent, kernels.row_exponent),
    "quantise": Operator(2, ("bits", "dim"), shapes.quantise, kernels.quantise),
    "product": Operator(4, ("bits",), shapes.product, kernels.product),
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
