"""On an NVIDIA GPU: the digests that golden files made on a CPU name, and every kernel bit for bit as on the CPU.

Skipped without a device. `make test-gpu` runs them all, then times the exact step against native ones.
"""

from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks import golden
from trainer import exact
from trainer.programs.options import RunOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device"),
    pytest.mark.timeout(600),
]

FUNCTIONS = ("exp", "tanh", "sigmoid", "erf", "sin", "cos", "log", "sqrt", "rsqrt", "reciprocal")
SHAPES = ((2048, 512, 1408), (1, 4097, 3), (33, 17, 259), (512, 2048, 1), (130, 515, 8))


@pytest.fixture(params=["ieee", "tf32"])
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both settings of PyTorch's float32 products: exact arithmetic must not notice."""
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", golden.names())
def test_training_reaches_the_golden_digests(name: str) -> None:
    found = golden.train(golden.read(name), options=RunOptions("cuda"))
    print(f"{name} after {golden.STEPS} steps: {found[golden.STEPS]}")
    assert found == golden.expected()[name]


def wild() -> torch.Tensor:
    """Every exponent of float32 in both signs, subnormals included, 100,000 of them."""
    words = exact.uniform_bits(b"gpu", "wild", 50_000)
    positive = ((words >> 8) % 0x7F800000).to(torch.int32).view(torch.float32)
    return torch.cat([positive, -positive])


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same values; every NaN counts as one."""
    if one.is_floating_point():
        one, other = (torch.where(value.isnan(), 2.0**-140, value + 0.0) for value in (one, other))
    return torch.equal(one, other)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_bits(name: str) -> None:
    function: Callable[[torch.Tensor], torch.Tensor] = getattr(exact, name)
    value = wild()
    assert same_bits(function(value.cuda()).cpu(), function(value))


@pytest.mark.parametrize("operation", [torch.add, torch.sub, torch.mul, torch.div, torch.maximum])
def test_ieee_operations_give_the_same_bits(operation: Callable[..., torch.Tensor]) -> None:
    """Subnormals are kept, divisions are correctly rounded, nothing contracts."""
    left = wild()
    right = left[exact.uniform_bits(b"gpu", "order", len(left)) % len(left)]
    assert same_bits(operation(left.cuda(), right.cuda()).cpu(), operation(left, right))


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
def test_sums_give_the_same_bits(dims: tuple[int, ...]) -> None:
    value = exact.normal_f32(b"gpu", "sums", (1000, 1003), 3.0)
    assert same_bits(exact.exact_sum(value.cuda(), dims, False).cpu(), exact.exact_sum(value, dims, False))


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("bits", [8, 14])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_give_the_same_bits(shape: tuple[int, int, int], bits: int) -> None:
    m, k, n = shape
    left, right = exact.normal_f32(b"gpu", "left", (m, k)), exact.normal_f32(b"gpu", "right", (k, n))
    assert same_bits(_product(left.cuda(), right.cuda(), bits).cpu(), _product(left, right, bits))


def _product(left: torch.Tensor, right: torch.Tensor, bits: int) -> torch.Tensor:
    ea, eb = exact.row_exponent(left, -1), exact.row_exponent(right, -2)
    qa, qb = exact.quantise(left, ea, -1, bits), exact.quantise(right, eb, -2, bits)
    return exact.product(qa, ea, qb, eb, bits, exact.Products(left.device))
