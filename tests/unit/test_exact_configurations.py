"""One digest over all kernels, the same under every thread count, vector width and library mode."""

import hashlib
import os
import subprocess
from pathlib import Path

from trainer.loading import loading

with loading():  # a process of its own for each configuration
    import pytest
    import torch
    from torch import Tensor

    from tests.checkout import ROOT
    from trainer import exact
    from trainer.lifetimes import python

# Recorded once; every machine must reproduce it.
EXPECTED = "d674bf66127cd67a81ee2b37889c97916d44e657d4a4771264c77c4e35b37344"

CONFIGURATIONS = (
    (1, None, None),
    (2, "default", None),
    (1, "avx2", "COMPATIBLE"),
    (2, "avx512", "COMPATIBLE"),
    (2, "avx512", None),
    (1, "default", "COMPATIBLE"),
)


def results() -> list[Tensor]:
    """Every kernel on seeded inputs, large enough that two threads share the work."""
    normal = exact.normal_f32(b"configurations", "normal", (300, 301), 3.0)
    positive = normal.abs() + 2.0**-140
    words = exact.uniform_bits(b"configurations", "bits", 90_001)
    wild = ((words >> 8) % 0x7F800000).to(torch.int32).view(torch.float32)
    found = [normal, words, exact.uniform_f32(b"c", "u", (1001,))]
    for function in (exact.exp, exact.tanh, exact.sigmoid, exact.erf, exact.sin, exact.cos):
        found += [function(normal), function(wild), function(-wild)]
    for function in (exact.log, exact.sqrt, exact.rsqrt, exact.reciprocal):
        found += [function(positive), function(wild)]
    found += [exact.pow(positive, p) for p in (2.0, 3.0, -0.5, 0.3)]
    found += [exact.pow(positive[0], normal[1]), exact.divide(normal, 3.0), exact.divide(normal, positive)]
    for dims in ((0,), (1,), ()):
        found += [exact.exact_sum(normal, dims, False), exact.exact_mean(normal, dims, True)]
    index = (words[:300] & 0xFF) % 17
    found += [exact.exact_sum(wild * 2.0**-20, (0,), False), exact.scatter_sum(index, normal, 17)]
    return found + products(normal)


def products(x: Tensor) -> list[Tensor]:
    found, multiplier = [], exact.Products()
    tiny = x * 2.0**-140
    for left, right in ((x, x.t()), (x[:, :300].reshape(3, 100, 300), x[:, :77]), (tiny, x.t())):
        ea, eb = exact.row_exponent(left, -1), exact.row_exponent(right, -2)
        qa, qb = exact.quantise(left, ea, -1), exact.quantise(right, eb, -2)
        found += [ea, eb, qa, qb, exact.product(qa, ea, qb, eb, 14, multiplier)]
    return found


def digest() -> str:
    """SHA-256 over shapes and little-endian values, with one zero and one NaN."""
    state = hashlib.sha256()
    for tensor in results():
        state.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        if tensor.is_floating_point():
            tensor = torch.where(tensor.isnan(), float("nan"), tensor + 0.0)
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def run(threads: int, capability: str | None, mode: str | None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("ATEN_CPU_CAPABILITY", "MKL_CBWR")}
    environment["PYTHONPATH"] = str(ROOT)
    environment["OMP_NUM_THREADS"] = str(threads)
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    if mode:
        environment["MKL_CBWR"] = mode
    command = python(str(Path(__file__).resolve()))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "capability", "mode"), CONFIGURATIONS)
def test_digest_under_configuration(threads: int, capability: str | None, mode: str | None) -> None:
    # A processor without these instructions runs its best kernels instead.
    if capability == "avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        capability = None
    assert run(threads, capability, mode) == EXPECTED


if __name__ == "__main__":
    print(digest())
