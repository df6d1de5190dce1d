"""Order and place: running sums, the largest k, sorting, scattering, solving and complex numbers, against PyTorch."""

import pytest
import torch
from torch.nn import functional

from tests.lowered import Function, lowered
from tests.unit.test_lowered_layers import check, draw
from verification.errors import UserError

PLACES = torch.tensor([[2, 0], [1, 4], [3, 2], [0, 1]])[:, :, None].expand(4, 2, 6)
"""int64 [4, 2, 6]: two different places along dimension 1 of [4, 5, 6]."""
ORDERED: dict[str, Function] = {
    "running sum": lambda x: x.cumsum(1),
    "running product": lambda x: (x * 0.1 + 1.0).cumprod(-1),
    "largest two": lambda x: x.topk(2, 1)[0],
    "smallest two": lambda x: x.topk(2, 0, largest=False)[0],
    "weights by the places of the largest": lambda x: x * functional.one_hot(x.topk(2, -1)[1], 6).sum(-2),
    "sorted": lambda x: x.sort(1)[0],
    "sorted downwards": lambda x: x.sort(dim=-1, descending=True, stable=True)[0],
    "ranks": lambda x: x * x.argsort(0).argsort(0),
    "taken along": lambda x: x.gather(1, PLACES),
    "windows": lambda x: x.unfold(1, 3, 2),
    "numbers put at places": lambda x: x.scatter(1, PLACES, -2.0),
    "rows put at places": lambda x: x.scatter(1, PLACES, x[:, :2] * 3.0),
    "sums at places": lambda x: x.scatter_add(1, PLACES, x[:, 1:3] * 3.0),
    "index_add": lambda x: x.index_add(1, torch.tensor([3, 3, 0]), x[:, :3]),
    "put by index": lambda x: x.index_put((torch.tensor([3, 0]), torch.tensor([1, 1])), x[0, :2]),
    "put into a slice": lambda x: put(x, (slice(None), torch.tensor([3, 0])), x[:, 2:4] * 2.0),
    "put by mask": lambda x: put(x, x > 0.5, torch.tensor(2.0)),
}


def put(x: torch.Tensor, places: object, value: torch.Tensor) -> torch.Tensor:
    made = x.clone()
    made[places] = value.to(x.dtype)  # type: ignore[index]
    return made


@pytest.mark.parametrize("name", ORDERED)
def test_order_and_places(name: str) -> None:
    check(ORDERED[name], draw(4, 5, 6), tolerance=1e-6)


def test_of_equal_numbers_the_first_comes_first() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 3.0, -torch.inf, -torch.inf]])
    values, places, order = lowered(lambda v: (*v.topk(2), v.sort(descending=True)[1]), x)
    assert (values.tolist(), places.tolist()) == ([[3.0, 3.0]], [[1, 2]])
    assert order.tolist() == [[1, 2, 3, 0, 4, 5]]


def test_of_several_numbers_for_one_place_the_last_counts() -> None:
    where = torch.tensor([2, 0, 2])
    (found,) = lowered(lambda x: torch.zeros(4).scatter(0, where, x), torch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == [2.0, 0.0, 3.0, 0.0]


def test_integers_are_summed_as_integers() -> None:
    x = torch.tensor([[2**62, 2**62, 5], [1, -7, 3]])
    (found,) = lowered(lambda v: v.cumsum(1), x)
    assert torch.equal(found, x.cumsum(1))
    (found,) = lowered(lambda v: v.cumsum(0), x > 0)
    assert torch.equal(found, (x > 0).cumsum(0))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_triangular_systems(upper: bool, unit: bool) -> None:
    def solve(a: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve_triangular(a, right, upper=upper, unitriangular=unit)

    check(solve, draw(2, 5, 5) * 0.3 + 2.0 * torch.eye(5), draw(2, 5, 3), tolerance=1e-3)


def test_rotary_positions_by_complex_numbers() -> None:
    turns = torch.polar(torch.ones(5, 3), torch.arange(15.0).view(5, 3))

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (3, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)

    check(turned, draw(4, 5, 6), tolerance=1e-6)


def test_places_of_a_mask_take_numbers_one_after_another() -> None:
    mask = (torch.arange(20).view(4, 5) % 3 == 0)[:, :, None]

    def placed(x: torch.Tensor) -> torch.Tensor:
        return (x * 0.5).masked_scatter(mask, x[:2].reshape(-1, 6) * 2.0)

    check(placed, draw(4, 5, 6), tolerance=1e-6)


def test_a_mask_of_integers_is_one_of_bits() -> None:
    def allowed(x: torch.Tensor) -> torch.Tensor:
        ones = (x > 0).long()
        return (ones[:, None] & (x < 0.5)[None]).float() * ~ones + (x > 0).all().float()

    x = torch.linspace(-1, 1, 5)
    assert torch.equal(lowered(allowed, x)[0], allowed(x))


def test_a_course_that_depends_on_data_is_refused() -> None:
    with pytest.raises(UserError, match="depends on data"):
        lowered(lambda x: x * x.argmax().item(), draw(4))
