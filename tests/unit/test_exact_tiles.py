"""The compiled product with the tiles of every processor: those of others run here without their instructions."""

from importlib import resources

import pytest

from trainer import exact
from trainer.exact import compiled
from trainer.native import build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

PROCESSORS = {
    "this": "",
    "avx512": "#undef __AVX512BW__\n#define WIDE_TILES\n",
    "none": "#undef __AVX512BW__\n#undef __AVX2__\n",
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_tiles_of_every_processor_multiply_exactly(
    processor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = resources.files("trainer.exact").joinpath("int16.c").read_text("utf-8")
    library, calls = build(PROCESSORS[processor] + text), []

    def counted() -> object:
        calls.append(processor)
        return library

    monkeypatch.setattr(compiled, "_library", counted)
    exact.certify("int16")
    assert len(calls) > 100
