"""Preparation: documents in, records out, in memory that does not grow with the data.

It reads everything once to find what cannot be read and to count, and once more to encode. Every `SAVED_SIZE` bytes of
text (or tokens) it remembers what it has written, so that the same command goes on after an end of any kind, and the
records are those of a preparation that nothing ended.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from trainer.runs.data.packing import MIN_RECORDS, Packer, Split
from trainer.runs.data.pieces import START, Cursor, Ids, Piece, Place, Source
from trainer.runs.data.records import Records
from trainer.runs.data.tokenizing import Tokenizer
from verification.errors import UserError
from verification.tensors import ITEM_BYTES

SAVED_SIZE = 1 << 26
BATCH_PIECES, BATCH_BYTES = 1 << 10, 1 << 21
TOLD_SECONDS = 10.0
SURE = 1.1
"""So many times too many records, by what was encoded so far, are too many in the end."""
_FORM = 1
"""Of what the work folder holds: another form is begun anew."""

Tell = Callable[[str], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """What the records are a function of: the source, how its text is encoded (None: it is tokens), and how documents
    are packed. No more than `most` records are made."""

    source: Source[Any]
    tokenizer: Tokenizer | None
    separator: int | None
    packed: bool
    length: int
    held_out: float
    seed: int
    dtype: str
    most: int

    @property
    def unit(self) -> str:
        """What a source's documents are counted in."""
        return "tokens" if self.tokenizer is None else "bytes"


@dataclass(frozen=True)
class Prepared:
    """Records to train on and held out, from so many documents; bytes of text a token where text is known."""

    train: Records
    held_out: Records
    documents: int
    bytes_per_token: float | None


@dataclass
class _Progress:
    """How far it is: first `documents` and `size` (bytes of text, or tokens) are counted, then all is encoded."""

    documents: int = 0
    size: int = 0
    counted: bool = False
    cursor: Cursor = START
    number: int = 0
    read: int = 0
    tokens: int = 0
    done: bool = False


class Preparation:
    """One preparation in its folder, which only one process at a time may use."""

    def __init__(self, plan: Plan, folder: Path, tell: Tell, clock: Clock = time.monotonic) -> None:
        """`folder` is this plan's own; what lies there is gone on with. `tell` hears how far it is."""
        self._plan, self._folder, self._told = plan, folder, _Told(tell, clock)
        state = _state_in(folder, (plan.length + 1) * ITEM_BYTES[plan.dtype])
        self._progress = _Progress(**state.get("progress", {}))
        self._progress.cursor = Cursor(*self._progress.cursor)
        self._train = _Side(plan, folder / "train.records", state.get("train"))
        self._held_out = _Side(plan, folder / "held_out.records", state.get("held_out"))

    def run(self) -> Prepared:
        """Return the records; raises UserError for data that cannot be read, or are too few or too many."""
        if not self._progress.counted:
            self._count()
        if not self._progress.done:
            with self._train, self._held_out:
                self._encode()
        return self._prepared()

    def _count(self) -> None:
        progress, name, unit = _Progress(), self._plan.source.name, self._plan.unit
        for piece in self._plan.source.pieces(START):
            progress.documents += piece.ends
            progress.size += len(piece.content)
            self._told(
                f"{name}: {{0:,}} documents and {{1:,}} {unit} read", progress.documents, progress.size
            )
        if not progress.size:
            raise UserError(f"{name} holds no text: give files with documents in them")
        progress.counted, self._progress = True, progress
        self._save()

    def _encode(self) -> None:
        progress, plan = self._progress, self._plan
        split, saved = Split(plan.seed, plan.held_out, progress.documents), progress.read
        for piece, ids in self._encoded():
            side = self._held_out if split.holds_out(progress.number) else self._train
            side.take(ids, piece.ends)
            progress.number += piece.ends
            progress.read += len(piece.content)
            progress.tokens += len(ids)
            self._check_size(piece.place)
            if piece.after is not None and progress.read - saved >= SAVED_SIZE:
                progress.cursor, saved = piece.after, progress.read
                self._save()
            self._told(
                "encoded {0:,} of {1:,} {2}: {3:,} tokens",
                progress.read,
                progress.size,
                plan.unit,
                progress.tokens,
            )
        progress.done = True
        self._save()

    def _check_size(self, place: Place) -> None:
        """Raise UserError where the records are too many, or clearly will be."""
        plan, progress = self._plan, self._progress
        expected = self._train.count * progress.size // progress.read
        sure = self._train.count > plan.most or (progress.read >= SAVED_SIZE and expected > SURE * plan.most)
        if sure:
            raise UserError(
                f"{plan.source.name} would make some {expected:,} records, as {place} shows, and a run reads at most "
                f"{plan.most:,} of {plan.length} tokens: take less data"
            )

    def _encoded(self) -> Iterator[tuple[Piece[Any], Ids]]:
        """Yield each piece that is left with its ids."""
        pieces, tokenizer = self._plan.source.pieces(self._progress.cursor), self._plan.tokenizer
        if tokenizer is None:
            yield from ((piece, piece.content) for piece in pieces)
            return
        for batch in _batches(pieces):
            yield from zip(batch, tokenizer.encode(batch), strict=True)

    def _prepared(self) -> Prepared:
        plan, progress = self._plan, self._progress
        counted = f"{progress.documents} document{'s' * (progress.documents > 1)}"
        train, held_out = self._train.records(), self._held_out.records()
        if progress.documents == 1:
            train, held_out = train.split_end(round(train.count * plan.held_out))
        if train.count < MIN_RECORDS or held_out.count < 1:
            raise UserError(
                f"{plan.source.name} is too short: its {progress.tokens} tokens in {counted} make "
                f"{train.count} records of {plan.length} tokens to train on and {held_out.count} to hold out, but "
                f"{MIN_RECORDS} and 1 are needed: give more data, or lower data.length"
            )
        text = None if plan.tokenizer is None else progress.size / progress.tokens
        return Prepared(train, held_out, progress.documents, text)

    def _save(self) -> None:
        """Bring to the disk what was made and where to go on, all of it or nothing."""
        state = {"form": _FORM, "progress": vars(self._progress)}
        state |= {"train": self._train.saved(), "held_out": self._held_out.saved()}
        draft = self._folder / "progress.json.draft"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / "progress.json")


class _Side:
    """The records to train on, or the held-out ones: a file that grows, and what waits to become records."""

    def __init__(self, plan: Plan, path: Path, state: dict[str, Any] | None) -> None:
        """`state` is what `saved` gave."""
        state = {"count": 0, "rest": [], "inside": False, "started": False} if state is None else state
        rest = np.array(state["rest"], np.int64)
        self.count: int = state["count"]
        self._packer = Packer(
            plan.length, plan.separator, plan.packed, rest, state["inside"], state["started"]
        )
        self._path, self._dtype, self._width = path, plan.dtype, plan.length + 1
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Go on behind what was saved, whatever came after."""
        self._path.touch()
        self._file = self._path.open("r+b")
        self._file.truncate(self.count * self._width * ITEM_BYTES[self._dtype])
        self._file.seek(0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def take(self, ids: Ids, ends: bool) -> None:
        """Write the records that a document's next tokens complete."""
        assert self._file is not None
        rows = self._packer.add(ids, ends)
        self._file.write(rows.astype(np.dtype(self._dtype).newbyteorder("<")).tobytes())
        self.count += len(rows)

    def saved(self) -> dict[str, Any]:
        """Bring the file to the disk and return what the rest of the work needs."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        packer = self._packer
        state = {"rest": packer.rest.tolist(), "inside": packer.inside, "started": packer.started}
        return {"count": self.count, **state}

    def records(self) -> Records:
        """Return what is in the file."""
        return Records(self._path, self._dtype, self.count, self._width)


class _Told:
    """Tells a line every `TOLD_SECONDS`."""

    def __init__(self, tell: Tell, clock: Clock) -> None:
        self._tell, self._clock = tell, clock
        self._last = clock()

    def __call__(self, line: str, *facts: object) -> None:
        """Tell the line, with the facts put into it, if it is time to."""
        if (now := self._clock()) - self._last >= TOLD_SECONDS:
            self._last = now
            self._tell(line.format(*facts))


def _batches(pieces: Iterator[Piece[bytes]]) -> Iterator[list[Piece[bytes]]]:
    """Yield pieces in lists that are short in number and in bytes."""
    batch: list[Piece[bytes]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.content)
        if len(batch) >= BATCH_PIECES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _state_in(folder: Path, row: int) -> dict[str, Any]:
    """Return what was saved in a folder of records of `row` bytes; nothing where it is another form's, or not whole."""
    try:
        state: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        if state["form"] != _FORM:
            return {}
        for name in ("train", "held_out"):
            path = folder / f"{name}.records"
            if (path.stat().st_size if path.exists() else 0) < state[name]["count"] * row:
                return {}
    except (OSError, ValueError, KeyError):
        return {}
    return state
