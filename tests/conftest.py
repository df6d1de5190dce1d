"""What tests of several kinds share.

Examples of property tests are the same in every run; `HYPOTHESIS_PROFILE=search` looks for new ones.
"""

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


if TYPE_CHECKING:
    from trainer.create import Created


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> "Created":
    """A freshly made run of two workers and a verifier; tests read it and never join it."""
    from tests.tiny import make_run  # brings torch, which most tests do without

    return make_run(tmp_path_factory.mktemp("tiny"))
