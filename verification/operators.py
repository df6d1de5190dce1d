"""All operators, one record each: what it computes, its price, and how its memory and evidence differ. (SPEC.md 2.5)

What an operator means stands here, in plain integers and doubles; `trainer.programs.operators` has a record of the same
name for each, with fast kernels that are tested against these definitions.
"""

from collections.abc import Callable
from dataclasses import dataclass

from verification.arithmetic import elementwise, functions, moves, shapes, sums
from verification.arithmetic.definition import Definition
from verification.arithmetic.numbers import FLOAT, Number
from verification.arithmetic.places import Site, Spec
from verification.arithmetic.shapes import ANY, NUMERIC, Rule, ShapeError

ARITHMETIC = "exact-14/1"
"""Version of the semantics of all operators below; old evidence is judged by its own version."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What an operator costs and how its memory differs: `price` is in work units an element of the larger
    of its inputs and its result, `scratch` in bytes for each number that it reads or makes, at most.

    `is_view`: the result may share its input's memory, and costs one unit. `multiplies`: of [M, K] by [K, N], at 2MKN.
    """

    price: int = 1
    scratch: int = 8
    is_view: bool = False
    multiplies: bool = False


@dataclass(frozen=True)
class Operator(Traits):
    """One operator: `arity` inputs (None: one or more), exactly the named attributes, a shape rule, a definition.

    `of_integers` defines it where its first input is not float32 and that differs. `broadcasts`: it takes operands of
    unequal shapes. `by_place`: a number comes from those at its own place of the inputs, which may repeat.
    """

    arity: int | None
    attributes: tuple[str, ...]
    rule: Rule
    definition: Definition
    of_integers: Definition | None = None
    broadcasts: bool = False
    by_place: bool = False


PLAIN = Traits()
CHECKS = 2
"""Scratch of what a machine does in one pass: no copies in double precision, a byte for each number that it checks."""
SEVERAL_STEPS = 8
"""The price from which on an operator of a single number is made in several steps, in double precision."""


def _each(
    arity: int, rule: Rule, function: Callable[..., Number], price: int = 1, scratch: int = CHECKS
) -> Operator:
    """An operator whose numbers come from those at the same place."""
    definition = elementwise.elementwise(function)
    return Operator(
        arity, (), rule, definition, broadcasts=arity > 1, by_place=True, price=price, scratch=scratch
    )


def _float(arity: int, function: Callable[..., float], price: int = 1) -> Operator:
    scratch = CHECKS if price < SEVERAL_STEPS else PLAIN.scratch
    return _each(arity, shapes.elementwise((FLOAT,)), function, price, scratch)


def _numeric(arity: int, function: Callable[..., Number]) -> Operator:
    return _each(arity, shapes.elementwise(NUMERIC), function)


def _compare(function: Callable[[Number, Number], bool]) -> Operator:
    return _each(2, shapes.elementwise(ANY, "bool"), function)


def _logical(arity: int, function: Callable[..., int]) -> Operator:
    return _each(arity, shapes.elementwise(("bool",)), function)


def _view(attributes: tuple[str, ...], rule: Rule, definition: Definition) -> Operator:
    return Operator(1, attributes, rule, definition, is_view=True)


def _reduction(
    rule: Rule, definition: Definition, price: int = 1, of_integers: Definition | None = None
) -> Operator:
    return Operator(1, ("dims", "keepdim"), rule, definition, of_integers, price=price)


OPERATORS: dict[str, Operator] = {
    "add": _numeric(2, lambda left, right: left + right),
    "subtract": _numeric(2, lambda left, right: left - right),
    "multiply": _numeric(2, lambda left, right: left * right),
    "maximum": _numeric(2, elementwise.maximum),
    "minimum": _numeric(2, elementwise.minimum),
    "negate": _numeric(1, lambda number: -number),
    "absolute": _numeric(1, abs),
    "sign": _numeric(1, elementwise.sign),
    "divide": _float(2, elementwise.divide, 4),
    "sqrt": _float(1, elementwise.sqrt, 4),
    "round": _float(1, elementwise.nearest),
    "floor": _float(1, elementwise.floor),
    "exp": _float(1, functions.exp, 24),
    "log": _float(1, functions.log, 32),
    "tanh": _float(1, functions.tanh, 40),
    "erf": _float(1, functions.erf, 48),
    "sigmoid": _float(1, functions.sigmoid, 32),
    "sin": _float(1, functions.sin, 40),
    "cos": _float(1, functions.cos, 40),
    "rsqrt": _float(1, functions.rsqrt, 8),
    "power": _float(2, functions.power, 64),
    "less": _compare(lambda left, right: left < right),
    "less_equal": _compare(lambda left, right: left <= right),
    "equal": _compare(lambda left, right: left == right),
    "not": _logical(1, lambda bit: not bit),
    "and": _logical(2, lambda left, right: left and right),
    "or": _logical(2, lambda left, right: left or right),
    "where": _each(3, shapes.where, lambda condition, left, right: left if condition else right),
    "cast": Operator(1, (), shapes.cast, elementwise.CAST, by_place=True, scratch=CHECKS),
    "view": _view((), shapes.view, moves.VIEW),
    "expand": Operator(1, (), shapes.expand, moves.EXPAND, is_view=True, by_place=True),
    "permute": _view(("dims",), shapes.permute, moves.MOVED),
    "slice": _view(("dim", "start", "step", "stop"), shapes.cut, moves.MOVED),
    "concatenate": Operator(None, ("dim",), shapes.concatenate, moves.CONCATENATE, scratch=CHECKS),
    "select": Operator(2, (), shapes.select, moves.SELECT),
    "gather": Operator(2, (), shapes.gather, moves.GATHER),
    "take_along": Operator(2, ("dim",), shapes.take_along, moves.TAKE_ALONG),
    "scatter_sum": Operator(2, ("rows",), shapes.scatter_sum, sums.SCATTER_SUM, price=8),
    "sum": _reduction(shapes.reduce(False, True), sums.FLOAT_SUM, 6, sums.INTEGER_SUM),
    "mean": _reduction(shapes.reduce(True, True), sums.MEAN, 6),
    "amax": _reduction(shapes.reduce(False, False), sums.AMAX),
    "rank": Operator(1, (), shapes.rank, sums.RANK, price=24),
    "row_exponent": Operator(1, ("dim",), shapes.row_exponent, sums.ROW_EXPONENT, price=2),
    "quantise": Operator(2, ("bits", "dim"), shapes.quantise, elementwise.QUANTISE, by_place=True, price=3),
    "product": Operator(4, ("bits",), shapes.product, sums.PRODUCT, multiplies=True),
}
"""All operators, by name."""


def operator_of(name: str) -> Traits:
    """Return what is known of an operator's cost; one that no version knows is a plain one, which `made_by` refuses."""
    return OPERATORS.get(name, PLAIN)


def made_by(name: str, site: Site) -> Spec:
    """Return the dtype and shape that an operator makes where a node declares `site.result`; raises ShapeError."""
    if name not in OPERATORS:
        raise ShapeError(f"unknown operator {name!r}")
    operator, inputs = OPERATORS[name], site.inputs
    if len(inputs) != operator.arity and (operator.arity is not None or not inputs):
        raise ShapeError(f"{name} takes {operator.arity or 'one or more'} inputs, got {len(inputs)}")
    if tuple(site.attributes) != operator.attributes:
        raise ShapeError(f"{name} takes attributes {list(operator.attributes)}, got {list(site.attributes)}")
    return operator.rule(inputs, site.attributes, site.result)


def definition_of(name: str, site: Site) -> Definition:
    """Return what defines an operator's numbers on inputs of such dtypes; raises KeyError for an unknown operator."""
    operator = OPERATORS[name]
    if operator.of_integers is not None and site.inputs[0].dtype != FLOAT:
        return operator.of_integers
    return operator.definition
