"""What tests of several kinds share: one tiny run that nobody has joined, made once."""

import pytest

from tests.tiny import make_run
from trainer.create import Created


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A freshly made run of two workers and a verifier; tests read it and never join it."""
    return make_run(tmp_path_factory.mktemp("tiny"))
