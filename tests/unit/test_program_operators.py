"""Every operator of the allowlist against float64 PyTorch: its rule's shape, its accuracy, and where it ends a step."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from trainer import exact
from trainer.programs.kernels import DTYPE_NAMES, KernelFailed
from trainer.programs.operators import OPERATORS, bind
from verification import operators as law
from verification.arithmetic.places import Spec
from verification.errors import Malformed
from verification.program import Node

Reference = Callable[..., torch.Tensor]


def run(
    operator: str,
    *inputs: torch.Tensor,
    dtype: str | None = None,
    shape: Sequence[int] = (),
    **attributes: object,
) -> torch.Tensor:
    """One node on these inputs; `dtype` and `shape` are what it declares."""
    specs = [Spec(DTYPE_NAMES[value.dtype], tuple(value.shape)) for value in inputs]
    packed = tuple((name, (n,) if isinstance(n, int) else tuple(n)) for name, n in sorted(attributes.items()))
    node = Node(operator, tuple(range(len(inputs))), packed, dtype or specs[0].dtype, tuple(shape))
    return bind(7, node, specs, exact.Products())(*inputs)


def draw(*shape: int, positive: bool = False) -> torch.Tensor:
    """Normal float32 numbers from a fixed seed."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return value.abs() + 0.1 if positive else value


X, Y, P = draw(5, 37), draw(1, 37), draw(5, 37, positive=True)
FLOATS: dict[str, tuple[tuple[torch.Tensor, ...], Reference]] = {
    "add": ((X, Y), torch.add),
    "subtract": ((X, Y), torch.sub),
    "multiply": ((X, Y), torch.mul),
    "divide": ((X, P), torch.div),
    "maximum": ((X, Y), torch.maximum),
    "minimum": ((X, Y), torch.minimum),
    "power": ((P, Y), torch.pow),
    "negate": ((X,), torch.neg),
    "absolute": ((X,), torch.abs),
    "sign": ((X,), torch.sign),
    "sqrt": ((P,), torch.sqrt),
    "round": ((X * 5,), torch.round),
    "floor": ((X * 5,), torch.floor),
    "exp": ((X,), torch.exp),
    "log": ((P,), torch.log),
    "tanh": ((X,), torch.tanh),
    "erf": ((X,), torch.erf),
    "sigmoid": ((X,), torch.sigmoid),
    "sin": ((X * 9,), torch.sin),
    "cos": ((X * 9,), torch.cos),
    "rsqrt": ((P,), torch.rsqrt),
}
EXACTLY: dict[str, tuple[tuple[torch.Tensor, ...], Reference]] = {
    "less": ((X, Y), torch.lt),
    "less_equal": ((X, X), torch.le),
    "equal": ((X, X), torch.eq),
    "not": ((X > 0,), torch.logical_not),
    "and": ((X > 0, Y > 0), torch.logical_and),
    "or": ((X > 0, Y > 0), torch.logical_or),
    "where": ((X > 0, X, Y), torch.where),
    "gather": ((X, torch.tensor([[4, 0], [2, 2]])), lambda table, index: table[index]),
    "select": ((X, torch.tensor(3)), lambda table, index: table[3]),
    "rank": ((X,), lambda x: x.argsort(descending=True).argsort()),
}
MOVES: dict[str, tuple[dict[str, object], tuple[int, ...], Reference]] = {
    "view": ({}, (37, 5), lambda x: x.reshape(37, 5)),
    "expand": ({}, (2, 5, 37), lambda x: x.expand(2, 5, 37)),
    "permute": ({"dims": (1, 0)}, (37, 5), lambda x: x.permute(1, 0)),
    "slice": ({"dim": 1, "start": 3, "stop": 30, "step": 4}, (5, 7), lambda x: x[:, 3:30:4]),
    "cast": ({}, (5, 37), lambda x: x),
    "concatenate": ({"dim": 0}, (5, 37), lambda x: x),
    "sum": ({"dims": (1,), "keepdim": 0}, (5,), lambda x: x.double().sum(1)),
    "mean": ({"dims": (0, 1), "keepdim": 1}, (1, 1), lambda x: x.double().mean((0, 1), keepdim=True)),
    "amax": ({"dims": (0,), "keepdim": 1}, (1, 37), lambda x: x.amax(0, keepdim=True)),
    "row_exponent": ({"dim": 1}, (5, 1), lambda x: x.abs().amax(1, keepdim=True).log2().floor() + 1),
}
APART = {"take_along", "scatter_sum", "quantise", "product"}


def declared(name: str, inputs: Sequence[torch.Tensor], reference: Reference) -> torch.Tensor:
    """Run an operator that declares what the reference makes."""
    expected = reference(*inputs)
    return run(name, *inputs, dtype=DTYPE_NAMES[expected.dtype], shape=expected.shape)


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) == set(FLOATS) | set(EXACTLY) | set(MOVES) | APART


def test_law_and_trainer_know_the_same_operators() -> None:
    """A record on either side, of one name: the law prices what the trainer executes."""
    assert set(law.OPERATORS) == set(OPERATORS)
    assert {name for name, priced in law.OPERATORS.items() if priced.multiplies} == {"product"}
    # Nothing on the law's side may cost less than the simplest operation, but a view of memory that is there.
    assert all(priced.price >= 1 for priced in law.OPERATORS.values())
    assert {name for name, priced in law.OPERATORS.items() if priced.is_view} == {
        "view",
        "permute",
        "expand",
        "slice",
    }


@pytest.mark.parametrize("name", FLOATS)
def test_float_operators_are_close_to_float64(name: str) -> None:
    inputs, reference = FLOATS[name]
    expected = reference(*(value.double() for value in inputs))
    torch.testing.assert_close(declared(name, inputs, reference).double(), expected, rtol=1.3e-7, atol=1e-44)


@pytest.mark.parametrize("name", EXACTLY)
def test_choosing_operators_are_exact(name: str) -> None:
    inputs, reference = EXACTLY[name]
    assert torch.equal(declared(name, inputs, reference), reference(*inputs))


@pytest.mark.parametrize("name", MOVES)
def test_operators_with_attributes(name: str) -> None:
    attributes, shape, reference = MOVES[name]
    found = run(name, X, dtype="int16" if name == "row_exponent" else "float32", shape=shape, **attributes)
    torch.testing.assert_close(found.double(), reference(X).double(), rtol=1e-7, atol=1e-7)


def test_integers_add_exactly_and_casts_keep_their_range() -> None:
    large = torch.tensor([2**60, 3, -(2**60)])
    assert run("sum", large, dtype="int64", dims=(0,), keepdim=0).item() == 3
    assert run("sum", X > 0, dtype="int64", dims=(0, 1), keepdim=0).item() == int((X > 0).sum())
    for dtype, number in (("int8", 127.9), ("int8", -128.9), ("uint8", 255.5), ("int64", -(2.0**63))):
        value = torch.tensor([number])
        assert run("cast", value, dtype=dtype, shape=(1,)).item() == math.trunc(value.item())
    for dtype, number in (
        ("int8", 128.0),
        ("int8", -129.0),
        ("uint8", -1.0),
        ("int64", 2.0**63),
        ("int8", math.nan),
    ):
        with pytest.raises(KernelFailed):
            run("cast", torch.tensor([number]), dtype=dtype, shape=(1,))


def test_take_along_and_scatter_sum() -> None:
    index = torch.randint(0, 37, (5, 3), generator=torch.Generator().manual_seed(1))
    found = run("take_along", X, index, shape=(5, 3), dim=1)
    assert torch.equal(found, X.gather(1, index))
    rows = torch.tensor([2, 0, 2, 2, 1])
    expected = torch.zeros(4, 37, dtype=torch.float64).index_add_(0, rows, X.double())
    found = run("scatter_sum", rows, X, dtype="float32", shape=(4, 37), rows=4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(9, 65), (3, 9, 65)])
def test_a_product_is_as_close_as_its_bits(shape: tuple[int, ...]) -> None:
    left, right = draw(*shape), draw(*shape).mT * 1e3
    values = []
    for value, dim in ((left, len(shape) - 1), (right, len(shape) - 2)):
        rows = [1 if place == dim else size for place, size in enumerate(value.shape)]
        exponent = run("row_exponent", value, dtype="int16", shape=rows, dim=dim)
        values += [
            run("quantise", value, exponent, dtype="int16", shape=value.shape, dim=dim, bits=14),
            exponent,
        ]
    found = run("product", *values, dtype="float32", shape=(*shape[:-1], shape[-2]), bits=14)
    expected = left.double() @ right.double()
    assert (found.double() - expected).norm() / expected.norm() < 2e-4


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("divide", (X, torch.zeros(1))),
        ("divide", (X, -torch.zeros(1))),
        ("sqrt", (-P,)),
        ("gather", (X, torch.tensor([5]))),
        ("gather", (X, torch.tensor([-1]))),
        ("select", (X, torch.tensor(5))),
    ],
)
def test_values_outside_an_operators_domain_end_the_step(
    operator: str, inputs: tuple[torch.Tensor, ...]
) -> None:
    shape = {"gather": (1, 37), "select": (37,)}.get(operator, (5, 37))
    with pytest.raises(KernelFailed):
        run(operator, *inputs, shape=shape)


@pytest.mark.parametrize(
    "name", ["divide", "rsqrt", "log", "maximum", "sign", "sqrt", "power", "less", "equal"]
)
def test_no_operator_shows_the_sign_of_zero(name: str) -> None:
    zeros = torch.tensor([0.0, -0.0])
    inputs = [zeros, torch.tensor([-0.0, 0.0])] if law.OPERATORS[name].arity == 2 else [zeros]
    dtype = "bool" if name in ("less", "equal") else "float32"
    try:
        first, second = run(name, *inputs, dtype=dtype, shape=(2,)).tolist()
    except (KernelFailed, exact.NonFinite):
        return
    assert first == second or (math.isnan(first) and math.isnan(second))


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("fft", (X,), {}, "unknown operator"),
        ("add", (X,), {}, "takes 2 inputs"),
        ("add", (X, X), {"alpha": 2}, "takes attributes"),
        ("add", (X, X > 0), {}, "dtypes differ"),
        ("add", (X, draw(4, 37)), {}, "do not fit"),
        ("exp", (X > 0,), {}, "dtype bool"),
        ("permute", (X,), {"dims": (0, 0)}, "no permutation"),
        ("slice", (X,), {"dim": 0, "start": 0, "stop": 6, "step": 1}, "outside"),
        ("slice", (X,), {"dim": 2, "start": 0, "stop": 1, "step": 1}, "outside shape"),
        ("sum", (X,), {"dims": (1, 0), "keepdim": 0}, "ascend"),
        ("sum", (X,), {"dims": (), "keepdim": 0}, "ascend"),
        ("concatenate", (), {"dim": 0}, "one or more"),
        ("add", (X, X), {}, "declares"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_with_their_number(
    operator: str, inputs: tuple[torch.Tensor, ...], attributes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Malformed, match=f"node 7 .*{reason}"):
        run(operator, *inputs, dtype="float32", shape=(1, 2, 3), **attributes)
