"""Fixed-point sums against Python's fractions."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.exact import NonFinite, exact_mean, exact_sum, normal_f32, scatter_sum, uniform_bits
from trainer.exact.sums import fixed_point_bits

TINY = 2.0**-149


def numbers(stream: str, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers, each row of the last dimension at its own scale."""
    x = normal_f32(b"sums", stream, shape)
    powers = (uniform_bits(b"sums", stream + " scale", shape[0]) & 63) - 40
    return x * torch.tensor([2.0 ** int(p) for p in powers]).view(-1, *[1] * (len(shape) - 1))


def true_fixed(values: list[float]) -> tuple[int, int]:
    """The integer sum and its scale by the documented rule."""
    e = max(math.frexp(v)[1] for v in values if v) if any(values) else -148
    power = fixed_point_bits(len(values)) - e
    return sum(round(Fraction(v) * Fraction(2) ** power) for v in values), power


def single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float64).to(torch.float32).item()


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (), (-1,)])
def test_sums_follow_the_rule_in_any_layout(dims: tuple[int, ...]) -> None:
    x = numbers("a", (5, 6, 7))
    chosen = sorted(d % 3 for d in dims) or [0, 1, 2]
    kept = [d for d in range(3) if d not in chosen]
    groups = x.permute(kept + chosen).reshape(math.prod(x.shape[d] for d in kept), -1)
    wanted, means = [], []
    for group in groups.tolist():
        total, power = true_fixed(group)
        wanted.append(single(math.ldexp(float(total), -power)))
        means.append(single(math.ldexp(float(total), -power) / len(group)))
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    for layout in (x, strided, x.transpose(0, 2).contiguous().transpose(0, 2)):
        assert exact_sum(layout, dims, False).flatten().tolist() == wanted
        assert exact_mean(layout, dims, False).flatten().tolist() == means
    assert exact_sum(x, dims, True).shape == x.sum(chosen, keepdim=True).shape
    assert exact_mean(x, dims, False).shape == x.sum(chosen).shape


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 4096, 4097, 300_000])
def test_worst_case_counts_do_not_overflow(count: int) -> None:
    largest = 3.4028234663852886e38
    for value in (1.0 - 2.0**-24, -1.0, TINY, -largest / 2**20):
        x = torch.full((count,), value)
        value = x[0].item()
        assert exact_sum(x, (0,), False).item() == single(float(Fraction(value) * count))
        assert exact_mean(x, (0,), False).item() == value
    assert exact_mean(torch.full((count,), largest), (0,), False).item() == largest
    assert count == 1 or exact_sum(torch.full((count,), largest), (0,), False).item() == math.inf


def test_close_to_the_true_sum() -> None:
    x = normal_f32(b"sums", "close", (20_000,))
    assert abs(exact_sum(x, (0,), False).item() - math.fsum(x.tolist())) <= 2.0**-17
    cancelling = torch.tensor([1e30, 3.0, -1e30, 2.0**-20])
    # 1e30 < 2^100 and 50 bits end at 2^50: by the rule the small numbers vanish.
    assert exact_sum(cancelling, (0,), False).item() == 0.0


def test_zeros_empties_and_integers() -> None:
    assert exact_sum(torch.tensor([0.0, -0.0]), (0,), False).item() == 0.0
    assert exact_sum(torch.zeros(0, 3), (0,), False).tolist() == [0, 0, 0]
    assert exact_sum(torch.zeros(3, 0), (1,), True).shape == (3, 1)
    assert exact_sum(torch.zeros(0, 3), (1,), False).shape == (0,)
    assert exact_sum(torch.tensor(2.5), (), False).item() == 2.5
    integers = torch.tensor([[2**62, 5], [-(2**62), 6]])
    assert exact_sum(integers, (0,), False).tolist() == [0, 11]
    assert exact_sum(torch.tensor([True, True]), (0,), False).item() == 2
    with pytest.raises(ValueError):
        exact_mean(torch.zeros(0), (0,), False)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_non_finite_numbers_are_refused(bad: float) -> None:
    x = torch.tensor([[1.0, bad]])
    for call in (lambda: exact_sum(x, (1,), False), lambda: exact_mean(x, (0,), False)):
        with pytest.raises(NonFinite):
            call()
    with pytest.raises(NonFinite):
        scatter_sum(torch.tensor([0]), x, 2)


def test_scatter_sum_adds_rows() -> None:
    index = (uniform_bits(b"sums", "index", 600) & 0xFF) % 9
    values = normal_f32(b"sums", "values", (600, 5))
    found = scatter_sum(index, values, 10)
    assert not found[9].any()
    for row in range(9):
        for column in range(5):
            true = math.fsum(values[index == row, column].tolist())
            assert abs(found[row, column].item() - true) <= abs(true) * 2.0**-24 + 2.0**-30
    order = torch.argsort(uniform_bits(b"sums", "order", 600))
    assert torch.equal(scatter_sum(index[order], values[order], 10), found)
    assert torch.equal(scatter_sum(index.view(20, 30), values.view(20, 30, 5), 10), found)
    assert scatter_sum(index[:0], values[:0], 4).tolist() == [[0.0] * 5] * 4


class Wide(TorchDispatchMode):
    """Notes the most elements of a tensor of 64-bit numbers."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **kwargs or {})
        for each in made if isinstance(made, tuple) else (made,):
            if isinstance(each, Tensor) and each.dtype.itemsize == 8:
                self.most = max(self.most, each.numel())
        return made


def test_scatter_sum_holds_wide_numbers_of_named_rows_only() -> None:
    """The gradient of an embedding has as many rows as the vocabulary, of which a batch names few."""
    index, values = torch.tensor([7, 3, 7, 900_000]), normal_f32(b"sums", "few", (4, 5))
    with Wide() as wide:
        found = scatter_sum(index, values, 1_000_000)
    assert wide.most <= values.numel()
    assert found.nonzero()[:, 0].unique().tolist() == [3, 7, 900_000]
    assert torch.equal(found[3], values[1])


def test_scatter_sum_of_one_row_at_full_magnitude() -> None:
    values = torch.full((70_000, 2), 1.0 - 2.0**-24)
    found = scatter_sum(torch.zeros(70_000, dtype=torch.int64), values, 1)
    assert found.tolist() == [[single(70_000 * (1.0 - 2.0**-24))] * 2]


@pytest.mark.parametrize("index", [-1, 3])
def test_scatter_sum_refuses_an_index_out_of_range(index: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        scatter_sum(torch.tensor([index]), torch.ones(1, 2), 3)
