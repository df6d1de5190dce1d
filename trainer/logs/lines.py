"""Rows as lines of text: comma-separated values under a heading, or a JSON object each."""

import json
from pathlib import Path
from typing import Any

from verification.report.course import BEFORE, ORDER, Position, Row
from verification.units import Digest

FIELDS = ("run", "round", "name", "value", "unit", "at_ms")
"""`run` is 16 digits of the run's identity, `at_ms` ledger time. No value has a comma or a quote in it."""


class CommaLines:
    """The form of FILE.csv."""

    heading = (",".join(FIELDS) + "\n").encode()

    def __init__(self, run: Digest) -> None:
        """Hold rows of a run."""
        self._run = run.hex()[:16]

    @property
    def opening(self) -> bytes:
        """The heading, and the run of the first row."""
        return self.heading + f"{self._run},".encode()

    def encode(self, row: Row) -> bytes:
        """Return a line."""
        return ",".join(map(str, _fields(self._run, row).values())).encode() + b"\n"

    def last(self, path: Path) -> tuple[int, Position]:
        """Return the length of whole lines and the last row's position; raises ValueError for others' lines."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole == len(self.heading):
            return whole, BEFORE
        _, number, name, *others = _last_line(data, whole).split(",")
        if len(others) != 3 or name not in ORDER:
            raise ValueError
        return whole, (int(number), ORDER[name])


class JsonLines:
    """The form of FILE.jsonl."""

    heading = b""

    def __init__(self, run: Digest) -> None:
        """Hold rows of a run."""
        self._run = run.hex()[:16]

    @property
    def opening(self) -> bytes:
        """The run of the first row."""
        return json.dumps({"run": self._run})[:-1].encode() + b","

    def encode(self, row: Row) -> bytes:
        """Return a line."""
        return json.dumps(_fields(self._run, row)).encode() + b"\n"

    def last(self, path: Path) -> tuple[int, Position]:
        """Return the length of whole lines and the last row's position; raises ValueError for others' lines."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if not whole:
            return whole, BEFORE
        match json.loads(_last_line(data, whole)):
            case {"round": int(number), "name": str(name)} if name in ORDER:
                return whole, (number, ORDER[name])
        raise ValueError


def _fields(run: str, row: Row) -> dict[str, Any]:
    return dict(zip(FIELDS, (run, row.round, row.name, row.value, row.unit, row.at), strict=True))


def _last_line(data: bytes, whole: int) -> str:
    return data[data.rfind(b"\n", 0, whole - 1) + 1 : whole - 1].decode()
