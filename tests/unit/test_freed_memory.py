"""What a compute process holds of memory that it has freed: all, for speed, until it must do with little."""

import ctypes
import subprocess

import pytest

from tests.checkout import environment
from trainer.compute.children import ALLOCATOR
from trainer.lifetimes import python

HOLES = """
import torch
from trainer.compute.memory import resident_memory
from trainer.programs.options import RunOptions
from trainer.programs.tracing.builder import Builder
from trainer.shards.frugal import FrugalEngine
from verification.program import encode_program, program_digest

b = Builder()
text = encode_program(b.finish("inner", [("x", b.emit("negate", b.port("x", "float32", (2,))))]))
if {frugal}:
    FrugalEngine({{program_digest(text): text}}, RunOptions(memory=1 << 30))
before = resident_memory()
pieces = [torch.ones(1 << 20) for _ in range(64)]  # of 4 MiB
kept = pieces[1::2]
del pieces
print((resident_memory() - before) >> 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize(("frugal", "least", "most"), [(False, 224, 320), (True, 96, 160)])
def test_holes_are_held_until_memory_is_scarce(frugal: bool, least: int, most: int) -> None:
    """Of 256 MiB every other piece is freed."""
    told = subprocess.run(
        python("-c", HOLES.format(frugal=frugal)),
        env=environment(**ALLOCATOR),
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert least <= int(told.stdout) <= most
