"""A program of everything that compiled loops do, and numbers that are hard for it."""

import itertools
import math

import torch

from trainer.programs.conversion import from_torch
from trainer.programs.tracing.builder import Builder, Value
from verification.program import Program
from verification.tensors import tensor_digest

UNARY = (
    "negate",
    "absolute",
    "sign",
    "round",
    "floor",
    "exp",
    "tanh",
    "erf",
    "sigmoid",
    "sin",
    "cos",
    "log",
    "rsqrt",
)
BINARY = ("add", "subtract", "multiply", "maximum", "minimum")
COMPARED = ("less", "less_equal", "equal")
REDUCED = ("sum", "mean", "amax")
SPECIAL = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1.17e-38,
    1e-30,
    0.5,
    1.5,
    2.5,
    -2.5,
    1.0,
    3e38,
    -3e38,
    87.0,
    -103.0,
    1e6,
    -1e6,
]


def bounded(b: Builder, value: Value) -> Value:
    """A float value with NaN, infinities and what is beyond 1e30 replaced by 7: outputs and sums must be finite."""
    limit = b.scalar(1e30)
    inside = b.emit("less", b.emit("absolute", value), limit)
    return b.emit("where", inside, value, b.expand(b.scalar(7.0), value.shape))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Special float32 numbers among random ones of many magnitudes."""
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    scale = torch.exp2(torch.randint(-40, 20, shape, generator=generator).float())
    values = (torch.randn(shape, generator=generator) * scale).flatten()
    count = min(len(SPECIAL), values.numel())
    values[torch.randperm(values.numel(), generator=generator)[:count]] = torch.tensor(SPECIAL[:count])
    return values.view(shape)


def every_operator() -> tuple[Program, list[torch.Tensor]]:
    """All elementwise operators and reductions, and inputs for them."""
    b = Builder()
    x, y = b.port("x", "float32", (5, 67)), b.port("y", "float32", (1, 67))
    outputs: list[Value] = [bounded(b, b.emit(name, x)) for name in UNARY]
    outputs += [bounded(b, b.emit(name, x, y)) for name in BINARY]
    outputs += [b.emit(name, x, y) for name in COMPARED]
    positive = b.add(b.emit("absolute", bounded(b, x)), b.scalar(1e-3))
    outputs += [b.emit("sqrt", positive), bounded(b, b.divide(x, positive))]
    less, equal = b.emit("less", x, y), b.emit("equal", x, x)
    outputs += [b.emit("not", less), b.emit("and", less, equal), b.emit("or", less, equal)]
    whole = b.port("whole", "int64", (5, 67))
    outputs += [b.emit(name, whole) for name in ("negate", "absolute", "sign")]
    outputs += [b.emit(name, whole, whole) for name in (*BINARY, *COMPARED)]
    outputs += [b.cast(whole, dtype) for dtype in ("float32", "bool", "int8")] + [b.cast(less, "float32")]
    outputs += [b.emit("sum", whole, dims=[1], keepdim=0), b.emit("sum", less, dims=[0], keepdim=1)]
    dims = ([0], [1], [0, 1])
    outputs += [
        b.emit(name, bounded(b, x), dims=which, keepdim=keep)
        for name, which, keep in itertools.product(REDUCED, dims, (0, 1))
    ]
    for bits, dim in itertools.product((8, 14), (0, 1)):
        exponent = b.emit("row_exponent", x, dim=dim)
        outputs += [exponent, b.emit("quantise", x, exponent, dim=dim, bits=bits)]
    named = [(f"y{place}", value) for place, value in enumerate(dict.fromkeys(outputs))]
    integers = torch.randint(-(2**62), 2**62, (5, 67), generator=torch.Generator().manual_seed(1))
    return b.finish("inner", named), [numbers(5, 67), numbers(1, 67, seed=9), integers]


def specials() -> tuple[Program, list[torch.Tensor]]:
    """Elementwise operators on every pair of numbers that are hard or none, NaN of both signs among them."""
    quiet = torch.tensor([0x7FC00000, -0x400000], dtype=torch.int32).view(torch.float32).tolist()
    numbers = [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, 0.5, -2.5, 3e38, -3e38, math.inf, -math.inf, *quiet]
    pairs = torch.tensor(list(itertools.product(numbers, repeat=2)))
    b = Builder()
    x, y = b.port("x", "float32", (len(pairs),)), b.port("y", "float32", (len(pairs),))
    made = [b.emit(name, x) for name in UNARY] + [b.emit(name, x, y) for name in (*BINARY, *COMPARED)]
    made += [b.cast(x, "bool"), b.emit("where", b.emit("less", x, y), x, y)]
    finite = [b.emit("equal", value, value) if value.dtype == "float32" else value for value in made]
    program = b.finish("inner", [(f"y{place}", value) for place, value in enumerate(dict.fromkeys(finite))])
    return program, [pairs[:, 0].contiguous(), pairs[:, 1].contiguous()]


def digest(value: torch.Tensor) -> bytes:
    """What the law sees of a value: neither the sign of a zero nor the bits of a NaN."""
    return tensor_digest(from_torch(value))
