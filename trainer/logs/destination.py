"""Where rows are logged: a file to which those are added that it lacks, in one of several forms.

Rows come in one order (`Row.position`), so the last one in a file says what is missing. An end of any kind leaves one
row cut short at most; it is cut off when the file is opened again.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Protocol

from trainer.folder import alone
from trainer.logs.lines import CommaLines, JsonLines
from verification.errors import UserError
from verification.report.course import BEFORE, Position, Row
from verification.units import Digest


class Form(Protocol):
    """How a file holds rows of one run."""

    @property
    def heading(self) -> bytes:
        """What stands before the first row."""
        ...

    @property
    def opening(self) -> bytes:
        """What every such file begins with, the first bytes of its first row included."""
        ...

    def encode(self, row: Row) -> bytes:
        """Return a row's bytes."""
        ...

    def last(self, path: Path) -> tuple[int, Position]:
        """Return how many bytes a file's heading and whole rows have, and the position of the last row.

        The file begins as it must. Raises ValueError for one that goes on otherwise.
        """
        ...


class Destination:
    """A file of rows of a run. `name` is what people call it by, `last` the position of the newest row in it."""

    def __init__(self, name: str, path: Path, form: Form, run: Digest) -> None:
        """`open` comes first."""
        self.name, self._path, self._form, self._run = name, path, form, run
        self.last = BEFORE
        self._held = ExitStack()
        self._file: FileIO

    def open(self) -> None:
        """Find what is there, for this process alone until `close`.

        Raises UserError for a file of something else, which stays as it is, and one that another process writes;
        OSError.
        """
        if not self._path.parent.exists():
            self._path.parent.mkdir(parents=True)
        self._path.open("ab").close()
        with ExitStack() as held:
            held.enter_context(
                alone(self._path, f"{self.name}: another process writes it; name another place with --log-to")
            )
            whole = self._whole()
            self._file = held.enter_context(self._path.open("r+b", buffering=0))
            self._file.truncate(whole)
            self._file.seek(whole)
            if not whole:
                self._append(self._form.heading)
            self._held = held.pop_all()

    def write(self, rows: Sequence[Row]) -> None:
        """Add those rows that the file lacks, which come in order; raises OSError."""
        missing = [row for row in rows if row.position > self.last]
        if missing:
            self._append(b"".join(self._form.encode(row) for row in missing))
            self.last = missing[-1].position

    def close(self) -> None:
        """Let go of the file."""
        self._held.close()

    def _whole(self) -> int:
        """Return the length of what is whole, and learn the last row; raises UserError for a file of something else."""
        opening = self._form.opening
        with self._path.open("rb") as file:
            begun = file.read(len(opening))
        try:
            if not opening.startswith(begun):
                raise ValueError
            whole, self.last = self._form.last(self._path) if begun == opening else (0, BEFORE)
        except ValueError as error:
            raise UserError(
                f"{self.name} is no log of run {self._run.hex()[:16]}, and stays as it is: name another place with "
                "--log-to, or move it away"
            ) from error
        return whole

    def _append(self, data: bytes) -> None:
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def destination(name: str, run: Digest) -> Destination:
    """Return where `--log-to` leads: FILE.csv, FILE.jsonl, or a folder for TensorBoard.

    Raises UserError for another name, and where a package is missing.
    """
    path = Path(name)
    if name.startswith("wandb:"):
        raise UserError(
            f"--log-to {name}: nothing is written for Weights & Biases: log to FILE.jsonl; docs/logs.md shows how to "
            "bring that there"
        )
    if path.suffix == ".csv":
        return Destination(name, path, CommaLines(run), run)
    if path.suffix == ".jsonl":
        return Destination(name, path, JsonLines(run), run)
    if not name or (path.suffix and not name.endswith("/") and not path.is_dir()):
        raise UserError(
            f"--log-to {name!r} is neither FILE.csv nor FILE.jsonl: put a slash behind the name of a new folder for "
            "TensorBoard"
        )
    try:
        from trainer.logs.tensorboard import EventFile
    except ModuleNotFoundError as error:
        raise UserError(
            f"--log-to {name}: a folder for TensorBoard needs tensorboard: pip install 'proofswarm[logs]' brings it"
        ) from error
    return Destination(name, EventFile.inside(path, run), EventFile(run), run)
