"""The product of `int16.c`.

PyTorch has no product of int16 matrices, though every vector unit does: it forms two products per 32 bits, twice what
float32 gets, and needs no slices.
"""

import torch

from trainer.exact.c_product import CompiledProduct, text
from trainer.exact.native import build

SUM_LIMIT = 2**31 - 1


def least_pairs(bits: int) -> int:
    """How many pairs of products of `bits`-bit integers an int32 sums, whatever they are."""
    return int(SUM_LIMIT // (2 * (2 ** (bits - 1) - 1) ** 2))


INT16 = CompiledProduct(lambda: build(text("int16.c")), lambda bits: 2 * least_pairs(bits))


def refusal(device: torch.device, bits: int, depth: int) -> str:
    """Say why the product cannot serve, or nothing; it serves every depth."""
    return INT16.refusal(device)
