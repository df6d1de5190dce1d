"""Run by test_exact_isa in a process of its own, for each number of threads in its arguments: verdicts of all backends,
and a digest of every product they make."""

import hashlib
import json
import sys
from typing import Any

from trainer.loading import loading

with loading():
    import torch

    from trainer.exact import BACKENDS, BackendFault, Products, product, uniform_bits
    from trainer.exact.backends import int8_matmul
    from trainer.programs.options import forced_product

SHAPES = ((0, 97, 130, 65), (0, 64, 1100, 70), (6, 33, 64, 48))


def operands(bits: int, batch: int, m: int, k: int, n: int) -> tuple[torch.Tensor, ...]:
    """Integers of which a third are at full magnitude, and exponents."""
    top, count = 2 ** (bits - 1) - 1, max(batch, 1) * k * (m + n)
    words = uniform_bits(b"isa", f"{bits} {m} {k} {n}", count) >> 8
    values = (words % (3 * top) - top).clamp(-top, top).to(torch.int16)
    lead = (batch,) if batch else ()
    left, right = (
        values[: max(batch, 1) * m * k].view(*lead, m, k),
        values[max(batch, 1) * m * k :].view(*lead, k, n),
    )
    return left, torch.arange(m).view(m, 1) % 9 - 4, right, torch.arange(n) % 7 - 3


def digests(products: Products) -> dict[str, str]:
    """One digest over all products of the choice, and one per certified backend."""
    found = {}
    for name in (None, *BACKENDS):
        state, served = hashlib.sha256(), False
        for bits in (8, 14):
            for shape in SHAPES:
                left, ea, right, eb = operands(bits, *shape)
                if name is None or name in (*products.serving(bits, left.shape[-1]), "int64"):
                    result = product(left, ea, right, eb.view(1, -1), bits, name or products)
                    state.update(result.numpy().tobytes())
                    served = True
                else:
                    state.update(product(left, ea, right, eb.view(1, -1), bits, "int64").numpy().tobytes())
        if served:
            found[name or "chosen"] = state.hexdigest()
    return found


def saturates() -> bool:
    """The plain fact about this process's kernel: is one full-range int8 product wrong?"""
    full = torch.full((1, 64, 64), 127, dtype=torch.int8)
    return bool((int8_matmul(full, full) != 64 * 127 * 127).any())


def examined(threads: int) -> dict[str, Any]:
    """What a number of threads of this process makes."""
    torch.set_num_threads(threads)
    try:
        products = Products(forced=forced_product())
    except BackendFault:  # a saturating int8 kernel serves nothing
        products = Products()
    verdicts = {name: products.verdict(name) for name in BACKENDS}
    made = digests(products)
    chosen = sorted(set(products.chosen.values()))
    return {"verdicts": verdicts, "digests": made, "chosen": chosen, "saturates": saturates()}


if __name__ == "__main__":
    print(json.dumps([examined(int(threads)) for threads in sys.argv[1:]]))
