"""Where this checkout lies, for tests that start processes of it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, in which children take their modules from this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}
