"""Tokenizers, packing's settings, and the folder in which records are made."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from p2p.lists import MAX_BLOB_BYTES
from tests.corpus import END, documents, forms, plan, write_json_lines, write_tokenizer
from trainer.runs.data import chosen, prepare
from trainer.runs.data.chosen import chosen_tokenizer, prepared, vocabulary_of
from trainer.runs.data.pieces import Piece, Place
from trainer.runs.data.prepare import TOLD_SECONDS, Plan, Preparation, Prepared
from trainer.runs.data.records import Records
from trainer.runs.data.tokenizing import ByteTokenizer, Vocabulary, load_wrapped, loads_beside, read_tokenizer
from trainer.runs.job import DataSection
from verification.errors import UserError

BPE = {"tokenizer": "tokenizer.json", "separator": END}


def made(plan: Plan, folder: Path) -> Prepared:
    """Prepare in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    return Preparation(plan, folder, lambda line: None).run()


def rows(records: Records) -> list[list[int]]:
    """Return records as numbers."""
    import numpy as np

    data = np.frombuffer(b"".join(records.parts()), np.dtype(records.dtype)).reshape(-1, records.width)
    return data.tolist()


def piece(text: str) -> Piece[bytes]:
    """Return a whole document."""
    return Piece(text.encode(), True, Place("a.jsonl", "line", 3), None)


def test_text_is_encoded_whole_and_nothing_is_put_around_it(tmp_path: Path) -> None:
    """The file truncates to five tokens and pads, as a file may that once encoded queries."""
    path = write_tokenizer(tmp_path)
    assert json.loads(path.read_text())["truncation"]["max_length"] == 5
    tokenizer = read_tokenizer(path, special_tokens=False)
    texts = ["the cat sat on the mat, and on", "x", "世界 ünï"]
    for text, ids in zip(texts, tokenizer.encode([piece(text) for text in texts]), strict=True):
        assert Tokenizer.from_file(str(path)).decode(ids.tolist()) == text


def test_special_tokens_in_documents_are_text_unless_asked_for(tmp_path: Path) -> None:
    path, text = write_tokenizer(tmp_path), f"cat{END}sat"
    plain, special = (read_tokenizer(path, asked).encode([piece(text)])[0] for asked in (False, True))
    number = read_tokenizer(path, False).token(END)
    assert number not in plain
    assert number in special
    assert Tokenizer.from_file(str(path)).decode(plain.tolist(), skip_special_tokens=False) == text


def test_a_special_token_that_cannot_be_text_is_refused(tmp_path: Path) -> None:
    """A Unigram vocabulary holds it whole, and the library finds it there, whatever it is asked."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(documents(60), trainer)
    made.save(str(tmp_path / "uni.json"))
    tokenizer = read_tokenizer(tmp_path / "uni.json", special_tokens=False)
    assert 0 in tokenizer.encode([piece("what is unknown: Ж")])[0]
    with pytest.raises(
        UserError, match=r"a\.jsonl: line 3 has the special token '</s>'.*special_tokens = true"
    ):
        tokenizer.encode([piece("the cat"), piece("sat</s>on")])
    assert 1 in read_tokenizer(tmp_path / "uni.json", special_tokens=True).encode([piece("sat</s>on")])[0]


def test_the_byte_tokenizer_loads_again(tmp_path: Path) -> None:
    tokenizer, text = ByteTokenizer(), "Grüße, 世界\n!"
    tokenizer.save(tmp_path)
    assert tokenizer.encode([piece(text)])[0].tolist() == list(text.encode())
    assert load_wrapped(tmp_path).encode(text) == list(text.encode())


def test_a_folder_of_a_tokenizer_knows_its_end_of_text(tmp_path: Path) -> None:
    import transformers

    wrap: Any = transformers.PreTrainedTokenizerFast
    wrap(tokenizer_file=str(write_tokenizer(tmp_path)), eos_token=END).save_pretrained(tmp_path / "folder")
    data = DataSection(json_lines="a", tokenizer="folder")
    tokenizer = chosen_tokenizer(data, tmp_path)
    assert tokenizer is not None
    assert vocabulary_of(data, tokenizer, 300) == Vocabulary(tokenizer.vocabulary.size, 0, None)
    tokenizer.save(tmp_path / "again")
    assert (
        chosen_tokenizer(DataSection(json_lines="a", tokenizer="again"), tmp_path).identity
        == tokenizer.identity
    )


def test_a_model_type_whose_tokenizer_is_another_is_noticed(tmp_path: Path) -> None:
    import transformers

    read_tokenizer(write_tokenizer(tmp_path), False).save(tmp_path / "bpe")
    assert loads_beside(transformers.AutoConfig.for_model("llama"), tmp_path / "bpe")
    assert not loads_beside(transformers.AutoConfig.for_model("qwen2"), tmp_path / "bpe")


SECTION: dict[str, tuple[dict[str, Any], str]] = {
    "no tokenizer": ({"tokenizer": "none.json"}, "none.json: no such tokenizer.json or folder"),
    "no JSON": ({"tokenizer": "a.jsonl"}, "a.jsonl is no tokenizer.json: it describes no model"),
    "broken JSON": ({"tokenizer": "broken.json"}, "broken.json is no readable tokenizer.json"),
    "other JSON": ({"tokenizer": "config.json"}, "config.json is no tokenizer.json: it describes no model"),
    "an unknown model": ({"tokenizer": "odd.json"}, "odd.json cannot be loaded: "),
    "an empty folder": ({"tokenizer": "empty"}, "empty cannot be loaded: "),
    "ids beyond the embedding": (BPE | {"rows": 257}, "the model's embedding has 257 rows: give it"),
    "bytes beyond the embedding": ({"rows": 128}, "ids go up to 255, but the model's embedding has 128 rows"),
    "no such separator": (BPE | {"separator": "</s>"}, "data.separator: '</s>' is no token of the tokenizer"),
    "no such number": (BPE | {"separator": 400}, "data.separator: 400 is no token of a model with 400"),
    "no separator known": ({"tokenizer": "tokenizer.json"}, "tells no end of text: give its token with data.separator"),
}  # fmt: skip


@pytest.mark.parametrize("case", SECTION)
def test_what_a_job_asks_for_and_cannot_have(case: str, tmp_path: Path) -> None:
    section, expected = SECTION[case]
    write_tokenizer(tmp_path)
    write_json_lines(tmp_path / "a.jsonl", ["text"])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "odd.json").write_text('{"model": {"type": "Odd"}}')
    (tmp_path / "broken.json").write_text('{"model": ')
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        plan(tmp_path, json_lines="a.jsonl", **section)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_documents_are_cut_or_packed(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", ["abcdef", "gh"] * 40)
    section = {"json_lines": "a.jsonl", "length": 4, "held_out": 0.2}
    cut = made(plan(tmp_path, **section, packing="cut"), tmp_path / "cut")
    texts = {bytes(row) for row in rows(cut.train) + rows(cut.held_out)}
    assert texts == {b"abcde", b"ef\0\0\0", b"gh\0\0\0"}
    packed = made(plan(tmp_path, **section), tmp_path / "packed")
    stream = bytes([rows(packed.train)[0][0], *(b for row in rows(packed.train) for b in row[1:])])
    assert set(stream.split(b"\0")[:-1]) <= {b"abcdef", b"gh"}
    bare = made(plan(tmp_path, **section, separator=""), tmp_path / "bare")
    assert not any(0 in row for row in rows(bare.train))
    assert packed.bytes_per_token == 1.0


def test_of_a_single_document_the_end_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{number:03}," for number in range(200)))
    found = made(plan(tmp_path, text="a.txt", length=16, held_out=0.1), tmp_path / "made")
    assert (found.train.count, found.held_out.count, found.documents) == (44, 5, 1)
    assert bytes(rows(found.train)[0]) == b"000,001,002,003,0"
    assert bytes(rows(found.held_out)[0]) == b"176,177,178,179,1"


def test_ids_are_kept_in_the_smallest_dtype(tmp_path: Path) -> None:
    import numpy as np

    ids = np.arange(1000, dtype="<u4") * 100
    (tmp_path / "a.bin").write_bytes(ids.tobytes())
    for size, dtype in ((100_000, "int32"), (32_768, None), (99_901, "int32")):
        section = {"tokens": "a.bin", "token_dtype": "uint32", "held_out": 0.2}
        wanted = plan(tmp_path, rows=size, **section)
        assert wanted.dtype == (dtype or "int16")
        if dtype is not None:
            found = made(wanted, tmp_path / "made")
            assert (rows(found.train)[1][:3], found.bytes_per_token) == ([1600, 1700, 1800], None)


def test_more_records_than_a_run_reads_are_refused(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", documents(40))
    wanted = plan(tmp_path, json_lines="a.jsonl")
    assert wanted.most == MAX_BLOB_BYTES // 17
    small = Plan(**{**vars(wanted), "most": 20})
    with pytest.raises(
        UserError, match=r"as .*a\.jsonl: line \d+ shows, and .* at most 20 of 16 tokens: take less"
    ):
        made(small, tmp_path / "made")


def test_too_many_records_are_seen_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SAVED_SIZE", 200)
    write_json_lines(tmp_path / "a.jsonl", ["x" * 100] * 400)
    small = Plan(**{**vars(plan(tmp_path, json_lines="a.jsonl")), "most": 1000})
    with pytest.raises(UserError, match=r"would make some 2,\d+ records, as .*: line [2-9] shows"):
        made(small, tmp_path / "made")


def test_what_is_not_whole_is_made_again(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", documents(40))
    wanted = plan(tmp_path, json_lines="a.jsonl")
    expected = made(wanted, tmp_path / "made").train.root()
    path = tmp_path / "made" / "train.records"
    for damage in (path.read_bytes()[:-1], b""):
        path.write_bytes(damage)
        assert made(wanted, tmp_path / "made").train.root() == expected
    (tmp_path / "made" / "progress.json").write_text('{"form": 1')
    assert made(wanted, tmp_path / "made").train.root() == expected


def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", documents(40))
    heard: list[str] = []
    times = iter(range(0, 10**6, int(TOLD_SECONDS) // 2))
    (tmp_path / "made").mkdir()
    Preparation(
        plan(tmp_path, json_lines="a.jsonl"), tmp_path / "made", heard.append, lambda: next(times)
    ).run()
    assert heard[0] == "data.json_lines: 2 documents and 180 bytes read"
    assert 30 < len(heard) < 42
    assert heard[-1].startswith("encoded ")


def test_the_folder_goes_unless_much_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json_lines(tmp_path / "a.jsonl", documents(40))
    wanted, heard = plan(tmp_path, json_lines="a.jsonl"), list[str]()
    out = tmp_path / "new" / "runs"
    with prepared(wanted, out, heard.append) as found:
        first, (folder,) = found.train.root(), out.iterdir()
        with (
            pytest.raises(UserError, match="held by another process that prepares the same data"),
            prepared(wanted, out, heard.append),
        ):
            pass
    assert list(out.iterdir()) == []
    monkeypatch.setattr(chosen, "KEPT_BYTES", 1)
    with pytest.raises(RuntimeError, match="later"), prepared(wanted, out, heard.append):
        raise RuntimeError("later")
    assert [line for line in heard if line.startswith(f"the prepared data stay in {folder} ")]
    write_time = (folder / "train.records").stat().st_mtime_ns
    with prepared(wanted, out, heard.append) as found:
        assert found.train.root() == first
        assert (folder / "train.records").stat().st_mtime_ns == write_time
    for change in ({"seed": 2}, {"length": 17}, {"packing": "cut"}, {"held_out": 0.1}, {"separator": 1}):
        with prepared(plan(tmp_path, json_lines="a.jsonl", **change), out, heard.append):
            pass
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    with prepared(wanted, out, heard.append):
        pass
    assert len(list(out.iterdir())) == 7


def test_where_nothing_can_be_written_a_line_says_so(tmp_path: Path) -> None:
    section = next(forms(tmp_path, documents(20)))
    with (
        pytest.raises(
            UserError, match="cannot write there: Not a directory; choose another folder with --out"
        ),
        prepared(plan(tmp_path, **section), tmp_path / "one.txt", lambda line: None),
    ):
        pass
