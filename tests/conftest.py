"""What tests of several kinds share.

Examples of property tests are the same in every run; `HYPOTHESIS_PROFILE=search` looks for new ones.
"""

import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from trainer.loading import loading

# Waiting threads must not spin: they would take the cores from the other tests, whole seconds of each. A library reads
# this when it is loaded, so it stands here, before any test imports one, and for every child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Nothing that depends on how busy the machine is may decide.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", calm, derandomize=True)
settings.register_profile("search", calm)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


if TYPE_CHECKING:
    from trainer.runs.create import Created


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> "Created":
    """A freshly made run of two workers and a verifier; tests read it and never join it."""
    from tests.tiny import make_run  # brings torch, which most tests do without

    return make_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", autouse=True)
def certified_once() -> Iterator[None]:
    """Let a process try a backend's golden products once, and not again for each of the engines that its tests make."""
    if "trainer.exact" not in sys.modules:  # no test of this session has anything to multiply
        yield
        return
    from tests.certificates import kept_certificates

    with kept_certificates():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import all tests without a look for garbage, which takes a third of the time, in each worker."""
    with loading():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: a worker takes whole files, and the others wait for a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
