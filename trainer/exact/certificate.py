"""The certificate of a product backend: it reproduces golden integers, or it is not used.

The short form runs when a process first needs a device, in a fraction of a second; it holds the cases that saturating,
overflowing and rounding kernels get wrong. The full form is for tests and `doctor`.
"""

from functools import cache

import torch
from torch import Tensor

from trainer.exact import known_products as golden
from trainer.exact.backends import BACKENDS, Backend
from trainer.exact.errors import BackendFault
from trainer.exact.scale import power_of_two64

SHORT_BITS = (8, 14)
FULL_BITS = (8, 14, 15)
EVERY, NEAR, LOW, HIGH = range(-163, 128), range(-63, 64), range(-80, -62), range(33, 97)
SCALES = ((EVERY, EVERY), (NEAR, NEAR), (LOW, LOW), (HIGH, HIGH), (range(97, 128), range(-126, -96)))
"""Exponents of the scales of rows and columns: all that there are; ones whose products are normal numbers of float32;
ones that round sums to subnormal numbers; ones with which some sums overflow; ones that undo a scale that would."""

SMALL = 600_000
"""Multiplications up to which a case is tried with all of them; the others with the first."""


def certify(name: str, device: str = "cpu", full: bool = True) -> None:
    """Run a backend over the golden operands and compare every integer.

    Raises KeyError for an unknown name; BackendFault naming the first wrong case, or saying why the backend serves
    no case on this device.
    """
    backend, where = BACKENDS[name], torch.device(device)
    served = 0
    for bits in FULL_BITS if full else SHORT_BITS:
        if backend.refusal(where, bits, 1):
            continue
        for case, left, right, expected in _known(bits, where, full):
            if backend.refusal(where, bits, left.shape[-1]):
                continue
            served += 1
            _compare(name, backend, f"{bits}-bit case {case}", bits, (left, right, expected))
    if not served:
        raise BackendFault(f"backend {name}: {backend.refusal(where, FULL_BITS[0], 1)}")


Known = tuple[str, Tensor, Tensor, Tensor]


@cache
def _known(bits: int, device: torch.device, full: bool) -> tuple[Known, ...]:
    return tuple(
        (case, left, right, golden.reference(left, right))
        for case, left, right in golden.cases(bits, device, full)
    )


def _compare(name: str, backend: Backend, case: str, bits: int, known: tuple[Tensor, Tensor, Tensor]) -> None:
    """Both ways out of a backend: the integers themselves, and scaled by other powers of two per row and column."""
    left, right, expected = known
    found = backend.against(right, bits)(left)
    if found.dtype != torch.float64 or not torch.equal(found, expected):
        raise BackendFault(f"backend {name} is wrong on {case}")
    if backend.rounded is not None:
        for exponents in SCALES if expected.numel() * left.shape[-1] <= SMALL else SCALES[:1]:
            left_scale, right_scale = (
                power_of_two64(torch.arange(n, device=left.device) * 29 % len(some) + some.start).repeat(
                    len(expected), 1
                )
                for n, some in zip(expected.shape[1:], exponents, strict=True)
            )
            wanted = (expected * left_scale[..., None] * right_scale[:, None]).to(torch.float32)
            scaled = backend.rounded(left, right, left_scale, right_scale, bits)
            if scaled.dtype != torch.float32 or not torch.equal(scaled, wanted):
                raise BackendFault(f"backend {name} rounds wrongly on {case}")
