"""Documents out of text files and JSON lines."""

import codecs
import json
import pydoc_data.topics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.runs.data.files import blocks, opened
from trainer.runs.data.pieces import Cursor, Piece, Place, cut
from verification.errors import UserError

MAX_LINE = 1 << 28
"""Bytes of the longest line of JSON: it is held whole."""


@dataclass(frozen=True)
class TextFiles:
    """Each file is a document, or as many as a delimiter makes of it. A byte order mark of UTF-8 is left out."""

    name: str
    files: tuple[Path, ...]
    delimiter: bytes = b""

    def pieces(self, start: Cursor) -> Iterator[Piece[bytes]]:
        """Yield pieces; raises UserError."""
        for index in range(start.file, len(self.files)):
            path, (_, offset, _, inside) = self.files[index], start if index == start.file else Cursor(index)
            with opened(path, offset) as file:
                offset += 0 if offset else _skip_mark(file)
                for data, ends, used in cut(blocks(file), self.delimiter, inside):
                    after = Cursor(index, offset + used, 0, not ends)
                    yield Piece(data, ends, Place(str(path), "byte", offset + used - len(data)), after)


@dataclass(frozen=True)
class Builtin:
    """The Python language reference that CPython carries (about 460 kB), one document."""

    name: str = "python-reference"

    def pieces(self, start: Cursor) -> Iterator[Piece[bytes]]:
        """Yield pieces."""
        text = python_reference()[start.offset :]
        for data, ends, used in cut([text], begun=start.inside):
            after = start.offset + used
            yield Piece(data, ends, Place(self.name, "byte", after), Cursor(0, after, 0, not ends))


def python_reference() -> bytes:
    """Return the Python language reference that CPython carries (about 460 kB)."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip() for name in sorted(topics)).encode()


@dataclass(frozen=True)
class JsonLines:
    """One document per line: the text in a field of a JSON object. Empty lines are nothing."""

    name: str
    files: tuple[Path, ...]
    field: str

    def pieces(self, start: Cursor) -> Iterator[Piece[bytes]]:
        """Yield pieces; raises UserError with file and line."""
        for index in range(start.file, len(self.files)):
            path, (_, offset, number, _) = self.files[index], start if index == start.file else Cursor(index)
            with opened(path, offset) as file:
                offset += 0 if offset else _skip_mark(file)
                while line := file.readline(MAX_LINE + 1):
                    offset, number = offset + len(line), number + 1
                    if line.isspace():
                        continue
                    place = Place(str(path), "line", number)
                    for data, ends, _ in cut([self._text(line, place)]):
                        yield Piece(data, ends, place, Cursor(index, offset, number) if ends else None)

    def _text(self, line: bytes, place: Place) -> bytes:
        if len(line) > MAX_LINE:
            raise UserError(
                f"{place} is longer than {MAX_LINE} bytes: split it, or give the file as data.text"
            )
        try:
            entry = json.loads(line.rstrip(b"\r\n"))
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise UserError(f"{place} is not JSON: {reason}; each line must be one JSON object") from error
        if not isinstance(entry, dict):
            raise UserError(
                f"{place} is no JSON object; each line must be one, such as {{{self.field!r}: ...}}"
            )
        if self.field not in entry:
            has = ", ".join(sorted(entry)[:9]) or "nothing"
            raise UserError(
                f"{place} has no field {self.field!r}, it has {has}: name the text's with data.field"
            )
        text = entry[self.field]
        if not isinstance(text, str):
            kind = type(text).__name__.replace("NoneType", "null")
            raise UserError(
                f"{place}: the field {self.field!r} is {kind}, no text: leave the line out, or mend it"
            )
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place}: the field {self.field!r} has half of a surrogate pair, which is no character: replace it"
            ) from error


def _skip_mark(file: BinaryIO) -> int:
    """Skip the byte order mark of UTF-8 and return its length, or nothing's."""
    mark = codecs.BOM_UTF8
    peeked: bytes = file.peek(len(mark))[: len(mark)]  # type: ignore[attr-defined]
    return len(file.read(len(mark))) if peeked == mark else 0
