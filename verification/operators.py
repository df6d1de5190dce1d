"""What the law knows of operators: their price, and how their memory and their evidence differ. (SPEC.md 2.5, 6.5, 7.2)

What they compute is known to whoever executes: `trainer.programs.operators` has a record of the same name for each.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Operator:
    """One operator: `price` is in work units an element of the larger of its inputs and its result.

    `is_view`: the result may share its input's memory, and costs one unit. `multiplies`: of [M, K] by [K, N], at 2MKN.
    `takes_rows`: of its first input it reads the rows that its second names, and evidence need bring no others.
    """

    price: int = 1
    is_view: bool = False
    multiplies: bool = False
    takes_rows: bool = False


PLAIN = Operator()

OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(
        ("add", "subtract", "multiply", "maximum", "minimum", "negate", "absolute", "sign"), PLAIN
    ),
    **dict.fromkeys(
        ("round", "floor", "less", "less_equal", "equal", "not", "and", "or", "where", "cast"), PLAIN
    ),
    **dict.fromkeys(("concatenate", "select", "take_along", "amax"), PLAIN),
    **dict.fromkeys(("view", "permute", "expand", "slice"), Operator(is_view=True)),
    "gather": Operator(takes_rows=True),
    "row_exponent": Operator(2),
    "quantise": Operator(3),
    "product": Operator(multiplies=True),
    "divide": Operator(4),
    "sqrt": Operator(4),
    "sum": Operator(6),
    "mean": Operator(6),
    "rsqrt": Operator(8),
    "scatter_sum": Operator(8),
    "exp": Operator(24),
    "log": Operator(32),
    "sigmoid": Operator(32),
    "tanh": Operator(40),
    "sin": Operator(40),
    "cos": Operator(40),
    "erf": Operator(48),
    "power": Operator(64),
}
"""All operators, by name."""


def operator_of(name: str) -> Operator:
    """Return an operator's record; one that no version knows is a plain one, which whoever executes refuses."""
    return OPERATORS.get(name, PLAIN)
