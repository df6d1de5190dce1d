"""While the program loads nobody looks for garbage; afterwards it is as it was before."""

import gc
from collections.abc import Iterator

import pytest

from trainer.loading import loading


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    was = gc.isenabled()
    yield
    (gc.enable if was else gc.disable)()


def test_garbage_is_collected_again_after_the_block_also_when_an_import_fails() -> None:
    gc.enable()
    with loading():
        assert not gc.isenabled()
        with loading():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), loading():
        raise ModuleNotFoundError("no such module")
    assert gc.isenabled()


def test_who_collects_none_is_left_so() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()


def test_what_was_loaded_is_left_out_of_later_collections() -> None:
    frozen = gc.get_freeze_count()
    with loading():
        kept = [[] for _ in range(1000)]
    assert gc.get_freeze_count() >= frozen + len(kept)
