"""Records depend on documents and settings alone, not on how the bytes came or how far a preparation got at once."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.corpus import DELIMITER, END, documents, forms, plan, write_tokenizer
from trainer.runs.data import pieces, prepare
from trainer.runs.data.packing import Packer, Split
from trainer.runs.data.pieces import Cursor, Piece, cut
from trainer.runs.data.prepare import Plan, Preparation
from trainer.runs.data.records import Records
from verification.tensors import ITEM_BYTES, Tensor, tensor_digest

TEXTS = st.lists(
    st.text(st.sampled_from("ab \n世ü@<|end>"), max_size=40).filter(
        lambda text: DELIMITER not in f"\n{text}\n"
    ),
    min_size=2,
    max_size=30,
)


def made(folder: Path, plan: Plan) -> tuple[tuple[str, bytes, bytes], ...]:
    """Return what preparing a plan in a new folder gives."""
    folder.mkdir()
    found = Preparation(plan, folder, lambda line: None).run()
    return tuple((r.dtype, r.root(), b"".join(r.parts())) for r in (found.train, found.held_out))


@settings(max_examples=8)
@given(TEXTS, st.integers(1, 9), st.sampled_from(["packed", "cut"]))
def test_every_form_of_the_same_documents_makes_the_same_records(
    texts: list[str], rows: int, packing: str
) -> None:
    """Whatever the format, the row groups, the compression and the files that documents lie in."""
    texts = [*texts, *documents(20)]
    with tempfile.TemporaryDirectory() as name, patch.object(pieces, "PIECE_BYTES", 16):
        folder, found = Path(name), set()
        for number, form in enumerate(forms(folder, texts, rows)):
            section = {**form, "packing": packing, "length": 8, "held_out": 0.3}
            found.add(made(folder / f"made{number}", plan(folder, **section)))
        assert len(found) == 1


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"@", b"ab"]), st.lists(st.integers(0, 200), max_size=9)
)
@example(b"a" * 16 + "ü".encode() * 9, b"", [3])
@example(b"line\n  on\nand on and on", b"", [7, 9])
def test_pieces_do_not_depend_on_blocks(data: bytes, delimiter: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    blocks = [data[a:b] for a, b in itertools.pairwise(bounds)]
    with patch.object(pieces, "PIECE_BYTES", 16):
        whole, parts = list(cut([data], delimiter)), list(cut(blocks, delimiter))
        assert whole == parts
        assert all(len(piece) <= 16 for piece, _, _ in whole[:-1])
        texts = b"".join(piece + b"\0" * ends for piece, ends, _ in whole).split(b"\0")[:-1]
        if b"\0" not in data:
            assert texts == [text for text in (data.split(delimiter) if delimiter else [data]) if text]
        for place, (_, ends, used) in enumerate(whole[:-1]):
            assert [p for p, _, _ in cut([data[used:]], delimiter, not ends)] == [
                p for p, _, _ in whole[place + 1 :]
            ]


@given(st.text(st.sampled_from("aü世\n "), min_size=1, max_size=120))
def test_no_character_is_cut(text: str) -> None:
    with patch.object(pieces, "PIECE_BYTES", 16):
        assert "".join(piece.decode() for piece, _, _ in cut([text.encode()])) == text


DOCUMENTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=30), min_size=1, max_size=8)


@given(DOCUMENTS, st.integers(1, 7), st.booleans(), st.integers(1, 5))
def test_records_hold_every_token_once_and_do_not_depend_on_pieces(
    texts: list[list[int]], length: int, packed: bool, step: int
) -> None:
    whole, parts = Packer(length, 0, packed), Packer(length, 0, packed)
    rows, other = [], []
    for text in texts:
        ids = np.array(text)
        rows.append(whole.add(ids, True))
        for low in range(0, len(ids), step):
            other.append(parts.add(ids[low : low + step], low + step >= len(ids)))
    records = np.concatenate(rows)
    assert np.array_equal(records, np.concatenate(other))
    if packed:
        stream = [token for text in texts for token in (0, *text)][1:]
        predicted = [*records[:1, 0].tolist(), *records[:, 1:].flatten().tolist()]
        assert predicted == stream[: len(predicted)]
        assert len(stream) - len(predicted) <= length
    else:
        expected = [token for text in texts if len(text) > 1 for token in text[1:]]
        assert [token for token in records[:, 1:].flatten().tolist() if token] == expected


@given(st.integers(2, 60), st.sampled_from([1e-6, 0.05, 0.5, 0.999999]), st.integers(0, 9))
def test_a_split_leaves_documents_on_both_sides(count: int, share: float, seed: int) -> None:
    split = Split(seed, share, count)
    held = [split.holds_out(number) for number in range(count)]
    assert 0 < sum(held) < count
    longer = Split(seed, share, 10 * count)
    assert sum(longer.holds_out(n) != side for n, side in enumerate(held)) <= 1


@given(
    st.sampled_from(sorted(set(ITEM_BYTES) - {"bool"})),
    st.integers(1, 90),
    st.integers(1, 3000),
    st.integers(0, 3),
)
@example("uint8", 1, 255, 0)
@example("int16", 64, 512, 1)
def test_records_are_read_and_hashed_where_they_lie(dtype: str, count: int, width: int, skipped: int) -> None:
    row = width * ITEM_BYTES[dtype]
    data = bytes(i * 7 % 256 for i in range(row)) * count
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "records"
        path.write_bytes(bytes(skipped * row) + data + bytes(row))
        records = Records(path, dtype, count, width, skipped)
        assert records.tensor().data == data == b"".join(records.parts())
        assert records.root() == tensor_digest(Tensor(dtype, records.shape, data))


class _Cut(Exception):
    """The end of a process, in place of it."""


class _Breaking:
    """A source that ends the process after so many pieces."""

    def __init__(self, source: Any, pieces: int) -> None:
        self.name, self._source, self._pieces = source.name, source, pieces
        self.read = 0

    def pieces(self, start: Cursor) -> Iterator[Piece[Any]]:
        """Yield pieces until it breaks, but when they are counted."""
        for piece in self._source.pieces(start):
            if self.read == self._pieces:
                raise _Cut
            self.read += 1
            yield piece


@pytest.mark.parametrize(
    ("number", "packing"), [(0, "packed"), (1, "cut"), (3, "packed"), (4, "cut"), (6, "packed")]
)
def test_a_preparation_goes_on_where_it_was_ended(
    tmp_path: Path, number: int, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 32)
    monkeypatch.setattr(prepare, "SAVED_SIZE", 100)
    monkeypatch.setattr(prepare, "BATCH_PIECES", 3)
    write_tokenizer(tmp_path)
    form = list(forms(tmp_path, documents(40)))[number]
    whole = plan(tmp_path, **form, packing=packing, tokenizer="tokenizer.json", separator=END, length=8)
    expected = made(tmp_path / "whole", whole)
    folder, reads = tmp_path / "broken", []
    folder.mkdir()
    Preparation(whole, folder, lambda line: None)._count()
    for _ in range(60):
        breaking = _Breaking(whole.source, 9)
        try:
            Preparation(Plan(**{**vars(whole), "source": breaking}), folder, lambda line: None).run()
        except _Cut:
            with (folder / "train.records").open("ab") as file:
                file.write(b"half a rec")  # what reached the disk and was not remembered
        reads.append(breaking.read)
        if breaking.read < 9:
            break
    assert len(reads) > 5
    found = Preparation(whole, folder, lambda line: None).run()
    assert tuple((r.dtype, r.root(), b"".join(r.parts())) for r in (found.train, found.held_out)) == expected


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    form = next(forms(tmp_path, documents(40)))
    found = set()
    for number, parallel in enumerate(("true", "false")):
        monkeypatch.setitem(os.environ, "TOKENIZERS_PARALLELISM", parallel)
        wanted = plan(tmp_path, **form, tokenizer="tokenizer.json", separator=END)
        found.add(made(tmp_path / str(number), wanted))
    assert len(found) == 1
