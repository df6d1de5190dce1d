"""Layouts against torch's own views: the same elements in the same order, or no layout."""

import math
from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.programs.loops import layouts
from trainer.programs.loops.layouts import Access, Layout

SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=4)


def read(layout: Layout, buffer: list[int]) -> list[int]:
    """The elements of a layout in their order, one by one."""
    found = [layout.offset]
    for dim in layout.dims:
        for size, stride in dim:
            found = [place + index * stride for place in found for index in range(size)]
    return [buffer[place] for place in found]


def rows(access: Access, columns: int, buffer: list[int]) -> list[int]:
    """The elements of an access, row by row."""
    starts = [access.offset]
    for size, stride in access.outer:
        starts = [start + index * stride for start in starts for index in range(size)]
    return [buffer[start + c * access.stride] for start in starts for c in range(columns)]


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], torch.Tensor, Layout | None]:
    """A buffer, a chain of torch views of it, and the layout of the same chain."""
    shape = draw(SIZES)
    tensor = torch.arange(math.prod(shape)).view(shape)
    buffer, layout = tensor.flatten().tolist(), layouts.contiguous(shape)
    made: Layout | None = layout
    for _ in range(draw(st.integers(0, 4))):
        step: Callable[[torch.Tensor, Layout], tuple[torch.Tensor, Layout | None]] = draw(
            st.sampled_from([_permuted, _sliced, _flattened, _split, _expanded])
        )(draw)
        if made is None:
            break
        tensor, made = step(tensor, made)
    return buffer, tensor, made


def _permuted(draw: st.DrawFn) -> Callable[..., tuple[torch.Tensor, Layout | None]]:
    seed = draw(st.randoms(use_true_random=False))

    def step(tensor: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, Layout | None]:
        dims = list(range(tensor.dim()))
        seed.shuffle(dims)
        return tensor.permute(dims), layouts.permute(layout, dims)

    return step


def _sliced(draw: st.DrawFn) -> Callable[..., tuple[torch.Tensor, Layout | None]]:
    start, step_ = draw(st.integers(0, 2)), draw(st.integers(1, 2))

    def step(tensor: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, Layout | None]:
        dim = tensor.dim() - 1
        first = max(0, min(start, tensor.shape[dim] - 1))
        place = (slice(None),) * dim + (slice(first, tensor.shape[dim], step_),)
        return tensor[place], layouts.cut(layout, dim, first, tensor.shape[dim], step_)

    return step


def _flattened(draw: st.DrawFn) -> Callable[..., tuple[torch.Tensor, Layout | None]]:
    def step(tensor: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, Layout | None]:
        return tensor.reshape(-1), layouts.view(layout, (tensor.numel(),))

    return step


def _split(draw: st.DrawFn) -> Callable[..., tuple[torch.Tensor, Layout | None]]:
    def step(tensor: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, Layout | None]:
        half = 2 if tensor.numel() % 2 == 0 else 1
        shape = (half, tensor.numel() // half)
        return tensor.reshape(shape), layouts.view(layout, shape)

    return step


def _expanded(draw: st.DrawFn) -> Callable[..., tuple[torch.Tensor, Layout | None]]:
    def step(tensor: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, Layout | None]:
        shape = (3, *tensor.shape)
        return tensor.expand(shape), layouts.expand(layout, shape)

    return step


@given(chains())
def test_a_layout_reads_what_torch_reads(chain: tuple[list[int], torch.Tensor, Layout | None]) -> None:
    buffer, tensor, layout = chain
    if layout is None:
        return
    assert layout.shape == tuple(tensor.shape)
    assert read(layout, buffer) == tensor.flatten().tolist()


@given(chains(), st.integers(1, 8))
def test_rows_read_what_torch_reads(
    chain: tuple[list[int], torch.Tensor, Layout | None], columns: int
) -> None:
    buffer, tensor, layout = chain
    if layout is None or not tensor.numel() or tensor.numel() % columns:
        return
    found = layouts.access(layout, columns)
    if found is not None:
        assert rows(found, columns, buffer) == tensor.flatten().tolist()
        if found.is_full(tensor.numel() // columns, columns):
            assert tensor.flatten().tolist() == list(range(tensor.numel()))


def test_what_the_models_need_has_layouts() -> None:
    """The head splits of attention: a permuted view stays a layout, read row by row without a copy."""
    heads = layouts.permute(layouts.contiguous((8, 16, 4, 32)), (0, 2, 1, 3))
    batched = layouts.view(heads, (32, 16, 32))
    assert batched is not None
    assert layouts.access(batched, 32) == Access(0, ((8, 2048), (4, 32), (16, 128)), 1)
    turned = layouts.permute(batched, (0, 2, 1))
    assert layouts.walking_order(turned) == (0, 2, 1)
    assert layouts.walking_order(heads) == (0, 2, 1, 3)
    joined = layouts.view(heads, (8, 2048))
    assert joined is not None
    assert layouts.access(joined, 2048) is None


def test_a_permutation_is_undone_by_its_inverse() -> None:
    order = (2, 0, 3, 1)
    layout = layouts.contiguous((2, 3, 4, 5))
    assert layouts.permute(layouts.permute(layout, order), layouts.inverse(order)) == layout
