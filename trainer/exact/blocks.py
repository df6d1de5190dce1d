"""Walking over tensors in blocks that stay in cache.

Every torch operation is one pass over memory; a chain of twenty on a large tensor is bound by
memory unless it runs block by block. Block sizes never change a result: elementwise operations
have no neighbours, and the reductions that use these blocks add integers.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK = 1 << 16
DEVICE_BLOCK = 1 << 24

Kernel = Callable[[Tensor, Tensor, list[Tensor]], None]


def block_elements(device: torch.device) -> int:
    """Elements per block: a few temporaries fit in a CPU core's share of cache, large elsewhere."""
    return BLOCK * torch.get_num_threads() if device.type == "cpu" else DEVICE_BLOCK


def memory_order(x: Tensor) -> list[int]:
    """The permutation of dimensions that makes x contiguous, or the identity if none does."""
    if x.is_contiguous():
        return list(range(x.dim()))
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda d: -strides[d])
    return order if x.permute(order).is_contiguous() else list(range(x.dim()))


def inverse(order: list[int]) -> list[int]:
    """The permutation that undoes order."""
    back = [0] * len(order)
    for position, dim in enumerate(order):
        back[dim] = position
    return back


def map_float32(x: Tensor, kernel: Kernel, temporaries: int) -> Tensor:
    """Apply kernel(input, output, temporaries) to blocks of x; float32 of x's shape and layout.

    x: float32, any shape. The kernel gets equally long 1-D blocks: float32 input (read only),
    float32 output, and the given number of float64 temporaries. Raises TypeError for other dtypes.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"expected float32, not {x.dtype}")
    order = memory_order(x)
    dense = x.detach().permute(order).contiguous()
    source, result = dense.view(-1), torch.empty_like(dense)
    target, total = result.view(-1), dense.numel()
    size = min(total, block_elements(x.device))
    work = [torch.empty(size, dtype=torch.float64, device=x.device) for _ in range(temporaries)]
    for start in range(0, total, max(size, 1)):
        stop = min(start + size, total)
        if stop - start < size:
            work = [w[: stop - start] for w in work]
        kernel(source[start:stop], target[start:stop], work)
    return result.permute(inverse(order))


def tiles(outer: int, length: int, inner: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two dimensions of [outer, length, inner], about one block per tile."""
    limit = block_elements(device)
    along = max(1, min(length, limit // max(inner, 1)))
    across = max(1, limit // max(along * inner, 1))
    for first in range(0, outer, across):
        for second in range(0, length, along):
            yield slice(first, first + across), slice(second, second + along)


def block_buffer(x: Tensor) -> Tensor:
    """Uninitialised float64 with room for any tile of x, [outer, length, inner] or [length, inner]."""
    size = min(x.numel(), max(block_elements(x.device), x.shape[-1]))
    return torch.empty(size, dtype=torch.float64, device=x.device)
