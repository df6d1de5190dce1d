"""A peer's own record: one JSON object a line, appended, never rewritten. The ledger has what all agree on; this has
what only the peer saw (losses, bytes, refusals). Reports are made from both."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from verification.errors import UserError
from verification.report.words import one_line
from verification.units import Millis

Event = dict[str, Any]
"""`at` (ms since 1970), `peer` (0x account), `kind`, and the kind's own fields. Kinds: started, measured, kernels,
joined, committed, computed, stuck, outer, state, fetched, said, declined, failed, refused, dropped, traffic, ended,
stopped, evaluated."""


TOLD = frozenset(
    {
        "started",
        "measured",
        "joined",
        "committed",
        "computed",
        "stuck",
        "state",
        "refused",
        "dropped",
        "declined",
        "ended",
        "stopped",
    }
)
"""Kinds that a person at a peer's terminal wants to see."""


MAX_LOG_BYTES = 1 << 24
"""Length at which an event log is set aside in favour of a new one; one older log is kept beside it."""


def older(path: Path) -> Path:
    """Return where the log before the one at `path` is."""
    return path.with_name(path.name + ".1")


class EventLog:
    """Appends events to a file; a line is written whole and flushed at once.

    A file that would have more than `limit` bytes becomes the older one, and what was the older one is gone.
    """

    def __init__(
        self,
        path: Path,
        peer: str,
        tell: Callable[[str], None] = lambda line: None,
        limit: int = MAX_LOG_BYTES,
    ) -> None:
        """Append to `path`, created with its folder when missing; a line cut by a crash is ended first.

        `tell` hears one line for people about events of the kinds in `TOLD`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._peer, self._tell, self._limit = path, peer, tell, limit
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._open()
        if torn:
            self._append("\n")

    def write(self, at: Millis, kind: str, **fields: Any) -> None:
        """Append one event; `fields` must be JSON values. Raises UserError when the disk takes no more."""
        line = json.dumps({"at": at, "peer": self._peer, "kind": kind, **fields}) + "\n"  # ASCII
        if self._size and self._size + len(line) > self._limit:
            self._file.close()
            self._path.replace(older(self._path))
            self._open()
        self._append(line)
        if kind in TOLD:
            # Others' words are among them: nothing of these may steer a terminal or begin a line of its own.
            self._tell(one_line(" ".join([kind, *(f"{name}={value}" for name, value in fields.items())])))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: str) -> None:
        try:
            written = self._file.write(line.encode())
            self._size += written
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"{self._path}: {error.strerror}; free space on its disk and start again: nothing is lost"
            ) from error

    def _open(self) -> None:
        self._file = os.fdopen(_open_private(self._path), "ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size


def _open_private(path: Path) -> int:
    """Open a file for its owner only: it says what a verifier found before the verdict is revealed."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(handle, 0o600)
    return handle


def read_events(path: Path) -> Iterator[Event]:
    """Yield a log's events in order, those of the older file first; a line that a crash cut short is left out."""
    return (event for event in read_lines(path) if event)


def read_lines(path: Path) -> Iterator[Event]:
    """Yield the event of each of a log's lines, an empty one for a line that nobody can read."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open(encoding="utf-8", errors="replace"))]
        with suppress(FileNotFoundError):
            files.append(stack.enter_context(older(path).open(encoding="utf-8", errors="replace")))
        if os.path.samestat(os.fstat(files[0].fileno()), os.fstat(files[-1].fileno())):
            del files[1:]  # alone, or set aside between the two openings
        for line in chain.from_iterable(reversed(files)):
            yield read_event(line) or {}


def read_event(line: str) -> Event | None:
    """Return the event in a line; None where a crash has cut it short, and for what nobody can read."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # numbers of thousands of digits and deep nesting too
        return None
    return event if isinstance(event, dict) and {"at", "peer", "kind"} <= event.keys() else None


@dataclass
class Tail:
    """Reads what a growing event log has gained since the last look, at first all that there is of it."""

    path: Path
    _file: TextIO | None = None
    _rest: str = ""
    _has_begun: bool = False

    def read(self) -> list[Event]:
        """Return the new complete lines."""
        gained = self._gained()
        if self._file is not None and self._is_set_aside(self._file):
            self._file.close()
            self._file = None
            gained += self._gained()
        *lines, self._rest = (self._rest + gained).split("\n")
        return [event for line in lines if (event := read_event(line)) is not None]

    def _gained(self) -> str:
        if self._file is None:
            with suppress(FileNotFoundError):
                self._file = self.path.open(encoding="utf-8", errors="replace")
        if self._file is None:
            return ""
        before, self._has_begun = "" if self._has_begun else self._before(self._file), True
        return before + self._file.read()

    def _before(self, file: TextIO) -> str:
        """Return what the older log has, unless it is the one that was opened, set aside since."""
        with suppress(FileNotFoundError), older(self.path).open(encoding="utf-8", errors="replace") as before:
            if not os.path.samestat(os.fstat(file.fileno()), os.fstat(before.fileno())):
                return before.read()
        return ""

    def _is_set_aside(self, file: TextIO) -> bool:
        return self.path.exists() and not os.path.samestat(os.fstat(file.fileno()), self.path.stat())
