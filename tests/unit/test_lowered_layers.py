"""Convolution, pooling, padding, norms and attention: values and gradients against float64 PyTorch, form by form."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.lowered import Function, lowered
from verification.errors import UserError
from verification.library import StepFailed


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def value_and_gradients(function: Function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The function's value, and the gradients of its weighted sum."""
    inputs = [value.detach().requires_grad_() for value in inputs]
    made = function(*inputs)
    weights = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view(made.shape)
    return [made, *torch.autograd.grad((made * weights).sum(), inputs)]


def exactly(function: Function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same by our arithmetic."""
    return lowered(lambda *values: value_and_gradients(function, list(values)), *inputs)


def check(function: Function, *inputs: torch.Tensor, tolerance: float = 5e-4) -> None:
    expected = value_and_gradients(function, [value.double() for value in inputs])
    for found, wanted in zip(exactly(function, list(inputs)), expected, strict=True):
        assert found.shape == wanted.shape
        assert (found.double() - wanted).norm() <= tolerance * wanted.norm() + 1e-30


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]] = {
    "plain": ((2, 3, 7, 8), (4, 3, 3, 3), {}),
    "padded": ((2, 3, 7, 8), (4, 3, 3, 3), {"padding": 1}),
    "same": ((2, 3, 7, 8), (4, 3, 4, 4), {"padding": "same"}),
    "strided": ((2, 3, 9, 8), (4, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilated": ((2, 3, 9, 9), (4, 3, 3, 3), {"dilation": 2, "padding": 2}),
    "grouped": ((2, 6, 7, 7), (9, 2, 3, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 4, 6, 6), (8, 1, 3, 3), {"groups": 4, "stride": 2}),
    "patches": ((2, 3, 8, 12), (5, 3, 4, 4), {"stride": 4}),
    "grouped patches": ((2, 4, 8, 12), (6, 2, 4, 4), {"stride": 4, "groups": 2}),
    "pointwise": ((2, 3, 5, 5), (4, 3, 1, 1), {}),
    "pointwise strided": ((2, 3, 5, 5), (4, 3, 1, 1), {"stride": 2}),
    "one image": ((1, 1, 3, 3), (1, 1, 3, 3), {}),
    "line": ((2, 3, 11), (4, 3, 3), {"stride": 2, "padding": 1}),
    "volume": ((1, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("biased", [False, True])
def test_convolutions(name: str, biased: bool) -> None:
    image, weight, settings = CONVOLUTIONS[name]
    function = getattr(functional, f"conv{len(image) - 2}d")
    inputs = [draw(*image), draw(*weight), *([draw(weight[0])] if biased else [])]
    check(lambda *values: function(*values, **settings), *inputs)


POOLS: dict[str, tuple[tuple[int, ...], Function]] = {
    "max": ((2, 3, 8, 6), lambda x: functional.max_pool2d(x, 2)),
    "max overlapping": ((2, 3, 9, 7), lambda x: functional.max_pool2d(x, 3, 2, 1)),
    "max dilated": ((2, 3, 9, 9), lambda x: functional.max_pool2d(x, 2, 1, 0, 2)),
    "max of a ragged edge": ((2, 3, 7, 7), lambda x: functional.max_pool2d(x, 2, ceil_mode=True)),
    "max of one image": ((3, 8, 6), lambda x: functional.max_pool2d(x, 2)),
    "max of a line": ((2, 3, 9), lambda x: functional.max_pool1d(x, 3, 2)),
    "average": ((2, 3, 8, 6), lambda x: functional.avg_pool2d(x, 2)),
    "average overlapping": ((2, 3, 9, 7), lambda x: functional.avg_pool2d(x, 3, 2, 1)),
    "average without edge": (
        (2, 3, 9, 7),
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "average by a number": ((2, 3, 8, 6), lambda x: functional.avg_pool2d(x, 2, divisor_override=3)),
    "average of a line": ((2, 3, 9), lambda x: functional.avg_pool1d(x, 3, 2)),
    "adaptive": ((2, 3, 8, 6), lambda x: functional.adaptive_avg_pool2d(x, 1)),
    "adaptive to tiles": ((2, 3, 8, 6), lambda x: functional.adaptive_avg_pool2d(x, 2)),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str) -> None:
    shape, function = POOLS[name]
    check(function, draw(*shape), tolerance=1e-6)


def test_the_first_of_equal_numbers_takes_the_gradient() -> None:
    x = torch.tensor([[[[1.0, 1.0, 0.0, -0.0], [1.0, 0.0, 0.0, 0.0]]]])
    found = exactly(lambda value: functional.max_pool2d(value, 2), [x])
    wanted = value_and_gradients(lambda value: functional.max_pool2d(value, 2), [x])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("pads", [(1, 2), (0, 3, 2, 0), (-1, 1, 0, -2)])
def test_padding(pads: tuple[int, ...]) -> None:
    check(lambda x: functional.pad(x, pads, value=0.5), draw(2, 5, 6), tolerance=1e-7)


NORMS = {
    "group": nn.GroupNorm(2, 6),
    "instance": nn.InstanceNorm2d(6, affine=True),
    "batch": nn.BatchNorm2d(6, track_running_stats=False),
    "layer": nn.LayerNorm((5, 4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_over_images(name: str) -> None:
    module = NORMS[name]
    names = [key for key, _ in module.named_parameters()]

    def function(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.func.functional_call(
            module, dict(zip(names, parameters, strict=True)), (x,)
        )
        return made

    check(function, draw(3, 6, 5, 4), *(draw(*p.shape) + 1.0 for p in module.parameters()), tolerance=3e-6)


def test_what_is_not_covered_says_so() -> None:
    with pytest.raises(UserError, match="transposed convolution"):
        exactly(lambda x, w: functional.conv_transpose2d(x, w), [draw(1, 2, 4, 4), draw(2, 3, 2, 2)])
    with pytest.raises(UserError, match="unequal"):
        exactly(lambda x: functional.adaptive_avg_pool2d(x, 3), [draw(1, 2, 7, 5)])
    with pytest.raises(UserError, match="ceil_mode"):
        exactly(lambda x: functional.avg_pool2d(x, 2, ceil_mode=True), [draw(1, 2, 5, 5)])


MASK = torch.arange(6)[:, None] >= torch.arange(6) - 1
ATTENTION: dict[str, dict[str, object]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "mask of booleans": {"attn_mask": MASK},
    "mask of numbers": {"attn_mask": torch.where(MASK, 0.0, -torch.inf)},
    "scaled": {"scale": 0.3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTION)
def test_fused_attention_is_decomposed(name: str) -> None:
    def attend(*values: torch.Tensor) -> torch.Tensor:
        options = dict(ATTENTION[name])
        if isinstance(mask := options.get("attn_mask"), torch.Tensor) and mask.is_floating_point():
            options["attn_mask"] = mask.to(values[0].dtype)
        return functional.scaled_dot_product_attention(*values, **options)  # type: ignore[arg-type]

    check(attend, draw(2, 3, 6, 8), draw(2, 3, 6, 8) + 0.1, draw(2, 3, 6, 8) - 0.2, tolerance=1e-3)


def test_a_row_that_sees_nothing_ends_the_step() -> None:
    """PyTorch makes it zeros; here its maximum is -inf, and -inf - -inf reaches a sum."""
    mask = MASK & (torch.arange(6)[:, None] != 3)
    with pytest.raises(StepFailed):
        exactly(lambda q: functional.scaled_dot_product_attention(q, q, q, mask), [draw(2, 3, 6, 8)])


ROWS, COLUMNS = torch.tensor([[0, -1], [2, 2]]), torch.tensor([1, 3])
PLACES: dict[str, Function] = {
    "one index": lambda x: x[ROWS],
    "two indices": lambda x: x[ROWS, COLUMNS],
    "inner indices": lambda x: x[:, ROWS, COLUMNS],
    "last index": lambda x: x[..., COLUMNS],
    "select": lambda x: x.index_select(1, COLUMNS),
    "sum into places": lambda x: (
        torch.zeros_like(x).index_put((ROWS, COLUMNS), x[:2, :2, :], accumulate=True) + x
    ),
    "largest": lambda x: x.max(1)[0],
    "place of the largest": lambda x: x * x.argmax(1, keepdim=True),
    "flipped": lambda x: x.flip(0, -1),
    "repeated": lambda x: x.repeat(2, 1, 3),
    "rolled": lambda x: x.roll(1, 1),
    "masked": lambda x: x.masked_fill(x > 0.5, -2.0),
    "norm": lambda x: x.norm(dim=-1),
    "direction": lambda x: functional.normalize(x, dim=1),
    "cosine": lambda x: functional.cosine_similarity(x, x.flip(0), dim=-1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_indexing_and_places(name: str) -> None:
    check(PLACES[name], draw(4, 5, 6), tolerance=3e-6)
