"""A folder while it is made: it becomes what it is to be when all went well, and nothing is left when not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verification.errors import UserError


def check_new(out: Path) -> None:
    """Raise UserError unless a run's folder can be made there."""
    if not out.name:
        raise UserError(f"{out}: cannot become a run's folder: name a new one with --out")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose another folder with --out, or delete it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder with --out")


@contextmanager
def draft_of(out: Path, mend: str = "choose another folder with --out") -> Iterator[Path]:
    """Yield a folder that becomes `out` when all went well, and is deleted when anything did not.

    Raises UserError, with what mends it, where nobody can write.
    """
    draft = out.with_name(f".{out.name}.draft")
    try:
        if draft.exists():
            _remove(draft)
        draft.mkdir(parents=True)
        yield draft
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot write there: {error.strerror}; {mend}") from error
    finally:
        if os.path.exists(draft):  # which says no, and raises nothing, where nobody may look
            _remove(draft)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
