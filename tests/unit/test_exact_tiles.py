"""The compiled products with the tiles of every processor: those of others run here without their instructions."""

import ctypes
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer import exact
from trainer.exact import int8, native, uniform_bits
from trainer.exact import known_products as golden
from trainer.exact.c_product import CompiledProduct, text
from trainer.exact.int8 import INT8
from trainer.exact.int16 import INT16
from trainer.exact.native import CannotCompile, build, compiler, processor_has

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

CPU = torch.device("cpu")
PORTABLE = "#define PORTABLE_TILES\n"
EMULATED = Path(__file__).with_name("amx.h").read_text("utf-8")
PROCESSORS = {
    "int16, this": ("int16", INT16, "int16.c", ""),
    "int16, avx512": ("int16", INT16, "int16.c", "#undef __AVX512BW__\n#define WIDE_TILES\n"),
    "int16, none": ("int16", INT16, "int16.c", "#undef __AVX512BW__\n#undef __AVX2__\n"),
    "int8, none": ("int8-tiles", INT8, "int8.c", PORTABLE),
    "int8, amx": ("int8-tiles", INT8, "int8.c", EMULATED),
}


class Counted:
    """A library that counts its products."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self.products = library, 0

    def __getattr__(self, name: str) -> Any:
        self.products += name == "product"
        return getattr(self.library, name)


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_tiles_of_every_processor_multiply_exactly(
    processor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, kernel, file, macros = PROCESSORS[processor]
    if macros == EMULATED and platform.machine() != "x86_64":
        pytest.skip("needs a compiler for x86")
    library = Counted(build(macros + text(file)))
    monkeypatch.setattr(kernel, "library", library)
    exact.certify(backend, full=macros != EMULATED)
    assert library.products > 100


@pytest.mark.parametrize("processor", [name for name in PROCESSORS if name.startswith("int16")])
@pytest.mark.parametrize("magnitude", [1, 2047, 2048, 4095, 4096, 4097, 5793, 8191])
def test_sums_of_int16_are_exact_where_their_bound_is_the_sum(
    processor: str, magnitude: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parallel rows and columns: 128 products of 4096 are 2^31, and no bound may let one more into int32 than fits."""
    _, kernel, file, macros = PROCESSORS[processor]
    monkeypatch.setattr(kernel, "library", build(macros + text(file)))
    for depth in (127, 128, 129, 255, 256, 511, 512, 1025, 4099):
        left = integers((1, 17, depth), f"{depth}", 2, True) * magnitude
        left[0, 1::3, depth // 2 :] //= 3  # a row that is shorter in one half
        right = torch.cat([left.mT, -left.mT], 2)
        assert torch.equal(kernel.against(right, 14)(left), golden.reference(left, right))


def portable(run: int) -> CompiledProduct:
    """The product on int8 tiles without instructions for them, which empties its sums after `run` numbers."""
    return CompiledProduct(lambda: build(PORTABLE + text("int8.c")), lambda bits: run)


def integers(shape: tuple[int, ...], seed: str, bits: int, full: bool) -> Tensor:
    """Numbers within the bits, or all at full magnitude, of both signs."""
    top, count = 2 ** (bits - 1) - 1, torch.Size(shape).numel()
    words = uniform_bits(b"tiles", seed, count) >> 16
    values = (words & 1) * 2 * top - top if full else words % (2 * top + 1) - top
    return values.to(torch.int16).view(shape)


def laid_out(operand: Tensor, layout: str) -> Tensor:
    """The same [B, rows, columns] with other strides."""
    if layout == "transposed":
        return operand.mT.contiguous().mT
    if layout == "strided":
        return operand.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, ::2, ::3]
    return operand


LAYOUTS = st.sampled_from(["plain", "transposed", "strided"])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 3),
    rows=st.integers(0, 70),
    depth=st.integers(0, 400),
    columns=st.integers(0, 70),
    bits=st.sampled_from([2, 8, 9, 14]),
    run=st.sampled_from([64, 128, int8.RUN]),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    full=st.booleans(),
)
def test_products_on_int8_tiles_of_any_shape_are_exact(
    batch: int, rows: int, depth: int, columns: int, bits: int, run: int, layouts: tuple[str, str], full: bool
) -> None:
    left = laid_out(integers((batch, rows, depth), "left", bits, full), layouts[0])
    right = laid_out(integers((batch, depth, columns), "right", bits, full), layouts[1])
    expected = golden.reference(left, right)
    assert torch.equal(portable(run).against(right, bits)(left), expected)


@pytest.mark.parametrize("values", [(8191, 8191), (8191, -8191), (8128, 8128), (8128, -8129), (-8129, -8129)])
@pytest.mark.parametrize("depth", [int8.RUN - 1, int8.RUN, int8.RUN + 1, 3 * int8.RUN + 65, 2**17 + 64])
def test_sums_of_the_largest_are_exact_across_runs(depth: int, values: tuple[int, int]) -> None:
    """The largest numbers, and those with the largest planes: 8128 is 64 * 128 - 64, -8129 is -64 * 128 + 63."""
    left = torch.full((1, 3, depth), values[0], dtype=torch.int16)
    right = torch.full((1, depth, 2), values[1], dtype=torch.int16)
    found = portable(int8.RUN).against(right, 14)(left)
    assert found.tolist() == [[[float(depth * values[0] * values[1])] * 2] * 3]


@pytest.mark.parametrize("processor", ["int8, this", "int8, none", "int8, amx"])
@pytest.mark.parametrize("columns", [512, 500, 513])
def test_results_that_pass_the_caches_are_as_exact(
    processor: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a mebibyte of results, of sums that int32 holds, of some that it does not, and of rows of both."""
    if processor == "int8, this":
        if INT8.refusal(CPU):
            pytest.skip("this processor has no tiles")
    else:
        _, kernel, file, macros = PROCESSORS[processor]
        if macros == EMULATED and platform.machine() != "x86_64":
            pytest.skip("needs a compiler for x86")
        monkeypatch.setattr(kernel, "library", build(macros + text(file)))
    left, right = integers((1, 544, 70), "left", 14, True), integers((1, 70, columns), "right", 14, True)
    left[:, ::3] //= 100  # their sums fit int32
    right[..., : columns // 2] //= 50
    scales = [torch.full((1, n), 2.0**-13, dtype=torch.float64) for n in (544, columns)]
    expected = golden.reference(left, right)
    found = INT8.rounded(left, right, *scales, 14)
    assert found.numel() * found.itemsize > 2**20 and bool((expected.abs() >= 2**31).any())
    assert torch.equal(found, (expected * 2.0**-26).to(torch.float32))


def test_a_run_is_the_longest_that_int32_holds() -> None:
    """Of every product of planes, what is added in int32: the middle times 128 plus the low."""
    high = torch.tensor([-64, -64, 64, 64, 63, -63, 63])
    low = torch.tensor([1, 63, -1, -64, 63, -64, -64])
    assert int((128 * high + low).abs().max()) == 8191
    rest = 128 * (high[:, None] * low + low[:, None] * high) + low[:, None] * low
    assert int8.RUN * int(rest.abs().max()) < 2**31 <= (int8.RUN + 10) * int(rest.abs().max())


@pytest.mark.parametrize(
    ("features", "permission", "tiles", "reason"),
    [
        ((), "", 1, "this processor has no int8 tiles (AMX)"),
        (("amx_int8",), "Operation not permitted", 1, "the kernel refuses int8 tiles (AMX): Operation not permitted"),
        (("amx_int8",), "", 0, "the C compiler knows no int8 tiles (AMX): install gcc 11"),
        (("amx_int8",), "", 1, ""),
    ],
)  # fmt: skip
def test_int8_tiles_are_asked_for_once_and_refused_in_one_line(
    features: tuple[str, ...],
    permission: str,
    tiles: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    built: list[str] = []

    class Library:
        def __init__(self) -> None:
            self.instructions = lambda: b"AMX" if tiles else None

    monkeypatch.setattr(int8, "ON_ARM", False)
    monkeypatch.setattr(int8, "processor_has", lambda feature: feature in features)
    monkeypatch.setattr(int8, "ask_for_tiles", lambda: asked.append("asked") or permission)
    monkeypatch.setattr(int8, "build", lambda text: built.append("built") or Library())
    monkeypatch.setattr(int8, "INT8", CompiledProduct(int8._load, lambda bits: int8.RUN))
    for bits, depth in ((14, 1), (8, 5000), (14, 1)):
        refused = int8.refusal(CPU, bits, depth)
        assert refused.startswith(reason) and bool(refused) == bool(reason) and "\n" not in refused
    assert len(asked) == len(features)
    # Nothing is built, and so no tile instruction runs, before the kernel has agreed.
    assert len(built) == (len(features) if not permission else 0)
    assert "14 bits" in int8.refusal(CPU, 15, 1) and "CPU only" in int8.refusal(torch.device("meta"), 14, 1)


WIDEST = (
    ({"avx512bw", "avx512_vnni"}, "AVX-512 VNNI"),
    ({"avx512bw"}, "AVX-512"),
    ({"avx2"}, "AVX2"),
    (set[str](), "NEON" if native.ON_ARM else "vectors of 128 bits"),
)


def test_a_kernel_takes_the_widest_instructions_of_this_processor() -> None:
    """A compiler that does not know this processor would leave it at a part of its speed, in silence."""
    widest = next(name for needed, name in WIDEST if all(map(processor_has, needed)))
    assert INT16.instructions() == widest
    assert INT8.instructions() in (("AMX",) if processor_has("amx_int8") else ("", "i8mm", "dot products"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 kernel")
def test_the_kernel_answers_one_question_in_one_way() -> None:
    first = int8.ask_for_tiles()
    assert int8.ask_for_tiles() == first
    if not processor_has("amx_tile"):
        assert first


def test_products_without_tiles_are_refused_by_the_product_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CannotCompile("this processor has no int8 tiles (AMX)")
    monkeypatch.setattr(INT8, "library", refused)
    one = torch.ones(2, 2, dtype=torch.int16)
    with pytest.raises(CannotCompile, match="no int8 tiles"):
        exact.integer_product(one, one, 14, "int8-tiles")
    assert "int8-tiles" not in exact.Products().serving(14, 2)
