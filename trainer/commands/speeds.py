"""How fast each certified product backend is on this machine, beside native products that are not exact."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer import exact
from trainer.exact.backends import BACKENDS

ProductShape = tuple[int, int, int, int]
"""Matrices in the batch, rows M, summed K, columns N."""

SHAPES: dict[str, ProductShape] = {
    "2048x512x2048": (1, 2048, 512, 2048),
    "2048x512x512": (1, 2048, 512, 512),
    "512x2048x704": (1, 512, 2048, 704),
    "64 of 256x64x256": (64, 256, 64, 256),
    "64 of 256x256x64": (64, 256, 256, 64),
}
"""Layers, a weight gradient and attention of a Llama of d = 512, batch 8 x 256."""

BITS = (14, 8)
REPEATS = 7
PATIENCE = 1.0
"""Seconds after which a measurement has enough repeats."""


@dataclass(frozen=True)
class Speeds:
    """One kind of product: `bits` of its operands (0: native), why it is `refused` or nothing, GFLOP/s by shape.

    A backend that a sample shows to be hopeless here has no speeds. `chosen` names the shapes that it is chosen for;
    `is_faulty` says that it is refused for a wrong result, and not because it cannot serve here. `instructions`: what a
    compiled one multiplies with.
    """

    name: str
    device: str
    bits: int
    refused: str = ""
    gflops: dict[str, float] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    is_faulty: bool = False
    instructions: str = ""


Tell = Callable[[str], None]
"""Hears what is done next."""


def product_speeds(device: str, bits: int, tell: Tell = lambda what: None) -> list[Speeds]:
    """Certify every backend in full and measure `exact.product` with those worth it."""
    where, kind = torch.device(device), f"{bits}-bit products on {device}"
    tell(f"{kind}: choosing for each shape")
    operands = {name: _quantised(sizes, where, bits) for name, sizes in SHAPES.items()}
    products = exact.Products(where)
    choices = {name: _choice(products, parts, bits) for name, parts in operands.items()}
    worth = products.candidates(bits)
    found = []
    for name in BACKENDS:
        tell(f"{kind}: certifying and measuring {name}")
        refused, is_faulty = _refusal(name, device, bits)
        rates = {}
        if not refused and name in worth:
            for shape, parts in operands.items():
                rates[shape] = _rate(SHAPES[shape], where, _product(parts, bits, name))
        chosen = tuple(shape for shape, choice in choices.items() if choice == name)
        told = BACKENDS[name].instructions
        instructions = told() if told is not None and not refused else ""
        found.append(Speeds(name, device, bits, refused, rates, chosen, is_faulty, instructions))
    return found


def native_speeds(device: str, tell: Tell = lambda what: None) -> list[Speeds]:
    """Measure PyTorch's own products of the same shapes: float32 as it comes, through oneDNN, and bfloat16."""
    tell(f"PyTorch's own products on {device}")
    where = torch.device(device)
    kinds: dict[str, Native] = {"float32, native": _float32, "bfloat16, native": _bfloat16}
    if where.type == "cpu" and torch.backends.mkldnn.is_available():
        kinds["float32, oneDNN"] = _onednn
    found = []
    for name, kind in kinds.items():
        rates = {}
        for shape, sizes in SHAPES.items():
            left, right = (operand.to(where) for operand in _operands(sizes))
            if run := kind(left, right):
                rates[shape] = _rate(sizes, where, run)
        found.append(Speeds(name, device, 0, gflops=rates))
    return found


Native = Callable[[Tensor, Tensor], Callable[[], Tensor] | None]


def _float32(left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.bmm(left, right)


def _bfloat16(left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    return _float32(left.to(torch.bfloat16), right.to(torch.bfloat16))


def _onednn(left: Tensor, right: Tensor) -> Callable[[], Tensor] | None:
    """What TorchInductor emits for a linear layer; stock PyTorch offers oneDNN's float32 products no other way."""
    if left.shape[0] > 1:
        return None
    weight = right[0].t().contiguous()
    return lambda: torch.ops.mkldnn._linear_pointwise(left[0], weight, None, "none", [], "")


def _refusal(name: str, device: str, bits: int) -> tuple[str, bool]:
    """Return why a backend is refused, or nothing, and whether it was wrong."""
    backend = BACKENDS[name]
    if refused := backend.refusal(torch.device(device), bits, 512):
        return refused, False
    try:
        exact.certify(name, device)
    except exact.BackendFault as fault:
        return str(fault), True
    return "", False


Operands = tuple[Tensor, Tensor, Tensor, Tensor]


def _quantised(sizes: ProductShape, device: torch.device, bits: int) -> Operands:
    left, right = _operands(sizes)
    ea, eb = exact.row_exponent(left, -1), exact.row_exponent(right, -2)
    made = exact.quantise(left, ea, -1, bits), ea, exact.quantise(right, eb, -2, bits), eb
    qa, ea, qb, eb = (tensor.to(device) for tensor in made)
    return qa, ea, qb, eb


def _product(operands: Operands, bits: int, name: str) -> Callable[[], Tensor]:
    return lambda: exact.product(*operands, bits, name)


def _choice(products: exact.Products, operands: Operands, bits: int) -> str:
    left, _, right, _ = operands
    return products.choose(left, right, bits, lambda name: exact.product(*operands, bits, name))


def _operands(sizes: ProductShape) -> tuple[Tensor, Tensor]:
    batch, m, k, n = sizes
    return exact.normal_f32(b"doctor", "left", (batch, m, k)), exact.normal_f32(
        b"doctor", "right", (batch, k, n)
    )


def _rate(sizes: ProductShape, device: torch.device, run: Callable[[], Tensor]) -> float:
    batch, m, k, n = sizes

    def waited() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return float(f"{2 * batch * m * k * n / median_seconds(waited) / 1e9:.3g}")


def median_seconds(run: Callable[[], object]) -> float:
    """The median wall time of a few runs after a first one, or that one's where it takes long."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < PATIENCE:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:] or times)
