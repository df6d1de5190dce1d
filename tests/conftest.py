"""What tests of several kinds share: one tiny run that nobody has joined, made once.

Examples of property tests are the same in every run; `HYPOTHESIS_PROFILE=search` looks for new ones.
"""

import os

import pytest
from hypothesis import settings

from tests.tiny import make_run
from trainer.create import Created

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A freshly made run of two workers and a verifier; tests read it and never join it."""
    return make_run(tmp_path_factory.mktemp("tiny"))
