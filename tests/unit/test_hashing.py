"""Digests in C are the law's, whatever a tensor's kind, rows and blocks; without a compiler the law's own serve."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.exact import hashing
from trainer.exact.hashing import Roots, SlowDigests
from trainer.exact.native import CannotCompile, compiler
from trainer.programs.conversion import from_torch
from trainer.rounds.torch_engine import TorchEngine
from verification.tensors import ITEM_BYTES, Tensor, bundle_digest, root_over, tensor_digest
from verification.units import Count

SHAPES = st.one_of(
    st.lists(st.integers(1, 9), max_size=4).map(tuple),
    st.tuples(st.integers(1, 40), st.integers(1000, 2100)),
    st.tuples(st.integers(1, 3), st.sampled_from([1023, 1024, 1025, 5 * 1024])),
)


@pytest.fixture(scope="module")
def roots() -> Roots:
    if compiler() is None:
        pytest.skip("no C compiler")
    return Roots()


def drawn(dtype: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Any bytes, a third of the floats -0.0."""
    random = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=np.int64))
    words = random.integers(0, 2 if dtype == "bool" else 256, count * ITEM_BYTES[dtype]).astype(np.uint8)
    if dtype == "float32":
        floats = words.view("<u4")
        floats[random.random(count) < 1 / 3] = 0x80000000
    return Tensor(dtype, tuple(map(Count, shape)), words.tobytes())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ITEM_BYTES)), SHAPES, st.integers(0, 2**31), st.integers(1, 5))
def test_the_root_is_the_laws(
    roots: Roots, dtype: str, shape: tuple[int, ...], seed: int, threads: int
) -> None:
    tensor, before = drawn(dtype, shape, seed), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert roots(tensor) == root_over(tensor)
    finally:
        torch.set_num_threads(before)


def test_what_is_hashed_stays_as_it_is(roots: Roots) -> None:
    tensor = drawn("float32", (7, 1500), 0)
    before = bytes(tensor.data)
    roots(tensor)
    assert bytes(tensor.data) == before and b"\x00\x00\x00\x80" in before


def uncompiled(source: str) -> ctypes.CDLL:
    """A machine without a compiler."""
    raise CannotCompile("no C compiler was found: install gcc or clang")


def flipped(roots: Roots, tensor: Tensor) -> Any:
    """A compiled digest that is wrong."""
    return bytes(32)


@pytest.mark.parametrize(
    ("place", "fault", "told"),
    [
        ("build", uncompiled, "no C compiler was found"),
        ("Roots.__call__", flipped, "the compiled one errs on "),
    ],
)
def test_a_fast_path_that_falls_away_says_so(
    place: str, fault: Any, told: str, monkeypatch: pytest.MonkeyPatch, roots: Roots
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(f"trainer.exact.hashing.{place}", fault)
    monkeypatch.setattr(hashing, "hash_with", kept.append)
    for cached in (hashing._made, hashing.hash_natively):
        cached.cache_clear()
    try:
        with pytest.warns(SlowDigests, match=told):
            hashing.hash_natively()
        assert told in hashing.refusal() and not kept
    finally:
        for cached in (hashing._made, hashing.hash_natively):
            cached.cache_clear()


def test_it_serves_where_it_is_right(monkeypatch: pytest.MonkeyPatch, roots: Roots) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(hashing, "hash_with", kept.append)
    hashing.hash_natively.cache_clear()
    try:
        hashing.hash_natively()
        assert len(kept) == 1 and not hashing.refusal()
    finally:
        hashing.hash_natively.cache_clear()


@pytest.mark.parametrize("shape", [(), (3,), (4, 1500), (0, 5), (2, 0)])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
def test_an_engine_knows_zeros_without_hashing_them(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    zeros = torch.zeros(shape, dtype=kind)
    given = [zeros, -zeros] if kind is torch.float32 else [zeros]
    engine = TorchEngine({})
    assert engine.digests(given) == [tensor_digest(from_torch(tensor)) for tensor in given]
    assert engine.digest(given) == bundle_digest([tensor_digest(from_torch(tensor)) for tensor in given])
