"""Exact integer matrix products, scaled and rounded once.

Every partial sum is an integer that float64 represents, so that any order of accumulation, any
vector width, any library and fused multiply-add all give the same number. A backend is any
function that computes that integer; which one runs is a choice of speed only, and each proves
itself on golden vectors before use.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.exact.blocks import tiles
from trainer.exact.errors import BackendFault
from trainer.exact.golden import cases, reference
from trainer.exact.scale import power_of_two64

IntegerProduct = Callable[[Tensor, Tensor], Tensor]
"""int16 [..., M, K] and int16 [..., K, N] to a new float64 [..., M, N] that holds exact integers."""

EXACT_LIMIT = 2**53
CERTIFIED_BITS = (14, 15)


def _float64(qa: Tensor, qb: Tensor) -> Tensor:
    return torch.matmul(qa.to(torch.float64), qb.to(torch.float64))


def _int64(qa: Tensor, qb: Tensor) -> Tensor:
    return torch.matmul(qa.to(torch.int64), qb.to(torch.int64)).to(torch.float64)


BACKENDS: dict[str, IntegerProduct] = {"float64": _float64, "int64": _int64}

_selected = "float64"


def certify(name: str, device: str = "cpu") -> None:
    """Run a backend over the golden operands and compare every integer.

    Raises KeyError for an unknown name, BackendFault naming the first wrong case.
    """
    backend = BACKENDS[name]
    for bits in CERTIFIED_BITS:
        for case, qa, qb in cases(bits, torch.device(device)):
            expected, found = reference(qa, qb), backend(qa, qb)
            if found.dtype != torch.float64 or not torch.equal(found, expected):
                raise BackendFault(f"backend {name} is wrong on {bits}-bit case: {case}")


def select_backend(name: str, device: str = "cpu") -> None:
    """Certify the backend of that name and use it for every later `product`.

    Called once at start, if at all: without it `float64` runs. Raises as `certify` does.
    """
    global _selected
    certify(name, device)
    _selected = name


def selected_backend() -> str:
    """The name of the backend in use."""
    return _selected


def product(
    qa: Tensor, ea: Tensor, qb: Tensor, eb: Tensor, bits: int = 14, backend: IntegerProduct | None = None
) -> Tensor:
    """The exact sum over K of qa * qb, times 2^(ea+eb-2(bits-1)), rounded once to float32.

    qa: int16 [..., M, K]; ea: integers [..., M, 1]; qb: int16 [..., K, N]; eb: integers [..., 1, N],
    as `row_exponent` and `quantise` return them for dim -1 and dim -2; leading dimensions broadcast.
    Returns float32 [..., M, N], +-inf where the sum exceeds float32. `backend` overrides the choice.
    Raises TypeError for other dtypes, ValueError when K and bits allow a sum that float64 does not
    represent exactly.
    """
    if qa.dtype != torch.int16 or qb.dtype != torch.int16:
        raise TypeError(f"expected int16 operands, not {qa.dtype} and {qb.dtype}")
    depth = qa.shape[-1]
    if depth * (2 ** (bits - 1) - 1) ** 2 >= EXACT_LIMIT:
        raise ValueError(f"sums of {depth} products of {bits}-bit integers may exceed 2^53")
    total = (backend or BACKENDS[_selected])(qa, qb)
    return _scale_and_round(total, ea, eb, bits)


def _scale_and_round(total: Tensor, ea: Tensor, eb: Tensor, bits: int) -> Tensor:
    """|total| < 2^53 and both scales lie in 2^-163..2^127: float64 neither rounds nor underflows."""
    shape = total.shape
    batch, (rows, columns) = shape[:-2], shape[-2:]
    count = math.prod(batch)
    left = _scale(ea, bits).expand(*batch, rows, 1).reshape(count, rows, 1)
    right = _scale(eb, bits).expand(*batch, 1, columns).reshape(count, 1, columns)
    exact = total.reshape(count, rows, columns)
    result = torch.empty(exact.shape, dtype=torch.float32, device=total.device)
    for a, b in tiles(count, rows, columns, total.device):
        result[a, b] = exact[a, b].mul_(left[a, b]).mul_(right[a])
    return result.view(shape)


def _scale(exponent: Tensor, bits: int) -> Tensor:
    return power_of_two64(exponent.to(torch.int64) - (bits - 1))
