"""Files of documents and tokens: what is wrong with one is said in a line, with the place and the mend."""

import codecs
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus import forms, pieces_of, plan, write_dataset, write_json_lines
from trainer.runs.data import pieces, texts
from trainer.runs.data.texts import python_reference
from verification.errors import UserError

Write = Callable[[Path], None]


def _lines(*lines: str) -> Write:
    return lambda folder: (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8") and None


def _column(values: Any, name: str = "text") -> Write:
    return lambda folder: pq.write_table(pa.table({name: values}), folder / "a.parquet", row_group_size=2)


def _tokens(data: bytes, name: str = "a.bin") -> Write:
    return lambda folder: (folder / name).write_bytes(data) and None


def _array(array: Any) -> Write:
    return lambda folder: np.save(folder / "a.npy", array)


def _dictionary(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def _cut_short(folder: Path) -> None:
    write_json_lines(folder / "a.jsonl.gz", ["a text"] * 99)
    data = (folder / "a.jsonl.gz").read_bytes()
    (folder / "a.jsonl.gz").write_bytes(data[: len(data) // 2])


def _llm_c(count: int) -> bytes:
    return np.array([20240520, 1, count], "<i4").tobytes().ljust(1024, b"\0") + bytes(20)


GOOD = '{"text": "good"}'
JSON, PARQUET, TOKENS = {"json_lines": "a.jsonl"}, {"parquet": "a.parquet"}, {"tokens": "a.bin"}
BAD: dict[str, tuple[Write, dict[str, Any], str]] = {
    "no file": (lambda folder: None, {"text": "*.txt"}, "*.txt: no such file; correct the name or the pattern"),
    "a folder": (lambda folder: (folder / "a.txt").mkdir(), {"text": "a.txt"}, "a.txt: no such file"),
    "broken line": (_lines(*[GOOD] * 40, '{"text": "ba', GOOD), JSON, "a.jsonl: line 41 is not JSON: Unterminated"),
    "no object": (_lines("[", GOOD), JSON, "line 1 is not JSON: Expecting value at column 2; each line must be one"),
    "a list": (_lines(GOOD, "[1]"), JSON, "line 2 is no JSON object; each line must be one"),
    "no field": (_lines(GOOD, '{"body": "x", "id": 1}'), JSON, "line 2 has no field 'text', it has body, id: name"),
    "no text": (_lines(GOOD, "", '{"text": null}'), JSON, "line 3: the field 'text' is null, no text: leave the line"),
    "a number": (_lines('{"text": 5}'), JSON, "line 1: the field 'text' is int, no text"),
    "a lone surrogate": (_lines('{"text": "a\\ud800"}'), JSON, "line 1: the field 'text' has half of a surrogate pair"),
    "bad UTF-8": (lambda folder: (folder / "a.jsonl").write_bytes(b'{"text": "\xff"}') and None, JSON,
                  "line 1 is not JSON: 'utf-8' codec can't decode"),
    "depth without end": (_lines(GOOD, "[" * 100_000), JSON, "line 2 is not JSON: "),
    "a long line": (_lines(GOOD, '{"text": "' + "x" * 2000 + '"}'), JSON, "line 2 is longer than 1000 bytes: split"),
    "an empty file": (_lines(""), JSON, "data.json_lines holds no text: give files with documents in them"),
    "empty texts": (_lines('{"text": ""}'), JSON, "data.json_lines holds no text"),
    "cut short": (_cut_short, {"json_lines": "a.jsonl.gz"}, "a.jsonl.gz: cannot be read: Compressed file ended before"),
    "no gzip": (_tokens(b"plain", "a.txt.gz"), {"text": "a.txt.gz"}, "a.txt.gz: cannot be read: Not a gzipped file"),
    "no zstd": (_tokens(b"plain", "a.txt.zst"), {"text": "a.txt.zst"}, "a.txt.zst: cannot be read: "),
    "no Parquet": (_tokens(b"plain", "a.parquet"), PARQUET, "a.parquet: cannot be read: "),
    "no column": (_column(["x"], "body"), PARQUET, "a.parquet: has no column 'text', it has body: name the text's"),
    "a column of numbers": (_column([1, 2]), PARQUET, "a.parquet: the column 'text' holds int64, no text"),
    "a row without text": (_column(["a", "b", "c", None]), PARQUET, "a.parquet: row 4 is null, no text: leave"),
    "no rows": (_column(pa.array([], pa.string())), PARQUET, "data.parquet holds no text"),
    "no data set": (lambda folder: (folder / "set").mkdir(), {"dataset": "set"}, "set is no folder that save_to_disk"),
    "a dictionary of data sets": (_dictionary, {"dataset": "set"}, "set/train' or '"),
    "an odd length": (_tokens(b"\1\0\2"), TOKENS, "a.bin: 3 bytes are no whole number of tokens of 2 bytes: the file"),
    "another length": (_tokens(b"\1\0\2\0\3\0"), TOKENS | {"token_dtype": "uint32"}, "no whole number of tokens of 4"),
    "an id too many": (_tokens(np.arange(395, 405, dtype="<u2").tobytes()), TOKENS,
                       "a.bin: token 5 is 400, and the model knows 400 ids, from 0: raise model.config.vocab_size"),
    "less than an id": (_array(np.array([3, -1])), {"tokens": "a.npy"}, "a.npy: token 1 is -1"),
    "an array of texts": (_array(np.array(["a"])), {"tokens": "a.npy"}, "but tokens are one row of integers"),
    "an array of objects": (_tokens(b"\x93NUMPY\1\0"), {"tokens": "a.bin"}, "a.bin: no readable .npy file"),
    "a header that lies": (_tokens(_llm_c(11)), TOKENS, "a.bin: 1044 bytes are no whole number of tokens"),
    "no tokens": (_tokens(b""), TOKENS, "data.tokens holds no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line_with_the_place_and_the_mend(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MAX_LINE", 1000 if case == "a long line" else texts.MAX_LINE)
    from trainer.runs.data.prepare import Preparation

    write, section, expected = BAD[case]
    write(tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(UserError) as caught:
        Preparation(plan(tmp_path, **section), tmp_path / "made", lambda line: None).run()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_no_tokenizer_can_read_is_told_by_its_byte(tmp_path: Path) -> None:
    from tests.corpus import END, write_tokenizer
    from trainer.runs.data.prepare import Preparation

    write_tokenizer(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + b"x" * 300_000 + b"\n\xff")
    wanted = plan(tmp_path, text="a.txt", tokenizer="tokenizer.json", separator=END)
    with pytest.raises(UserError, match=r"a\.txt: byte 300004 is not UTF-8: convert the file, or leave out"):
        Preparation(wanted, tmp_path, lambda line: None).run()
    assert len(pieces_of(plan(tmp_path, text="a.txt"))) == 2  # bytes may be anything


def test_without_pyarrow_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(forms(tmp_path, ["one", "two"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for section in ({"parquet": "c.parquet"}, {"dataset": "set"}):
        with pytest.raises(
            UserError, match=r"reading it needs pyarrow: pip install 'proofswarm\[data\]' brings"
        ):
            pieces_of(plan(tmp_path, **section))
    assert len(pieces_of(plan(tmp_path, json_lines="*.jsonl"))) == 2


def test_names_and_patterns_give_files_in_one_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a10.txt", "a9.txt", "c[1].txt", "deep/er/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def found(names: str | list[str]) -> list[str]:
        return [piece.content.decode() for piece in pieces_of(plan(tmp_path, text=names))]

    assert found("*.txt") == ["a10.txt", "a9.txt", "b.txt", "c[1].txt"]
    assert found(["b.txt", "*.txt"]) == ["b.txt", "a10.txt", "a9.txt", "c[1].txt"]
    assert found("c[1].txt") == ["c[1].txt"]
    assert found("**/d.txt") == ["deep/er/d.txt"]
    assert found(str(tmp_path / "b.txt")) == ["b.txt"]


def test_marks_of_byte_order_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"text")
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"text": "text"}\r\n')
    for section in ({"text": "a.txt"}, JSON):
        assert [piece.content for piece in pieces_of(plan(tmp_path, **section))] == [b"text"]


def test_a_data_set_is_read_in_its_own_order(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", ["one", "two", "three", "four"])
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    state["_data_files"].reverse()
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    found = [piece.content for piece in pieces_of(plan(tmp_path, dataset="set"))]
    assert found == [b"three", b"four", b"one", b"two"]


def test_token_files_of_every_kind_hold_the_same(tmp_path: Path) -> None:
    ids = np.arange(3000) * 7 % 400
    ids[[0, 10, 11, 500, 2999]] = 399
    (tmp_path / "a.bin").write_bytes(ids.astype("<u2").tobytes())
    (tmp_path / "b.bin").write_bytes(ids.astype("<u4").tobytes())
    np.save(tmp_path / "c.npy", ids)
    header = np.array([20240520, 1, 3000], "<i4").tobytes().ljust(1024, b"\0")
    (tmp_path / "d.bin").write_bytes(header + ids.astype("<u2").tobytes())
    cases = [("a.bin", "uint16"), ("b.bin", "uint32"), ("c.npy", "uint16"), ("d.bin", "uint16")]
    for name, dtype in cases:
        whole = pieces_of(plan(tmp_path, tokens=name, token_dtype=dtype))
        assert np.array_equal(np.concatenate([piece.content for piece in whole]), ids)
        assert [piece.ends for piece in whole] == [False, True]
        parts = pieces_of(plan(tmp_path, tokens=name, token_dtype=dtype, separator=399))
        texts = [piece.content for piece in parts if len(piece.content)]
        assert len(texts) == int((np.diff(np.flatnonzero(ids == 399)) > 1).sum())
        assert all(piece.ends for piece in parts)
        assert np.array_equal(np.concatenate(texts), ids[ids != 399])


def test_a_document_may_go_on_in_the_next_token_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.array([1, 2, 9, 3], "<u2").tobytes())
    (tmp_path / "b.bin").write_bytes(np.array([4, 9, 9, 5], "<u2").tobytes())
    found, documents = pieces_of(plan(tmp_path, tokens="*.bin", separator=9)), [[]]
    for piece in found:
        documents[-1] += piece.content.tolist()
        documents += [[]] * piece.ends
    assert documents == [[1, 2], [3, 4], [5], []]


def test_a_long_text_comes_in_pieces_that_end_with_lines(tmp_path: Path) -> None:
    text = ("word " * 20 + "\n") * 9000
    (tmp_path / "a.txt").write_text(text)
    found = pieces_of(plan(tmp_path, text="a.txt"))
    assert "".join(piece.content.decode() for piece in found) == text
    assert len(found) == -(-len(text) // pieces.PIECE_BYTES) == 4
    assert all(piece.content.endswith(b"\n") for piece in found)
    assert [piece.ends for piece in found] == [False, False, False, True]


def test_the_builtin_text_is_one_document(tmp_path: Path) -> None:
    found = pieces_of(plan(tmp_path, builtin="python-reference"))
    assert b"".join(piece.content for piece in found) == python_reference()
    assert [piece.ends for piece in found] == [False] * (len(found) - 1) + [True]
