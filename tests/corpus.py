"""Small corpora for tests: the same documents in every form that a job can name, and a tokenizer trained on them."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.runs.data.chosen import chosen_tokenizer, plan_of, vocabulary_of
from trainer.runs.data.pieces import START, Piece
from trainer.runs.data.prepare import Plan
from trainer.runs.job import DataSection

END = "<|end|>"
DELIMITER = "\n@@\n"
WORDS = ("the ", "cat ", "sat\n", "on\n\n", "ünï ", END, " mat", "世界", "x", "  ")


def documents(count: int) -> list[str]:
    """Return texts of many lengths, one of them empty."""
    return ["".join(WORDS[(n * n + k * k * 7 + k) % 10] for k in range(n * 13 % 47)) for n in range(count)]


def write_tokenizer(folder: Path, **settings: Any) -> Path:
    """Train a byte-level BPE of 300 tokens into `folder`/tokenizer.json, as many, with truncation and padding."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(documents(60), trainer)
    made.enable_truncation(5)
    made.enable_padding()
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def write_json_lines(path: Path, texts: Sequence[str]) -> None:
    """Write one object a line, compressed by the path's ending."""
    lines = "".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def write_dataset(folder: Path, texts: Sequence[str], rows: int = 7) -> None:
    """Write a folder as `save_to_disk` of datasets does: streams of Arrow, and their names in state.json."""
    folder.mkdir(parents=True)
    names = []
    for number, part in enumerate((texts[: len(texts) // 2], texts[len(texts) // 2 :])):
        names.append(f"data-{number:05}-of-00002.arrow")
        schema = pa.schema([("text", pa.string())])
        with pa.OSFile(str(folder / names[-1]), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for low in range(0, len(part), rows):
                writer.write_batch(pa.record_batch({"text": part[low : low + rows]}))
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))


def forms(folder: Path, texts: Sequence[str], rows: int = 7) -> Iterator[dict[str, Any]]:
    """Write the texts in every form into an empty folder, and yield each as a [data] section."""
    half = len(texts) // 2
    (folder / "one.txt").write_text(DELIMITER.join(texts), encoding="utf-8")
    yield {"text": "one.txt", "delimiter": DELIMITER}
    for name, part in (("b1", texts[:half]), ("b2", texts[half:])):
        write_json_lines(folder / f"{name}.jsonl", part)
        write_json_lines(folder / f"{name}.jsonl.gz", part)
        (folder / f"{name}.txt").write_text(DELIMITER.join(part), encoding="utf-8")
    yield {"text": "b*.txt", "delimiter": DELIMITER}
    yield {"json_lines": "*.jsonl"}
    yield {"json_lines": ["b1.jsonl.gz", "b2.jsonl"]}
    table = pa.table({"id": list(range(len(texts))), "text": list(texts)})
    pq.write_table(table, folder / "c.parquet", row_group_size=rows, compression="zstd")
    yield {"parquet": "c.parquet"}
    column = pa.array(list(texts), pa.large_string()).dictionary_encode()
    pq.write_table(pa.table({"text": column[:half]}), folder / "d1.parquet", compression="none")
    pq.write_table(pa.table({"text": list(texts[half:])}), folder / "d2.parquet", compression="gzip")
    yield {"parquet": "d[12].parquet"}
    write_dataset(folder / "set", texts, rows)
    yield {"dataset": "set"}


def plan(folder: Path, rows: int = 400, seed: int = 1, **section: Any) -> Plan:
    """Return the plan of a [data] section whose names start at `folder`, for a model with so many rows."""
    data = DataSection(**{"length": 16, **section})
    tokenizer = chosen_tokenizer(data, folder)
    return plan_of(data, seed, folder, tokenizer, vocabulary_of(data, tokenizer, rows))


def pieces_of(made: Plan) -> list[Piece[Any]]:
    """Return everything that a plan's source yields."""
    return list(made.source.pieces(START))
