"""Certificates of product backends that hold for a whole process of tests."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from trainer.exact import choice
from trainer.exact.backends import BACKENDS, Backend


@contextmanager
def kept_certificates() -> Iterator[None]:
    """Have engines trust a backend that has passed before, as it is now and on as many threads; a failed one is tried
    again.

    A backend that a test puts in another's place is another one. Tests of certificates call `certify` itself.
    """
    certify = choice.certify

    @functools.cache
    def passed(backend: Backend, threads: int, name: str, device: str, full: bool) -> None:
        certify(name, device, full)

    def kept(name: str, device: str = "cpu", full: bool = True) -> None:
        passed(BACKENDS[name], torch.get_num_threads(), name, device, full)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "certify", kept)
        yield
