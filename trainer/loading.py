"""Loading the program without a look for garbage: modules leave none behind, and PyTorch's are hundreds of thousands of
objects to look through, again and again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage while the block imports, and leave what there is by then out of every later collection."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()
