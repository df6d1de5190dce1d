"""Nodes of every operator with inputs at random, and the comparison of any kernel with the operator's definition.

What is drawn is what a node may meet: any bits where the operator takes any, numbers of any size with and without
infinities and NaN, both zeros, integers at the ends of their range, empty tensors, operands that repeat; and for a
product integers within their bits, for a quantisation the row's own exponents.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch

from trainer import exact
from trainer.programs.kernels import DTYPE_NAMES, TORCH_DTYPES, KernelFailed
from trainer.programs.operators import bind, infer
from verification.arithmetic.definition import Read, number_of
from verification.arithmetic.numbers import EndsStep, Number, bits_of
from verification.arithmetic.places import Site, Spec
from verification.arithmetic.shapes import INTEGERS
from verification.operators import definition_of
from verification.program import Node
from verification.units import Count

ANY = ("float32", *INTEGERS, "bool")
FEW = 64
"""Numbers of a tensor that are drawn one by one; more come from a generator that is seeded."""

EDGES = [
    *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.95, 20.0, -20.0, 0.70710677, 1.4142135, math.pi, math.pi / 2),
    *(88.72284, 89.0, -87.33655, -103.97208, -104.0, 105.0, -105.0, 2.0**20, -(2.0**20), 1048576.1, 355.0, 710.0),
    *(127.9, 128.0, -128.9, -129.0, 255.5, 256.0, -1.0, 32768.0, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63)),
    *(2.0**-149, -(2.0**-149), 2.0**-126, 2.0**-126 - 2.0**-149, 3.4028235e38, -3.4028235e38, 2.0**24, 2.0**-75),
]  # fmt: skip
NOT_FINITE = [math.inf, -math.inf, math.nan]
WHOLE = [
    0,
    1,
    -1,
    2,
    127,
    128,
    -128,
    255,
    2**24 + 1,
    2**31 - 1,
    2**53 + 1,
    -(2**31),
    2**60 + 2**36 + 1,
    2**62 + 1,
]


@dataclass(frozen=True)
class Case:
    """One node with its inputs and its number, all that an operator needs."""

    node: Node
    inputs: tuple[torch.Tensor, ...]

    @property
    def specs(self) -> list[Spec]:
        """The inputs' dtypes and shapes."""
        return [Spec(DTYPE_NAMES[value.dtype], tuple(value.shape)) for value in self.inputs]

    @property
    def site(self) -> Site:
        """What the definition is told."""
        result = Spec(self.node.dtype, tuple(self.node.shape))
        return Site(dict(self.node.attributes), tuple(self.specs), result)

    @property
    def read(self) -> Read:
        """Reads the inputs' numbers."""
        numbers: list[list[Number]] = [value.reshape(-1).tolist() for value in self.inputs]
        return lambda place, index: numbers[place][index]


class Draw:
    """Draws shapes and numbers for tensors of up to about `size` numbers."""

    def __init__(self, random: Random, size: int) -> None:
        self.random = random
        self.size = size

    def chance(self, share: float) -> bool:
        """True that often."""
        return self.random.randrange(100) < 100 * share

    def choice(self, *of: Number) -> int:
        """One of some integers."""
        return int(self.random.choice(of))

    def shape(self, low: int = 0, high: int = 4, empty: bool = True) -> tuple[int, ...]:
        """A shape with so many dimensions."""
        rank = self.random.randint(low, high)
        if not rank:
            return ()
        side = max(1, round(self.size ** (1 / rank)))
        sizes = [self.random.randint(max(1, side // 2), side + 1) for _ in range(rank)]
        if self.chance(0.2):
            sizes[self.random.randrange(rank)] = 0 if empty and self.chance(0.3) else 1
        return tuple(sizes)

    def repeating(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to `shape`."""
        sizes = [1 if self.chance(0.15) else size for size in shape]
        return tuple(sizes[self.random.randint(0, len(sizes)) if self.chance(0.2) else 0 :])

    def numbers(self, dtype: str, shape: Sequence[int], finite: bool = False) -> torch.Tensor:
        """Numbers of a dtype: any bits, edges, or of moderate size; without NaN and infinities, if so wished."""
        count, style = math.prod(shape), self.random.randrange(4)
        make = self._float if dtype == "float32" else self._integer
        if count <= FEW:
            made = _tensor(dtype, [make(style, finite) for _ in range(count)])
        else:
            some = _tensor(dtype, [make(self.random.randrange(4), finite) for _ in range(4 * FEW)])
            made = self._many(some, count, style, finite)
        return made.reshape(tuple(shape))

    def index(self, rows: int, shape: Sequence[int]) -> torch.Tensor:
        """Numbers of rows, once in a while one outside."""
        count = math.prod(shape)
        made = torch.tensor(
            [self.random.randrange(rows) if rows else 0 for _ in range(count)], dtype=torch.int64
        )
        if count and self.chance(0.1):
            made[self.random.randrange(count)] = self.choice(-1, rows, rows + 7, 2**62, -(2**63))
        return made.reshape(tuple(shape))

    def planted(self, value: torch.Tensor, share: float, *of: float) -> torch.Tensor:
        """Some numbers with one of others among them, that often."""
        if value.numel() and self.chance(share):
            value.view(-1)[self.random.randrange(value.numel())] = self.random.choice(of)
        return value

    def _float(self, style: int, finite: bool) -> float:
        if style == 0:
            return self.random.choice(EDGES if finite or self.chance(0.7) else NOT_FINITE)
        if style == 1:
            made: float = struct.unpack("<f", self.random.getrandbits(32).to_bytes(4, "little"))[0]
            return made if math.isfinite(made) or not finite else 1.0
        return (self.random.random() - 0.5) * 10.0 ** self.random.randint(-3, 3 if style == 2 else 1)

    def _integer(self, style: int, finite: bool) -> int:
        if style == 0 and self.chance(0.5):  # beside a number that lies halfway between two of float32
            return ((self.random.getrandbits(24) | 1) << self.random.randint(1, 38)) + self.choice(-1, 0, 1)
        if style == 0:
            return self.random.choice(WHOLE)
        return self.random.getrandbits(63) - (1 << 62) if style == 1 else self.random.randint(-200, 200)

    def _many(self, few: torch.Tensor, count: int, style: int, finite: bool) -> torch.Tensor:
        """Many numbers: drawn by bits or by size, and every tenth one of `few`."""
        generator = torch.Generator().manual_seed(self.random.getrandbits(32))
        if few.dtype is torch.float32 and style > 1:
            made = torch.randn(count, generator=generator) * 10.0 ** self.random.randint(-3, 2)
        elif few.dtype is torch.float32:
            made = (
                torch.randint(-(2**31), 2**31, (count,), generator=generator)
                .to(torch.int32)
                .view(torch.float32)
            )
            made = torch.where(made.isfinite(), made, torch.ones(())) if finite else made
        else:
            made = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)
            made = (
                (made >> (0 if style < 2 else 55)).to(few.dtype)
                if few.dtype is not torch.bool
                else made % 2 == 0
            )
        chosen = torch.randint(0, 10 * len(few), (count,), generator=generator)
        return torch.where(chosen < len(few), few[chosen % len(few)], made)


def _tensor(dtype: str, numbers: Sequence[Number]) -> torch.Tensor:
    """A tensor of numbers that are rounded, or wrap around; a bool is whether its number is odd."""
    if dtype == "float32":
        return torch.tensor(numbers, dtype=torch.float64).to(torch.float32)
    whole = torch.tensor(numbers, dtype=torch.int64)
    return whole % 2 == 1 if dtype == "bool" else whole.to(TORCH_DTYPES[dtype])


Attributes = dict[str, int | Sequence[int]]
Drawn = tuple[Attributes, list[torch.Tensor], tuple[str, Sequence[int]] | None]
"""Attributes, inputs, and what the node declares where its operator leaves that to the node."""
Maker = Callable[[Draw], Drawn]


def _each(arity: int, *dtypes: str, finite: float = 0.4) -> Maker:
    def make(draw: Draw) -> Drawn:
        dtype, shape = draw.random.choice(dtypes), draw.shape()
        is_finite = draw.chance(finite)
        return {}, [draw.numbers(dtype, draw.repeating(shape), is_finite) for _ in range(arity)], None

    return make


def _divide(draw: Draw) -> Drawn:
    attributes, (left, right), _ = _each(2, "float32")(draw)
    right = torch.where(right == 0.0, torch.tensor(-3.0), right)
    return attributes, [left, draw.planted(right, 0.2, 0.0, -0.0)], None


def _sqrt(draw: Draw) -> Drawn:
    value = draw.numbers("float32", draw.shape())
    return {}, [value.abs() if draw.chance(0.7) else value], None


def _power(draw: Draw) -> Drawn:
    attributes, (base, exponent), _ = _each(2, "float32")(draw)
    return attributes, [base.abs() if draw.chance(0.7) else base, exponent], None


def _where(draw: Draw) -> Drawn:
    dtype, shape = draw.random.choice(ANY), draw.shape()
    dtypes = ("bool", dtype, dtype)
    return {}, [draw.numbers(each, draw.repeating(shape)) for each in dtypes], None


def _cast(draw: Draw) -> Drawn:
    value = draw.numbers(draw.random.choice(ANY), draw.shape())
    if value.dtype is torch.float32 and draw.chance(0.4):
        value = (value.nan_to_num(0.0, 0.0, 0.0) % 200.0) - draw.choice(0, 100)
        value = draw.planted(value, 0.3, *NOT_FINITE, -129.0, 2.0**63, 256.0)
    return {}, [value], (draw.random.choice((*ANY, "float32")), value.shape)


def _view(draw: Draw) -> Drawn:
    value = draw.numbers(draw.random.choice(ANY), draw.shape())
    shape = [value.shape[0] * value.shape[1], *value.shape[2:]] if value.dim() > 1 else [1, *value.shape]
    return {}, [value], (DTYPE_NAMES[value.dtype], shape)


def _expand(draw: Draw) -> Drawn:
    shape = draw.shape()
    value = draw.numbers(draw.random.choice(ANY), draw.repeating(shape))
    return {}, [value], (DTYPE_NAMES[value.dtype], shape)


def _permute(draw: Draw) -> Drawn:
    value = draw.numbers(draw.random.choice(ANY), draw.shape())
    return {"dims": draw.random.sample(range(value.dim()), value.dim())}, [value], None


def _slice(draw: Draw) -> Drawn:
    value = draw.numbers(draw.random.choice(ANY), draw.shape(1))
    dim = draw.random.randrange(value.dim())
    start, stop = sorted(draw.random.randint(0, value.shape[dim]) for _ in range(2))
    if draw.chance(0.5):
        start, stop = start // 4, value.shape[dim]
    return {"dim": dim, "start": start, "stop": stop, "step": draw.choice(1, 1, 2, 3)}, [value], None


def _concatenate(draw: Draw) -> Drawn:
    dtype, shape = draw.random.choice(ANY), draw.shape(1)
    dim = draw.random.randrange(len(shape))
    parts = [
        draw.numbers(dtype, (*shape[:dim], draw.random.randint(0, shape[dim]), *shape[dim + 1 :]))
        for _ in range(draw.choice(1, 2, 3))
    ]
    return {"dim": dim}, parts, None


def _gather(draw: Draw) -> Drawn:
    table = draw.numbers(draw.random.choice(ANY), draw.shape(1, 3))
    few = Draw(draw.random, min(draw.size, 40))
    return {}, [table, draw.index(table.shape[0], few.shape(0, 2))], None


def _select(draw: Draw) -> Drawn:
    table = draw.numbers(draw.random.choice(ANY), draw.shape(1))
    return {}, [table, draw.index(table.shape[0], ())], None


def _take_along(draw: Draw) -> Drawn:
    table = draw.numbers(draw.random.choice(ANY), draw.shape(1))
    dim = draw.random.randrange(table.dim())
    shape = (*table.shape[:dim], draw.random.randint(0, 2 * table.shape[dim]), *table.shape[dim + 1 :])
    return {"dim": dim}, [table, draw.index(table.shape[dim], shape)], None


def _scatter_sum(draw: Draw) -> Drawn:
    rows = draw.random.randint(1, 6)
    small = Draw(draw.random, min(draw.size, 40))  # every number of the result goes over all values
    shape = small.shape(1, 3)
    value = small.numbers("float32", shape, finite=small.chance(0.85))
    return {"rows": rows}, [small.index(rows, shape[: small.choice(1, len(shape))]), value], None


def _rows(draw: Draw, dtype: str, over: int, finite: bool) -> tuple[torch.Tensor, list[int]]:
    """A tensor, and up to `over` of its dimensions to go over; along these it is short, so that results are many."""
    shape, dims = list(draw.shape(0, 2, empty=False)), []
    for _ in range(draw.random.randint(1, over)):
        place = draw.random.randint(0, len(shape))
        dims = [dim + (dim >= place) for dim in dims] + [place]
        shape.insert(place, draw.choice(1, 2, 3, 5, 12))
    value = draw.numbers(dtype, shape, finite)
    if dtype == "float32" and not finite:
        value = draw.planted(value, 0.4, *NOT_FINITE)
    if dtype == "float32" and len(dims) == 1 and shape[dims[0]] > 2 and draw.chance(0.4):
        # Numbers that cancel show the last bits of a sum, and those that lie halfway between two integers on its scale.
        rows = value.movedim(dims[0], 0)
        exponents = torch.frexp(rows[0])[1].clamp(-98, 128)
        rows[1:] = torch.ldexp(
            draw.choice(1, 3, -5) * torch.ones(rows[1:].shape, dtype=torch.float64), exponents - 51
        )
        rows[2] = -rows[0]
    return value, sorted(dims)


def _reduction(*dtypes: str) -> Maker:
    def make(draw: Draw) -> Drawn:
        value, dims = _rows(draw, draw.random.choice(dtypes), 2, finite=draw.chance(0.5))
        return {"dims": dims, "keepdim": draw.choice(0, 1)}, [value], None

    return make


def _rank(draw: Draw) -> Drawn:
    dtype = draw.random.choice(ANY)
    value = draw.numbers(dtype, (*draw.shape(0, 2), draw.choice(1, 2, 3, 5, 12)))
    if dtype == "float32":
        value = draw.planted(value, 0.4, *NOT_FINITE)
    if value.numel() and draw.chance(0.5):  # equal numbers
        value = value[..., draw.index(value.shape[-1], (value.shape[-1],)).clamp(0, value.shape[-1] - 1)]
    return {}, [value], None


def _row_exponent(draw: Draw) -> Drawn:
    value, (dim,) = _rows(draw, "float32", 1, finite=draw.chance(0.5))
    return {"dim": dim}, [value], None


def _quantise(draw: Draw) -> Drawn:
    value, (dim,) = _rows(draw, "float32", 1, finite=True)
    return {"bits": draw.choice(8, 14), "dim": dim}, [value, exact.row_exponent(value, dim)], None


def _product(draw: Draw) -> Drawn:
    bits, batch = draw.choice(8, 14), draw.shape(0, 2) if draw.size <= FEW else (draw.choice(1, 2),)
    side = max(2, round(math.sqrt(draw.size)))
    rows, columns = draw.random.randint(1, side), draw.random.randint(1, side)
    inner = draw.random.randint(1, min(side, 20))
    limit = (1 << bits - 1) - 1
    operands = []
    for shape, scale in (((rows, inner), (rows, 1)), ((inner, columns), (1, columns))):
        integers = draw.numbers("int16", (*batch, *shape)).clamp(-limit, limit)
        if draw.chance(0.2):
            integers = torch.where(integers < 0, -limit, limit).to(torch.int16)
        low, high = draw.random.choice([(-148, 128), (-20, 20), (-80, -60), (50, 70)])
        exponents = draw.numbers("int16", (*batch, *scale)) % (high - low + 1) + low
        operands += [integers, exponents]
    return {"bits": bits}, operands, None


NUMERIC = ("float32", "int64")
MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("add", "subtract", "multiply", "maximum", "minimum"), _each(2, *NUMERIC)),
    **dict.fromkeys(("negate", "absolute", "sign"), _each(1, *NUMERIC)),
    **dict.fromkeys(("round", "floor", "exp", "log", "tanh", "erf", "sigmoid"), _each(1, "float32")),
    **dict.fromkeys(("sin", "cos", "rsqrt"), _each(1, "float32")),
    **dict.fromkeys(("less", "less_equal", "equal"), _each(2, *ANY)),
    **dict.fromkeys(("and", "or"), _each(2, "bool")),
    "not": _each(1, "bool"),
    "divide": _divide, "sqrt": _sqrt, "power": _power, "where": _where, "cast": _cast, "view": _view,
    "expand": _expand, "permute": _permute, "slice": _slice, "concatenate": _concatenate, "gather": _gather,
    "select": _select, "take_along": _take_along, "scatter_sum": _scatter_sum, "sum": _reduction(*ANY),
    "mean": _reduction("float32"), "amax": _reduction(*ANY), "row_exponent": _row_exponent,
    "rank": _rank,
    "quantise": _quantise, "product": _product,
}  # fmt: skip
"""What draws a node of each operator."""
OVER_AN_AXIS = ("sum", "mean", "amax", "rank", "row_exponent", "product", "scatter_sum")
"""The operators whose numbers have as many terms as an axis is long."""
REDUCING = tuple(name for name in OVER_AN_AXIS if name != "rank")
"""Those that make few numbers of a long axis; a rank makes as many as there are terms of each."""


def drawn(operator: str, random: Random, size: int) -> Case:
    """Return a node of an operator with inputs of up to about `size` numbers."""
    return _case(operator, *MAKERS[operator](Draw(random, size)))


def _case(
    operator: str,
    attributes: Attributes,
    inputs: Sequence[torch.Tensor],
    declared: tuple[str, Sequence[int]] | None = None,
) -> Case:
    packed = tuple((name, (n,) if isinstance(n, int) else tuple(n)) for name, n in sorted(attributes.items()))
    sources = tuple(Count(place) for place in range(len(inputs)))
    dtype, shape = declared or ("", ())
    case = Case(Node(operator, sources, packed, dtype, tuple(map(Count, shape))), tuple(inputs))
    made = infer(case.node, case.specs)
    return Case(Node(operator, sources, packed, made.dtype, tuple(map(Count, made.shape))), case.inputs)


def deep(operator: str, random: Random, terms: int) -> Case:
    """Return a node of an operator over an axis, with so many terms of which each of a few numbers is made."""
    draw = Draw(random, terms)
    if operator == "product":
        bits, depth = draw.choice(8, 14), terms
        limit = (1 << bits - 1) - 1
        left, right = (
            draw.numbers("int16", shape).clamp(-limit, limit) for shape in ((2, depth), (depth, 2))
        )
        exponents = [draw.numbers("int16", shape) % 40 - 60 for shape in ((2, 1), (1, 2))]
        return _case(operator, {"bits": bits}, [left, exponents[0], right, exponents[1]])
    if operator == "scatter_sum":
        values = draw.numbers("float32", (terms, 1), finite=True)
        return _case(operator, {"rows": 3}, [draw.index(3, (terms,)).clamp(0, 2), values])
    values = draw.numbers("float32", (2, terms), finite=True)
    if operator == "rank":
        return _case(operator, {}, [values])
    return _case(
        operator, {"dim": 1} if operator == "row_exponent" else {"dims": (1,), "keepdim": 0}, [values]
    )


def by_kernel(case: Case) -> torch.Tensor | None:
    """Return what the operator's own kernel makes, None where it ends the step."""
    kernel = bind(0, case.node, case.specs, PRODUCTS)
    try:
        return kernel(*case.inputs)
    except (KernelFailed, exact.NonFinite):
        return None


PRODUCTS = exact.Products()


def bits(value: torch.Tensor) -> list[int]:
    """Return a tensor's numbers as a digest sees them."""
    if value.dtype is torch.float32:
        value = torch.where(value.isnan(), torch.tensor(math.nan), value + 0.0).contiguous().view(torch.int32)
        return [number & 0xFFFFFFFF for number in value.reshape(-1).tolist()]
    dtype = DTYPE_NAMES[value.dtype]
    return [bits_of(dtype, number) for number in value.reshape(-1).tolist()]


def defined(case: Case) -> Iterator[int | None]:
    """Return the bits of each number by the definition, None where it ends the step."""
    site, read = case.site, case.read
    definition = definition_of(case.node.operator, site)
    for index in range(math.prod(case.node.shape)):
        try:
            yield bits_of(case.node.dtype, number_of(definition, site, index, read))
        except EndsStep:
            yield None


def compare(case: Case, made: torch.Tensor | None) -> int:
    """Assert that what a kernel made is what the definition says; return how many numbers that were."""
    expected = list(defined(case))
    if made is None:
        assert None in expected, f"{case.node}: the kernel ends the step, the definition does not"
    else:
        assert bits(made) == expected, f"{case.node}: {case.inputs}"
    return len(expected)
