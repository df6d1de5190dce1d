"""Documents out of a column of text: Parquet files, and Hugging Face data sets as `save_to_disk` leaves them.

Row groups, compression and dictionaries are how a writer stored the rows, and change nothing here.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.runs.data.pieces import Cursor, Piece, Place, cut
from verification.errors import UserError

BATCH_BYTES = 1 << 22
"""Bytes of text that are read at a time, as far as rows allow."""


def arrow(what: str) -> Any:
    """Return the pyarrow module; raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what}: reading it needs pyarrow: pip install 'proofswarm[data]' brings it"
        ) from error
    return pyarrow


@dataclass(frozen=True)
class _Columns(ABC):
    """One document per row of a column, in files one after the other."""

    name: str
    files: tuple[Path, ...]
    field: str

    def pieces(self, start: Cursor) -> Iterator[Piece[bytes]]:
        """Yield pieces; raises UserError with file and row."""
        for index in range(start.file, len(self.files)):
            skip = start.number if index == start.file else 0
            with _reading(self.files[index]) as pa:
                batches = self._batches(pa, self.files[index], skip)
                yield from _rows(pa, batches, index, self.files[index], skip)

    @abstractmethod
    def _batches(self, pa: Any, path: Path, skip: int) -> Iterator[Any]:
        """Yield the column's rows after the first `skip` ones, of a size that memory bears."""


class ParquetFiles(_Columns):
    """Parquet files."""

    def _batches(self, pa: Any, path: Path, skip: int) -> Iterator[Any]:
        file = pa.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        _check(pa, file.schema_arrow, path, self.field)
        for group in range(file.metadata.num_row_groups):
            described = file.metadata.row_group(group)
            if skip >= described.num_rows:
                skip -= described.num_rows
                continue
            rows = max(1, described.num_rows * BATCH_BYTES // max(1, described.total_byte_size))
            for batch in file.iter_batches(min(rows, 1 << 14), row_groups=[group], columns=[self.field]):
                yield batch.column(0)[skip:]
                skip = max(0, skip - batch.num_rows)


class DatasetFolder(_Columns):
    """A data set that the `datasets` library saved to a folder; the files are Arrow's."""

    def _batches(self, pa: Any, path: Path, skip: int) -> Iterator[Any]:
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_stream(file)
            _check(pa, reader.schema, path, self.field)
            yield from _after((batch.column(self.field) for batch in reader), skip)


def dataset_files(folder: Path) -> tuple[Path, ...]:
    """Return a saved data set's files in its own order; raises UserError for another folder."""
    if (splits := folder / "dataset_dict.json").is_file():
        names = " or ".join(repr(f"{folder}/{name}") for name in _json(splits).get("splits", ()))
        raise UserError(f"data.dataset: {folder} holds several parts of a data set: name one, {names}")
    state = _json(folder / "state.json")
    try:
        if state.get("_indices_data_files"):
            raise UserError(
                f"data.dataset: {folder} holds a selection of rows in an old form: load and save it with a newer "
                "datasets"
            )
        files = tuple(folder / str(entry["filename"]) for entry in state["_data_files"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"data.dataset: {folder}/state.json names no files; save the data set again"
        ) from error
    if missing := [path for path in files if not path.is_file()]:
        raise UserError(f"data.dataset: {missing[0]} is missing; copy the whole folder, or save it again")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.dataset: {path.parent} is no folder that save_to_disk of datasets made: {path.name} is missing or "
            "unreadable; for .parquet files there is data.parquet"
        ) from error
    return found if isinstance(found, dict) else {}


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Give pyarrow, and let its errors about a file be a person's."""
    pa = arrow(str(path))
    try:
        yield pa
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read: {reason}; make or fetch the file again") from error


def _check(pa: Any, schema: Any, path: Path, field: str) -> None:
    """Raise UserError unless a column of that name holds text."""
    if field not in schema.names:
        names = ", ".join(schema.names[:20]) or "none"
        raise UserError(f"{path}: has no column {field!r}, it has {names}: name the text's with data.field")
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise UserError(
            f"{path}: the column {field!r} holds {kind}, no text: name the text's with data.field"
        )


def _after(columns: Iterator[Any], skip: int) -> Iterator[Any]:
    for column in columns:
        yield column[skip:]
        skip = max(0, skip - len(column))


def _rows(pa: Any, columns: Iterator[Any], index: int, path: Path, number: int) -> Iterator[Piece[bytes]]:
    """Yield the pieces of rows that begin after `number` others of their file."""
    for column in columns:
        for row in column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist():
            number += 1
            place = Place(str(path), "row", number)
            if row is None:
                raise UserError(f"{place} is null, no text: leave such rows out")
            for data, ends, _ in cut([row]):
                yield Piece(data, ends, place, Cursor(index, 0, number) if ends else None)
